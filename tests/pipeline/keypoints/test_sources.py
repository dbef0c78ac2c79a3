"""From any source to the keypoints of the views: who counts, which images must be listed, in which pixels."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.keypoints import sources
from pipeline.keypoints.detect import DETECTORS
from pipeline.keypoints.files import FILES
from pipeline.keypoints.people import NOBODY
from pipeline.keypoints.sources import check_source, find_keypoints
from pipeline.params import DatasetSettings, PosesSettings, parse_params
from tests import embedded
from tests.pipeline.keypoints.figure import FIGURE, SIZE
from tests.pipeline.keypoints.test_files import (
    IMAGES,
    coco_results,
    our_table,
    pose_transfer_file,
    pose_transfer_row,
    write,
)

INDEX = pd.DataFrame({"image": IMAGES, "width": SIZE[0], "height": SIZE[1], "md5": ["1", "2"]})


def settings(source: str, path: Path, **changes: object) -> tuple[PosesSettings, DatasetSettings]:
    """Return the sections poses and dataset; keys of changes are "section.key"."""
    values = {"poses.source": source, "poses.path": str(path), "dataset.height": 128, "dataset.width": 64}
    params = parse_params(embedded(values | changes))
    return params.poses, params.dataset


def test_every_source_that_may_be_named_is_known() -> None:
    names = PosesSettings.model_json_schema()["properties"]["source"]["enum"]
    assert sorted(names) == sorted([*DETECTORS, *FILES]) and set(sources._MIN_SCORES) <= set(names)


def test_an_image_without_an_entry_is_named_or_counts_as_nobody_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = our_table(tmp_path / "keypoints.csv", IMAGES[0])
    missing = f"{path}: 1 of 2 images have no entry, the first is {IMAGES[1]}; "
    with pytest.raises(ValueError) as caught:
        find_keypoints(*settings("annotations", path), INDEX)
    assert str(caught.value) == (
        missing + "add them, or set poses.allow_missing to true, which counts them as images without a person"
    )
    allowed = settings("annotations", path, **{"poses.allow_missing": True})
    keypoints, people = find_keypoints(*allowed, INDEX)
    assert capsys.readouterr().out == missing + "they count as images without a person\n"
    assert people.tolist() == [1, 0] and not keypoints[1].any()
    np.testing.assert_allclose(keypoints[0], FIGURE, rtol=1e-5)


@pytest.mark.parametrize(("least", "seen"), [(None, 17), (0.0, 18), (0.95, 0)])
def test_keypoints_of_a_low_score_do_not_count(least: float | None, seen: int, tmp_path: Path) -> None:
    """Results of COCO's format have a score for every keypoint; by default those below 0.3 do not count."""
    (result,) = coco_results()
    result["keypoints"][2] = 0.2  # the nose
    path = write(tmp_path / "a.json", [result, result | {"image_id": Path(IMAGES[1]).name}])
    keypoints, people = find_keypoints(*settings("coco_json", path, **{"poses.min_score": least}), INDEX)
    assert (keypoints[..., 2] > 0).sum(-1).tolist() == [seen, seen]
    assert people.tolist() == ([1, 1] if seen else [0, 0])


def test_of_several_people_the_largest_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [np.stack([FIGURE * np.float32([0.4, 0.4, 1]), FIGURE]), NOBODY]
    monkeypatch.setattr(sources, "detect", lambda *_: found)
    keypoints, people = find_keypoints(*settings("openpose", tmp_path), INDEX)
    np.testing.assert_allclose(keypoints[0], FIGURE, rtol=1e-6)
    assert people.tolist() == [2, 0] and not keypoints[1].any()


def test_keypoints_follow_the_image_to_the_view(tmp_path: Path) -> None:
    """Resized to the view's height, and moved by its border."""
    path = our_table(tmp_path / "keypoints.csv", *IMAGES)
    view = {"dataset.height": 256, "dataset.width": 144, "dataset.border": 8}
    keypoints, _ = find_keypoints(*settings("annotations", path, **view), INDEX)
    np.testing.assert_allclose(keypoints[0, :, 0], (FIGURE[:, 0] + 0.5) * 2 - 0.5 + 8, rtol=1e-5)
    np.testing.assert_allclose(keypoints[0, :, 1], (FIGURE[:, 1] + 0.5) * 2 - 0.5, rtol=1e-5)


def test_deepfashions_keypoints_are_of_smaller_images(tmp_path: Path) -> None:
    """The corner pixels of an image of 176 x 256 cover the corners of the larger one, and of its view."""
    points = np.zeros((18, 3), np.float32)
    points[:4] = [[0, 0, 1], [175, 255, 1], [175, 256, 1], [20, 300, 1]]
    path = pose_transfer_file(tmp_path / "a.csv", pose_transfer_row("a.jpg", points))
    index = pd.DataFrame({"image": ["train_highres/a.jpg"], "width": 750, "height": 1101, "md5": "1"})
    view = {"dataset.root": "deepfashion", "dataset.format": "deepfashion"}
    view |= {"dataset.height": 512, "dataset.width": 384}
    (keypoints,), _ = find_keypoints(*settings("pose_transfer", path, **view), index)
    assert keypoints[0].tolist() == pytest.approx([384 / 176 / 2 - 0.5, 512 / 256 / 2 - 0.5, 1])
    assert keypoints[1].tolist() == pytest.approx([383.5 - 384 / 176 / 2, 511.5 - 512 / 256 / 2, 1])
    assert not keypoints[2:].any(), "a point below the image, and -1, are no keypoints"


def test_market_1501s_keypoints_are_of_the_images_themselves(tmp_path: Path) -> None:
    path = pose_transfer_file(tmp_path / "a.csv", *(pose_transfer_row(Path(image).name) for image in IMAGES))
    keypoints, _ = find_keypoints(*settings("pose_transfer", path), INDEX)
    np.testing.assert_array_equal(keypoints[0, :, :2], FIGURE[:, :2])


def test_the_look_before_a_run_asks_the_reader(tmp_path: Path) -> None:
    check_source(settings("annotations", our_table(tmp_path / "keypoints.csv", *IMAGES))[0])
    with pytest.raises(ValueError, match=r"which holds no \*_keypoints.json"):
        check_source(settings("openpose_json", tmp_path)[0])
    with pytest.raises(FileNotFoundError, match="expected a ViTPose in transformers' layout"):
        check_source(settings("vitpose", tmp_path / "none")[0])
