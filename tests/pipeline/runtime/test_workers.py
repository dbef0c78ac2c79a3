import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from pipeline.runtime.workers import bar_position, worker_pool

STAGE = """
import time
from pipeline.runtime.workers import worker_pool
if __name__ == "__main__":
    with worker_pool(2) as pool:
        for _ in range(2):
            pool.submit(time.sleep, 600)
        while len(pool._processes) < 2:
            time.sleep(0.01)
        print(*pool._processes, flush=True)
        time.sleep(600)
"""


def is_running(pid):
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "Z"  # a killed one may wait to be asked how it ended
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_workers_die_with_a_stage_that_is_killed(tmp_path):
    script = tmp_path / "stage.py"
    script.write_text(STAGE)
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2 and all(map(is_running, workers))
    time.sleep(1)  # until they have asked to be told
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(200):
        if not any(map(is_running, workers)):
            return
        time.sleep(0.05)
    pytest.fail("the workers still run")


def number(_):
    time.sleep(0.2)  # until the other has one, too
    return bar_position()


def test_every_worker_is_set_up_and_has_a_line_for_its_bar(tmp_path):
    with worker_pool(2, setup=partial(Path.touch, tmp_path / "was here")) as pool:
        assert set(pool.map(number, range(8))) == {1, 2}
    assert (tmp_path / "was here").exists()
    assert bar_position() is None
