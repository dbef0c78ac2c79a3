"""Log of run time and memory per command.

It is no output of a stage, for such an output would differ at every run.
"""

import json
import resource
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

FILE = "times.jsonl"
_LAUNCHER = "pipeline.runtime.launch"  # runs another module, whose command counts


@dataclass(frozen=True)
class Took:
    """One finished run of a command.

    Attributes:
        command: The module and its arguments, as they follow `python -m`.
        started: Local time of its start, ISO 8601.
        seconds: Run time, Python's own start included.
        peak_mib: Peak memory of the largest of its processes, MiB.
    """

    command: str
    started: str
    seconds: float
    peak_mib: int


def log(folder: Path) -> None:
    """Append this process to the log in `folder`."""
    started = psutil.Process().create_time()
    command = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else sys.argv
    command = command[command[:1] == [_LAUNCHER] :]
    # Linux counts in KiB.
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    took = Took(
        command=shlex.join(command),
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
        seconds=round(time.time() - started, 2),
        peak_mib=peak // 1024,
    )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(asdict(took)))  # a line that a kill cut off ends here


def read(folder: Path) -> dict[str, Took]:
    """Return the last finished run of each command, by its `command`; empty if nothing was logged."""
    file = folder / FILE
    last = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            took = Took(**json.loads(line))
        except (ValueError, TypeError):
            continue  # empty, or cut off by a kill
        last[took.command] = took
    return last


def read_command(line: str) -> str:
    """Return the `command` that a command line of dvc.yaml is logged under."""
    return line.partition(" -m ")[2].removeprefix(f"{_LAUNCHER} ")
