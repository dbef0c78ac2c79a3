"""Worker processes that do not outlive the stage that started them."""

import ctypes
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def worker_pool(workers: int | None = None) -> ProcessPoolExecutor:
    """A pool of fresh processes, one per core if not said otherwise.

    A stage that is killed cannot stop its workers, which would wait for work for ever; these die with it
    (on Linux; elsewhere they stay).
    """
    return ProcessPoolExecutor(
        workers or available_cores(),
        mp_context=get_context("spawn"),
        initializer=_die_with_parent,
        initargs=(os.getpid(),),
    )


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could be asked
            os._exit(1)
