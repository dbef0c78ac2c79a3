"""The filter keeps images that show their person, and its judge knows the subset alone."""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import filter as stage
from pipeline.artifacts import NEEDS, PLANS
from pipeline.datasets.indexing import index_dataset
from pipeline.datasets.synthetic import read_synthetic
from pipeline.params import FilterSettings, IndexSettings, Params, load_params
from pipeline.runtime.outputs import write_csv, write_json
from tests import REPOSITORY

COLOURS = {2: (200, 40, 40), 7: (40, 200, 40), 10: (40, 40, 200), 11: (200, 200, 40)}


@pytest.fixture
def params(market: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A small project with true and false images of two percents; every image of a person has one colour."""
    monkeypatch.chdir(market.parent)
    index, *_ = index_dataset("market1501", market, IndexSettings(validation_identities=0, seed=0))
    rng = np.random.default_rng(0)

    def paint(file: Path, pid: int) -> None:
        noise = rng.normal(0, 20, (128, 64, 3))
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((np.array(COLOURS[pid]) + noise).clip(0, 255).astype(np.uint8)).save(file, quality=92)

    for image, pid in zip(index.image[index.split == "train"], index.pid, strict=False):
        paint(market / image, pid)
    index, *_ = index_dataset("market1501", market, IndexSettings(validation_identities=0, seed=0))
    write_csv(index, "data/index.csv")
    train = index[index.split == "train"]
    for percent, images in ((40, train.image[::2]), (60, train.image), (100, train.image)):
        write_csv(pd.DataFrame({"image": images}), f"data/subsets/{percent}.csv")
    rows = []
    for pid, shown in ((2, 2), (2, 7), (7, 7), (10, 10), (11, 11), (11, 2)):
        source = train.image[train.pid == pid].iloc[0]
        name = f"{Path(source).stem}_g{len(rows) + 1:04d}.jpg"
        rows.append(
            {
                "name": name,
                "pid": pid,
                "sources": source,
                "true": pid == shown,
                "order": len(rows),
                "md5": "-",
            }
        )
        for percent in (40, 60):
            paint(Path("data/synthetic/all") / str(percent) / name, shown)
    for percent in (40, 60):
        write_csv(pd.DataFrame(rows), f"data/synthetic/all/{percent}/manifest.csv")
    write_json({"40": len(rows), "60": len(rows)}, PLANS / "strict" / NEEDS)
    shipped = load_params(REPOSITORY / "profiles/embedded.yaml")
    encoder = REPOSITORY / shipped.generator.image_encoder
    return shipped.model_copy(
        update={
            "dataset": shipped.dataset.model_copy(update={"root": market}),
            "subset": shipped.subset.model_copy(update={"percents": (40, 60)}),
            "generator": shipped.generator.model_copy(update={"image_encoder": encoder}),
            "filters": {"strict": FilterSettings(generator="all", min_agreement=1.0)},
        }
    )


def run(params: Params, monkeypatch: pytest.MonkeyPatch) -> dict[int, pd.DataFrame]:
    monkeypatch.setattr(stage, "load_params", lambda: params)
    monkeypatch.setattr(sys, "argv", ["filter", "strict"])
    stage.main()
    return {percent: pd.read_csv(f"data/synthetic/strict/{percent}/scores.csv") for percent in (40, 60)}


@pytest.mark.slow
def test_the_stage_keeps_the_true_images(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = run(params, monkeypatch)
    assert "60 %: 6 images to judge by 24 real ones" in capsys.readouterr().out
    for percent in (40, 60):
        source = Path("data/synthetic/all") / str(percent)
        manifest, table = pd.read_csv(source / "manifest.csv"), scores[percent]
        assert table.columns.tolist() == ["name", "agreement", "kept"]
        assert table.name.tolist() == manifest.name.tolist() and table.kept.tolist() == manifest.true.tolist()
        assert table.agreement.between(0, 1).all()
        folder, images = read_synthetic("strict", percent, {2, 7, 10, 11})
        assert images.name.tolist() == manifest.name[manifest.true].tolist()
        assert sorted(file.name for file in folder.glob("*.jpg")) == sorted(images.name)
        for name in images.name:
            assert (folder / name).samefile(source / name)  # a hard link
    with Image.open("reports/filters/strict.png") as figure:
        assert figure.width > 1000


@pytest.mark.slow
def test_it_looks_at_the_images_that_an_arm_without_it_would_have(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More images of another arm of the generator do not change a filtered arm."""
    whole = run(params, monkeypatch)
    write_json({"40": 3, "60": 6}, PLANS / "strict" / NEEDS)
    scores = run(params, monkeypatch)
    pd.testing.assert_frame_equal(scores[40], whole[40].head(3))
    pd.testing.assert_frame_equal(scores[60], whole[60])


@pytest.mark.slow
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
    after = run(params, monkeypatch)
    for percent in (40, 60):
        pd.testing.assert_frame_equal(before[percent], after[percent])


@pytest.mark.slow
def test_a_disk_without_hard_links_gets_copies(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    scores = run(params, monkeypatch)
    for name in scores[40].name[scores[40].kept]:
        copy, file = Path("data/synthetic/strict/40") / name, Path("data/synthetic/all/40") / name
        assert copy.read_bytes() == file.read_bytes() and not copy.samefile(file)


def test_a_filter_that_nothing_passes_says_so_and_leaves_nothing(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Path("data/synthetic/all/40/manifest.csv")
    table = pd.read_csv(manifest)
    write_csv(table[~table.true], manifest)
    with pytest.raises(ValueError, match=r"filters.strict: no image of .*/all/40 passes .* lower min_agreem"):
        run(params, monkeypatch)
    assert not Path("data/synthetic/strict").exists()


def test_an_unknown_filter_is_named(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "load_params", lambda: params)
    monkeypatch.setattr(sys, "argv", ["filter", "loose"])
    with pytest.raises(ValueError, match="the filter is loose; expected one of strict"):
        stage.main()
