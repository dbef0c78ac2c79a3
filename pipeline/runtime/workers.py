"""Worker processes that do not outlive the stage that started them."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import RLock

from tqdm import tqdm

_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_number = 0  # of this process among the workers, from 1; 0 is the stage itself


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def bar_position() -> int | None:
    """The line for a progress bar of this process, below the stage's own; None lets tqdm choose."""
    return _number or None


def worker_pool(workers: int | None = None, setup: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """A pool of fresh processes, one per core if not said otherwise.

    A stage that is killed cannot stop its workers, which would wait for work for ever; these die with it
    (on Linux; elsewhere they stay).

    Args:
        workers: number of processes.
        setup: what each process does first.
    """
    context, workers = get_context("spawn"), workers or available_cores()
    lock = context.RLock()
    tqdm.set_lock(lock)
    numbers: SimpleQueue[int] = context.SimpleQueue()  # a pipe; a shared value would need a file
    for number in range(1, workers + 1):
        numbers.put(number)
    return ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_start,
        initargs=(os.getpid(), numbers, lock, setup),
    )


def _start(parent: int, numbers: "SimpleQueue[int]", lock: RLock, setup: Callable[[], None] | None) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could be asked
            os._exit(1)
    global _number
    _number = numbers.get()
    tqdm.set_lock(lock)
    if setup:
        setup()
