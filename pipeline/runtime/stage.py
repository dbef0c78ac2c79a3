"""A stage or tool as a process: its command line, its progress, and one sentence for what goes wrong."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from pipeline.runtime import times
from pipeline.runtime.scratch import SCRATCH

T = TypeVar("T")


def progress(iterable: Iterable[T], total: int | None, desc: str) -> Iterable[T]:
    """Iterate with a progress bar that appears after 2 s; a log file gets it twice a minute."""
    interval = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(iterable, total=total, desc=desc, delay=2.0, mininterval=interval, maxinterval=2 * interval)


def stage_main(main: Callable[[], None]) -> None:
    """Run a stage; bad input, settings, disks or too little memory end it with one sentence and exit code 1.

    What a stage took goes to the log that the report reads (`pipeline.runtime.times`). PIPELINE_DEBUG=1 in
    the environment shows the traceback instead.
    """
    try:
        main()
        times.log(SCRATCH)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        # By its name, because stages without tensors must not import torch.
        out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        # accelerate's RuntimeError, and torch's on a CPU
        out_of_memory |= "No executable batch size found" in str(error) or "DefaultCPUAllocator" in str(error)
        lost_worker = isinstance(error, BrokenExecutor)
        is_defect = isinstance(error, RuntimeError) and not out_of_memory and not lost_worker
        if is_defect or os.environ.get("PIPELINE_DEBUG") == "1":
            raise
        sentence = str(error)
        if isinstance(error, OSError) and error.strerror:  # without Python's "[Errno 28]"
            sentence = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        if out_of_memory:
            reason = sentence.rpartition("DefaultCPUAllocator: ")[2].partition(". ")[0]
            told = f" ({reason})" if reason else ""  # Python's own MemoryError says nothing
            sentence = f"the memory is too small{told}; lower the stage's batch sizes"
        if lost_worker:
            sentence = (
                "a worker process was killed, as the system does when memory runs out; free memory or give "
                "the stage fewer cores (taskset), and run it again"
            )
        sys.exit(f"{Path(sys.argv[0]).stem}: {sentence}")


_EPILOG = {
    "pipeline": "Run it in the project's folder: settings come from params.yaml (see docs/parameters.md).\n"
    "`dvc repro` runs all stages in their order and skips those that are up to date.",
    "benchmarks": "Run it in the project's folder; it prints what it measured and is no part of `dvc repro`.",
}


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the paragraphs of a module's docstring, and adds the defaults that an option has."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help  # "(default: None)" tells nobody anything
        return super()._get_help_string(action)


def command_line(name: str, doc: str | None, package: str = "pipeline") -> argparse.ArgumentParser:
    """The parser of `python -m <package>.<name>`, described by the docstring of its module.

    Stages without arguments parse too: otherwise --help would start them.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {package}.{name}",
        description=doc,
        epilog=_EPILOG[package],
        formatter_class=_Formatter,
    )
