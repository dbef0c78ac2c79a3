"""Commands as users type them, without the seconds that Python spends on importing libraries each time.

`python`, `dvc` and the launchers are clients of a server that has imported the libraries (fork_server.py).
"""

import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests import REPOSITORY

PACKAGES = sorted({file.parent for file in REPOSITORY.glob("*/*.py")} - {REPOSITORY / "tests"})
SCRIPTS = Path(sys.executable).parent
CORES = sorted(os.sched_getaffinity(0))
# Each worker of pytest-xdist has one core for its stages, which then start no processes of their own.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
OWN_CORE = [CORES[WORKER % len(CORES)]]
# As `accelerate launch --num_processes 2` does on GPUs; with --cpu it starts one process in any case.
TWO_PROCESSES = {"LAUNCH": "torchrun --standalone --nproc_per_node 2", "ACCELERATE_USE_CPU": "1"}


@contextmanager
def fork_server(hash_seed: int) -> Iterator[Path]:
    """Start a server and yield the folder of its clients, which belongs at the front of PATH.

    Args:
        hash_seed: PYTHONHASHSEED of the programs: the order of sets differs from server to server.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        client = [sys.executable, "-IS", REPOSITORY / "tests/fork_client.py", folder / "socket"]
        for command in ("python", "dvc", "torchrun", "accelerate"):
            script = [] if command == "python" else [SCRIPTS / command]
            (folder / command).write_text(f'#!/bin/sh\nexec {shlex.join(map(str, client + script))} "$@"\n')
            (folder / command).chmod(0o755)
        server = subprocess.Popen(
            [sys.executable, "-P", REPOSITORY / "tests/fork_server.py", folder, *PACKAGES],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the tests, which end it
        )
        while not (folder / "socket").exists():
            time.sleep(0.005)
        yield folder
        server.terminate()
        server.communicate()


def start(
    folder: Path,
    *command: str | Path,
    environment: Mapping[str, str] | None = None,
    cores: list[int] = OWN_CORE,
    disk: int | None = None,
) -> subprocess.Popen[str]:
    """Start a command in a project; `kill` and `finish` end it.

    Args:
        folder: Project.
        command: Command and its arguments.
        environment: Further environment variables.
        cores: Cores that the command may use.
        disk: Bytes beyond which a file cannot grow, as if the disk were full.
    """
    no_gpu = {"CUDA_VISIBLE_DEVICES": ""}  # two processes need two GPUs, and the bytes of one are another's
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | no_gpu | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(_limit, cores, disk),
    )


def _limit(cores: list[int], disk: int | None) -> None:
    os.sched_setaffinity(0, cores)
    if disk:
        resource.setrlimit(resource.RLIMIT_FSIZE, (disk, resource.RLIM_INFINITY))


def finish(process: subprocess.Popen[str], code: int = 0) -> subprocess.CompletedProcess[str]:
    """Wait until a command and all that it started have ended; `code` is its exit code, or the test fails."""
    output, errors = process.communicate()
    assert process.returncode == code, output + errors
    return subprocess.CompletedProcess(process.args, code, output, errors)


def run(
    folder: Path, *command: str | Path, code: int = 0, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command in a project, with the options of `start`, to its end with the exit code `code`."""
    return finish(start(folder, *command, **options), code)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a command; its program is gone when this returns."""
    process.kill()
    process.communicate()


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that ended may wait to be asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
