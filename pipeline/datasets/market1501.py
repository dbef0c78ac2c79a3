"""Market-1501's layout: three folders of images whose names say identity and camera.

    bounding_box_train/, query/, bounding_box_test/

Market-1501, DukeMTMC-reID, CUHK03-NP, Occluded-DukeMTMC, PersonX and most sets of one's own have it. There
may be any number of identities and cameras; the rule for names is that of `read_name`. torchreid's class
Market1501 is not used: it asserts 1,501 identities and 6 cameras, reads no PNG, and creates folders and
downloads where one is missing.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.datasets.listing import Listing, list_folder, make_listing
from pipeline.datasets.loaders import misreadings
from pipeline.datasets.names import SUFFIXES, read_name

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}

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
