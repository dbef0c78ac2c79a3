"""Keypoints in another unit are refused before anything is drawn from them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.datasets.market1501 import read_annotations


def test_keypoints_as_shares_of_the_image_are_refused(market: Path) -> None:
    file = market / "keypoints.csv"
    table = pd.read_csv(file)
    images = table.image.tolist()
    sizes = np.tile([64, 128], (len(images), 1))
    assert read_annotations(market, images, sizes).shape == (len(images), 18, 3)
    for axis, side in (("x", 64), ("y", 128)):
        table.loc[:, table.columns.str.endswith(f"_{axis}")] /= side
    table.to_csv(file, index=False)
    with pytest.raises(
        ValueError, match=r"keypoints.csv: all coordinates lie between 0 and 1, .* expected p"
    ):
        read_annotations(market, images, sizes)
