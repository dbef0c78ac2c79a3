"""Images without a learned generator follow the plan and show the right people."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import baseline, index, plan, poses, subset
from pipeline.artifacts import COORDINATES, read_index, read_plan, read_pose_table
from pipeline.datasets.names import read_name
from pipeline.datasets.synthetic import read_synthetic
from pipeline.params import load_params
from pipeline.runtime.hashes import md5
from pipeline.shared.paste import paste_person
from pipeline.world.dataset import build, training_scenes
from pipeline.world.shots import take
from tests import embedded, write_params

pytestmark = pytest.mark.slow

TINY = {
    "world.train_identities": 4,
    "world.test_identities": 2,
    "world.images_per_identity": 6,
    "world.distractors": 1,
    "world.junk": 1,
    "index.validation_identities": 0,
    "subset.percents": [50],
    "reid.identities_per_batch": 2,
    "reid.images_per_identity": 2,
    "plan.min_keypoints": 1,
    "arms": {"perfect": {"generator": "perfect"}, "pasted": {"generator": "pasted", "ratio": 0.5}},
    "baselines": {"perfect": {"kind": "rendered"}, "pasted": {"kind": "pasted"}},
}


def call(stage: object, *arguments: str) -> None:
    """Run a stage's main as the command line does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["stage", *arguments])
        stage.main()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a tiny world and its plan."""
    folder = tmp_path_factory.mktemp("baseline")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_params(folder, embedded(TINY))
        build(load_params().rendered_world(), Path("data/world"), 1)
        for stage in (index, poses, subset, plan):
            call(stage)
    return folder


@pytest.fixture(autouse=True)
def project(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)


def test_every_photo_of_the_training_people_has_its_scene() -> None:
    folder = Path("data/world/bounding_box_train")
    files = {f"{folder.name}/{file.name}" for file in folder.glob("*.jpg")}
    assert set(training_scenes(load_params().rendered_world())) == files


def test_a_scene_rendered_again_is_its_photo() -> None:
    settings = load_params().rendered_world()
    size = settings.height, settings.width
    photo, scene = next(iter(training_scenes(settings).items()))
    again = take(scene, settings.seed, "train", 0, *size, settings.camera_strength).image
    with Image.open(Path("data/world") / photo) as image:
        assert np.abs(np.asarray(image).astype(int) - again).mean() < 4  # what JPEG costs


def test_rendered_images_show_the_planned_people_in_any_camera() -> None:
    call(baseline, "perfect")
    folder, table = read_synthetic("perfect", 50, {1, 2, 3, 4})
    planned = read_plan("perfect", 50)
    for column in ("pid", "order", "sources", "pose", "seed"):
        assert table[column].tolist() == planned[column].tolist()
    assert [read_name(name) for name in table.name] == list(zip(table.pid, table.camid, strict=True))
    assert (table.camid != planned.camid).any() and table.camid.between(1, 6).all()
    assert sorted(file.name for file in folder.glob("*.jpg")) == sorted(table.name)
    with Image.open(folder / table.name[0]) as image:
        assert image.size == (64, 128)
    before = {name: md5(folder / name) for name in table.name}
    call(baseline, "perfect")
    assert {name: md5(folder / name) for name in table.name} == before


def test_pasted_images_are_of_the_camera_of_the_pose() -> None:
    call(baseline, "pasted")
    folder, table = read_synthetic("pasted", 50, {1, 2, 3, 4})
    assert (table.order < 6).sum() == 6, "as many as the arm needs"
    camid = read_index().set_index("image").camid
    assert table.camid.tolist() == camid[table.pose].tolist()
    assert [read_name(name) for name in table.name] == list(zip(table.pid, table.camid, strict=True))
    for row in table.to_dict("records"):
        files = [folder / row["name"]]
        files += [Path("data/world") / image for image in (row["sources"].split("|")[0], row["pose"])]
        made, source, place = (np.asarray(Image.open(file)).astype(int) for file in files)
        corner = np.s_[-8:, :6]  # surroundings
        assert np.abs(made[corner] - place[corner]).mean() < 25
        assert np.abs(made - place).mean() > 3 and np.abs(made - source).mean() > 3


@pytest.mark.parametrize("without", ["sources", "pose"])
def test_a_source_is_taken_as_it_is_where_it_or_the_pose_has_no_keypoints(
    without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, params = read_plan("pasted", 50), load_params()
    table = read_pose_table()
    table.loc[table.image.isin("|".join(plan[without]).split("|")), COORDINATES] = 0.0
    monkeypatch.setattr(baseline, "read_pose_table", lambda: table)
    job = baseline.paste_jobs(plan, params)[0]
    assert job.camid == plan.camid[0]
    with Image.open(Path("data/world") / plan.sources[0].split("|")[0]) as image:
        assert (job.make() == np.asarray(image)).all()


def test_a_person_is_put_in_the_place_of_another_one() -> None:
    """A red figure on dark grey goes where a green one stood on light grey, and gets its height."""

    def picture(ground: int, figure: tuple[int, int, int], top: int, bottom: int, left: int) -> np.ndarray:
        pixels = np.full((128, 64, 3), ground, np.uint8)
        pixels[top:bottom, left : left + 16] = figure
        return pixels

    def corners(top: int, bottom: int, left: int) -> np.ndarray:
        keypoints = np.zeros((18, 3))
        keypoints[:4] = [(left + x, y, 1.0) for x in (2, 13) for y in (top + 4, bottom - 5)]
        return keypoints

    source = picture(40, (255, 0, 0), 20, 120, 8)
    target = picture(200, (0, 255, 0), 60, 110, 40)
    made = paste_person(source, corners(20, 120, 8), target, corners(60, 110, 40)).astype(int)
    red = (made[..., 0] > 150) & (made[..., 1] < 100)
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    assert rows[0] == pytest.approx(62, abs=5) and rows[-1] == pytest.approx(108, abs=5)
    assert columns.mean() == pytest.approx(48, abs=3) and not red[:, :36].any()
    green = (made[..., 1] > 150) & (made[..., 0] < 100)
    assert green.sum() < 20, "nothing is left of the other one"


def test_an_unknown_baseline_is_named() -> None:
    with pytest.raises(ValueError, match="the baseline is warped; expected one of pasted, perfect"):
        call(baseline, "warped")
