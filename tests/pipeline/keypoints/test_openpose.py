"""OpenPose: its weights are looked at before anything runs, and people stand where its maps show them."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.openpose import maps, standing
from pipeline.keypoints.openpose import OpenPose, assemble, import_openpose
from pipeline.keypoints.people import largest_person


def openpose_or_skip() -> tuple[Any, Any]:
    """Return controlnet-aux's `Body` and `bodypose_model`; skip the test where it is not installed."""
    try:
        return import_openpose()
    except ModuleNotFoundError:
        pytest.skip("controlnet-aux is not installed; pip install '.[paper]'")


def test_mediapipe_is_there_after_openpose_was_imported_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """controlnet-aux fails on the mediapipe that we run, so it is imported as if there were none."""
    monkeypatch.setitem(sys.modules, "mediapipe", ModuleType("mediapipe"))
    for name in [name for name in sys.modules if name.startswith("controlnet_aux")]:
        monkeypatch.delitem(sys.modules, name)
    openpose_or_skip()
    assert sys.modules["mediapipe"].__name__ == "mediapipe"


def test_people_are_put_together_from_all_keypoints_of_an_image() -> None:
    candidates = np.array([[0, 0, 0.5, 0], [9, 9, 1.7, 1], [10, 10, 0.6, 2], [12, 90, 0.7, 3]], float)
    people = np.full((2, 20), -1.0)
    people[0, [0, 1]] = 0, 1
    people[1, [0, 17]] = 2, 3
    expected = np.zeros((2, 18, 3), np.float32)
    expected[0, 0], expected[0, 1] = (0, 0, 0.5), (9, 9, 1.7)
    expected[1, 0], expected[1, 17] = (10, 10, 0.6), (12, 90, 0.7)
    np.testing.assert_array_equal(assemble(candidates, people), expected)
    np.testing.assert_array_equal(largest_person(expected), expected[1])
    assert assemble(np.zeros((0, 4)), np.zeros((0, 20))).shape == (0, 18, 3)


@pytest.mark.parametrize(("cores", "may_use_gpu"), [(4, True), (5, False)])
def test_a_gpu_is_used_by_few_processes_only(cores: int, may_use_gpu: bool) -> None:
    assert OpenPose.processes(cores) == (cores, may_use_gpu)


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
def test_the_largest_person_is_found_where_it_stands(width: int, people: list[np.ndarray]) -> None:
    """From the network's maps to pixels of the image, through controlnet_aux's own search for people."""
    body, _ = openpose_or_skip()
    detector = body.__new__(body)  # its __init__ reads the file of the large network
    detector.model = SmallNetwork(np.array(people).reshape(-1, 18, 2), 128, width)
    openpose = OpenPose.__new__(OpenPose)
    openpose.body = detector
    found = openpose(Image.new("RGB", (2 * width, 256)))  # the image at the size that detectors see
    assert len(found) == len(people)
    keypoints = largest_person(found)
    if people:
        np.testing.assert_allclose((keypoints[:, :2] + 0.5) / 2 - 0.5, people[-1], atol=1.5)
        assert (keypoints[:, 2] > 0.5).all()
    else:
        assert not keypoints.any()


class _Harmful:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


def test_bad_openpose_weights_are_named(tmp_path: Path) -> None:
    _, bodypose_model = openpose_or_skip()
    file, harm = tmp_path / "model.pth", tmp_path / "harm"
    with torch.device("meta"):
        shapes = bodypose_model().state_dict()
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
            OpenPose.check(file)
        sentence = f"poses.path is {file}; it is no OpenPose body model of 18 keypoints ({reason}"
        assert str(caught.value).startswith(sentence)
        assert "\n" not in str(caught.value)
    assert not harm.exists()
