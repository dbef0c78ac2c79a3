"""Market-1501's layout: three folders of images whose names say identity and camera.

    bounding_box_train/, query/, bounding_box_test/
    keypoints.csv                                     for poses.source annotations

Market-1501, DukeMTMC-reID, CUHK03-NP, Occluded-DukeMTMC, PersonX and most sets of one's own have it. There
may be any number of identities and cameras; the rule for names is that of `read_name`. torchreid's class
Market1501 is not used: it asserts 1,501 identities and 6 cameras, reads no PNG, and creates folders and
downloads where one is missing.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from generator.keypoints import KEYPOINT_NAMES
from pipeline.artifacts import POSE_COLUMNS, to_keypoints
from pipeline.datasets.listing import Listing, list_folder, make_listing
from pipeline.datasets.loaders import misreadings
from pipeline.datasets.names import SUFFIXES, read_name
from pipeline.runtime.outputs import read_csv

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
KEYPOINT_FILES = ("keypoints.csv",)

# What Market-1501's own names say besides: sequence, frame and box.
_PLACE = re.compile(r"_c\d+s(\d{1,18})_(\d{1,18})_(\d{1,18})", re.ASCII)


def list_images(root: Path) -> Listing:
    """List the files of the three folders, by folder and name.

    Further columns are sequence, frame and box, which are 0 where a name does not say them.

    Raises:
        ValueError: A folder is missing.
    """
    needs = f"a data set in Market-1501 format has {', '.join(FOLDERS.values())}"
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; {needs}")
    places = {split: root / folder for split, folder in FOLDERS.items()}
    return make_listing(root, _list_rows(places, needs), places)


def _list_rows(places: dict[str, Path], needs: str) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yield the columns of each file, and why it is rejected, if it is."""
    for split, folder in places.items():
        for file in list_folder(folder, needs):
            row: dict[str, Any] = {"image": f"{folder.name}/{file.name}", "split": split}
            who, reason = read_name(file.name), None
            if file.suffix.lower() not in SUFFIXES:
                reason = f"its name does not end in {', '.join(SUFFIXES)}"
            elif who is None:
                reason = "its name does not begin with identity and camera, as 0002_c1s1_000451_03.jpg"
            elif who[0] < 1 and split != "gallery":
                reason = "distractors (0000) and junk (-1) belong in bounding_box_test"
            else:
                place = _PLACE.search(file.name)
                sequence, frame, box = map(int, place.groups()) if place else (0, 0, 0)
                row |= {"pid": who[0], "camid": who[1], "sequence": sequence, "frame": frame, "box": box}
            yield row, reason


def warnings(root: Path, images: pd.DataFrame) -> list[str]:
    """Return what public loaders of this layout would misread (`misreadings`)."""
    return misreadings(root, images)


def read_annotations(root: Path, images: Sequence[str], sizes: NDArray[np.integer]) -> NDArray[np.float32]:
    """Read the keypoints of `images` from the root's keypoints.csv, and check that they are of these images.

    Args:
        root: Folder of the data set. Rows of keypoints.csv about other images are passed over.
        images: Names in the column `image`.
        sizes: Width and height of the images in pixels, [N, 2].

    Returns:
        [N, 18, 3] x, y, score; all three are 0 for a keypoint that is not visible.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: An image has no row or two, or a visible keypoint is not finite or lies outside the image.
    """
    path = root / KEYPOINT_FILES[0]
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; without annotations, set poses.source to openpose")
    frame = read_csv(path, POSE_COLUMNS)
    unknown = [name for name in frame.columns if name not in POSE_COLUMNS]
    if unknown:
        raise ValueError(f"{path}: column '{unknown[0]}' is none of the 18 OpenPose keypoints")
    twice = frame.image[frame.image.duplicated()]
    if len(twice):
        raise ValueError(f"{path}: {twice.iloc[0]} has two rows; leave one")
    missing = sorted(set(images) - set(frame.image))
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} images have no row, the first is {missing[0]}; add them, or set "
            "poses.source to openpose"
        )

    # Every visible keypoint must be finite and inside its image.
    keypoints = to_keypoints(frame, images)
    scores = keypoints[..., 2]
    visible = scores != 0
    if visible.any() and keypoints[visible][:, :2].max() <= 1:
        raise ValueError(
            f"{path}: all coordinates lie between 0 and 1, as shares of the image's width and height do; "
            "expected pixels: multiply x by the width and y by the height of each image"
        )
    # Pixel centres lie at integers, so an image ends half a pixel beyond them.
    inside = (keypoints[..., :2] >= -0.5) & (keypoints[..., :2] <= sizes[:, None] - 0.5)
    for valid, complaint in (
        (~visible | np.isfinite(keypoints).all(-1), "is not finite"),
        ((scores >= 0) & (scores <= 1), "has a score outside 0 to 1"),
        (~visible | inside.all(-1), "lies outside the image; a keypoint that is not visible has the score 0"),
    ):
        if not valid.all():
            image, point = np.argwhere(~valid)[0]
            x, y, score = keypoints[image, point]
            what = f"{KEYPOINT_NAMES[point]} of {images[image]} ({x:g}, {y:g}, score {score:g})"
            raise ValueError(f"{path}: {what} {complaint}")
    return np.where(visible[..., None], keypoints, np.float32(0))
