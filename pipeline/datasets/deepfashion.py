"""DeepFashion's layout in pose transfer, read into the same tables as Market-1501's.

DPTN, PIDM and CFLD read this folder; the names and their spelling come from PATN (Zhu et al., CVPR 2019):

    train_highres/, test_highres/         the images, or train/ and test/
    fasion-resize-annotation-train.csv    keypoints in pixels of a 256 x 176 image, for poses.source
    fasion-resize-annotation-test.csv     pose_transfer
    fasion-resize-pairs-test.csv          from,to: the test pairs, for the setting scores.pairs

Images may have any size but must show what a 256 x 176 image shows (the public 1101 x 750 ones do). A name
such as fashionWOMENDressesid0000262902_3back.jpg says: clothing item 00002629, its variant 02, view 3. One
person wears a variant in all its images, so that item and variant are the identity.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.artifacts import INDEX_COLUMNS
from pipeline.datasets.images import inspect_all, not_a_file, printable
from pipeline.datasets.splits import find_leaks, hold_out_validation
from pipeline.params import IndexSettings

NAME = "DeepFashion"
FOLDERS = {"train": ("train_highres", "train"), "test": ("test_highres", "test")}  # either name will do
KEYPOINTS_SIZE = (176, 256)  # width and height of the images to which PATN's keypoints refer, in pixels
_NAME = re.compile(r"fashion((?:WO)?MEN[A-Za-z_]+?)id(\d{8})(\d{2})_(\d)[a-z]+\.jpg", re.ASCII)


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
