"""Stateless random numbers: every draw is a function of (seed, purpose, indices) and of nothing else."""

from zlib import crc32

import numpy as np


def generator(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """Return the random generator of one purpose.

    Two calls with equal arguments give equal streams in any process and any order; different purposes or
    indices give independent streams.

    Args:
        seed: Seed of the world, >= 0.
        purpose: What is drawn, for example ``"train/person"``.
        indices: Which one of them, each >= 0.
    """
    return np.random.default_rng([seed, crc32(purpose.encode()), *indices])
