"""The keypoints of a data set's images, from whichever source the parameters name."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from generator.keypoints import resize_keypoints
from pipeline.datasets import deepfashion
from pipeline.keypoints.detect import DETECTORS, detect
from pipeline.keypoints.files import FILES, check_places
from pipeline.keypoints.people import NOBODY, People, keep_seen, largest_person
from pipeline.params import DatasetSettings, PosesSettings

# Scores below which keypoints do not count unless poses.min_score says it. A table has no others, OpenPose
# keeps to 0.1 by itself, mediapipe draws landmarks from 0.5 on, and mmpose and ViTPose keypoints from 0.3 on.
_MIN_SCORES = {"mediapipe": 0.5, "vitpose": 0.3, "coco_json": 0.3}


def check_source(settings: PosesSettings) -> None:
    """See that the source's model or files are there, with the functions that read them.

    Raises:
        FileNotFoundError, ValueError: Something is missing or wrong.
    """
    if settings.source in DETECTORS:
        DETECTORS[settings.source].check(settings.path)
    else:
        FILES[settings.source].check(settings.path)


def find_keypoints(
    settings: PosesSettings, dataset: DatasetSettings, index: pd.DataFrame
) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """Find or read the keypoints of images.

    Of several people in an image the one with the largest box counts, since the crop was made for it. An
    image without a person has only zeros.

    Args:
        settings: The source.
        dataset: The data set.
        index: Images of it, with columns of `INDEX_COLUMNS`.

    Returns:
        [N, 18, 3] x, y in pixels of a view (dataset.height x dataset.width), and score (0: not seen); and
        [N], how many people were found in each image.

    Raises:
        FileNotFoundError, ValueError: The model or a file is missing or wrong, or an image has no entry.
    """
    images, sizes = index.image.tolist(), index[["width", "height"]].to_numpy()
    people: list[People]
    if settings.source in DETECTORS:
        people = detect(settings.source, settings.path, dataset.root, images, index.md5.tolist())
    else:
        people = _read(settings, dataset, images, sizes)
    least = _MIN_SCORES.get(settings.source, 0.0) if settings.min_score is None else settings.min_score
    people = [keep_seen(found, size, least) for found, size in zip(people, sizes, strict=True)]
    keypoints = np.stack([largest_person(found) for found in people])

    # In pixels of a view: the image between two borders, resized to the view's height
    scale = np.array([dataset.width - 2 * dataset.border, dataset.height]) / sizes
    keypoints = resize_keypoints(keypoints, scale[:, None])
    keypoints[..., 0] += dataset.border * (keypoints[..., 2] > 0)
    return keypoints, np.array([len(found) for found in people])


def _read(
    settings: PosesSettings, dataset: DatasetSettings, images: list[str], sizes: NDArray[np.integer]
) -> list[People]:
    """Read people [P, 18, 3] of images from files, in pixels of the images."""
    found = FILES[settings.source].read(settings.path, images)
    missing = [image for image, people in zip(images, found, strict=True) if people is None]
    if missing:
        count = f"{len(missing)} of {len(images)} images have no entry, the first is {missing[0]}"
        if not settings.allow_missing:
            raise ValueError(
                f"{settings.path}: {count}; add them, or set poses.allow_missing to true, which counts them "
                "as images without a person"
            )
        print(f"{settings.path}: {count}; they count as images without a person", flush=True)
    people = [NOBODY if one is None else one for one in found]
    if settings.source == "pose_transfer" and dataset.format == "deepfashion":
        scales = sizes / np.array(deepfashion.KEYPOINTS_SIZE)
        people = [resize_keypoints(one, scale) for one, scale in zip(people, scales, strict=True)]
    check_places(settings.source, settings.path, images, people, sizes)
    return people
