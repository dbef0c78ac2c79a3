"""Stateless randomness: a draw depends on its seed, purpose and index, and on nothing that came before."""

from zlib import crc32

import numpy as np


def make_rng(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """Return the random number generator that belongs to (seed, purpose, index...).

    Equal arguments give equal streams in any process and any order, so restarts, batch sizes and workers
    change no draw. Other purposes or indices give independent streams.

    Args:
        seed: Seed of the section's random draws, >= 0.
        purpose: What is drawn, for example "plan".
        index: Which one of them, each >= 0.
    """
    return np.random.default_rng([seed, crc32(purpose.encode()), *index])


def make_seed(*parts: object) -> int:
    """Return the 32-bit seed that belongs to `parts`, for noise that is drawn elsewhere.

    Args:
        parts: What the seed depends on; each counts as it is printed.
    """
    return crc32(" ".join(map(str, parts)).encode())


def make_torch_seed(seed: int, purpose: str, *index: int) -> int:
    """Return the seed for torch's own generator that belongs to (seed, purpose, index...)."""
    return int(make_rng(seed, purpose, *index).integers(2**63))
