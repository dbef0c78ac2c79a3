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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.datasets.listing import Listing, list_folder, make_listing
from reid.cameras import NO_CAMERA

FOLDERS = {"train": ("train_highres", "train"), "test": ("test_highres", "test")}  # either name will do
KEYPOINTS_SIZE = (176, 256)  # width and height of the images to which PATN's keypoints refer, in pixels
_NAME = re.compile(r"fashion((?:WO)?MEN[A-Za-z_]+?)id(\d{8})(\d{2})_(\d)[a-z]+\.jpg", re.ASCII)


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
