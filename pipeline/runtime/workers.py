"""Worker processes that do not outlive the stage that started them."""

import ctypes
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import active_children, get_context
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import RLock
from types import TracebackType
from typing import ParamSpec, TypeVar

from tqdm import tqdm

P = ParamSpec("P")
R = TypeVar("R")

_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_number = 0  # of this process among the workers, from 1; 0 is the stage itself


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def worker_number() -> int:
    """Return the number of this process among the workers of a stage, from 1; 0 is the stage itself."""
    return _number


def bar_position() -> int | None:
    """Return the line for a progress bar of this process, below the stage's own; None lets tqdm choose."""
    return _number or None


class _Pool(ProcessPoolExecutor):
    """A pool whose workers leave Ctrl-C to the stage, which ends them at once."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        # A terminal sends Ctrl-C to every process. Workers start here and inherit the blocked signal: they
        # print no traceback of their own, not even while they import their modules.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        hook = threading.excepthook
        if isinstance(error, KeyboardInterrupt):
            for worker in active_children():
                worker.kill()
            tqdm.set_lock(threading.RLock())  # a dead worker may hold the one that it shared
            # The pool's own thread stumbles over the jobs that were cancelled (in Python 3.11).
            threading.excepthook = lambda _: None
        super().__exit__(kind, error, traceback)
        threading.excepthook = hook


def worker_pool(workers: int | None = None, setup: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """Return a pool of fresh processes.

    A stage that is killed cannot stop its workers, which would wait for work for ever. These die with it (on
    Linux; elsewhere they stay). Ctrl-C ends them, too; what they had in hand is lost.

    Args:
        workers: Number of processes; None starts one per core.
        setup: What each process does first.
    """
    context, workers = get_context("spawn"), workers or available_cores()
    try:
        lock = context.RLock()
        numbers: SimpleQueue[int] = context.SimpleQueue()  # a pipe; a shared value would need a file
        pool = _Pool(
            workers, mp_context=context, initializer=_start, initargs=(os.getpid(), numbers, lock, setup)
        )
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        reason = "no space is left for the locks of worker processes; free some (docker run --shm-size)"
        raise OSError(error.errno, reason, "/dev/shm") from None
    tqdm.set_lock(lock)
    for number in range(1, workers + 1):
        numbers.put(number)
    return pool


def _start(parent: int, numbers: "SimpleQueue[int]", lock: RLock, setup: Callable[[], None] | None) -> None:
    """Prepare this process for work: ask for its death with the stage, take a number and tqdm's lock."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the stage died before this process could ask
            os._exit(1)
    global _number
    _number = numbers.get()
    tqdm.set_lock(lock)
    if setup:
        setup()
