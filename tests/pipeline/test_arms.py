"""Several arms in one table, on a tiny data set and by the stages' own main functions."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from accelerate.state import AcceleratorState
from PIL import Image

from generator.sample import IMAGPosePipeline
from pipeline import (
    contact_sheets,
    generate,
    import_images,
    index,
    plan,
    poses,
    subset,
    table4,
    train_generator,
    train_reid,
)
from pipeline import filter as filter_
from pipeline.artifacts import read_index, read_plan, read_subset
from pipeline.params import load_params
from pipeline.runtime.hashes import md5
from pipeline.runtime.outputs import write_csv
from pipeline.shared.reid_models import ImageSet
from pipeline.world.shots import shots
from tests import change, embedded, read_yaml, write_params
from tests.generator import tiny
from tests.pipeline.market import save_image

pytestmark = pytest.mark.slow

ARMS = {
    "imagpose": {"generator": "all"},
    "leak_free": {"generator": "subset"},
    "control": {"generator": "subset", "repeat_real": True},
    "fewer": {"generator": "subset", "ratio": 0.5},
    "uniform": {"generator": "subset", "rate": 1.0},
    "sure": {"generator": "sure"},
    "pidm": {"generator": "pidm"},
}
FILTERS = {"sure": {"generator": "subset", "min_agreement": 0.0}}
IMPORTS = {"pidm": {"folder": "elsewhere/pidm"}}
PIDS = range(1, 7)


SMALL = {
    "index.validation_identities": 0,
    "plan.min_keypoints": 1,
    "generator.train_on": ["all", "subset"],
    "generator.train.steps": 2,
    "generate.sample.steps": 1,
    "reid.seeds": [0],
    "reid.channels": 8,
    "reid.height": 32,
    "reid.width": 16,
    "reid.padding": 1,
    "reid.identities_per_batch": 4,
    "reid.images_per_identity": 2,
    "reid.iterations": 2,
    "arms": ARMS,
    "filters": FILTERS,
    "imports": IMPORTS,
}


def call(stage: object, *arguments: str) -> None:
    """Run a stage's main as the command line does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["stage", *arguments])
        AcceleratorState._reset_state(True)
        stage.main()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All stages up to the synthetic images, of both kinds of generator; it is the present folder."""
    folder = tmp_path_factory.mktemp("arms")
    images = [
        f"bounding_box_train/{p:04d}_c{c}s1_00000{n}_01.jpg" for p in PIDS for c in (1, 2) for n in (1, 2)
    ]
    images += [f"query/0010_c{c}s1_000001_00.jpg" for c in (1, 2)]
    images += [f"bounding_box_test/0010_c{c}s2_000001_00.jpg" for c in (1, 2)]
    for seed, image in enumerate(images):
        save_image(folder / "market" / image, seed)
    keypoints = [shot.keypoints for shot in shots(0, "arms test", 0, len(images), 6, 128, 64, strength=0.3)]
    write_csv(poses.to_frame(images, np.stack(keypoints)), folder / "market/keypoints.csv")
    settings = tiny.save_base(folder / "base") | SMALL | {"dataset.root": str(folder / "market")}
    settings |= {"poses.path": str(folder / "market/keypoints.csv")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(train_reid, "models_at_once", lambda: 1)  # processes of their own start slowly
        write_params(folder, embedded(settings | {"subset.percents": [50, 75]}))
        for stage in (index, poses, subset, plan):
            call(stage)
        for kind in ("all", "subset"):
            call(train_generator, kind)
        for train_on in ("all", "subset"):
            for percent in ("50", "75"):
                call(generate, train_on, percent)
        write_params(folder, embedded(settings | {"subset.percents": [50]}))
        yield folder


def outside(folder: Path, percent: int) -> list[Path]:
    """Images of the data set that are not in a subset: training, query and gallery."""
    used = set(pd.read_csv(f"data/subsets/{percent}.csv").image)
    market = folder / "market"
    return [file for file in market.rglob("*.jpg") if file.relative_to(market).as_posix() not in used]


def results(folder: Path) -> dict[str, str]:
    """Return the checksums of all that stands in the way from the plan to the images of the half."""
    files = [
        *folder.glob("data/plans/subset/50.csv"),
        *folder.glob("data/synthetic/subset/50/*"),
        *folder.glob("models/generator/subset/50/**/*.safetensors"),
    ]
    return {str(file.relative_to(folder)): md5(file) for file in files}


def test_the_leak_free_run_reads_no_image_outside_its_subset(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planning, training and generating give the same bytes when all images outside the subset are gone.

    Their rows in the tables are gone too. The project made a larger subset's generator in the same run, with
    images that are gone here. The generator of the paper's protocol cannot be trained then, which shows that
    the images are.
    """
    for name in ("market", "data"):
        shutil.copytree(project / name, tmp_path / name, ignore=shutil.ignore_patterns("synthetic", "plans"))
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, change(read_yaml(project / "params.yaml"), {"dataset.root": "market"}))
    gone = outside(tmp_path, 50)
    assert len(gone) == 12 + 4
    for file in gone:
        file.unlink()
    left = pd.read_csv("data/subsets/50.csv").image
    for table in ("data/index.csv", "data/poses.csv", "market/keypoints.csv"):
        rows = pd.read_csv(table)
        write_csv(rows[rows.image.isin(left)], table)
    call(plan)
    call(train_generator, "subset")
    call(generate, "subset", "50")
    expected = results(project)
    assert results(tmp_path) == expected
    planned = len(read_plan("subset", 50))
    assert len(expected) == 1 + planned + 1 + 3  # a plan, images, their manifest, and three parts of a model
    for table in ("data/index.csv", "data/poses.csv"):
        shutil.copy(project / table, table)
    with pytest.raises(ValueError, match=r"bounding_box_train/.*: .*No such file"):
        call(train_generator, "all")


def test_every_arm_has_its_row_and_says_what_its_generator_saw(project: Path) -> None:
    images = project / "data/synthetic/subset/50"
    (project / "elsewhere/pidm").mkdir(parents=True)
    for name in pd.read_csv(images / "manifest.csv").name[:9]:
        shutil.copy(images / name, project / "elsewhere/pidm" / f"{name[:7]}_fake_{name}")
    call(import_images, "pidm")
    call(filter_, "sure")
    for arm in ("standard", *ARMS):
        call(train_reid, arm)
    call(table4)
    table = pd.read_csv("reports/table4.csv")
    rows = {
        row.arm: (row.train_on, row.n_real, row.n_synthetic)
        for row in table.itertuples()
        if row.percent == 50
    }
    assert rows == {
        "standard": ("none", 12, 0),
        "imagpose": ("all", 12, 12),
        "leak_free": ("subset", 12, 12),
        "control": ("none", 24, 0),
        "fewer": ("subset", 12, 6),
        "uniform": ("subset", 12, 12),
        "sure": ("subset", 12, 12),
        "pidm": ("other", 12, 9),
    }
    assert table.iterations.unique().tolist() == [2]
    scores = table.set_index("arm")[["rank1", "mAP", "mINP"]]
    assert (scores.loc["sure"] == scores.loc["leak_free"]).all(), "the filter let every image pass"


def test_the_control_adds_no_image_that_was_not_there(project: Path) -> None:
    """Repeated images are those of the subset, as many of each identity as the arm has synthetic ones."""
    params = load_params()
    rows = read_index().set_index("image", drop=False).loc[read_subset(50)]
    real = ImageSet.read(rows, [project / "market" / image for image in rows.image], params.reid)
    added = train_reid.read_added(params.arms["control"], 50, real, 24, params.reid)
    manifest = pd.read_csv("data/synthetic/subset/50/manifest.csv").query("order < 12")
    assert set(added.table.md5) <= set(real.table.md5)
    assert added.table.pid.tolist() == manifest.pid.tolist()
    assert added.table.image.tolist() == manifest.sources.str.split("|").str[0].tolist()
    for image, pixels in zip(added.table.image, added.pixels, strict=True):
        assert (pixels == real.pixels[real.table.image.tolist().index(image)]).all()


def test_a_smaller_ratio_is_part_of_a_larger_one(project: Path) -> None:
    params = load_params()
    rows = read_index().set_index("image", drop=False).loc[read_subset(50)]
    real = ImageSet.read(rows, [project / "market" / image for image in rows.image], params.reid)

    def names(ratio: float) -> list[str]:
        arm = params.arms["fewer"].model_copy(update={"ratio": ratio})
        return train_reid.read_added(arm, 50, real, 24, params.reid).table.name.tolist()

    every = pd.read_csv("data/synthetic/subset/50/manifest.csv").name.tolist()
    assert [len(names(ratio)) for ratio in (0.25, 0.5, 1, 9)] == [3, 6, 12, len(every)]
    assert set(names(0.25)) < set(names(0.5)) < set(names(1))
    assert names(9) == every and names(0.5) == [name for name in every if name in names(0.5)]


def test_more_images_are_generated_beside_those_that_are_there(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A larger arm makes the plan longer. What the other arms have stays, and only the rest is generated."""
    for name in ("data", "models", ".scratch"):
        shutil.copytree(project / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    before = read_plan("all", 50)
    images = Path("data/synthetic/all/50")
    old = {name: md5(images / name) for name in before.name}
    params = read_yaml(project / "params.yaml")

    def ask_for(ratio: float) -> None:
        arms = params["arms"] | {"more": {"generator": "all", "ratio": ratio}}
        write_params(tmp_path, change(params, {"arms": arms}))
        call(plan)
        call(generate, "all", "50")

    made: list[int] = []
    make = IMAGPosePipeline.generate

    def count(self: IMAGPosePipeline, views: Any, requests: Any, settings: Any) -> Any:
        made.append(len({id(request) for request in requests}))
        return make(self, views, requests, settings)

    monkeypatch.setattr(IMAGPosePipeline, "generate", count)
    ask_for(6.0)
    after = read_plan("all", 50)
    assert len(after) >= 72 and old.items() <= {name: md5(images / name) for name in after.name}.items()
    # Batches of 16: the old plan's only one was not full, so it is made again, in the same bytes
    assert sum(made) == after.joint.nunique() and before.joint.nunique() < 16
    made.clear()
    ask_for(6.5)
    assert sum(made) < 16 + 4, "the whole batches are there"


def test_at_a_share_at_which_no_arm_has_images_none_are_made(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at 100 % real, where nothing is left to fill up: the row of real images alone stands there."""
    for name in ("data", "models"):
        shutil.copytree(project / name, tmp_path / name, ignore=shutil.ignore_patterns("reid"))
    monkeypatch.chdir(tmp_path)
    params = change(read_yaml(project / "params.yaml"), {"subset.percents": [50, 100]})
    arms = {"imagpose": {"generator": "all"}, "leak_free": {"generator": "subset", "ratio": 1.0}}
    write_params(tmp_path, params | {"arms": arms, "imports": {}, "filters": {}})
    for stage in (subset, plan):
        call(stage)
    for generator in ("all", "subset"):
        call(generate, generator, "100")
        assert [file.name for file in Path(f"data/synthetic/{generator}/100").iterdir()] == ["manifest.csv"]
        call(contact_sheets, generator, "100")
        with Image.open(f"reports/contact_sheets/{generator}-100.png") as sheet:
            assert sheet.height < 100
    for arm in ("standard", *arms):
        call(train_reid, arm)
    call(table4)
    table = pd.read_csv("reports/table4.csv")
    assert table.groupby("arm").percent.apply(list).to_dict() == {
        "standard": [50, 100],
        "imagpose": [50],
        "leak_free": [50],
    }
