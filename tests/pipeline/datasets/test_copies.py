"""A copy is found however it was stored, and another picture of the same person is none."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.copies import MOST_BITS, find_copies, perceptual_hash
from pipeline.world.shots import shots


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Six pictures of each of three people."""
    pictures = [shots(0, "copies", pid, 6, 6, 128, 64, strength=0.3) for pid in range(3)]
    return [Image.fromarray(shot.image) for person in pictures for shot in person]


def compressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def test_copies_are_found_and_other_pictures_are_not(images: list[Image.Image]) -> None:
    real = np.stack([perceptual_hash(image) for image in images])
    changed = [compressed(image, 30) for image in images[:6]] + [im.resize((32, 64)) for im in images[6:12]]
    changed += [images[12].convert("L"), Image.new("RGB", (64, 128), "grey")]
    pairs = find_copies(np.stack([perceptual_hash(image) for image in changed]), real)
    assert pairs.synthetic.tolist() == pairs.real.tolist() == list(range(13))
    assert find_copies(real[:9], real[9:]).empty


def test_bits_agree_with_a_slow_count() -> None:
    rng = np.random.default_rng(0)
    real = rng.random((5, 256)) < 0.5
    synthetic = real[[3, 1]].copy()
    synthetic[0, :MOST_BITS] ^= True
    synthetic[1, : MOST_BITS + 1] ^= True
    pairs = find_copies(synthetic, real)
    assert pairs.values.tolist() == [[0, 3, (synthetic[0] != real[3]).sum()]]
