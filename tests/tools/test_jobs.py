"""Another generator gets the whole plan as a folder, and its results come back as an arm."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import import_images, plan
from pipeline.artifacts import read_plan, read_poses
from pipeline.datasets.synthetic import read_synthetic
from pipeline.params import Params, load_params
from tests import change, read_yaml, write_params
from tools import jobs

FOLDER = Path("elsewhere/mirror")


def call(command: object, *arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *arguments])
        command.main()  # type: ignore[attr-defined]


@pytest.fixture
def written(workspace: Params) -> pd.DataFrame:
    """A project whose jobs for the generator `mirror` are written; returns the plan."""
    changes = {
        "imports": {"mirror": {"folder": str(FOLDER), "jobs": True}},
        "arms": {"imagpose": {"generator": "all"}, "mirror": {"generator": "mirror"}},
        "plan.min_keypoints": 1,
    }
    write_params(Path(), change(read_yaml(Path("params.yaml")), changes))
    call(plan)
    call(jobs, "mirror")
    return read_plan("mirror", 50)


def mirror() -> None:
    """A generator that looks at the folder alone: the first source, mirrored, as a JPEG or a PNG."""
    for number, job in enumerate(pd.read_csv(FOLDER / "50/jobs.csv").to_dict("records")):
        with Image.open(FOLDER / job["sources"].split("|")[0]) as source:
            name = job["name"] if number % 2 else job["name"].replace(".jpg", ".png")
            source.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(FOLDER / "50" / name)


def test_the_folder_has_all_that_the_images_take(written: pd.DataFrame) -> None:
    table = pd.read_csv(FOLDER / "50/jobs.csv")
    for column in ("name", "pid", "seed"):
        assert table[column].tolist() == written[column].tolist()
    root = load_params().dataset.root
    for job, row in zip(table.to_dict("records"), written.to_dict("records"), strict=True):
        for file, image in zip(job["sources"].split("|"), row["sources"].split("|"), strict=True):
            with Image.open(FOLDER / file) as ours, Image.open(root / image) as theirs:
                assert ours.size == (64, 128) and (np.asarray(ours) == np.asarray(theirs)).all()
        with Image.open(FOLDER / job["skeleton"]) as skeleton:
            assert skeleton.size == (64, 128)
        keypoints = json.loads((FOLDER / job["skeleton"]).with_suffix(".json").read_text())
        assert np.array(list(keypoints.values())) == pytest.approx(read_poses([row["pose"]])[0], abs=0.01)
    readme = (FOLDER / "README.md").read_text()
    assert "50/jobs.csv" in readme and "64 x 128" in readme


def test_the_results_are_an_arm(written: pd.DataFrame) -> None:
    mirror()
    call(import_images, "mirror")
    table = read_synthetic("mirror", 50, set(written.pid))[1]
    for column in ("name", "pid", "camid", "order", "sources", "pose", "seed"):
        assert table[column].tolist() == written[column].tolist()


def test_results_that_are_missing_or_wrong_are_named(written: pd.DataFrame) -> None:
    mirror()
    files = sorted((FOLDER / "50").glob("0*"))
    away = files[0].rename(Path("elsewhere") / files[0].name)
    with pytest.raises(ValueError, match=rf"is missing \(1 of {len(written)} images are\); the jobs name it"):
        call(import_images, "mirror")
    away.rename(files[0])
    with Image.open(files[0]) as image:
        image.resize((32, 64)).save(files[0])
    with pytest.raises(
        ValueError, match=rf"{files[0].name} is 32 x 64 pixels; expected 64 x 128, as the jobs"
    ):
        call(import_images, "mirror")
    files[1].rename(files[0])
    with pytest.raises(ValueError, match="is missing"):
        call(import_images, "mirror")


def test_what_cannot_be_written_is_refused(written: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"elsewhere/mirror exists; remove it, or name a new folder"):
        call(jobs, "mirror")
    with pytest.raises(ValueError, match=r"the import is pidm; expected one with jobs: true \(mirror\)"):
        call(jobs, "pidm")
