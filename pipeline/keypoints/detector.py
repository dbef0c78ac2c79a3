"""What every detector of keypoints offers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Each process on a GPU holds a CUDA context and the network there: hundreds of megabytes.
MOST_ON_GPU = 4  # processes


class Detector(ABC):
    """A detector that is loaded in a process; it finds people in one image after the other.

    Args:
        path: File or folder of its model, which `check` has accepted.
        may_use_gpu: Whether this process may use a GPU.

    Attributes:
        PACKAGE: Package that runs the model; its version can change a result.
    """

    PACKAGE: ClassVar[str]

    @abstractmethod
    def __init__(self, path: Path, may_use_gpu: bool) -> None: ...

    @classmethod
    @abstractmethod
    def check(cls, path: Path) -> None:
        """Load the model as `__init__` does, if need be without values.

        Raises:
            FileNotFoundError: There is no such file or folder.
            ValueError: It holds something else, or the package is not installed.
        """

    @staticmethod
    @abstractmethod
    def files(path: Path) -> Sequence[Path]:
        """Return the files of the model that are read, always in one order."""

    @staticmethod
    @abstractmethod
    def processes(cores: int) -> tuple[int, bool]:
        """Return how many processes are best on a number of cores, and whether they may use a GPU."""

    @abstractmethod
    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Find people in an RGB image: x, y in its pixels and score (0: not found), [P, 18, 3].

        What lies outside the image, and what has a low score, is the caller's to leave out.
        """
