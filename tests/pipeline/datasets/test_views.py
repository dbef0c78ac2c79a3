"""A view shows the whole image, and a border is added and cut off again without a trace."""

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.views import from_view, to_view
from pipeline.params import DatasetSettings


def dataset(border: int, width: int = 192) -> DatasetSettings:
    return DatasetSettings(name="x", format="deepfashion", root="x", height=256, width=width, border=border)


def picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_the_border_is_cut_off_again() -> None:
    image = picture(176, 256)
    view = to_view(Image.fromarray(image), dataset(border=8))
    assert view.shape == (256, 192, 3)
    np.testing.assert_array_equal(from_view(view, 8), image)
    np.testing.assert_array_equal(view[:, :8], np.repeat(image[:, :1], 8, axis=1))
    np.testing.assert_array_equal(view[:, -8:], np.repeat(image[:, -1:], 8, axis=1))


def test_without_a_border_the_image_fills_the_view() -> None:
    image = Image.fromarray(picture(176, 256))
    view = to_view(image, dataset(border=0))
    np.testing.assert_array_equal(view, np.asarray(image.resize((192, 256), Image.Resampling.BICUBIC)))
    assert from_view(view, 0).shape == view.shape


def test_a_border_that_leaves_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="border is 96 on each side; expected less than half of 192"):
        dataset(border=96)
