"""A stage or tool as a process: its command line, its progress bar, and one sentence when it fails."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor
from io import TextIOWrapper
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from pipeline.runtime import times
from pipeline.runtime.scratch import SCRATCH

T = TypeVar("T")

_EPILOG = {  # package -> the last lines of --help
    "pipeline": "Run it in the project's folder: settings come from params.yaml (see docs/parameters.md).\n"
    "`dvc repro` runs all stages in their order and skips those that are up to date.",
    "tools": "Run it in the project's folder; it is no part of `dvc repro`.",
    "foundation": "Run it in the project's folder: settings come from profiles/foundation.yaml.",
    "benchmarks": "Run it in the project's folder; it prints what it measured and is no part of `dvc repro`.",
}
_INTERRUPTED = 130  # exit code of shells after Ctrl-C: 128 + SIGINT


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the paragraphs of a module's docstring, and adds the defaults that an option has."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help  # "(default: None)" tells nobody anything
        return super()._get_help_string(action)


def command_line(name: str, doc: str | None, package: str = "pipeline") -> argparse.ArgumentParser:
    """Return the parser of `python -m <package>.<name>`.

    Stages without arguments parse too: otherwise --help would start them.

    Args:
        name: Name of the module in its package.
        doc: Docstring of the module, which --help shows.
        package: pipeline, tools, foundation or benchmarks.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {package}.{name}",
        description=doc,
        epilog=_EPILOG[package],
        formatter_class=_Formatter,
    )


def progress(iterable: Iterable[T], total: int | None, desc: str) -> Iterable[T]:
    """Iterate with a progress bar that appears after 2 s; a log file gets it twice a minute."""
    interval = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(iterable, total=total, desc=desc, delay=2.0, mininterval=interval, maxinterval=2 * interval)


def stage_main(main: Callable[[], None]) -> None:
    """Run a command and log its time and memory (`pipeline.runtime.times`).

    Bad input, settings, disks or too little memory end it with one sentence and exit code 1, Ctrl-C with one
    sentence and exit code 130. Defects show their traceback; PIPELINE_DEBUG=1 in the environment shows it for
    errors, too.
    """
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal in another encoding shows ? for what it lacks
        sys.stdout.reconfigure(errors="replace")
    module = Path(sys.argv[0])
    name = module.parent.name if module.stem == "__main__" else module.stem
    try:
        main()
        times.log(SCRATCH)
    except KeyboardInterrupt:
        by_hand = bool({"tools", "foundation", "benchmarks"} & set(module.parts[-3:-1]))
        mend = "" if by_hand else "; run `dvc repro` to continue"
        print(f"{name}: interrupted{mend}", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        sentence = _sentence(error)
        if sentence is None or os.environ.get("PIPELINE_DEBUG") == "1":
            raise
        sys.exit(f"{name}: {sentence}")


def _sentence(error: Exception) -> str | None:
    """Return what to tell the user about an error; None if it is a defect."""
    if isinstance(error, BrokenExecutor):
        return (
            "a worker process was killed, as the system does when memory runs out; free memory or give "
            "the stage fewer cores (taskset), and run it again"
        )
    sentence = str(error)
    # Too little memory. torch's class goes by its name, because stages without tensors must not import torch;
    # on a CPU torch raises a RuntimeError, as accelerate does when no batch size fits.
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if out_of_memory or "No executable batch size found" in sentence or "DefaultCPUAllocator" in sentence:
        reason = sentence.rpartition("DefaultCPUAllocator: ")[2].partition(". ")[0]
        detail = f" ({reason})" if reason else ""  # Python's own MemoryError says nothing
        return f"the memory is too small{detail}; lower the stage's batch sizes"
    if isinstance(error, RuntimeError):
        return None
    if isinstance(error, OSError) and error.strerror:  # without Python's "[Errno 28]"
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return sentence
