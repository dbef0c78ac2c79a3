"""The filter keeps images that show their person and something new, and its judge knows the subset alone."""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import filter as stage
from pipeline.datasets.market1501 import index_dataset
from pipeline.datasets.synthetic import read_synthetic
from pipeline.params import FilterSettings, IndexSettings, Params, load_params
from pipeline.runtime.outputs import write_csv

SETTINGS = FilterSettings(
    synthetic=Path("fakes"), judge="subset", min_agreement=0.5, min_diversity=0.05, seed=0
)


def unit(rows: list[list[float]]) -> np.ndarray:
    features = np.array(rows)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_agreement_is_the_share_of_identities_that_are_less_alike() -> None:
    rng = np.random.default_rng(0)
    real, fake = unit(rng.normal(size=(30, 8)).tolist()), unit(rng.normal(size=(40, 8)).tolist())
    real_pids, pids = np.arange(30) % 6 * 10, rng.integers(6, size=40) * 10
    found = stage.agreement(fake, pids, real, real_pids)
    for image, pid, score in zip(fake, pids, found, strict=True):
        alike = {}
        for other in set(real_pids.tolist()):
            centre = real[real_pids == other].mean(axis=0)
            alike[other] = image @ centre / np.linalg.norm(centre)
        assert score == pytest.approx(np.mean([alike[pid] > alike[other] for other in alike if other != pid]))


def test_an_image_like_its_identity_agrees_and_one_like_another_does_not() -> None:
    real = unit([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    fake = unit([[1, 0.1, 0.2], [0, 1, 0.1], [0.5, 0, 1]])
    assert stage.agreement(fake, np.array([1, 1, 1]), real, np.array([1, 2, 3])).tolist() == [1, 0, 0.5]


def test_selection_keeps_the_surest_of_images_that_are_alike() -> None:
    real, real_pids = unit([[1, 0], [0, 1]]), np.array([1, 2])
    fake = unit([[1, 0], [1, 1], [1, 1.01], [1, 2], [1, 1]])
    pids, agrees = np.array([1, 1, 1, 1, 2]), np.array([1, 0.8, 0.9, 0.4, 1])
    diversity, kept = stage.select(fake, pids, real, real_pids, agrees, SETTINGS)
    # The source again; a near copy of the next; kept; not sure enough; another person's images do not count.
    assert kept.tolist() == [False, False, True, False, True]
    near = 1 - fake @ fake.T
    assert diversity == pytest.approx(
        [0, near[1, 2], 1 - real[0] @ fake[2], near[3, 2], 1 - real[1] @ fake[4]]
    )


def test_thresholds_at_zero_keep_everything() -> None:
    rng = np.random.default_rng(0)
    fake, real = unit(rng.normal(size=(9, 4)).tolist()), unit(rng.normal(size=(6, 4)).tolist())
    everything = SETTINGS.model_copy(update={"min_agreement": 0.0, "min_diversity": 0.0})
    pids = np.arange(9) % 3
    _, kept = stage.select(fake, pids, real, np.arange(6) % 3, np.zeros(9), everything)
    assert kept.all()


# --- the stage ----------------------------------------------------------------------------------------------


@pytest.fixture
def params(market: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A small project with true and false images of two percents; every image of a person has one colour."""
    monkeypatch.chdir(market.parent)
    index, *_ = index_dataset(market, IndexSettings(validation_identities=0, seed=0))
    rng = np.random.default_rng(0)

    def paint(file: Path, pid: int) -> None:
        colour = np.array({2: (200, 40, 40), 7: (40, 200, 40), 10: (40, 40, 200), 11: (200, 200, 40)}[pid])
        noise = rng.normal(0, 20, (128, 64, 3))
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8)).save(file, quality=92)

    for image, pid in zip(index.image[index.split == "train"], index.pid, strict=False):
        paint(market / image, pid)
    index, *_ = index_dataset(market, IndexSettings(validation_identities=0, seed=0))
    write_csv(index, "data/index.csv")
    train = index[index.split == "train"]
    for percent, images in ((40, train.image[::2]), (60, train.image), (100, train.image)):
        write_csv(pd.DataFrame({"image": images}), f"data/subsets/{percent}.csv")
    rows = []
    for pid, shown in ((2, 2), (2, 7), (7, 7), (10, 10), (11, 11), (11, 2)):
        source = train.image[train.pid == pid].iloc[0]
        name = f"{Path(source).stem}_g{len(rows) + 1:04d}.jpg"
        rows.append({"name": name, "pid": pid, "sources": source, "true": pid == shown})
        for percent in (40, 60):
            paint(Path("fakes") / str(percent) / name, shown)
    for percent in (40, 60):
        write_csv(pd.DataFrame(rows), f"fakes/{percent}/manifest.csv")
    shipped = load_params(Path(__file__).parents[2] / "params.yaml")
    small = {"height": 64, "width": 32, "channels": 8, "padding": 2, "iterations": 30}
    return shipped.model_copy(
        update={
            "dataset": shipped.dataset.model_copy(update={"root": market}),
            "subset": shipped.subset.model_copy(update={"percents": (40, 60)}),
            "generator": shipped.generator.model_copy(
                update={
                    "image_encoder": Path(__file__).parents[2] / shipped.generator.image_encoder,
                    "train_on": ("all",),
                }
            ),
            "reid": shipped.reid.model_copy(
                update=small | {"identities_per_batch": 4, "images_per_identity": 2, "flip_probability": 0.0}
            ),
            "filters": {"strict": SETTINGS.model_copy(update={"min_agreement": 1.0, "min_diversity": 0.0})},
        }
    )


def run(params: Params, monkeypatch: pytest.MonkeyPatch, **changes: object) -> dict[int, pd.DataFrame]:
    filters = {"strict": params.filters["strict"].model_copy(update=changes)}
    changed = params.model_copy(update={"filters": filters})
    monkeypatch.setattr(stage, "load_params", lambda: changed)
    monkeypatch.setattr(sys, "argv", ["filter", "strict"])
    stage.main()
    return {percent: pd.read_csv(f"data/filtered/strict/{percent}/scores.csv") for percent in (40, 60)}


@pytest.mark.parametrize("judge", ["subset", "image_encoder"])
def test_the_stage_keeps_the_true_images(
    judge: str, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = run(params, monkeypatch, judge=judge)
    said = capsys.readouterr().out
    assert "60 %: 6 images to judge by 24 real ones" in said
    assert ("a judge of 30 iterations to train" in said) == (judge == "subset")
    for percent in (40, 60):
        folder, table = Path("data/filtered/strict") / str(percent), scores[percent]
        manifest = pd.read_csv(f"fakes/{percent}/manifest.csv")
        assert table.columns.tolist() == ["name", "agreement", "diversity", "kept"]
        assert table.name.tolist() == manifest.name.tolist() and table.kept.tolist() == manifest.true.tolist()
        assert table.agreement.between(0, 1).all() and table.diversity.between(0, 2).all()
        images, kept = read_synthetic(Path("data/filtered/strict"), percent, {2, 7, 10, 11})
        assert images == folder and kept.name.tolist() == manifest.name[manifest.true].tolist()
        assert sorted(file.name for file in folder.glob("*.jpg")) == sorted(kept.name)
        for name in kept.name:
            assert (folder / name).samefile(Path("fakes") / str(percent) / name)  # a hard link
    with Image.open("reports/filters/strict.png") as figure:
        assert figure.width > 1000


def test_the_judge_reads_no_image_but_those_of_the_subset(
    params: Params, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every other image of the data set deleted, test images among them, the scores are the same."""
    before = run(params, monkeypatch)
    subset = set(pd.read_csv("data/subsets/60.csv").image)
    outside = [file for file in market.rglob("*.jpg") if file.relative_to(market).as_posix() not in subset]
    assert len(outside) > 10
    for file in outside:
        file.unlink()
    for checkpoints in Path(".scratch/filter").iterdir():
        for step in checkpoints.iterdir():
            step.rename(step.with_suffix(".away"))
    after = run(params, monkeypatch)
    for percent in (40, 60):
        pd.testing.assert_frame_equal(before[percent], after[percent])


def test_a_disk_without_hard_links_gets_copies(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    scores = run(params, monkeypatch, judge="image_encoder")
    for name in scores[40].name[scores[40].kept]:
        copy, file = Path("data/filtered/strict/40") / name, Path("fakes/40") / name
        assert copy.read_bytes() == file.read_bytes() and not copy.samefile(file)


def test_a_filter_that_nothing_passes_says_so_and_leaves_nothing(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ValueError, match=r"filters.strict: no image of fakes/40 passes .* lower min_agreement"
    ):
        run(params, monkeypatch, judge="image_encoder", min_diversity=1.9)
    assert not Path("data/filtered/strict").exists()


def test_an_unknown_filter_is_named(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "load_params", lambda: params)
    monkeypatch.setattr(sys, "argv", ["filter", "loose"])
    with pytest.raises(ValueError, match="the filter is loose; expected one of strict"):
        stage.main()
