"""Validation identities, and images that stand on two sides of a split."""

import numpy as np
import pandas as pd

from common.seeding import make_rng
from pipeline.params import IndexSettings


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


def hold_out_validation(index: pd.DataFrame, settings: IndexSettings) -> pd.DataFrame:
    """Turn training identities, drawn by the seed, into the splits val_query and val_gallery."""
    identities = np.unique(index.pid[index.split == "train"])
    if settings.validation_identities >= len(identities):
        raise ValueError(
            f"index.validation_identities is {settings.validation_identities}; "
            f"expected less than {len(identities)}, the number of training identities"
        )
    rng = make_rng(settings.seed, "validation")
    held_out = rng.permutation(identities)[: settings.validation_identities]
    rows = rng.permutation(index.index[index.pid.isin(held_out)])
    queries = index.loc[rows].drop_duplicates(["pid", "camid"]).index
    index.loc[rows, "split"] = "val_gallery"
    index.loc[queries, "split"] = "val_query"
    return index


def split_leaks(index: pd.DataFrame, leaked: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The pairs of `find_leaks` with a test image, and those with a validation image."""
    validated = leaked.test.isin(index.image[_is_validation(index)])
    return leaked[~validated], leaked[validated]
