"""What a format says of a data set before any image is opened: its files, whom they show, and the rest."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipeline.datasets.images import refuse_path
from pipeline.datasets.names import is_clutter

_COLUMNS = ["image", "split", "pid", "camid"]


def _take_all(content: Mapping[str, Any]) -> str | None:
    """Return no reason to reject an image."""
    return None


class Listing(NamedTuple):
    """The files of a data set.

    Attributes:
        images: Columns image (path relative to the root, with forward slashes), split (train, query, gallery,
            or test, which is divided into queries and gallery), pid (from 1; in the gallery also 0, a
            distractor, and -1, junk), camid (`NO_CAMERA` where nobody knows), and further columns, which the
            index keeps.
        rejected: Files that are not used: columns image, split, reason.
        places: Split -> the folder or file that says what belongs to it.
        refuse: Returns why an image is not used, by its content: `width` and `height` in pixels, and others.
    """

    images: pd.DataFrame
    rejected: pd.DataFrame
    places: Mapping[str, Path]
    refuse: Callable[[Mapping[str, Any]], str | None] = _take_all


def make_listing(
    root: Path,
    rows: Iterable[tuple[dict[str, Any], str | None]],
    places: Mapping[str, Path],
    **options: Any,
) -> Listing:
    """Make a listing of files, and reject those whose paths cannot be used (`refuse_path`).

    Args:
        root: Folder of the data set.
        rows: For each file its columns, and why it is rejected; None if it is an image. A rejected one needs
            the columns image and split alone.
        places: As the attribute of `Listing`.
        options: Further attributes.
    """
    images, rejected = [], []
    for row, reason in rows:
        reason = refuse_path(root, row["image"]) or reason
        if reason is None:
            images.append(row)
        else:
            rejected.append({"image": row["image"], "split": row["split"], "reason": reason})
    return Listing(
        pd.DataFrame(images) if images else pd.DataFrame(columns=_COLUMNS),
        pd.DataFrame(rejected, columns=["image", "split", "reason"]),
        places,
        **options,
    )


def refuse_empty_splits(listing: Listing) -> None:
    """Raise a ValueError unless each split has an image."""
    splits = set(listing.images.split)
    for split, place in listing.places.items():
        if split not in splits:
            why = listing.rejected[listing.rejected.split == split]
            first = f"; {len(why)} files are rejected, the first: {why.reason.iloc[0]}" if len(why) else ""
            raise ValueError(f"{place} holds no image for the split {split} that can be used{first}")


def list_folder(folder: Path, needs: str) -> list[Path]:
    """Return what is in a folder of images, by name, without clutter.

    Args:
        folder: The folder.
        needs: What a data set of its format has, for the sentence.

    Raises:
        ValueError: It is missing, no folder, or a link to one.
    """
    if folder.is_symlink() and folder.is_dir():
        raise ValueError(
            f"{folder} is a link to a folder, and DVC does not see changes behind it; put the images there, "
            "or links to the images, or a link in place of the whole data set"
        )
    if folder.is_dir():
        return sorted(path for path in folder.iterdir() if not is_clutter(path))
    state = "leads nowhere" if folder.is_symlink() else "is no folder" if folder.exists() else "is missing"
    raise ValueError(f"{folder} {state}; {needs}")
