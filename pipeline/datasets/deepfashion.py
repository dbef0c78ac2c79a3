"""DeepFashion's layout in pose transfer, read into the same tables as Market-1501's.

DPTN, PIDM and CFLD read this folder; the names and their spelling come from PATN (Zhu et al., CVPR 2019):

    train_highres/, test_highres/         the images, or train/ and test/
    fasion-resize-annotation-train.csv    name:keypoints_y:keypoints_x, 18 OpenPose keypoints in pixels of a
    fasion-resize-annotation-test.csv     256 x 176 image, -1 where there is none
    fasion-resize-pairs-test.csv          from,to: the test pairs, for the setting scores.pairs

Images may have any size but must show what a 256 x 176 image shows (the public 1101 x 750 ones do). A name
such as fashionWOMENDressesid0000262902_3back.jpg says: clothing item 00002629, its variant 02, view 3. One
person wears a variant in all its images, so that item and variant are the identity.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from generator.keypoints import KEYPOINT_NAMES
from pipeline.datasets.listing import Listing, list_folder, make_listing
from reid.cameras import NO_CAMERA

FOLDERS = {"train": ("train_highres", "train"), "test": ("test_highres", "test")}  # either name will do
KEYPOINT_FILES = tuple(f"fasion-resize-annotation-{split}.csv" for split in FOLDERS)
_NAME = re.compile(r"fashion((?:WO)?MEN[A-Za-z_]+?)id(\d{8})(\d{2})_(\d)[a-z]+\.jpg", re.ASCII)
_HEIGHT, _WIDTH = 256, 176  # pixels of the images to which the annotations refer
_MISSING = -1  # coordinate of a keypoint that was not annotated


def list_images(root: Path) -> Listing:
    """List the files of both folders, by folder and name.

    There are no cameras and no queries: the test is divided as `divide_test` does. Further columns are the
    variant and the view.

    Raises:
        ValueError: A folder is missing, or two items have one number.
    """
    places = {}
    for split, names in FOLDERS.items():
        folder = next((root / name for name in names if (root / name).is_dir()), None)
        if folder is None:
            raise ValueError(f"{root / names[0]} is missing; a DeepFashion folder has it, or {names[1]}/")
        places[split] = folder
    return make_listing(root, _list_rows(root, places), places, refuse=_refuse_square)


def _list_rows(root: Path, places: dict[str, Path]) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yield the columns of each file, and why it is rejected, if it is."""
    kind_of: dict[int, str] = {}  # pid -> clothing, such as MENDenim
    for split, folder in places.items():
        for file in list_folder(folder, "a DeepFashion folder has it"):
            row: dict[str, Any] = {"image": f"{folder.name}/{file.name}", "split": split}
            name, reason = _NAME.fullmatch(file.name), None
            if name is None:
                reason = "the name is not of the form fashionWOMENDressesid0000262902_3back.jpg"
            else:
                kind, item, variant, view = name.groups()
                pid = int(item + variant)
                if kind_of.setdefault(pid, kind) != kind:
                    raise ValueError(f"{root}: item {item} is both {kind_of[pid]} and {kind}")
                row |= {"pid": pid, "camid": NO_CAMERA, "variant": int(variant), "view": int(view)}
            yield row, reason


def _refuse_square(content: Mapping[str, Any]) -> str | None:
    """Return why a square image is not used; the public ones show more than the annotations refer to."""
    if content["width"] == content["height"]:
        return "a square image; the keypoints refer to its middle, 176 of 256 columns: cut it out"
    return None


def warnings(root: Path, images: pd.DataFrame) -> list[str]:
    """Return nothing: the programs that read this folder read all of it."""
    return []


def read_annotations(root: Path, images: Sequence[str], sizes: NDArray[np.integer]) -> NDArray[np.float32]:
    """Read the keypoints of indexed images from the public annotation files.

    Args:
        root: Folder of the data set.
        images: Names in the column `image` of data/index.csv.
        sizes: Width and height of the images in pixels, [N, 2].

    Returns:
        [N, 18, 3] x, y in pixels of the images as they are, and score: 1, or 0 for a missing keypoint.
        Keypoints outside the image do not count, and an image without a row has none.

    Raises:
        FileNotFoundError: An annotation file is missing.
        ValueError: A row is not of the format.
    """
    # Keypoints [18, 2] by the names that an image may have: its folder has one of two names.
    annotated: dict[str, NDArray[np.float32]] = {}
    for name, folders in zip(KEYPOINT_FILES, FOLDERS.values(), strict=True):
        file = root / name
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; it comes with PATN's pairs and keypoints")
        lines = file.read_text(encoding="utf-8").splitlines()
        if not lines or lines[0].strip() != "name:keypoints_y:keypoints_x":
            raise ValueError(f"{file}: its first line is not name:keypoints_y:keypoints_x")
        for number, line in enumerate(lines[1:], start=2):
            try:
                name, ys, xs = line.split(":")
                points = np.array([json.loads(xs), json.loads(ys)], np.float32).T
                if points.shape != (len(KEYPOINT_NAMES), 2):
                    raise ValueError
            except ValueError:
                raise ValueError(f"{file}: line {number} is no name with 18 y and 18 x") from None
            for folder in folders:
                annotated[f"{folder}/{name}"] = points

    # Scale them to the images. Pixel centres lie at integers, so that edges lie half a pixel beyond.
    nobody = np.full((len(KEYPOINT_NAMES), 2), _MISSING, np.float32)
    points = np.stack([annotated.get(image, nobody) for image in images])
    visible = ((points >= 0) & (points < [_WIDTH, _HEIGHT])).all(-1)  # a missing one may lack x or y alone
    keypoints = np.zeros((*points.shape[:2], 3), np.float32)
    keypoints[..., :2] = (points + 0.5) * (sizes / [_WIDTH, _HEIGHT])[:, None] - 0.5
    keypoints[..., 2] = 1
    keypoints[~visible] = 0
    return keypoints
