"""Stateless randomness: a draw depends on its seed, purpose and index, and on nothing that came before."""

from zlib import crc32

import numpy as np


def rng(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """The generator of random numbers that belongs to (seed, purpose, index...).

    Restarts, batch sizes, workers and processes therefore change no draw.
    """
    return np.random.default_rng([seed, crc32(purpose.encode()), *index])
