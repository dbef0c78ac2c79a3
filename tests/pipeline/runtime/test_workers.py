"""Workers do the work of a stage, and end when it ends: at its end, by a kill, by Ctrl-C."""

import errno
import os
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing.context import SpawnContext
from pathlib import Path

import pytest

from pipeline.runtime.workers import bar_position, worker_pool
from tests.stages import is_running

STAGE = """
import signal
import time
from pipeline.runtime.stage import stage_main
from pipeline.runtime.workers import worker_pool

def main():
    with worker_pool(2) as pool:
        for _ in range(5):
            pool.submit(time.sleep, 600)
        while len(pool._processes) < 2:
            time.sleep(0.01)
        print(*pool._processes, flush=True)
        time.sleep(600)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may ignore it
    stage_main(main)
"""


def start_stage(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a stage with two workers, in a process group of its own; return it and the workers' numbers."""
    script = folder / "stage.py"
    script.write_text(STAGE)
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2 and all(map(is_running, workers))
    return process, workers


def wait_for_end(workers: list[int]) -> None:
    for _ in range(200):
        if not any(map(is_running, workers)):
            return
        time.sleep(0.05)
    pytest.fail("the workers still run")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_workers_die_with_a_stage_that_is_killed(tmp_path: Path) -> None:
    process, workers = start_stage(tmp_path)
    time.sleep(1)  # until they have asked to be told
    process.kill()
    process.wait()
    wait_for_end(workers)


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.05, 2])  # seconds: while workers import their modules, and at work
def test_ctrl_c_ends_a_stage_and_its_workers_with_one_sentence(tmp_path: Path, after: float) -> None:
    process, workers = start_stage(tmp_path)
    time.sleep(after)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to every process
    assert process.communicate(timeout=60)[1] == "stage: interrupted; run `dvc repro` to continue\n"
    assert process.returncode == 130
    wait_for_end(workers)


def test_a_full_dev_shm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # as SemLock does, without a file's name

    monkeypatch.setattr(SpawnContext, "RLock", fail)
    with pytest.raises(OSError, match=r"no space is left for the locks .*--shm-size.*: '/dev/shm'"):
        worker_pool(2)


def number(_: int) -> int | None:
    time.sleep(0.2)  # until the other has one, too
    return bar_position()


@pytest.mark.slow
def test_every_worker_is_set_up_and_has_a_line_for_its_bar(tmp_path: Path) -> None:
    with worker_pool(2, setup=partial(Path.touch, tmp_path / "was here")) as pool:
        assert set(pool.map(number, range(8))) == {1, 2}
    assert (tmp_path / "was here").exists()
    assert bar_position() is None
