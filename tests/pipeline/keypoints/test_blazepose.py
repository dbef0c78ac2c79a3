"""BlazePose: mediapipe's own code on a photograph that a package ships, where wheel and weights are at hand.

BLAZEPOSE in the environment names pose_landmarker_*.task, or the wheel mediapipe-0.10.21-*.whl.
"""

import os
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from skimage import data

from generator.keypoints import KEYPOINT_NAMES
from pipeline.keypoints import blazepose as module
from pipeline.keypoints.blazepose import BlazePose, read_bundle
from pipeline.keypoints.layouts import BLAZEPOSE
from tests.pipeline.keypoints.figure import FIGURE, SIZE, in_layout

MODEL = Path(os.environ.get("BLAZEPOSE", ""))
RIGHT, LEFT, NOSE = (KEYPOINT_NAMES.index(name) for name in ("r_shoulder", "l_shoulder", "nose"))


@pytest.fixture(scope="module")
def model() -> Path:
    """The real weights."""
    pytest.importorskip("mediapipe", reason="mediapipe is not installed; pip install '.[mediapipe]'")
    if not MODEL.is_file():
        pytest.skip("BLAZEPOSE names no file of weights")
    return MODEL


@pytest.fixture(scope="module")
def detector(model: Path) -> Iterator[BlazePose]:
    detector = BlazePose(model, may_use_gpu=False)
    yield detector
    detector.landmarker.close()


def test_the_real_model_finds_the_astronaut(detector: BlazePose) -> None:
    """Face and shoulders, where anybody sees them in the picture, whatever its shape."""
    photograph = Image.fromarray(data.astronaut())
    for left in (0, 60):
        (person,) = detector(photograph.crop((left, 0, 360, 512)))
        for point, place in ((NOSE, (222, 128)), (RIGHT, (125, 210)), (LEFT, (300, 240))):
            assert np.hypot(*(person[point, :2] + [left, 0] - place)) < 45
            assert person[point, 2] > 0.9
    assert len(detector(Image.new("RGB", (128, 256)))) == 0


def test_an_inclined_person_is_found_where_it_is(detector: BlazePose) -> None:
    """A turned crop that is no square: what was found upright turns with it."""
    crop = Image.fromarray(data.astronaut()).crop((60, 0, 360, 512))
    (upright,), (turned,) = detector(crop), detector(crop.rotate(30))
    centre, angle = (np.array(crop.size) - 1) / 2, np.deg2rad(30)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for point in (NOSE, RIGHT, KEYPOINT_NAMES.index("r_eye"), KEYPOINT_NAMES.index("l_eye")):
        expected = turn @ (upright[point, :2] - centre) + centre
        assert np.hypot(*(turned[point, :2] - expected)) < 12


def test_the_real_model_passes_the_look_before_a_run(model: Path) -> None:
    BlazePose.check(model)


def test_landmarks_are_shares_of_a_square_with_a_border(monkeypatch: pytest.MonkeyPatch) -> None:
    """From mediapipe's shares of what it sees back to pixels of the image."""
    pytest.importorskip("mediapipe", reason="mediapipe is not installed")
    width, height = SIZE
    seen: list[np.ndarray] = []

    def detect(image: object) -> SimpleNamespace:
        pixels = image.numpy_view().copy()  # type: ignore[attr-defined]
        seen.append(pixels)
        side = len(pixels)
        corner = np.array([(side - width) // 2, (side - height) // 2])
        places = (in_layout(BLAZEPOSE)[:, :2] + corner + 0.5) / side
        marks = [SimpleNamespace(x=x, y=y, visibility=0.9) for x, y in places]
        return SimpleNamespace(pose_landmarks=[marks])

    detector = BlazePose.__new__(BlazePose)
    detector.landmarker = SimpleNamespace(detect=detect)
    (person,) = detector(Image.new("RGB", SIZE, (255, 255, 255)))
    np.testing.assert_allclose(person, FIGURE, rtol=1e-4)
    (pixels,) = seen
    assert pixels.shape == (192, 192, 3) and (pixels.sum() == 3 * 255 * width * height)
    detector.landmarker = SimpleNamespace(detect=lambda image: SimpleNamespace(pose_landmarks=[]))
    assert detector(Image.new("RGB", SIZE)).shape == (0, 18, 3)


def test_a_bundle_is_taken_as_it_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pose_landmarker_lite.task", "w") as bundle:
        for name in ("pose_detector.tflite", "pose_landmarks_detector.tflite"):
            bundle.writestr(name, b"network")
    file = tmp_path / "pose_landmarker_lite.task"
    assert read_bundle(file) == file.read_bytes()


def test_a_file_that_holds_no_blazepose_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "version", lambda package: "0.10.31")
    file = tmp_path / "model.task"
    expected = f"poses.path is {file}; expected BlazePose's pose_landmarker_*.task, or the wheel"
    file.write_bytes(b"TFL3")
    for reason in ("(file is not a zip file)", "(it holds no networks of blazepose)"):
        with pytest.raises(ValueError) as caught:
            BlazePose.check(file)
        assert str(caught.value).startswith(expected) and str(caught.value).endswith(reason)
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("hand_detector.tflite", b"")


@pytest.mark.parametrize("version", ["0.10.21", "0.10.35", "1.2.3"])
def test_a_version_that_lacks_the_tasks_or_sends_metrics_is_refused(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "version", lambda package: version)
    with pytest.raises(ValueError, match=rf"there is {version}, and versions from 0.10.35 on send metrics"):
        BlazePose.check(tmp_path / "none")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(module, "version", version)
    with pytest.raises(
        ValueError, match=r"needs the package mediapipe; pip install -c constraints.txt '.\[mediap"
    ):
        BlazePose.check(tmp_path / "none")


def test_a_missing_library_of_the_system_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: BlazePose, path: Path, may_use_gpu: bool) -> None:
        raise OSError("libGLESv2.so.2: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(module, "version", lambda package: "0.10.31")
    monkeypatch.setattr(module, "read_bundle", lambda path: b"")
    monkeypatch.setattr(BlazePose, "__init__", load)
    file = tmp_path / "a.task"
    file.touch()
    with pytest.raises(
        ValueError, match=r"a library of the system: libGLESv2.so.2: .*; apt-get install libegl1"
    ):
        BlazePose.check(file)


def test_a_bundle_that_mediapipe_refuses_is_named(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="mediapipe is not installed")
    file = tmp_path / "a.task"
    with zipfile.ZipFile(file, "w") as bundle:
        for name in ("pose_detector.tflite", "pose_landmarks_detector.tflite"):
            bundle.writestr(name, b"no network")
    with pytest.raises(ValueError, match=r"a.task, which mediapipe does not load: ") as caught:
        BlazePose.check(file)
    assert "\n" not in str(caught.value)
