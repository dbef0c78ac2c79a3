"""Stage `index`: list the images of a Market-1501-format folder, and why any other file is not used.

Reads the folder `dataset.root`; writes data/index.csv, data/rejected.csv and the counts in reports/data.json.
"""

import re
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from pipeline.files import md5, progress, read_csv, stage_main, write_csv, write_json
from pipeline.params import IndexSettings, load_params

INDEX = Path("data/index.csv")
REJECTED = Path("data/rejected.csv")
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
_FOOLS_LOADERS = re.compile(r"[-\d]+_c\d")
_LAST_IDENTITY = 1501  # public loaders assert it
_MOST_PIXELS = 4096 * 4096  # more is no crop of a person, and decoding it may exhaust the memory


def index_dataset(root: Path, settings: IndexSettings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the images of a data set (`COLUMNS`, by folder and name) and the rejected files (image, reason).

    An image counts once it was decoded to its last row. Of the training identities `validation_identities`,
    drawn by the seed, become a validation set: one query per identity and camera, the rest gallery.

    Raises:
        ValueError: a folder is missing or has no image, the path of `root` would mislead public loaders, an
            identity stands in training and test, or no identity is left to train on.
    """
    if _FOOLS_LOADERS.search(str(root.resolve())):
        raise ValueError(
            f"{root.resolve()}: public loaders read an identity and a camera from this path; rename it"
        )
    files = [file for folder in FOLDERS for file in _list_folder(root / folder)]
    names = [_parse_name(file) for file in files]
    decoded = iter(
        _inspect_all([file for file, name in zip(files, names, strict=True) if isinstance(name, dict)])
    )
    rows, rejected = [], []
    for file, name in zip(files, names, strict=True):
        image = {"image": file.relative_to(root).as_posix()}
        content = next(decoded) if isinstance(name, dict) else name
        if isinstance(name, dict) and isinstance(content, dict):
            rows.append(image | {"split": FOLDERS[file.parent.name]} | name | content)
        else:
            # A name may hold bytes that are no text.
            printable = image["image"].encode("utf-8", "backslashreplace").decode()
            rejected.append({"image": printable, "reason": content})
    index = pd.DataFrame(rows, columns=list(COLUMNS))
    bad = pd.DataFrame(rejected, columns=["image", "reason"])
    _check_splits(root, index, bad)
    return _hold_out_validation(index, settings), bad


def _list_folder(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing; a data set in Market-1501 format has {', '.join(FOLDERS)}")
    return sorted(folder.iterdir())


def _parse_name(file: Path) -> dict[str, int] | str:
    """Return what a file's name says, or why it is not indexed."""
    if not file.is_file():
        return "a folder" if file.is_dir() else "a broken link" if file.is_symlink() else "no regular file"
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


def _inspect_all(files: list[Path]) -> list[dict[str, Any] | str]:
    with ProcessPoolExecutor() as pool:
        results = pool.map(_inspect, files, chunksize=128)
        return list(progress(results, total=len(files), desc="decoding images"))


def _inspect(file: Path) -> dict[str, Any] | str:
    """Decode an image; return its size and checksum, or why it cannot be used."""
    try:
        with Image.open(file) as image:
            if image.format != "JPEG":
                return f"a {image.format} file named .jpg"
            if image.width * image.height > _MOST_PIXELS:
                return f"{image.width} x {image.height} pixels are no crop of a person"
            if image.mode not in ("RGB", "L"):
                return f"colour mode {image.mode}; expected RGB or grey"
            orientation = image.getexif().get(0x0112, 1)
            if orientation != 1:
                return f"EXIF orientation {orientation}; loaders that ignore it see the person turned"
            image.load()
            return {"width": image.width, "height": image.height, "md5": md5(file)}
    except (UnidentifiedImageError, Image.DecompressionBombError):
        return "an empty file" if file.stat().st_size == 0 else "no image, or a far too large one"
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
        return f"damaged or unreadable: {getattr(error, 'strerror', None) or error}"


def _check_splits(root: Path, index: pd.DataFrame, rejected: pd.DataFrame) -> None:
    for folder, split in FOLDERS.items():
        if not (index.split == split).any():
            why = rejected.reason[rejected.image.str.startswith(f"{folder}/")]
            reason = f"; {len(why)} files are rejected, the first: {why.iloc[0]}" if len(why) else ""
            raise ValueError(f"{root / folder} holds no image that can be used{reason}")
    train = index.split == "train"
    both = sorted(set(index.pid[train]) & set(index.pid[~train]))
    if both:
        shown = ", ".join(f"{pid:04d}" for pid in both[:5])
        raise ValueError(f"{root}: {len(both)} identities stand in training and in test ({shown})")


def _hold_out_validation(index: pd.DataFrame, settings: IndexSettings) -> pd.DataFrame:
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


def summarise(index: pd.DataFrame, rejected: pd.DataFrame) -> dict[str, Any]:
    """Count images, identities (without distractors and junk) and cameras per split, and what was left out.

    `train_images_in_test` counts training images whose very bytes stand in query or gallery too: leakage.
    """
    summary: dict[str, Any] = {}
    for split, rows in index.groupby("split", sort=False):
        identities = rows.pid[rows.pid > 0].nunique()
        summary[str(split)] = {"images": len(rows), "identities": identities, "cameras": rows.camid.nunique()}
    train = index.split == "train"
    summary["train_images_in_test"] = int(index.md5[train].isin(index.md5[~train]).sum())
    summary["rejected_files"] = len(rejected)
    return summary


def read_index() -> pd.DataFrame:
    """Read data/index.csv, with the columns `COLUMNS`."""
    return read_csv(INDEX, COLUMNS, "index")


def main() -> None:
    """Run the stage."""
    params = load_params()
    index, rejected = index_dataset(params.dataset.root, params.index)
    write_csv(index, INDEX)
    write_csv(rejected, REJECTED)
    write_json(summarise(index, rejected), SUMMARY)


if __name__ == "__main__":
    stage_main(main)
