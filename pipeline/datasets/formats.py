"""The formats of data sets: for each value of `dataset.format` the module that reads such folders.

A new format is a module of this package with what `Format` asks for, and a line in `FORMATS`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.datasets import deepfashion, market1501, msmt17, table
from pipeline.datasets.listing import Listing


class Format(Protocol):
    """What a module of this package has if it reads a format of data sets.

    Attributes:
        KEYPOINT_FILES: Files of keypoints in the root, for the setting poses.source annotations.
    """

    @property
    def KEYPOINT_FILES(self) -> Sequence[str]: ...  # noqa: D102

    def list_images(self, root: Path) -> Listing:
        """List the files of a data set by their names and lists alone, in a few seconds.

        Raises:
            ValueError: A folder or a list is missing, or a list is not of its form.
        """

    def warnings(self, root: Path, images: pd.DataFrame) -> list[str]:
        """Return sentences on what other programs would misread of the indexed images; they stay in use."""

    def read_annotations(
        self, root: Path, images: Sequence[str], sizes: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """Return keypoints [N, 18, 3] in pixels of the images, whose (width, height) are `sizes` [N, 2]."""


FORMATS: Mapping[str, Format] = MappingProxyType(
    {"market1501": market1501, "msmt17": msmt17, "table": table, "deepfashion": deepfashion}
)
