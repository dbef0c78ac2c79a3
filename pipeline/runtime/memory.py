"""Freed memory stays in the process: training on a CPU allocates the same large blocks at every step."""

import ctypes
import sys

import torch

# Parameter numbers of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_memory() -> None:
    """Tell glibc not to return large blocks to the system, which every step would have to fault in again.

    The gain depends on what a page fault costs on the machine; `python -m benchmarks.memory` measures it.
    Other C libraries are left as they are.
    """
    if torch.cuda.is_available():  # the large blocks are on the GPU
        return
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return
    mallopt(_MMAP_MAX, 0)  # large blocks come from the heap
    mallopt(_TRIM_THRESHOLD, -1)  # the heap never shrinks
    mallopt(_TOP_PAD, 256 * 2**20)  # and grows in large pieces
