"""Programs that start in the fork server behave as those that the interpreter starts."""

import signal
import sys
import time
from pathlib import Path

import pytest

from tests import stages

pytestmark = pytest.mark.slow

PROGRAMS = {
    "ends": "import atexit, sys; atexit.register(print, 'bye'); sys.exit(3)",
    "refuses": "import sys; sys.exit('no')",
    "breaks": "raise ZeroDivisionError",
    "dies": "import os; os.abort()",
    "runs": """
import json, os, sys
import here
print(json.dumps([sys.argv, sys.orig_argv[1:], sys.path[0], here.__file__]))
print(os.getcwd(), os.environ["COLOUR"], os.sched_getaffinity(0), file=sys.stderr)
""",
    "here": "",
    "pools": """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
class Own:
    __repr__ = lambda self: "own"
def make():
    return Own()
if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        print(pool.submit(make).result())
""",
    "waits": """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: exit("told"))
print(os.getpid(), flush=True)
time.sleep(600)
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module for each of `PROGRAMS`."""
    folder = tmp_path_factory.mktemp("programs")
    for name, text in PROGRAMS.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.mark.parametrize("name", ["runs", "pools", "ends", "refuses", "breaks", "dies"])
@pytest.mark.parametrize("program", [["-m", "{name}", "a b", "-c"], ["{name}.py"], ["-u", "-m", "{name}"]])
def test_a_program_runs_and_ends_as_under_the_interpreter(
    folder: Path, program: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLOUR", "blue")
    ends = []
    for python in (sys.executable, "python"):
        process = stages.start(folder, python, *(word.format(name=name) for word in program))
        output, errors = process.communicate()
        ends.append((process.returncode, output.replace('"-u", ', ""), errors.splitlines()[-1:]))
    assert ends[0] == ends[1]
    assert ends[0][0] == {"runs": 0, "pools": 0, "ends": 3, "dies": -signal.SIGABRT}.get(name, 1)


def test_a_kill_takes_the_program_too(folder: Path) -> None:
    process = stages.start(folder, "python", "-m", "waits")
    assert process.stdout is not None
    program = int(process.stdout.readline())
    assert stages.is_running(program)
    stages.kill(process)
    deadline = time.monotonic() + 10  # its files are closed, and the system clears the rest away
    while stages.is_running(program):
        assert time.monotonic() < deadline


def test_signals_reach_the_program(folder: Path) -> None:
    process = stages.start(folder, "python", "-m", "waits")
    assert process.stdout is not None and process.stdout.readline()
    process.terminate()
    assert process.communicate() == ("", "told\n") and process.returncode == 1


def test_a_full_disk_is_one_for_the_program_too(folder: Path) -> None:
    write = "from pathlib import Path; Path('large').write_bytes(bytes(9000))"
    (folder / "writes.py").write_text(write)
    done = stages.run(folder, "python", "-m", "writes", disk=5000, code=1)
    assert "OSError: [Errno 27] File too large" in done.stderr
    assert (folder / "large").stat().st_size == 5000
