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

from pipeline.datasets import deepfashion, market1501
from pipeline.params import IndexSettings


class Format(Protocol):
    """What a module of this package has if it reads a format of data sets.

    Attributes:
        NAME: What the format is called in sentences.
        FOLDERS: Split -> the names that its folder of images may have.
        KEYPOINT_FILES: Files of keypoints in the root, for the setting poses.source annotations.
    """

    @property
    def NAME(self) -> str: ...  # noqa: D102
    @property
    def FOLDERS(self) -> Mapping[str, tuple[str, ...]]: ...  # noqa: D102
    @property
    def KEYPOINT_FILES(self) -> Sequence[str]: ...  # noqa: D102

    def index_dataset(
        self, root: Path, settings: IndexSettings
    ) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Return the images, the rejected files and the leaks, as `market1501.index_dataset` does."""

    def read_annotations(
        self, root: Path, images: Sequence[str], sizes: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """Return keypoints [N, 18, 3] in pixels of the images, whose (width, height) are `sizes` [N, 2]."""


FORMATS: Mapping[str, Format] = MappingProxyType({"market1501": market1501, "deepfashion": deepfashion})
