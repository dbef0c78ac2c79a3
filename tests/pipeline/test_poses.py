"""Every indexed image has 18 keypoints that lie in it, or the stage says which has not."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.openpose import maps, save_random_model, standing
from generator.keypoints import KEYPOINT_NAMES
from pipeline import artifacts
from pipeline import poses as stage
from pipeline.artifacts import INDEX, POSE_COLUMNS, POSES_SUMMARY, read_poses
from pipeline.datasets.indexing import index_dataset
from pipeline.datasets.market1501 import read_annotations
from pipeline.params import IndexSettings, load_params
from pipeline.runtime.outputs import write_csv
from tests import REPOSITORY
from tests.pipeline.market import keypoints_frame, save_image

SHIPPED = load_params(REPOSITORY / "profiles/embedded.yaml")
IMAGES = ["query/b.jpg", "query/a.jpg", "query/c.jpg"]
SIZES = np.array([[64, 128]] * 3)
OUTSIDE = "lies outside the image; a keypoint that is not visible has the score 0"
ADD = "add them, or set poses.source to openpose"


def write(frame: pd.DataFrame, root: Path) -> Path:
    """Write a data set's keypoints; returns its root."""
    frame.to_csv(root / "keypoints.csv", index=False)
    return root


def test_annotations_come_in_the_order_asked_for(tmp_path: Path) -> None:
    frame = keypoints_frame([*IMAGES, "another.jpg"])
    keypoints = read_annotations(write(frame, tmp_path), IMAGES[::-1], SIZES)
    assert keypoints.shape == (3, 18, 3) and keypoints.dtype == np.float32
    row = frame.set_index("image").loc["query/a.jpg"]
    assert keypoints[1, 4].tolist() == pytest.approx(
        row[["r_wrist_x", "r_wrist_y", "r_wrist_score"]].tolist()
    )


def test_a_keypoint_that_is_not_visible_is_zero_wherever_it_is_annotated(tmp_path: Path) -> None:
    frame = keypoints_frame(IMAGES)
    frame.loc[0, ["nose_x", "nose_y", "nose_score"]] = [900.0, -7.0, 0.0]
    frame.loc[1, ["nose_x", "nose_y", "nose_score"]] = [None, float("inf"), 0.0]
    assert not read_annotations(write(frame, tmp_path), IMAGES, SIZES)[:2, 0].any()


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("nose_x", 63.6, "nose of query/a.jpg (63.6, 5, score 0.5) " + OUTSIDE),
        ("nose_x", -0.6, "nose of query/a.jpg (-0.6, 5, score 0.5) " + OUTSIDE),
        ("nose_y", 127.6, "nose of query/a.jpg (5, 127.6, score 0.5) " + OUTSIDE),
        ("nose_y", None, "nose of query/a.jpg (5, nan, score 0.5) is not finite"),
        ("nose_score", None, "nose of query/a.jpg (5, 5, score nan) is not finite"),
        ("nose_x", float("inf"), "nose of query/a.jpg (inf, 5, score 0.5) is not finite"),
        ("nose_score", 1.1, "nose of query/a.jpg (5, 5, score 1.1) has a score outside 0 to 1"),
        ("nose_score", -0.1, "nose of query/a.jpg (5, 5, score -0.1) has a score outside 0 to 1"),
        ("image", "query/b.jpg", "query/b.jpg has two rows; leave one"),
        ("image", "query/d.jpg", "1 images have no row, the first is query/a.jpg; " + ADD),
        ("tail_x", 1.0, "column 'tail_x' is none of the 18 OpenPose keypoints"),
        ("nose_x", "left", "line 3, column 'nose_x' is 'left', expected a number"),
    ],
)
def test_annotations_that_cannot_be_are_refused(
    column: str, value: object, sentence: str, tmp_path: Path
) -> None:
    frame = keypoints_frame(IMAGES)
    frame.loc[1, ["nose_x", "nose_y", "nose_score"]] = [5.0, 5.0, 0.5]
    frame[column] = frame[column].astype(object) if column in frame else 0.0
    frame.loc[1, column] = value
    with pytest.raises(ValueError) as caught:
        read_annotations(write(frame, tmp_path), IMAGES, SIZES)
    assert str(caught.value) == f"{tmp_path / 'keypoints.csv'}: {sentence}"


def test_a_data_set_without_annotations_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        read_annotations(tmp_path, IMAGES, SIZES)
    assert str(caught.value) == (
        f"{tmp_path / 'keypoints.csv'} is missing; without annotations, set poses.source to openpose"
    )


def test_the_edge_of_the_image_belongs_to_it(tmp_path: Path) -> None:
    frame = keypoints_frame(IMAGES)
    frame.loc[1, ["nose_x", "nose_y", "nose_score"]] = [63.5, -0.5, 0.5]
    read_annotations(write(frame, tmp_path), IMAGES, SIZES)


def test_seventeen_keypoints_are_refused(tmp_path: Path) -> None:
    frame = keypoints_frame(IMAGES).drop(columns="l_ear_score")
    with pytest.raises(ValueError) as caught:
        read_annotations(write(frame, tmp_path), IMAGES, SIZES)
    assert str(caught.value) == f"{tmp_path / 'keypoints.csv'}: it has no column 'l_ear_score'"


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


def test_the_largest_of_several_people_is_kept() -> None:
    candidates = np.array([[0, 0, 0.5, 0], [9, 9, 1.7, 1], [10, 10, 0.6, 2], [12, 90, 0.7, 3]], float)
    people = np.full((2, 20), -1.0)
    people[0, [0, 1]] = 0, 1
    people[1, [0, 17]] = 2, 3
    expected = np.zeros((18, 3), np.float32)
    expected[0], expected[17] = (10, 10, 0.6), (12, 90, 0.7)
    np.testing.assert_array_equal(stage.largest_person(candidates, people), expected)
    assert stage.largest_person(candidates, people[:1])[1].tolist() == [9, 9, 1]
    assert not stage.largest_person(np.zeros((0, 4)), np.zeros((0, 20))).any()


def test_summary_counts_images_without_a_person() -> None:
    keypoints = np.zeros((4, 18, 3), np.float32)
    keypoints[0, :9, 2] = 1
    assert stage.summarise(keypoints) == {
        "images": 4,
        "images_without_person": 3,
        "images_with_several_people": 0,
        "visible_keypoints_per_image": 2.25,
    }


def test_summary_counts_images_with_several_people() -> None:
    summary = stage.summarise(np.ones((4, 18, 3), np.float32), np.array([1, 2, 0, 3]))
    assert summary["images_with_several_people"] == 2


@pytest.mark.slow
def test_openpose_runs_from_one_local_file_in_several_processes(
    market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random body model in the true format finds nobody, and the stage says so with zeros."""
    pytest.importorskip("controlnet_aux")
    monkeypatch.chdir(tmp_path)
    save_random_model(Path("body_pose_model.pth"))
    poses = {"source": "openpose", "openpose_model": Path("body_pose_model.pth")}
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


@pytest.mark.parametrize(("cores", "device"), [(4, "cuda"), (5, "cpu")])
def test_a_gpu_is_used_by_few_processes_only(
    cores: int, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = pytest.importorskip("controlnet_aux.open_pose.body")
    used = []

    class Detector:
        def __init__(self, file: str) -> None:
            pass

        def to(self, device: str) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
            used.append(device)
            return lambda image: (np.zeros((0, 4)), np.zeros((0, 20)))

    monkeypatch.setattr(body, "Body", Detector)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(stage, "check_openpose", lambda model: None)
    monkeypatch.setattr(stage, "available_cores", lambda: cores)
    monkeypatch.setattr(stage, "worker_pool", lambda workers: ThreadPoolExecutor(1))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pth").touch()
    save_image(tmp_path / "a.jpg")
    stage.detect(tmp_path, ["a.jpg"], ["0"], tmp_path / "model.pth")
    assert used == [device]


def test_openpose_continues_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that were done are not looked at again, whatever their name is now; a torn line is."""
    monkeypatch.chdir(tmp_path)
    looked: list[str] = []

    def detect_one(file: Path, model: Path, may_use_gpu: bool) -> tuple[np.ndarray, int]:
        looked.append(file.name)
        if file.name == "c" and len(looked) == 3:
            raise KeyboardInterrupt
        return np.full((18, 3), ord(file.name) / 128, np.float32), 1

    monkeypatch.setattr(stage, "check_openpose", lambda model: None)
    monkeypatch.setattr(stage, "worker_pool", lambda workers: ThreadPoolExecutor(1))
    monkeypatch.setattr(stage, "detect_one", detect_one)
    Path("model.pth").touch()
    with pytest.raises(KeyboardInterrupt):
        stage.detect(tmp_path, ["a", "b", "c"], ["1", "2", "3"], Path("model.pth"))
    (file,) = Path(".scratch/poses").glob("*/keypoints.jsonl")
    file.write_text(file.read_text() + '\n["3", [[0')
    again, people = stage.detect(tmp_path, ["renamed", "b", "c"], ["1", "2", "3"], Path("model.pth"))
    assert looked == ["a", "b", "c", "c"] and people.tolist() == [1, 1, 1]
    assert again[:, 0, 0].tolist() == [ord(name) / 128 for name in "abc"]


class SmallNetwork(torch.nn.Module):
    """Stands in for OpenPose's network: its output, which is all it has, shows these people."""

    def __init__(self, people: np.ndarray, height: int, width: int) -> None:
        super().__init__()
        limbs, heat = maps(people, height, width)
        self.limbs, self.heat = torch.nn.Parameter(limbs), torch.nn.Parameter(heat)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert tuple(images.shape[2:]) == (184, 8 * self.heat.shape[3])
        return self.limbs.detach(), self.heat.detach()


@pytest.mark.parametrize(
    ("width", "people"),
    [(64, []), (64, [standing(30, 25, 95)]), (128, [standing(30, 30, 60), standing(90, 25, 95)])],
)
def test_the_largest_person_is_found_where_it_stands(
    width: int, people: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the network's maps to pixels of the image, through controlnet_aux's own search for people."""
    body = pytest.importorskip("controlnet_aux.open_pose.body").Body
    detector = body.__new__(body)  # its __init__ reads the file of the large network
    detector.model = SmallNetwork(np.array(people).reshape(-1, 18, 2), 128, width)
    monkeypatch.setattr(stage, "_openpose", lambda model, may_use_gpu: detector)
    file = save_image(tmp_path / "a.jpg", size=(width, 128))
    keypoints, count = stage.detect_one(file, tmp_path / "unused.pth", False)
    assert count == len(people)
    if people:
        np.testing.assert_allclose(keypoints[:, :2], people[-1], atol=1.5)
        assert (keypoints[:, 2] > 0.5).all() and (keypoints[:, 2] <= 1).all()
    else:
        assert not keypoints.any()


def test_a_file_that_is_no_openpose_model_is_named_before_any_process_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("controlnet_aux")
    monkeypatch.setattr(stage, "worker_pool", None)
    with pytest.raises(
        FileNotFoundError, match=r"poses.openpose_model is .*model.pth, there is no such file; expected Open"
    ):
        stage.detect(tmp_path, ["a.jpg"], ["0"], tmp_path / "model.pth")
    (tmp_path / "model.pth").write_text("no weights")
    with pytest.raises(
        ValueError, match=r"poses.openpose_model is .*model.pth; it is no OpenPose body model"
    ):
        stage.detect(tmp_path, ["a.jpg"], ["0"], tmp_path / "model.pth")


class _Harmful:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


def test_bad_openpose_weights_are_named(tmp_path: Path) -> None:
    network = pytest.importorskip("controlnet_aux.open_pose.model")
    file, harm = tmp_path / "model.pth", tmp_path / "harm"
    with torch.device("meta"):
        shapes = network.bodypose_model().state_dict()
    good = {name.split(".", 1)[1]: torch.zeros(()).expand(tensor.shape) for name, tensor in shapes.items()}
    first = next(iter(good))
    for content, reason in (
        (good | {first: good[first] * float("nan")}, f"{file} holds NaN or infinite values in {first}."),
        (good | {first: good[first].int()}, f"{file} holds {first} as int32; weights are of 16, 32 or 64-"),
        (good | {first: good[first][:1]}, f"{first} is [1, "),
        ({name: value for name, value in good.items() if name != first}, f"it has no {first}"),
        ([good[first]], f"{file} holds no tensors by their names"),
        (_Harmful(harm), f"{file} is no file of tensors that torch.save wrote; objects"),
        (b"\x08\x07\x12\x07pytorch", f"{file} is no file of tensors that torch.save wrote; objects"),  # ONNX
        (b"version https://git-lfs.github.com/spec/v1\n", f"{file} is a pointer of Git LFS; run `git lfs"),
    ):
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        with pytest.raises(ValueError) as caught:
            stage.check_openpose(file)
        sentence = f"poses.openpose_model is {file}; it is no OpenPose body model of 18 keypoints ({reason}"
        assert str(caught.value).startswith(sentence)
        assert "\n" not in str(caught.value)
    assert not harm.exists()
