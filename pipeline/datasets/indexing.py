"""From the files of a data set, in any format, to the table of images that all stages read.

A format says which files there are and whom they show (`Format.list_images`). All that follows is the same
for every format, and stands here: the content of the files, splits, matches, validation and leaks.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.datasets.formats import FORMATS
from pipeline.datasets.images import inspect_all, printable
from pipeline.datasets.listing import Listing, refuse_empty_splits
from pipeline.datasets.splits import (
    divide_test,
    find_copies_of_queries,
    find_leaks,
    has_match,
    hold_out_validation,
)
from pipeline.params import IndexSettings
from reid.cameras import match_in_words

_CONTENT = ["width", "height", "md5", "pixels"]  # what `inspect_all` says of an image


class Index(NamedTuple):
    """A data set that can be used.

    Attributes:
        images: `INDEX_COLUMNS` and the format's further columns, in the order in which the format lists them.
        rejected: Files that are not used: columns image and reason.
        leaked: The pairs of `find_leaks`: columns train and test.
    """

    images: pd.DataFrame
    rejected: pd.DataFrame
    leaked: pd.DataFrame


def index_dataset(name: str, root: Path, settings: IndexSettings) -> Index:
    """Read a data set.

    A file belongs to it if its format lists it and `read_image` takes its content. Files may be links.
    `validation_identities` of the training identities, drawn at random, become a validation set: one query
    per identity and camera, the rest gallery. A format's split `test` is divided likewise.

    Args:
        name: Format of the data set, a key of `FORMATS`.
        root: Folder of the data set.
        settings: Number of validation identities and the seed of the draws.

    Raises:
        ValueError: The format cannot read the folder, a split has no image, an identity is in training and
            test, no query has a match, or no identity is left to train on.
    """
    listing, contents = read_contents(root, FORMATS[name].list_images(root))
    refuse_empty_splits(listing)
    images = divide_test(listing.images.join(contents.drop(columns="pixels")), settings.seed)
    _refuse_splits(root, images)
    images = hold_out_validation(images, settings)
    with_pixels = images[["image", "split", "pid", "camid"]].assign(pixels=contents.pixels)
    leaked, copies = find_leaks(with_pixels), find_copies_of_queries(with_pixels)
    if len(copies):
        print(
            f"{root}: {copies['query'].nunique()} queries have their own picture in the gallery as a match, "
            f"the first is {copies['query'].iloc[0]} ({copies.gallery.iloc[0]}); take one of the two out",
            file=sys.stderr,
        )
    rejected = listing.rejected.drop(columns="split")
    rejected["image"] = rejected.image.map(printable)
    return Index(images, rejected, leaked)


def read_contents(root: Path, listing: Listing) -> tuple[Listing, pd.DataFrame]:
    """Decode the listed images.

    Returns:
        The listing without those that cannot be used, and what the others contain: width, height, md5 and
        pixels, a checksum, with the same rows.
    """
    print(f"{len(listing.images)} files to decode", flush=True)
    contents = inspect_all([root / image for image in listing.images.image])
    reasons = [content if isinstance(content, str) else listing.refuse(content) for content in contents]
    is_good = np.array([reason is None for reason in reasons], bool)
    bad = listing.images[~is_good].assign(reason=[reason for reason in reasons if reason is not None])
    good = pd.DataFrame(
        [content for content, reason in zip(contents, reasons, strict=True) if reason is None],
        columns=_CONTENT,
    )
    images = listing.images[is_good].reset_index(drop=True)
    rejected = pd.concat([listing.rejected, bad[list(listing.rejected)]], ignore_index=True)
    return listing._replace(images=images, rejected=rejected), good


def _refuse_splits(root: Path, images: pd.DataFrame) -> None:
    """Raise a ValueError if an identity is in training and in test, or nobody can be found."""
    train = images.split == "train"
    both = sorted(set(images.pid[train]) & set(images.pid[~train]))
    if both:
        examples = [images.image[(images.pid == both[0]) & side].iloc[0] for side in (train, ~train)]
        raise ValueError(
            f"{root}: {len(both)} of the identities stand in training and in test, the first is "
            f"{both[0]:04d} ({' and '.join(examples)}); remove them from one side"
        )
    query, gallery = images[images.split == "query"], images[images.split == "gallery"]
    if not has_match(query, gallery):
        match = match_in_words(query.camid.to_numpy(), gallery.camid.to_numpy())
        raise ValueError(f"{root}: no query has {match} in the gallery")
