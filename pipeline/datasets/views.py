"""From an image to a view of the generator and back: resized, or with a border on both sides.

A view must be divisible at every level of the UNet; images of 256 x 176 are not. They are either stretched to
256 x 192 (`dataset.border` 0), or keep their shape in a view with a border of 8 columns on each side, which
is cut off generated images again.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.params import DatasetSettings


def to_view(image: Image.Image, dataset: DatasetSettings) -> NDArray[np.uint8]:
    """Resize an RGB image of any size to a view; the border repeats its outermost columns.

    Returns:
        uint8 [dataset.height, dataset.width, 3], with the border.
    """
    size = (dataset.width - 2 * dataset.border, dataset.height)
    resized = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    return np.pad(resized, ((0, 0), (dataset.border, dataset.border), (0, 0)), mode="edge")


def from_view(view: NDArray[np.uint8], border: int) -> NDArray[np.uint8]:
    """Cut the border off a view [height, width, ...]; undoes `to_view` for an image of that size."""
    return view[:, border : view.shape[1] - border]
