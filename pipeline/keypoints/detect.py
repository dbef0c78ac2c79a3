"""Running a detector over the images of a data set: in several processes, and on where it was killed."""

import functools
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from inspect import getfile
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import generator.keypoints as keypoints_module
import pipeline.datasets.images as images_module
from generator.keypoints import KEYPOINT_NAMES, resize_keypoints
from pipeline.datasets.images import read_image
from pipeline.keypoints import layouts
from pipeline.keypoints.blazepose import BlazePose
from pipeline.keypoints.detector import Detector
from pipeline.keypoints.openpose import OpenPose
from pipeline.keypoints.vitpose import ViTPose
from pipeline.runtime.hashes import md5
from pipeline.runtime.scratch import scratch
from pipeline.runtime.stage import progress
from pipeline.runtime.workers import available_cores, worker_pool

# The detectors by the values of poses.source
DETECTORS: Mapping[str, type[Detector]] = MappingProxyType(
    {"openpose": OpenPose, "mediapipe": BlazePose, "vitpose": ViTPose}
)

# Rows of the image that a detector sees. Twice Market-1501's, since OpenPose places keypoints at whole
# pixels; the others look at about as many. OpenPose's search for people on the CPU takes 0.08 s here and
# 1.9 s at its usual 1024.
_HEIGHT = 256


def detect(
    source: str, path: Path, root: Path, images: Sequence[str], checksums: Sequence[str]
) -> list[NDArray[np.float32]]:
    """Find people in images.

    What was found in an image is kept in scratch, so that a stage that was killed continues where it was.

    Args:
        source: Key of `DETECTORS`.
        path: File or folder of its model.
        root: Folder of the data set.
        images: Paths of images, relative to it.
        checksums: MD5 of each of these images.

    Returns:
        People of each image, [P, 18, 3]: x, y in pixels of the image, and score (0: not found).

    Raises:
        FileNotFoundError, ValueError: The detector's `check` refuses the model.
    """
    # Once, and before the processes load the model with its library, which may be less strict
    detector = DETECTORS[source]
    detector.check(path)
    folder = scratch(
        "poses",
        __file__,
        getfile(detector),
        str(layouts.__file__),
        keypoints_module,
        images_module,
        model=[md5(file) for file in detector.files(path)],
        package=[detector.PACKAGE, version(detector.PACKAGE)],
    )
    file = folder / "people.jsonl"
    results = _read_results(file)
    todo = {checksum: root / image for image, checksum in zip(images, checksums, strict=True)}
    todo = {checksum: image for checksum, image in todo.items() if checksum not in results}
    if todo:
        workers, may_use_gpu = detector.processes(available_cores())
        find = functools.partial(detect_one, source=source, path=path, may_use_gpu=may_use_gpu)
        with worker_pool(workers) as pool, file.open("a", encoding="utf-8") as lines:
            outcomes = pool.map(find, todo.values(), chunksize=8)
            for checksum, people in zip(todo, progress(outcomes, len(todo), source), strict=True):
                lines.write("\n" + json.dumps([checksum, people.tolist()]))
                results[checksum] = people
    return [results[checksum] for checksum in checksums]


def _read_results(file: Path) -> dict[str, NDArray[np.float32]]:
    """Return the people of images that were done, by checksum."""
    results = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            checksum, people = json.loads(line)
        except ValueError:
            continue  # empty, or cut off by a kill
        results[checksum] = np.array(people, np.float32).reshape(-1, len(KEYPOINT_NAMES), 3)
    return results


def detect_one(file: Path, source: str, path: Path, may_use_gpu: bool) -> NDArray[np.float32]:
    """Find people in one image, [P, 18, 3] in its pixels; the detector sees it with 256 rows."""
    image = read_image(file)
    size = (max(1, round(image.width * _HEIGHT / image.height)), _HEIGHT)
    people = load_detector(source, path, may_use_gpu)(image.resize(size, Image.Resampling.BICUBIC))
    # Back to pixels of the image; its width was rounded, so the two scales differ a little
    return resize_keypoints(people, np.array(image.size) / size)


@functools.cache
def load_detector(source: str, path: Path, may_use_gpu: bool) -> Detector:
    """Load a detector, once per process."""
    return DETECTORS[source](path, may_use_gpu)
