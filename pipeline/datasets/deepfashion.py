"""DeepFashion as pose transfer uses it: its images and keypoints in the same tables as Market-1501's.

The folder is the one that DPTN, PIDM and CFLD read (the names and their spelling are those of PATN, Zhu et
al., CVPR 2019):

    train_highres/, test_highres/         the images, or train/ and test/
    fasion-resize-annotation-train.csv    name:keypoints_y:keypoints_x, 18 OpenPose keypoints in pixels of a
    fasion-resize-annotation-test.csv     256 x 176 image, -1 where there is none
    fasion-resize-pairs-test.csv          from,to: the test pairs, for the setting scores.pairs

Images may have any size but must show what a 256 x 176 image shows (the public 1101 x 750 ones do). A name
such as fashionWOMENDressesid0000262902_3back.jpg says: clothing item 00002629, its variant 02, view 3. The
same person wears a variant in all of its images, so that item and variant are the identity.
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
_HEIGHT, _WIDTH = 256, 176  # of the images to which the annotations refer
_MISSING = -1


def index_dataset(root: Path, settings: IndexSettings) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """List the images of a DeepFashion folder, as `pipeline.datasets.market1501.index_dataset` does.

    There are no cameras and no queries. The view stands for the camera, the variant for the sequence; of each
    test or validation identity the first image is a query, the rest is the gallery. Validation identities
    are drawn from the training ones as with Market-1501.

    Raises:
        ValueError: a folder is missing or has no image, an identity stands in training and test, or two
            items have one number.
    """
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    item_of: dict[int, str] = {}
    for split, choices in FOLDERS.items():
        folder = next((root / name for name in choices if (root / name).is_dir()), None)
        if folder is None:
            raise ValueError(f"{root / choices[0]} is missing; a DeepFashion folder has it, or {choices[1]}/")
        files = []
        for path in sorted(folder.iterdir()):
            if path.is_file():
                files.append(path)
            else:
                rejected.append(
                    {"image": printable(path.relative_to(root).as_posix()), "reason": not_a_file(path)}
                )
        print(f"{folder.name}: {len(files)} files to decode", flush=True)
        for file, content in zip(files, inspect_all(files), strict=True):
            name = _NAME.fullmatch(file.name)
            image = file.relative_to(root).as_posix()
            if name is None:
                reason = "the name is not of the form fashionWOMENDressesid0000262902_3back.jpg"
                rejected.append({"image": printable(image), "reason": reason})
            elif isinstance(content, str):
                rejected.append({"image": printable(image), "reason": content})
            elif content["width"] == content["height"]:
                reason = "a square image; the keypoints refer to its middle, 176 of 256 columns: cut it out"
                rejected.append({"image": printable(image), "reason": reason})
            else:
                kind, item, variant, view = name.groups()
                pid = int(item + variant)
                if item_of.setdefault(pid, kind) != kind:
                    raise ValueError(f"{root}: item {item} is both {item_of[pid]} and {kind}")
                place = {"image": image, "split": split, "pid": pid, "camid": int(view)}
                rows.append(place | {"sequence": int(variant), "frame": 0, "box": 0} | content)
        if not rows or rows[-1]["split"] != split:
            raise ValueError(f"{folder} holds no image that can be used")
    found = pd.DataFrame(rows, columns=[*INDEX_COLUMNS, "pixels"])
    index = found[list(INDEX_COLUMNS)].copy()
    test = index.split == "test"
    both = sorted(set(index.pid[test]) & set(index.pid[~test]))
    if both:
        raise ValueError(f"{root}: {len(both)} identities stand in training and in test ({both[0]:010d})")
    index = hold_out_validation(index, settings)
    for held_out, prefix in ((test, ""), (index.split.isin(["val_query", "val_gallery"]), "val_")):
        repeated = index.pid[held_out].duplicated()
        index.loc[held_out, "split"] = prefix + np.where(repeated, "gallery", "query").astype(object)
    leaked = find_leaks(index.assign(pixels=found.pixels))
    return index, pd.DataFrame(rejected, columns=["image", "reason"]), leaked


def read_annotations(root: Path, images: Sequence[str], sizes: NDArray[np.integer]) -> NDArray[np.float32]:
    """Read the keypoints of indexed images from the public annotation files.

    Args:
        root: folder of the data set.
        images: names in the column `image` of data/index.csv.
        sizes: [N, 2] width and height of the images in pixels.

    Returns:
        [N, 18, 3] x, y in pixels of the images as they are, and score: 1, or 0 where there is no keypoint.
        Keypoints outside the image do not count, and an image without a row has none.

    Raises:
        FileNotFoundError: an annotation file is missing.
        ValueError: a row is not of the format.
    """
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
    nobody = np.full((len(KEYPOINT_NAMES), 2), _MISSING, np.float32)
    points = np.stack([annotated.get(image, nobody) for image in images])
    visible = ((points >= 0) & (points < [_WIDTH, _HEIGHT])).all(-1)  # a missing one may lack x or y alone
    keypoints = np.zeros((*points.shape[:2], 3), np.float32)
    keypoints[..., :2] = (points + 0.5) * (sizes / [_WIDTH, _HEIGHT])[:, None] - 0.5
    keypoints[..., 2] = 1
    keypoints[~visible] = 0
    return keypoints
