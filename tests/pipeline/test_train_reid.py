"""What a re-ID stage finds in its scratch is used again if it is whole and of the same code."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.params import ReidSection, load_params
from pipeline.runtime import scratch
from pipeline.shared import reid_models
from pipeline.shared.reid_models import ImageSet, evaluate_model
from pipeline.train_reid import train_model
from tests import REPOSITORY

SHIPPED = REPOSITORY / "profiles/embedded.yaml"
SMALL = {
    "channels": 8,
    "height": 64,
    "width": 32,
    "identities_per_batch": 2,
    "images_per_identity": 2,
    "iterations": 2,
    "checkpoint_every": 1,
    "mixed_precision": "no",
}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReidSection:
    monkeypatch.chdir(tmp_path)
    return load_params(SHIPPED).reid.model_copy(update=SMALL)


def images(camera: int) -> ImageSet:
    pixels = np.random.default_rng(camera).integers(0, 256, (8, 64, 32, 3), np.uint8)
    names = [f"{camera}-{i}" for i in range(8)]
    table = pd.DataFrame({"image": names, "pid": np.arange(8) // 2, "camid": camera, "md5": names})
    return ImageSet(table, pixels)


def train(settings: ReidSection) -> Path:
    return train_model(images(1), None, None, 0, settings, "standard 20 % seed 0")


def test_damaged_weights_are_made_again(settings: ReidSection) -> None:
    weights = train(settings)
    before = weights.read_bytes()
    assert train(settings) == weights and weights.read_bytes() == before
    weights.write_bytes(before[:-9])
    with pytest.warns(UserWarning, match="model.safetensors is not as it was written; it is made again"):
        assert train(settings) == weights
    assert weights.read_bytes() == before


@pytest.mark.parametrize("name", ["result.json", "queries.csv"])
@pytest.mark.parametrize("damage", ["cut", "deleted"])
def test_a_damaged_result_is_made_again(settings: ReidSection, name: str, damage: str) -> None:
    weights = train(settings)
    values, queries = evaluate_model(weights, images(1), images(2), settings)
    (file,) = Path(".scratch/test_reid").rglob(name)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    else:
        file.unlink()
    with pytest.warns(UserWarning, match=f"{name} is not as it was written; it is made again"):
        again, queries_again = evaluate_model(weights, images(1), images(2), settings)
    assert again == values
    pd.testing.assert_frame_equal(queries_again, queries)


def test_a_change_of_the_stage_s_own_code_is_a_new_result(
    settings: ReidSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = train(settings)
    for _ in range(2):
        evaluate_model(weights, images(1), images(2), settings)
    assert len(list(Path(".scratch/test_reid").iterdir())) == 1
    edited = tmp_path / "reid_models.py"
    shutil.copy(reid_models.__file__, edited)
    with edited.open("a") as file:
        file.write("# edited\n")
    monkeypatch.setattr(reid_models, "__file__", str(edited))
    evaluate_model(weights, images(1), images(2), settings)
    assert len(list(Path(".scratch/test_reid").iterdir())) == 2


def test_no_lock_is_held_beyond_its_model(settings: ReidSection) -> None:
    evaluate_model(train(settings), images(1), images(2), settings)
    locked = [folder for folder in scratch._locks if Path.cwd() in folder.parents]
    assert locked == []
