"""Every indexed image has 18 keypoints, or the stage says which has not."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks.openpose import save_random_model
from generator.keypoints import KEYPOINT_NAMES
from pipeline import artifacts
from pipeline import poses as stage
from pipeline.artifacts import INDEX, POSE_COLUMNS, POSES_SUMMARY, read_poses
from pipeline.datasets.indexing import index_dataset
from pipeline.params import IndexSettings, load_params
from pipeline.runtime.outputs import write_csv
from tests import REPOSITORY

SHIPPED = load_params(REPOSITORY / "profiles/embedded.yaml")


def test_the_table_keeps_visibility(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keypoints = np.zeros((1, 18, 3), np.float32)
    keypoints[0, 3] = 12.3456, 7.0, 0.001
    frame = stage.to_frame(["a.jpg"], keypoints)
    assert list(frame.columns) == list(POSE_COLUMNS) and len(frame.columns) == 1 + 3 * len(KEYPOINT_NAMES)
    monkeypatch.setattr(artifacts, "POSES", tmp_path / "poses.csv")
    frame.to_csv(artifacts.POSES, index=False)
    expected = np.zeros_like(keypoints)
    expected[0, 3] = 12.35, 7.0, 0.01
    np.testing.assert_array_equal(read_poses(["a.jpg"]), expected)


def test_summary_counts_images_without_a_person() -> None:
    keypoints = np.zeros((4, 18, 3), np.float32)
    keypoints[0, :9, 2] = 1
    assert stage.summarise(keypoints, np.array([1, 0, 0, 0])) == {
        "images": 4,
        "images_without_person": 3,
        "images_with_several_people": 0,
        "visible_keypoints_per_image": 2.25,
    }


def test_summary_counts_images_with_several_people() -> None:
    summary = stage.summarise(np.ones((4, 18, 3), np.float32), np.array([1, 2, 0, 3]))
    assert summary["images_with_several_people"] == 2


@pytest.mark.slow
@pytest.mark.skipif(find_spec("controlnet_aux") is None, reason="controlnet-aux is not installed")
def test_openpose_runs_from_one_local_file_in_several_processes(
    market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random body model in the true format finds nobody, and the stage says so with zeros."""
    monkeypatch.chdir(tmp_path)
    save_random_model(Path("body_pose_model.pth"))
    poses = {"source": "openpose", "path": Path("body_pose_model.pth")}
    params = SHIPPED.model_copy(
        update={
            "dataset": SHIPPED.dataset.model_copy(update={"root": market}),
            "poses": SHIPPED.poses.model_copy(update=poses),
        }
    )
    monkeypatch.setattr(stage, "load_params", lambda: params)
    index, *_ = index_dataset("market1501", market, IndexSettings(validation_identities=0, seed=0))
    index = index.head(9)  # more than one process takes at a time
    write_csv(index, INDEX)
    stage.main()
    assert not read_poses(index.image.tolist()).any()
    assert json.loads(POSES_SUMMARY.read_text()) == {
        "images": 9,
        "images_without_person": 9,
        "images_with_several_people": 0,
        "visible_keypoints_per_image": 0.0,
    }
