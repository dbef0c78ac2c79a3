"""A preview works with the shipped base weights, shows what was asked for, and names mistakes."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import index, poses
from pipeline.artifacts import read_index, read_poses
from tests import REPOSITORY
from tests.generator.tiny import keypoints
from tools import preview


@pytest.fixture
def project(market: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stages `index` and `poses` done, nothing trained, and the present folder."""
    monkeypatch.chdir(market.parent)
    text = (REPOSITORY / "profiles/embedded.yaml").read_text().replace("data/world", str(market))
    text = text.replace("weights/embedded", str(REPOSITORY / "weights/embedded"))
    text = text.replace("validation_identities: 20", "validation_identities: 1")
    assert text.count("steps: 6 # of DDIM") == 1
    Path("params.yaml").write_text(text.replace("steps: 6 # of DDIM", "steps: 1 #"))
    index.main()
    poses.main()
    return market.parent


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["preview", *arguments])
    preview.main()


@pytest.mark.slow
def test_the_base_weights_make_a_picture_and_the_same_one_again(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--identity", "3", "--sources", "2", "--poses", "3", "--guidance", "1", "2", "--seed", "5"]
    run(monkeypatch, *arguments)
    assert capsys.readouterr().out.startswith("preview.png: 6 images by ")
    first = Path("preview.png").read_bytes()
    with Image.open("preview.png") as picture:
        assert picture.height > 5 * 224, "sources, photos, poses and two rows of settings"
    run(monkeypatch, *arguments)
    assert Path("preview.png").read_bytes() == first
    run(monkeypatch, *arguments[:-1], "6")
    assert Path("preview.png").read_bytes() != first


def test_named_images_are_taken_and_random_ones_follow_the_seed(project: Path) -> None:
    table = read_index()
    own = sorted(table.image[table.pid == 3])
    short = Path(own[2]).name
    assert preview.choose_sources(table, 3, [own[1], short], 1, seed=0) == [own[1], own[2]]
    pairs = {tuple(preview.choose_sources(table, 3, [], 2, seed)) for seed in range(20)}
    assert len(pairs) > 3 and all(set(pair) <= set(own) and len(set(pair)) == 2 for pair in pairs)
    images = preview.choose_poses(table, [], 4, least=10, seed=0)
    assert len(set(images)) == 4
    assert ((read_poses(images)[..., 2] > 0).sum(-1) >= 10).all()
    assert images == preview.choose_poses(table, [], 4, least=10, seed=0)
    assert preview.choose_poses(table, [short], 4, least=18, seed=0) == [own[2]]


@pytest.mark.parametrize(("sources", "sizes"), [(1, [3, 3, 1]), (2, [2, 2, 2, 1]), (3, [1] * 7)])
def test_joint_images_hold_all_poses_beside_all_sources(sources: int, sizes: list[int]) -> None:
    targets = keypoints(7)
    requests = preview.joint_requests(sources, targets, seed=40)
    assert [len(request.poses) for request in requests] == sizes
    assert all(request.sources == tuple(range(sources)) for request in requests)
    np.testing.assert_array_equal(np.concatenate([request.poses for request in requests]), targets)
    assert [seed for request in requests for seed in request.seeds] == list(range(40, 47))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--identity", "999"], r"identity 999 is not in data/index.csv; it has \d"),
        (["--identity", "3", "--source", "x.jpg"], "x.jpg is no image of identity 3; it has "),
        (["--identity", "3", "--pose", "x.jpg"], "x.jpg is not in data/index.csv"),
        (["--identity", "3", "--poses", "99"], "plan.min_keypoints is 8; only 1"),
        (["--identity", "3", "--guidance", "0.5"], "--guidance is 0.5: input should be greater than"),
        (["--identity", "3", "--steps", "0"], "--steps is 0: input should be greater than"),
        (["--identity", "3", "--output", "x.gif"], "expected a .png or .jpg file"),
        (["--identity", "3", "--model", "nowhere"], "nowhere holds no generator; expected a folder such as"),
        (["--identity", "3", "--source", "a", "b", "c", "d"], "names 4 images; expected 1 to 3"),
        (["--identity", "3", "--poses", "0"], "expected at least one pose"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], sentence: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=sentence):
        run(monkeypatch, *arguments)
    assert not list(project.glob("preview*"))


def test_without_an_index_the_stage_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((REPOSITORY / "profiles/embedded.yaml").read_text())
    with pytest.raises(FileNotFoundError, match=r"data/index.csv is missing; run the stage 'index'"):
        run(monkeypatch, "--identity", "3")


def test_labels_and_tiles_do_not_depend_on_each_other() -> None:
    image = np.full((128, 64, 3), 77, np.uint8)
    rows = [preview.Row("a\nb", [image], ["x"]), preview.Row("c", [image, image], [])]
    pixels = np.asarray(preview.draw("title", rows, 128, 64))
    left, step = preview._LABEL_WIDTH, preview._TILE_HEIGHT + preview._LINE
    top = preview._LINE + preview._GAP
    for row, columns in ((0, 1), (1, 2)):
        for column in range(columns):
            x = left + column * (112 + preview._GAP)
            assert (pixels[top + row * step : top + row * step + 224, x : x + 112] == 77).all()
    assert (pixels[top : top + 224, left + 112 + preview._GAP :] == 255).all()
