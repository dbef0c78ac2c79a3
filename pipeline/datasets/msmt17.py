"""MSMT17's layout (Wei et al., CVPR 2018): two folders of images, and lists that say identity and split.

    train/, test/                      in V1; mask_train_v2/, mask_test_v2/ in V2
    list_train.txt, list_val.txt       lines such as `0000/0000_000_01_0303morning_0008_0.jpg 0`
    list_query.txt, list_gallery.txt
    keypoints.csv                      for poses.source annotations, if poses.path names it

A line has the image, relative to its folder, and the identity; the third part of the image's name is the
camera. Both folders count identities from 0, and the same number in both means two people. Here identity n of
the training is n + 1, and identity m of the test follows on the training's. list_val.txt has further images
of the training identities: they belong to the training, whose 32,621 images the article counts; TransReID and
CLIP-ReID train on them too. torchreid's class MSMT17 is not used: it leaves list_val.txt out, gives people of
training and test the same numbers, and ends on a bad line without a word on where it is.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.datasets.listing import Listing, make_listing

VERSIONS = (("train", "test"), ("mask_train_v2", "mask_test_v2"))  # V1, V2
LISTS = {  # list -> its split, and which of a version's two folders has its images
    "list_train.txt": ("train", 0),
    "list_val.txt": ("train", 0),
    "list_query.txt": ("query", 1),
    "list_gallery.txt": ("gallery", 1),
}
_LINE = re.compile(r"(?P<image>\S.*?)\s+(?P<pid>\d{1,9})\s*", re.ASCII)
_NAME = re.compile(r"\d+_\d+_(?P<camid>\d{1,9})_.*", re.ASCII)


def list_images(root: Path) -> Listing:
    """List the images of the four lists, in their order.

    Further columns are list, the name of the list, and pid_in_list, the identity as it stands there.

    Raises:
        ValueError: A folder or a list is missing, a line is not of the form, or an image stands in two lines.
    """
    folders = next((names for names in VERSIONS if all((root / name).is_dir() for name in names)), None)
    if folders is None:
        inner = next((path for path in root.glob("MSMT17_V[12]") if path.is_dir()), None)
        mend = f"give the folder {inner}" if inner else "they lie beside its lists"
        raise ValueError(
            f"{root} has neither train/ and test/, as MSMT17 V1, nor mask_train_v2/ and mask_test_v2/, as "
            f"V2; {mend}"
        )
    lines = [line for name in LISTS for line in _read_list(root, name, folders)]
    first_of: dict[str, str] = {}  # image -> its list
    for line in lines:
        image, name = line["image"], line["list"]
        if image in first_of:
            raise ValueError(
                f"{root / name}: {image} has two lines, the first in {first_of[image]}; leave one"
            )
        first_of[image] = name
    known = max((line["pid_in_list"] for line in lines if line["split"] == "train"), default=-1) + 1
    for line in lines:
        line["pid"] = line["pid_in_list"] + 1 + (0 if line["split"] == "train" else known)
    places: dict[str, Path] = {}
    for name, (split, _) in LISTS.items():
        places.setdefault(split, root / name)
    return make_listing(root, ((line, None) for line in lines), places)


def _read_list(root: Path, name: str, folders: tuple[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the images of one list; the identities are still the list's own."""
    file, (split, place) = root / name, LISTS[name]
    if not file.is_file():
        raise ValueError(f"{file} is missing; a folder of MSMT17 has {', '.join(LISTS)}")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{file}: this is no text in UTF-8; take the list of the archive") from None
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        line = _LINE.fullmatch(text)
        camera = _NAME.fullmatch(line["image"].rsplit("/", 1)[-1]) if line else None
        if line is None or camera is None or ".." in line["image"].split("/"):
            raise ValueError(
                f"{file}: line {number} is {text[:80]!r}; expected an image and its identity, as "
                "0000/0000_000_01_0303morning_0008_0.jpg 0"
            )
        yield {
            "image": f"{folders[place]}/{line['image'].lstrip('/')}",
            "split": split,
            "pid": 0,  # follows, when the number of training identities is known
            "camid": int(camera["camid"]),
            "list": name,
            "pid_in_list": int(line["pid"]),
        }


def warnings(root: Path, images: pd.DataFrame) -> list[str]:
    """Return nothing: public loaders read these lists as they are."""
    return []
