"""Several arms in one table, on a tiny data set and by the stages' own main functions."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from accelerate.state import AcceleratorState
from ruamel.yaml import YAML

from pipeline import generate, index, plan, poses, subset, table4, train_generator, train_reid
from pipeline.runtime.outputs import write_csv
from pipeline.runtime.scratch import md5
from pipeline.world.shots import shots
from tests import REPOSITORY
from tests.pipeline.market import save_image

ARM = {"synthetic_share": 0.5, "synthetic_weight": 1.0}
ARMS = {
    "paper": ARM | {"synthetic": "data/synthetic/all"},
    "leak_free": ARM | {"synthetic": "data/synthetic/subset"},
    "planned": ARM | {"synthetic": "data/synthetic/subset-planned"},
    "repeated": ARM | {"synthetic": "data/synthetic/subset", "repeat_real": True},
    "fewer": ARM | {"synthetic": "data/synthetic/subset", "synthetic_ratio": 0.5},
    "two_steps": ARM | {"synthetic": "data/synthetic/subset", "real_first": 0.5, "synthetic_smoothing": 0.3},
    "real_last": ARM | {"synthetic": "data/synthetic/subset", "real_last": 0.5},
    "flat_names": ARM | {"synthetic": "elsewhere/names"},
    "mapping_table": ARM | {"synthetic": "elsewhere/table"},
}
PIDS = range(1, 7)


def write_params(root: Path, percents: list[int]) -> None:
    values = YAML(typ="safe", pure=True).load(REPOSITORY / "profiles/embedded.yaml")
    values["dataset"]["root"] = str(root)
    values["index"]["validation_identities"] = 0
    values["subset"]["percents"] = percents
    for key in ("base", "image_encoder"):
        values["generator"][key] = str(REPOSITORY / values["generator"][key])
    values["generator"]["train_on"] = ["all", "subset"]
    values["generator"]["train"] |= {"steps": 1, "batch_size": 2, "decay_steps": 0, "warmup_steps": 0}
    values["plan"] |= {"planned": ["subset"], "min_keypoints": 1}
    values["generate"]["sample"]["steps"] = 1
    values["reid"] |= {"seeds": [0], "height": 32, "width": 16, "channels": 8, "iterations": 2, "padding": 1}
    values["reid"] |= {"identities_per_batch": 4, "images_per_identity": 2}
    values["arms"] = ARMS
    with Path("params.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(values, file)


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
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_params(folder / "market", [50, 75])
        for stage in (index, poses, subset, plan):
            call(stage)
        for kind in ("all", "subset"):
            call(train_generator, kind)
        for images_of in ("all", "subset", "subset-planned"):
            for percent in ("50", "75"):
                call(generate, images_of, percent)
        write_params(folder / "market", [50])
        yield folder
    AcceleratorState._reset_state(True)


def outside(folder: Path, percent: int) -> list[Path]:
    """Images of the data set that are not in a subset: training, query and gallery."""
    used = set(pd.read_csv(f"data/subsets/{percent}.csv").image)
    market = folder / "market"
    return [file for file in market.rglob("*.jpg") if file.relative_to(market).as_posix() not in used]


def results(folder: Path, percents: list[int]) -> dict[str, str]:
    made = []
    for percent in percents:
        made += folder.glob(f"data/plans/**/{percent}.csv")
        made += folder.glob(f"data/synthetic/subset*/{percent}/*")
        made += folder.glob(f"models/generator/subset/{percent}/**/*.safetensors")
    return {str(file.relative_to(folder)): md5(file) for file in made}


@pytest.mark.parametrize("percents", [[50], [50, 75]])
def test_the_leak_free_run_reads_no_image_outside_its_subset(
    percents: list[int], project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planning, training and generating give the same bytes when all images outside the largest are gone.

    Their rows in the tables are gone too. With the larger subset's images the smaller one's generator is the
    one that was made without them. The generator of the paper's protocol cannot be trained then, which shows
    that the images are.
    """
    for name in ("market", "data"):
        shutil.copytree(project / name, tmp_path / name, ignore=shutil.ignore_patterns("synthetic", "plans"))
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path / "market", percents)
    largest = percents[-1]
    gone = outside(tmp_path, largest)
    assert len(gone) == 24 * (100 - largest) // 100 + 4
    for file in gone:
        file.unlink()
    left = pd.read_csv(f"data/subsets/{largest}.csv").image
    for table in ("data/index.csv", "data/poses.csv", "market/keypoints.csv"):
        rows = pd.read_csv(table)
        write_csv(rows[rows.image.isin(left)], table)
    call(plan)
    call(train_generator, "subset")
    for images_of in ("subset", "subset-planned"):
        for percent in percents:
            call(generate, images_of, str(percent))
    expected = results(project, percents)
    assert results(tmp_path, percents) == expected
    made = [24 * (100 - percent) // 100 for percent in percents]
    # Of each subset two plans, images and manifests twice, and three parts of a model.
    assert len(expected) == sum(2 + 2 * (count + 1) + 3 for count in made)
    for table in ("data/index.csv", "data/poses.csv"):
        shutil.copy(project / table, table)
    with pytest.raises(ValueError, match=r"bounding_box_train/.*: .*No such file"):
        call(train_generator, "all")


def test_every_arm_has_its_row_and_says_what_its_generator_saw(project: Path) -> None:
    subset_images = pd.read_csv("data/subsets/50.csv").image
    made = project / "data/synthetic/subset/50"
    for number, name in enumerate(pd.read_csv(made / "manifest.csv").name[:9]):
        (project / "elsewhere/names").mkdir(parents=True, exist_ok=True)
        (project / "elsewhere/table").mkdir(parents=True, exist_ok=True)
        shutil.copy(made / name, project / "elsewhere/names" / name)
        shutil.copy(made / name, project / "elsewhere/table" / f"{number}.jpg")
    pids = pd.read_csv(made / "manifest.csv").pid[:9]
    write_csv(
        pd.DataFrame({"name": [f"{number}.jpg" for number in range(9)], "pid": pids}),
        project / "elsewhere/table/manifest.csv",
    )
    for arm in ("standard", *ARMS):
        call(train_reid, arm)
    call(table4)
    table = pd.read_csv("reports/table4.csv")
    assert len(subset_images) == 12
    found = {
        row.arm: (row.train_on, row.n_real, row.n_synthetic)
        for row in table.itertuples()
        if row.percent == 50
    }
    assert found == {
        "standard": ("none", 12, 0),
        "paper": ("all", 12, 12),
        "leak_free": ("subset", 12, 12),
        "planned": ("subset", 12, 12),
        "repeated": ("none", 24, 0),
        "fewer": ("subset", 12, 6),
        "two_steps": ("subset", 12, 12),
        "real_last": ("subset", 12, 12),
        "flat_names": ("other", 12, 9),
        "mapping_table": ("other", 12, 9),
    }
    assert table.iterations.unique().tolist() == [2]
    scores = table.set_index("arm")[["rank1", "mAP", "mINP"]]
    # The same images of the same people, whatever their files are called.
    assert (scores.loc["flat_names"] == scores.loc["mapping_table"]).all()


def test_the_control_adds_no_image_that_was_not_there(project: Path) -> None:
    """Repeated images are those of the subset, as many of each identity as the arm has synthetic ones."""
    params = train_reid.load_params()
    rows = index.read_index().set_index("image", drop=False).loc[subset.read_subset(50)]
    real = train_reid.ImageSet.read(rows, [project / "market" / image for image in rows.image], params.reid)
    added = train_reid.read_added(params.arms["repeated"], 50, real, params.reid)
    manifest = pd.read_csv("data/synthetic/subset/50/manifest.csv")
    assert set(added.table.md5) <= set(real.table.md5)
    assert added.table.pid.tolist() == manifest.pid.tolist()
    assert added.table.image.tolist() == manifest.sources.str.split("|").str[0].tolist()
    for image, pixels in zip(added.table.image, added.pixels, strict=True):
        assert (pixels == real.pixels[real.table.image.tolist().index(image)]).all()


def test_a_smaller_ratio_is_part_of_a_larger_one(project: Path) -> None:
    params = train_reid.load_params()
    rows = index.read_index().set_index("image", drop=False).loc[subset.read_subset(50)]
    real = train_reid.ImageSet.read(rows, [project / "market" / image for image in rows.image], params.reid)

    def names(ratio: float) -> list[str]:
        arm = params.arms["fewer"].model_copy(update={"synthetic_ratio": ratio})
        return train_reid.read_added(arm, 50, real, params.reid).table.name.tolist()

    every = pd.read_csv("data/synthetic/subset/50/manifest.csv").name.tolist()
    assert [len(names(ratio)) for ratio in (0.25, 0.5, 1, 9)] == [3, 6, 12, 12]
    assert set(names(0.25)) < set(names(0.5)) < set(names(1))
    assert names(9) == every and names(0.5) == [name for name in every if name in names(0.5)]
