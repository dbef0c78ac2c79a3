"""The formats of data sets: for each value of `dataset.format` the module that reads such folders.

A new format is a module of this package with what `Format` asks for, and a line in `FORMATS`.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import pandas as pd

from pipeline.datasets import deepfashion, market1501
from pipeline.params import IndexSettings


class Format(Protocol):
    """What a module of this package has if it reads a format of data sets.

    Attributes:
        NAME: What the format is called in sentences.
        FOLDERS: Split -> the names that its folder of images may have.
    """

    @property
    def NAME(self) -> str: ...  # noqa: D102
    @property
    def FOLDERS(self) -> Mapping[str, tuple[str, ...]]: ...  # noqa: D102

    def index_dataset(
        self, root: Path, settings: IndexSettings
    ) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Return the images, the rejected files and the leaks, as `market1501.index_dataset` does."""


FORMATS: Mapping[str, Format] = MappingProxyType({"market1501": market1501, "deepfashion": deepfashion})
