"""A detector's work is kept per image, whatever kills the stage, and belongs to what it reads alone."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.keypoints import detect as module
from pipeline.keypoints.detect import DETECTORS, detect, detect_one, load_detector
from pipeline.keypoints.detector import Detector
from tests.pipeline.market import save_image


class Marks(Detector):
    """Stands in for a detector: a person for each pixel of red in the first row, who stands below it."""

    PACKAGE = "numpy"
    loaded = 0

    def __init__(self, path: Path, may_use_gpu: bool) -> None:
        Marks.loaded += 1

    @classmethod
    def check(cls, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"poses.path is {path}, there is no such file")

    @staticmethod
    def files(path: Path) -> Sequence[Path]:
        return [path]

    @staticmethod
    def processes(cores: int) -> tuple[int, bool]:
        return 1, False

    def __call__(self, image: Image.Image) -> np.ndarray:
        assert image.height == 256
        people = np.full((image.width // 100, 18, 3), 1, np.float32)
        people[..., 1] = 255
        return people


@pytest.fixture(autouse=True)
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The present folder is empty, and the source "marks" is `Marks`, run in a thread."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "DETECTORS", {**DETECTORS, "marks": Marks})
    monkeypatch.setattr(module, "worker_pool", lambda workers: ThreadPoolExecutor(workers))
    load_detector.cache_clear()
    Path("model").write_text("weights")


def run(images: list[str], checksums: str) -> list[np.ndarray]:
    return detect("marks", Path("model"), Path(), images, list(checksums))


def test_every_image_has_the_people_in_it_in_its_own_pixels() -> None:
    """Small images are enlarged and large ones made smaller, and a detector is loaded once."""
    sizes = {"tiny.png": (10, 25), "market.png": (64, 128), "wide.png": (256, 128), "large.png": (800, 1024)}
    for name, size in sizes.items():
        Image.new("RGB", size).save(name)
    Marks.loaded = 0
    found = run(list(sizes), "1234")
    assert [len(people) for people in found] == [1, 1, 5, 2] and Marks.loaded == 1
    for people, (width, height) in zip(found, sizes.values(), strict=True):
        bottom = height - 0.5 - 0.5 * height / 256
        seen = round(width * 256 / height)
        np.testing.assert_allclose(people[0, 0], [1.5 * width / seen - 0.5, bottom, 1], rtol=1e-5)


def test_what_was_done_is_not_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images go by their checksums, whatever their names are now; a torn line is done again."""
    looked: list[str] = []

    def look(file: Path, **_: object) -> np.ndarray:
        looked.append(file.name)
        if file.name == "c" and len(looked) == 3:
            raise KeyboardInterrupt
        return np.full((ord(file.name) - ord("a"), 18, 3), ord(file.name) / 128, np.float32)

    monkeypatch.setattr(module, "detect_one", look)
    with pytest.raises(KeyboardInterrupt):
        run(["a", "b", "c"], "123")
    (file,) = Path(".scratch/poses").glob("*/people.jsonl")
    file.write_text(file.read_text() + '\n["3", [[[0')
    again = run(["renamed", "b", "c"], "123")
    assert looked == ["a", "b", "c", "c"]
    assert [people.shape for people in again] == [(0, 18, 3), (1, 18, 3), (2, 18, 3)]
    assert again[1][0, 0, 0] == ord("b") / 128


def test_the_work_belongs_to_the_model_and_not_to_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr(
        module, "detect_one", lambda file, **_: looked.append(file.name) or np.zeros((0, 18, 3), np.float32)
    )
    run(["a"], "1")
    Path("model").rename("renamed")
    detect("marks", Path("renamed"), Path("elsewhere"), ["a"], ["1"])
    assert looked == ["a"]
    Path("model").write_text("other weights")
    run(["a"], "1")
    assert looked == ["a", "a"]


def test_a_missing_model_is_named_before_any_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "worker_pool", None)
    with pytest.raises(FileNotFoundError, match=r"poses\.path is none, there is no such file"):
        detect("marks", Path("none"), Path(), ["a"], ["1"])


def test_a_thin_image_is_still_an_image() -> None:
    Image.new("RGB", (1, 300)).save("thin.png")
    assert detect_one(Path("thin.png"), "marks", Path("model"), False).shape == (0, 18, 3)


@pytest.mark.parametrize("source", list(DETECTORS))
def test_every_detector_names_what_is_missing(source: str) -> None:
    if source == "mediapipe":
        pytest.importorskip("mediapipe", reason="mediapipe is not installed")
    with pytest.raises(FileNotFoundError, match=rf"poses\.path is none, .* since poses\.source is {source}"):
        DETECTORS[source].check(Path("none"))


def test_results_are_lines_of_json() -> None:
    save_image(Path("a.jpg"), size=(128, 128))
    (people,) = run(["a.jpg"], "1")
    (file,) = Path(".scratch/poses").glob("*/people.jsonl")
    assert json.loads(file.read_text().strip()) == ["1", people.tolist()]
