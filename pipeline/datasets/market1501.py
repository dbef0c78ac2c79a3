"""Market-1501's layout: three folders of images whose names say identity and camera.

    bounding_box_train/, query/, bounding_box_test/

The rule for names of images is `_NAME`.
"""

import re
from pathlib import Path

import pandas as pd

from pipeline.artifacts import INDEX_COLUMNS
from pipeline.datasets.images import inspect_all, not_a_file, printable
from pipeline.datasets.splits import find_leaks, hold_out_validation
from pipeline.params import IndexSettings

NAME = "Market-1501"
FOLDERS = {"train": ("bounding_box_train",), "query": ("query",), "gallery": ("bounding_box_test",)}
_SPLIT_OF = {folder: split for split, (folder,) in FOLDERS.items()}

# Identity, camera, sequence, frame, box; synthetic images add a counter. Public loaders are less strict. They
# search `([-\d]+)_c(\d)` in the whole path: 0002_p12_c1... is identity 12, and camera c12 is camera 1.
_NAME = re.compile(r"(-1|\d{4})_c([1-6])s(\d+)_(\d{6})_(\d{2})(?:_g\d{4,})?\.jpg", re.ASCII)
FOOLS_LOADERS = re.compile(r"[-\d]+_c\d")
_LAST_IDENTITY = 1501  # public loaders assert it


def index_dataset(root: Path, settings: IndexSettings) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """List the images of a data set.

    A file belongs to it if public loaders take it, read the right identity and camera from its name, and read
    the same pixels from its content (`read_image`). Files may be links. `validation_identities` of the
    training identities, drawn at random, become a validation set: one query per identity and camera, the rest
    gallery.

    Args:
        root: Folder of the data set.
        settings: Number of validation identities and the seed of their draw.

    Returns:
        The images (`INDEX_COLUMNS`, by folder and name), the rejected files (image, reason), and the pairs of
        `find_leaks` (train, test).

    Raises:
        ValueError: A folder is missing or has no image, the path of `root` would mislead public loaders, an
            identity is in training and test, no query has a match, or no identity is left to train on.
    """
    # Loaders see the path as it is given: they follow links, but do not resolve them.
    path = root.absolute()
    if FOOLS_LOADERS.search(str(path)):
        raise ValueError(f"{path}: public loaders read an identity and a camera from this path; rename it")
    if not root.is_dir():
        raise ValueError(f"dataset.root is {root}; expected a folder with {', '.join(_SPLIT_OF)}")

    # Decode the files whose names are right; a name or a content that is a text is a reason to reject.
    files = [file for folder in _SPLIT_OF for file in _list_folder(root / folder)]
    names = [_parse_name(file) for file in files]
    print(f"{len(files)} files to decode", flush=True)
    decoded = iter(
        inspect_all([file for file, name in zip(files, names, strict=True) if isinstance(name, dict)])
    )
    rows, rejections = [], []
    for file, name in zip(files, names, strict=True):
        image = {"image": file.relative_to(root).as_posix()}
        content = next(decoded) if isinstance(name, dict) else name
        if isinstance(name, dict) and isinstance(content, dict):
            rows.append(image | {"split": _SPLIT_OF[file.parent.name]} | name | content)
        else:
            rejections.append({"image": printable(image["image"]), "reason": content})
    images = pd.DataFrame(rows, columns=[*INDEX_COLUMNS, "pixels"])
    rejected = pd.DataFrame(rejections, columns=["image", "reason"])

    index = images[list(INDEX_COLUMNS)].copy()
    _check_splits(root, index, rejected)
    index = hold_out_validation(index, settings)
    return index, rejected, find_leaks(index.assign(pixels=images.pixels))


def _list_folder(folder: Path) -> list[Path]:
    """Return what is in a folder, by name."""
    if folder.is_symlink() and folder.is_dir():
        raise ValueError(
            f"{folder} is a link to a folder, and DVC does not see changes behind it; put the images there, "
            "or links to the images, or a link in place of the whole data set"
        )
    if folder.is_dir():
        return sorted(folder.iterdir())
    state = "leads nowhere" if folder.is_symlink() else "is no folder" if folder.exists() else "is missing"
    raise ValueError(f"{folder} {state}; a data set in Market-1501 format has {', '.join(_SPLIT_OF)}")


def _parse_name(file: Path) -> dict[str, int] | str:
    """Return identity, camera and the rest from a file's name, or the reason to reject the file."""
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


def _check_splits(root: Path, index: pd.DataFrame, rejected: pd.DataFrame) -> None:
    """Refuse a data set that cannot be used; `Raises` of `index_dataset` says why."""
    for folder, split in _SPLIT_OF.items():
        if not (index.split == split).any():
            why = rejected.reason[rejected.image.str.startswith(f"{folder}/")]
            reason = f"; {len(why)} files are rejected, the first: {why.iloc[0]}" if len(why) else ""
            raise ValueError(f"{root / folder} holds no image that can be used{reason}")
    train = index.split == "train"
    both = sorted(set(index.pid[train]) & set(index.pid[~train]))
    if both:
        examples = [index.image[(index.pid == both[0]) & side].iloc[0] for side in (train, ~train)]
        raise ValueError(
            f"{root}: {len(both)} of the identities stand in training and in test, the first is "
            f"{both[0]:04d} ({' and '.join(examples)}); remove them from one side"
        )
    ranked = index[index.split == "query"].merge(index[index.split == "gallery"], on="pid")
    if not (ranked.camid_x != ranked.camid_y).any():
        raise ValueError(
            f"{root}: no query has an image of its identity from another camera in bounding_box_test"
        )
