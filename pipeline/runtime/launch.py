"""Start a stage under a launcher, and count the processes that it starts.

`python -m pipeline.runtime.launch pipeline.generate all 20` runs that stage: in this process, or with the
launcher that the environment variable LAUNCH names ("accelerate launch --multi_gpu --num_processes 8"). DVC
runs commands in the user's login shell, and shells differ in how they expand a variable with a default; this
command is the same in all of them.
"""

import argparse
import os
import runpy
import shlex
import signal
import subprocess
import sys
from contextlib import suppress

from pipeline.runtime.process import STARTED
from pipeline.runtime.stage import command_line

_LONGEST = 300  # seconds that a launcher may take to start processes


def count_processes() -> int:
    """Return how many processes a stage has on this machine; the launcher in LAUNCH is asked by starting it.

    Raises:
        ValueError: The launcher does not start.
    """
    launcher = _launcher()
    if not launcher:
        return 1
    try:
        process = subprocess.Popen(
            [*launcher, "-m", "pipeline.runtime.process"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # what it starts in turn can be ended with it
        )
    except OSError as error:
        raise ValueError(_not_started(launcher, error)) from None
    try:
        output, complaint = process.communicate(timeout=_LONGEST)
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"LAUNCH is {shlex.join(launcher)!r}, which starts nothing within {_LONGEST} seconds; a launcher "
            "that waits for other machines starts single stages by hand (docs/paper_scale.md)"
        ) from None
    finally:
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
    count = output.count(STARTED)
    if process.returncode or not count:
        reason = (complaint.strip() or "no output").splitlines()[-1]
        raise ValueError(f"LAUNCH is {shlex.join(launcher)!r}, which does not start a stage ({reason})")
    return count


def _launcher() -> list[str]:
    return shlex.split(os.environ.get("LAUNCH", ""))


def _not_started(launcher: list[str], error: OSError) -> str:
    return f"LAUNCH is {launcher[0]!r}, which cannot be started ({error.strerror})"


def main() -> None:
    """Run the module that the arguments name."""
    parser = command_line("runtime.launch", __doc__)
    parser.add_argument("module", help="the stage, such as pipeline.generate")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    parsed = parser.parse_args()
    module, arguments = parsed.module, parsed.arguments
    launcher = _launcher()
    if launcher:
        try:
            os.execvp(launcher[0], [*launcher, "-m", module, *arguments])
        except OSError as error:
            sys.exit(f"launch: {_not_started(launcher, error)}")
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
