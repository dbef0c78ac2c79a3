"""Tests of what is measured on people who were held out."""

import numpy as np
import pytest

from foundation.quality import choose_photos, mean_ssim, sharpness


def test_sources_and_targets_are_different_photos_spread_over_those_of_each_person():
    pids = np.repeat([0, 1], [16, 9])
    sources, targets = choose_photos(pids)
    assert sources.shape == (2, 3) and targets.shape == (2, 6)
    for person, (own_sources, own_targets) in enumerate(zip(sources, targets, strict=True)):
        photos = np.flatnonzero(pids == person)
        chosen = np.concatenate([own_sources, own_targets])
        assert set(chosen) <= set(photos) and len(set(chosen)) == 9
        assert own_sources[0] == photos[0] and own_sources[-1] == photos[-1]


def test_sharpness_is_the_mean_step_from_row_to_row():
    stripes = np.zeros((1, 4, 2, 3), np.uint8)
    stripes[:, 1::2] = 200  # each of the three steps is 200, up or down
    assert sharpness(stripes) == 200
    assert sharpness(stripes.swapaxes(1, 2)) == 0  # columns do not count
    assert sharpness(np.concatenate([stripes, np.zeros_like(stripes)])) == 100


def test_ssim_of_an_image_with_itself_is_one():
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    assert mean_ssim(images, images) == pytest.approx(1)
    assert mean_ssim(images, images[::-1]) < 0.5
