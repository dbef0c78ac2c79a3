"""Stage `index`: list the images of a Market-1501-format folder, and why any other file is not used.

Reads the folder `dataset.root`; writes data/index.csv, data/rejected.csv (what is not used, and why),
data/leaked.csv (training images that stand in the test set too), data/leaked_validation.csv (those that stand
in the validation set) and the counts in reports/data.json.
"""

import hashlib
import re
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.cli import command_line
from pipeline.files import md5, progress, read_csv, stage_main, write_csv, write_json
from pipeline.images import read_image
from pipeline.params import IndexSettings, load_params

INDEX = Path("data/index.csv")
REJECTED = Path("data/rejected.csv")
LEAKED = Path("data/leaked.csv")
LEAKED_VALIDATION = Path("data/leaked_validation.csv")
SUMMARY = Path("reports/data.json")

FOLDERS = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}
COLUMNS = {
    "image": str,  # path relative to the root of the data set, with forward slashes
    "split": str,  # train, query, gallery, val_query or val_gallery
    "pid": int,  # identity; in the gallery also 0 (distractor) and -1 (junk)
    "camid": int,
    "sequence": int,
    "frame": int,
    "box": int,
    "width": int,  # pixels
    "height": int,
    "md5": str,
}

# Identity, camera, sequence, frame, box; synthetic images add a counter. The rule is stricter than that of
# public loaders, which search `([-\d]+)_c(\d)` in the whole path: to them 0002_p12_c1... is identity 12, and
# camera c12 is camera 1.
_NAME = re.compile(r"(-1|\d{4})_c([1-6])s(\d+)_(\d{6})_(\d{2})(?:_g\d{4})?\.jpg", re.ASCII)
FOOLS_LOADERS = re.compile(r"[-\d]+_c\d")
_LAST_IDENTITY = 1501  # public loaders assert it


def index_dataset(root: Path, settings: IndexSettings) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """List the images of a data set.

    A file is an image of the data set if public loaders take it, and read the right identity and camera from
    its name and the same pixels from its content (`pipeline.images.read_image`). Files may be links. Of the
    training identities `validation_identities`, drawn by the seed, become a validation set: one query per
    identity and camera, the rest gallery.

    Returns:
        The images (`COLUMNS`, by folder and name), the rejected files (image, reason), and the pairs of
        `find_leaks` (train, test).

    Raises:
        ValueError: a folder is missing or has no image, the path of `root` would mislead public loaders, an
            identity stands in training and test, no query has a match, or no identity is left to train on.
    """
    # Loaders see the path as it is given: they follow links, but do not resolve them.
    path = root.absolute()
    if FOOLS_LOADERS.search(str(path)):
        raise ValueError(f"{path}: public loaders read an identity and a camera from this path; rename it")
    if not root.is_dir():
        raise ValueError(f"dataset.root is {root}; expected a folder with {', '.join(FOLDERS)}")
    files = [file for folder in FOLDERS for file in _list_folder(root / folder)]
    names = [_parse_name(file) for file in files]
    print(f"{len(files)} files to decode", flush=True)
    decoded = iter(
        inspect_all([file for file, name in zip(files, names, strict=True) if isinstance(name, dict)])
    )
    rows, rejected = [], []
    for file, name in zip(files, names, strict=True):
        image = {"image": file.relative_to(root).as_posix()}
        content = next(decoded) if isinstance(name, dict) else name
        if isinstance(name, dict) and isinstance(content, dict):
            rows.append(image | {"split": FOLDERS[file.parent.name]} | name | content)
        else:
            rejected.append({"image": printable(image["image"]), "reason": content})
    found = pd.DataFrame(rows, columns=[*COLUMNS, "pixels"])
    index, bad = found[list(COLUMNS)].copy(), pd.DataFrame(rejected, columns=["image", "reason"])
    _check_splits(root, index, bad)
    index = hold_out_validation(index, settings)
    return index, bad, find_leaks(index.assign(pixels=found.pixels))


def find_leaks(images: pd.DataFrame) -> pd.DataFrame:
    """Pair images of the same pixels that must not know each other: columns train, test.

    One stands in training (validation included) and one in query or gallery, or one in training and one in
    validation. Every such image stands in at least one pair. Copies that were compressed anew are not found.

    Args:
        images: columns image, split and pixels, a checksum of what is seen.
    """
    test, validation = images.split.isin(["query", "gallery"]), _is_validation(images)
    pairs = pd.concat(
        [
            _same_pixels(images[images.split.eq("train") | validation], images[test]),
            _same_pixels(images[images.split == "train"], images[validation]),
        ]
    )
    return pairs.sort_values(["train", "test"], ignore_index=True)


def _same_pixels(train: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """Pairs of each image with the first of its pixels on the other side."""
    sides = (
        train.merge(test.drop_duplicates("pixels"), on="pixels"),
        train.drop_duplicates("pixels").merge(test, on="pixels"),
    )
    pairs = pd.concat(sides)[["image_x", "image_y"]].drop_duplicates()
    return pairs.set_axis(["train", "test"], axis=1)


def _is_validation(images: pd.DataFrame) -> pd.Series:
    return images.split.isin(["val_query", "val_gallery"])


def printable(name: str) -> str:
    """A file's name as a cell of a table: control characters and bytes that are no text are escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in name
    )


def _list_folder(folder: Path) -> list[Path]:
    if folder.is_dir():
        return sorted(folder.iterdir())
    state = "leads nowhere" if folder.is_symlink() else "is no folder" if folder.exists() else "is missing"
    raise ValueError(f"{folder} {state}; a data set in Market-1501 format has {', '.join(FOLDERS)}")


def _parse_name(file: Path) -> dict[str, int] | str:
    """Return what a file's name says, or why it is not indexed."""
    if not file.is_file():
        return not_a_file(file)
    if file.suffix != ".jpg":
        return "public loaders read only *.jpg"
    match = _NAME.fullmatch(file.name)
    if match is None:
        return "the name is not of the form 0002_c1s1_000451_03.jpg with cameras c1 to c6"
    pid, camid, sequence, frame, box = map(int, match.groups())
    if pid > _LAST_IDENTITY:
        return f"identity {pid} is over {_LAST_IDENTITY}, the last one that public loaders take"
    if pid < 1 and file.parent.name != "bounding_box_test":
        return "distractors (0000) and junk (-1) belong in bounding_box_test"
    return {"pid": pid, "camid": camid, "sequence": sequence, "frame": frame, "box": box}


def not_a_file(path: Path) -> str:
    """Why what stands in a folder of images is no file."""
    if path.is_dir():
        return "a folder, into which public loaders do not look"
    return "a link that leads nowhere" if path.is_symlink() else "no regular file"


def inspect_all(files: list[Path]) -> list[dict[str, Any] | str]:
    """Decode images; for each its width, height, md5 and pixels' checksum, or why it cannot be used."""
    with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter while it decodes
        return list(progress(pool.map(_inspect, files), total=len(files), desc="decoding images"))


def _inspect(file: Path) -> dict[str, Any] | str:
    """Decode an image; return its size and checksums, or why it cannot be used."""
    try:
        image = read_image(file)
    except ValueError as error:
        return str(error).removeprefix(f"{file}: ")
    pixels = hashlib.md5(repr(image.size).encode() + image.tobytes(), usedforsecurity=False).hexdigest()
    return {"width": image.width, "height": image.height, "md5": md5(file), "pixels": pixels}


def _check_splits(root: Path, index: pd.DataFrame, rejected: pd.DataFrame) -> None:
    for folder, split in FOLDERS.items():
        if not (index.split == split).any():
            why = rejected.reason[rejected.image.str.startswith(f"{folder}/")]
            reason = f"; {len(why)} files are rejected, the first: {why.iloc[0]}" if len(why) else ""
            raise ValueError(f"{root / folder} holds no image that can be used{reason}")
    train = index.split == "train"
    both = sorted(set(index.pid[train]) & set(index.pid[~train]))
    if both:
        there = [index.image[(index.pid == both[0]) & side].iloc[0] for side in (train, ~train)]
        raise ValueError(
            f"{root}: {len(both)} of the identities stand in training and in test, the first is "
            f"{both[0]:04d} ({' and '.join(there)})"
        )
    ranked = index[index.split == "query"].merge(index[index.split == "gallery"], on="pid")
    if not (ranked.camid_x != ranked.camid_y).any():
        raise ValueError(
            f"{root}: no query has an image of its identity from another camera in bounding_box_test"
        )


def hold_out_validation(index: pd.DataFrame, settings: IndexSettings) -> pd.DataFrame:
    """Turn training identities, drawn by the seed, into the splits val_query and val_gallery."""
    identities = np.unique(index.pid[index.split == "train"])
    if settings.validation_identities >= len(identities):
        raise ValueError(
            f"index.validation_identities is {settings.validation_identities}; "
            f"expected less than {len(identities)}, the number of training identities"
        )
    rng = np.random.default_rng([settings.seed, zlib.crc32(b"validation")])
    held_out = rng.permutation(identities)[: settings.validation_identities]
    rows = rng.permutation(index.index[index.pid.isin(held_out)])
    queries = index.loc[rows].drop_duplicates(["pid", "camid"]).index
    index.loc[rows, "split"] = "val_gallery"
    index.loc[queries, "split"] = "val_query"
    return index


def summarise(index: pd.DataFrame, rejected: pd.DataFrame, leaked: pd.DataFrame) -> dict[str, Any]:
    """Count images, identities (without distractors and junk) and cameras per split, and what was left out.

    `train_images_in_test` counts training images (those for validation included) whose pixels stand in query
    or gallery too, `train_images_in_validation` those of the rest that stand in validation: leakage.
    """
    summary: dict[str, Any] = {}
    for split, rows in index.groupby("split", sort=False):
        identities = rows.pid[rows.pid > 0].nunique()
        summary[str(split)] = {"images": len(rows), "identities": identities, "cameras": rows.camid.nunique()}
    tested, validated = split_leaks(index, leaked)
    summary["train_images_in_test"] = tested.train.nunique()
    summary["train_images_in_validation"] = validated.train.nunique()
    summary["rejected_files"] = len(rejected)
    return summary


def split_leaks(index: pd.DataFrame, leaked: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The pairs of `find_leaks` with a test image, and those with a validation image."""
    validated = leaked.test.isin(index.image[_is_validation(index)])
    return leaked[~validated], leaked[validated]


def read_index() -> pd.DataFrame:
    """Read data/index.csv, with the columns `COLUMNS`."""
    return read_csv(INDEX, COLUMNS, "index")


def main() -> None:
    """Run the stage."""
    from pipeline import deepfashion  # which needs this module

    params = load_params()
    read = deepfashion.index_dataset if params.dataset.format == "deepfashion" else index_dataset
    index, rejected, leaked = read(params.dataset.root, params.index)
    write_csv(index, INDEX)
    write_csv(rejected, REJECTED)
    tested, validated = split_leaks(index, leaked)
    write_csv(tested, LEAKED)
    write_csv(validated, LEAKED_VALIDATION)
    write_json(summarise(index, rejected, leaked), SUMMARY)
    for table, file, what in (
        (rejected, REJECTED, "files are not used"),
        (tested, LEAKED, "pairs of a training and a test image are the same image"),
        (validated, LEAKED_VALIDATION, "pairs of a training and a validation image are the same image"),
    ):
        if len(table):
            print(f"index: {len(table)} {what}, see {file}", file=sys.stderr)


if __name__ == "__main__":
    command_line("index", __doc__).parse_args()
    stage_main(main)
