"""The formats of data sets: for each value of `dataset.format` the module that reads such folders.

A new format is a module of this package with what `Format` asks for, and a line in `FORMATS`.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import pandas as pd

from pipeline.datasets import deepfashion, market1501, msmt17, table
from pipeline.datasets.listing import Listing


class Format(Protocol):
    """What a module of this package has if it reads a format of data sets."""

    def list_images(self, root: Path) -> Listing:
        """List the files of a data set by their names and lists alone, in a few seconds.

        Raises:
            ValueError: A folder or a list is missing, or a list is not of its form.
        """

    def warnings(self, root: Path, images: pd.DataFrame) -> list[str]:
        """Return sentences on what other programs would misread of the indexed images; they stay in use."""


FORMATS: Mapping[str, Format] = MappingProxyType(
    {"market1501": market1501, "msmt17": msmt17, "table": table, "deepfashion": deepfashion}
)
