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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from generator.keypoints import KEYPOINT_NAMES
from pipeline.artifacts import INDEX_COLUMNS
from pipeline.datasets.images import inspect_all, not_a_file, printable
from pipeline.datasets.splits import find_leaks, hold_out_validation
from pipeline.params import IndexSettings

NAME = "DeepFashion"
FOLDERS = {"train": ("train_highres", "train"), "test": ("test_highres", "test")}  # either name will do
KEYPOINT_FILES = tuple(f"fasion-resize-annotation-{split}.csv" for split in FOLDERS)
_NAME = re.compile(r"fashion((?:WO)?MEN[A-Za-z_]+?)id(\d{8})(\d{2})_(\d)[a-z]+\.jpg", re.ASCII)
_HEIGHT, _WIDTH = 256, 176  # pixels of the images to which the annotations refer
_MISSING = -1  # coordinate of a keypoint that was not annotated


def index_dataset(root: Path, settings: IndexSettings) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """List the images of a DeepFashion folder, as `pipeline.datasets.market1501.index_dataset` does.

    There are no cameras and no queries. The view stands for the camera and the variant for the sequence. The
    first image of each test or validation identity is a query, and the rest is the gallery. Validation
    identities are drawn from the training ones as with Market-1501.

    Raises:
        ValueError: A folder is missing or has no image, an identity is in training and test, or two items
            have one number.
    """
    images, rejected = _read_folders(root)
    index = images[list(INDEX_COLUMNS)].copy()
    test = index.split == "test"
    both = sorted(set(index.pid[test]) & set(index.pid[~test]))
    if both:
        raise ValueError(f"{root}: {len(both)} identities stand in training and in test ({both[0]:010d})")

    # Hold out validation identities, then split them and the test into queries and gallery.
    index = hold_out_validation(index, settings)
    for held_out, prefix in ((test, ""), (index.split.isin(["val_query", "val_gallery"]), "val_")):
        repeated = index.pid[held_out].duplicated()
        index.loc[held_out, "split"] = prefix + np.where(repeated, "gallery", "query").astype(object)
    return index, rejected, find_leaks(index.assign(pixels=images.pixels))


def _read_folders(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decode all images; return their rows, with split train or test and `pixels`, and the rejected files."""
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    kind_of: dict[int, str] = {}  # pid -> clothing, such as MENDenim
    for split, names in FOLDERS.items():
        folder = next((root / name for name in names if (root / name).is_dir()), None)
        if folder is None:
            raise ValueError(f"{root / names[0]} is missing; a DeepFashion folder has it, or {names[1]}/")
        paths = sorted(folder.iterdir())
        files = [path for path in paths if path.is_file()]
        rejected += [_rejection(root, path, not_a_file(path)) for path in paths if not path.is_file()]
        print(f"{folder.name}: {len(files)} files to decode", flush=True)
        for file, content in zip(files, inspect_all(files), strict=True):
            # Reject what has another name or form ...
            name = _NAME.fullmatch(file.name)
            if name is None:
                reason = "the name is not of the form fashionWOMENDressesid0000262902_3back.jpg"
                rejected.append(_rejection(root, file, reason))
                continue
            if isinstance(content, str):
                rejected.append(_rejection(root, file, content))
                continue
            if content["width"] == content["height"]:
                reason = "a square image; the keypoints refer to its middle, 176 of 256 columns: cut it out"
                rejected.append(_rejection(root, file, reason))
                continue

            # ... and take the identity and the view from the name.
            kind, item, variant, view = name.groups()
            pid = int(item + variant)
            if kind_of.setdefault(pid, kind) != kind:
                raise ValueError(f"{root}: item {item} is both {kind_of[pid]} and {kind}")
            image = {"image": file.relative_to(root).as_posix(), "split": split, "pid": pid}
            place = {"camid": int(view), "sequence": int(variant), "frame": 0, "box": 0}
            rows.append(image | place | content)
        if not rows or rows[-1]["split"] != split:
            raise ValueError(f"{folder} holds no image that can be used")
    return (
        pd.DataFrame(rows, columns=[*INDEX_COLUMNS, "pixels"]),
        pd.DataFrame(rejected, columns=["image", "reason"]),
    )


def _rejection(root: Path, path: Path, reason: str) -> dict[str, Any]:
    return {"image": printable(path.relative_to(root).as_posix()), "reason": reason}


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
