"""Copies of real images among images that should be synthetic, re-compressed and resized ones too.

A perceptual hash says whether each of the 256 lowest frequencies of an image's brightness is above their
median (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010).
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from pipeline.datasets.images import read_image
from pipeline.runtime.stage import progress

_SIDE, _FREQUENCIES = 64, 16  # pixels of the small image, and frequencies along each of its sides
# In the embedded world (1,950 images) a copy differs by at most 14 of 256 bits after JPEG quality 30, by 6
# after halving its size; another image differs by at least 64.
MOST_BITS = 16


def perceptual_hash(image: Image.Image) -> NDArray[np.bool_]:
    """Return the hash of an image, bool [256]."""
    small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    frequencies = dctn(np.asarray(small, np.float64), norm="ortho")[:_FREQUENCIES, :_FREQUENCIES]
    return (frequencies > np.median(frequencies)).ravel()


def hash_images(files: list[Path], desc: str) -> NDArray[np.bool_]:
    """Return the hashes of image files, bool [N, 256]."""
    with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter while it decodes
        hashes = list(
            progress(pool.map(lambda file: perceptual_hash(read_image(file)), files), len(files), desc)
        )
    return np.array(hashes, bool).reshape(len(files), _FREQUENCIES**2)


def find_copies(synthetic: NDArray[np.bool_], real: NDArray[np.bool_]) -> pd.DataFrame:
    """Return pairs of synthetic and real images that differ by at most `MOST_BITS`.

    Args:
        synthetic: Hashes, bool [N, 256].
        real: Hashes, bool [M, 256].

    Returns:
        Columns synthetic, real (rows of the arguments) and bits: each synthetic image with the nearest real
        one.
    """
    # Bits that differ are those of one alone: |a| + |b| - 2 a.b.
    a, b = synthetic.astype(np.float32), real.astype(np.float32)
    bits = a.sum(1)[:, None] + b.sum(1)[None] - 2 * a @ b.T
    nearest = bits.argmin(axis=1)
    table = pd.DataFrame(
        {"synthetic": np.arange(len(a)), "real": nearest, "bits": bits.min(axis=1).astype(np.int64)}
    )
    return table[table.bits <= MOST_BITS].reset_index(drop=True)
