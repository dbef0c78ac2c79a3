"""The models of an arm: what ends their stage comes before the first training; cores change no result."""

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline import subset, train_reid
from pipeline.artifacts import SYNTHETIC
from pipeline.params import JudgeSettings, Params
from pipeline.runtime.hashes import md5
from pipeline.runtime.outputs import write_csv
from pipeline.runtime.scratch import SCRATCH
from pipeline.runtime.workers import available_cores
from pipeline.shared import reid_models
from pipeline.shared.reid_models import ImageSet

GENERATED = SYNTHETIC / "all"


@pytest.fixture
def params(workspace: Params, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Of a run with two subsets, whose generated images are there."""
    subsets = workspace.subset.model_copy(update={"percents": (50, 75)})
    small = {"channels": 8, "height": 64, "width": 32, "padding": 1, "iterations": 1, "seeds": (0,)}
    small |= {"identities_per_batch": 2, "images_per_identity": 2, "rerank": False}
    params = workspace.model_copy(update={"subset": subsets, "reid": workspace.reid.model_copy(update=small)})
    monkeypatch.setattr(subset, "load_params", lambda: params)
    subset.main()
    shutil.copytree(GENERATED / "50", GENERATED / "75")
    return params


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work stays in this process."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(train_reid, "models_at_once", lambda: 1)
    yield
    torch.set_num_threads(threads)


def spoil_image(folder: Path) -> str:
    file = min(folder.glob("*.jpg"))
    file.write_bytes(b"")
    return f"{file}: an empty file"


def spoil_identity(folder: Path) -> str:
    table = pd.read_csv(folder / "manifest.csv")
    table.loc[0, "pid"] = 1400
    write_csv(table, folder / "manifest.csv")
    return f"{folder / table.name[0]} shows identity 1400, which is not among the training identities"


@pytest.mark.parametrize("spoil", [spoil_image, spoil_identity])
def test_bad_images_of_the_last_subset_end_the_stage_before_the_first_training(
    spoil, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_reid, "train_model", None)
    sentence = spoil(GENERATED / "75")
    with pytest.raises(ValueError) as caught:
        train_reid.run_arm("imagpose", params)
    assert str(caught.value) == sentence


def run_out_of_memory(*arguments: object, **options: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB.")


@pytest.mark.parametrize(
    ("module", "part", "work", "keys"),
    [
        (train_reid, "train", "training", "{0}.identities_per_batch (2) and {0}.images_per_identity (2)"),
        (reid_models, "features", "testing", "{0}.evaluation_batch (256)"),
    ],
)
@pytest.mark.parametrize(("arm", "section"), [("standard", "reid"), ("standard@other", "judges.other")])
def test_too_little_memory_names_the_keys_to_lower(
    module: ModuleType,
    part: str,
    work: str,
    keys: str,
    arm: str,
    section: str,
    params: Params,
    one_core: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, part, run_out_of_memory)
    params = params.model_copy(update={"judges": {"other": JudgeSettings()}})
    with pytest.raises(ValueError) as caught:
        train_reid.run_arm(arm, params)
    assert str(caught.value) == (
        f"{work} does not fit into the memory (CUDA out of memory); lower {keys.format(section)}"
    )


@pytest.mark.slow
def test_a_mistake_in_a_worker_leaves_no_pixels(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_reid, "models_at_once", lambda: 2)
    settings = params.reid.model_copy(update={"backbone": "timm:none"})  # no worker finds it
    with pytest.raises(ValueError, match="timm has no none"):
        train_reid.run_arm("imagpose", params.model_copy(update={"reid": settings}))
    assert not list((SCRATCH / "pixels").rglob("*.npy"))


@pytest.mark.slow
def test_models_that_train_at_the_same_time_are_those_that_train_alone(
    params: Params, one_core: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = params.reid.model_copy(update={"seeds": (1,), "iterations": 21, "rerank": True})
    params = params.model_copy(update={"reid": several})
    alone = train_reid.run_arm("imagpose", params)
    weights = [md5(outcome.weights) for outcome in alone]
    shutil.rmtree(SCRATCH)
    monkeypatch.setattr(train_reid, "models_at_once", lambda: 2)
    together = train_reid.run_arm("imagpose", params)
    assert [outcome.row for outcome in together] == [outcome.row for outcome in alone]
    assert [(o.row["percent"], o.row["seed"]) for o in alone] == [(50, 1), (75, 1)]
    for one, other in zip(alone, together, strict=True):
        pd.testing.assert_frame_equal(one.queries, other.queries)
        pd.testing.assert_frame_equal(one.curve, other.curve)
    assert [md5(outcome.weights) for outcome in together] == weights
    curves = [child.name for child in Path("dvclive/plots/metrics/reid").iterdir()]
    assert curves == ["imagpose"]


def test_every_worker_trains_on_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are numbered from 1 (test_workers); the stage itself is 0."""
    assert (reid_models.reid_device(), reid_models.models_at_once()) == ("cpu", available_cores())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert reid_models.models_at_once() == 2
    for number, device in ((0, "cuda:0"), (1, "cuda:0"), (2, "cuda:1")):
        monkeypatch.setattr(reid_models, "worker_number", lambda number=number: number)
        assert reid_models.reid_device() == device


def test_another_process_reads_shared_pixels_from_their_file(tmp_path: Path) -> None:
    table = pd.DataFrame({"pid": range(64), "md5": ""})
    images = ImageSet(table, np.arange(64 * 6144, dtype=np.uint8).reshape(64, 64, 32, 3))
    shared = images.shared(tmp_path / "pixels.npy")
    for copy, most in ((pickle.dumps(shared), 10_000), (pickle.dumps(images), 1_000_000)):
        assert len(copy) < most
        again = pickle.loads(copy)
        assert np.array_equal(again.pixels, images.pixels)
        pd.testing.assert_frame_equal(again.table, table)
