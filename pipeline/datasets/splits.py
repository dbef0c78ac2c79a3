"""Splits of a data set: queries and gallery, validation identities, matches, and leaks between splits."""

import numpy as np
import pandas as pd

from common.seeding import make_rng
from pipeline.params import IndexSettings
from reid.cameras import comparable_cameras


def find_leaks(images: pd.DataFrame) -> pd.DataFrame:
    """Pair training images with held-out images of the same pixels.

    One image of a pair is in training (validation included) and one in query or gallery, or one in training
    and one in validation. Every such image is in at least one pair. Copies that were compressed again are not
    recognised.

    Args:
        images: Columns image, split, and pixels, a checksum of the decoded image.

    Returns:
        Columns train, test.
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
    """Pair each image with the first one of the same pixels on the other side."""
    sides = (
        train.merge(test.drop_duplicates("pixels"), on="pixels"),
        train.drop_duplicates("pixels").merge(test, on="pixels"),
    )
    pairs = pd.concat(sides)[["image_x", "image_y"]].drop_duplicates()
    return pairs.set_axis(["train", "test"], axis=1)


def _is_validation(images: pd.DataFrame) -> pd.Series:
    return images.split.isin(["val_query", "val_gallery"])


def hold_out_validation(index: pd.DataFrame, settings: IndexSettings) -> pd.DataFrame:
    """Turn randomly drawn training identities into the splits val_query and val_gallery.

    Args:
        index: Columns image, split, pid and camid; it is changed in place.
        settings: Number of identities and the seed.

    Raises:
        ValueError: No identity would be left to train on.
    """
    identities = np.unique(index.pid[index.split == "train"])
    if settings.validation_identities >= len(identities):
        raise ValueError(
            f"index.validation_identities is {settings.validation_identities}; "
            f"expected less than {len(identities)}, the number of training identities"
        )

    rng = make_rng(settings.seed, "validation")
    held_out = rng.permutation(identities)[: settings.validation_identities]
    return _divide(index, index.index[index.pid.isin(held_out)], "val_", rng)


def divide_test(index: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Turn the split test, where a data set has no queries of its own, into the splits query and gallery.

    Distractors and junk (pid 0 and -1) are gallery.

    Args:
        index: Columns image, split, pid and camid; it is changed in place.
        seed: Seed of the draw of queries.
    """
    test = index.split == "test"
    index.loc[test, "split"] = "gallery"
    return _divide(index, index.index[test & (index.pid > 0)], "", make_rng(seed, "test"))


def _divide(index: pd.DataFrame, rows: pd.Index, prefix: str, rng: np.random.Generator) -> pd.DataFrame:
    """Make a random image of each identity and camera a query, and the others gallery.

    An identity whose images would all be queries keeps one in the gallery, or nobody could find it.
    """
    shuffled = rng.permutation(rows)
    drawn = index.loc[shuffled]
    queries = drawn.drop_duplicates(["pid", "camid"])
    is_used_up = drawn.groupby("pid").size() == queries.groupby("pid").size()
    last = queries.drop_duplicates("pid", keep="last")
    kept = last.index[last.pid.map(is_used_up)]
    index.loc[shuffled, "split"] = f"{prefix}gallery"
    index.loc[queries.index.difference(kept), "split"] = f"{prefix}query"
    return index


def has_match(query: pd.DataFrame, gallery: pd.DataFrame) -> bool:
    """Return whether any query has a match (`reid.cameras`); both have the columns pid and camid."""
    cameras = comparable_cameras(query.camid.to_numpy(), gallery.camid.to_numpy())
    sides = [
        pd.DataFrame({"pid": side.pid.to_numpy(), "camera": camera}).drop_duplicates()
        for side, camera in zip((query, gallery), cameras, strict=True)
    ]
    pairs = sides[0].merge(sides[1], on="pid")
    return bool((pairs.camera_x != pairs.camera_y).any())


def find_copies_of_queries(images: pd.DataFrame) -> pd.DataFrame:
    """Pair queries with gallery images that are the same picture of the same identity and count as a match.

    Any model finds these. With two cameras there are hardly any: a copy has the query's own camera.

    Args:
        images: Columns image, split, pid, camid, and pixels, a checksum of the decoded image.

    Returns:
        Columns query, gallery.
    """
    query, gallery = (images[images.split == split] for split in ("query", "gallery"))
    cameras = comparable_cameras(query.camid.to_numpy(), gallery.camid.to_numpy())
    pairs = query.assign(camera=cameras[0]).merge(gallery.assign(camera=cameras[1]), on=["pid", "pixels"])
    pairs = pairs[pairs.camera_x != pairs.camera_y]
    return pairs[["image_x", "image_y"]].set_axis(["query", "gallery"], axis=1)


def split_leaks(index: pd.DataFrame, leaked: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split the pairs of `find_leaks` into those with a test image and those with a validation image."""
    in_validation = leaked.test.isin(index.image[_is_validation(index)])
    return leaked[~in_validation], leaked[in_validation]
