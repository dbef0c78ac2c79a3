"""What stages took is logged beside the outputs, and a torn log is read as far as it goes."""

import subprocess
import sys
from pathlib import Path

from pipeline.runtime import times

STAGE = """
import sys
from pipeline.runtime.outputs import stage_main
block = bytearray(64 * 2**20)
stage_main(lambda: None if sys.argv[1] == "well" else (_ for _ in ()).throw(ValueError("bad")))
"""


def test_a_finished_stage_is_logged_with_time_and_memory(tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(STAGE)
    for how, code in (("well", 0), ("badly", 1), ("well", 0)):
        done = subprocess.run([sys.executable, "-m", "stage", how], cwd=tmp_path, capture_output=True)
        assert done.returncode == code
    found = times.read(tmp_path / ".scratch")
    assert list(found) == ["stage well"]  # and nothing of the run that failed
    assert 0.05 < found["stage well"].seconds < 600
    # In MiB and not in KiB. The system counts the size of the process that forked this one too: these tests'.
    assert 64 < found["stage well"].peak_mib < 30_000


def test_the_last_whole_line_of_a_command_counts(tmp_path: Path) -> None:
    assert times.read(tmp_path) == {}
    line = '{"command": "pipeline.index", "started": "x", "seconds": %d, "peak_mib": 1}'
    (tmp_path / times.FILE).write_text(f"\n{line % 1}\n{line % 2}\n{line[:30]}\n[]\n" + '{"command": "cut')
    assert times.read(tmp_path) == {"pipeline.index": times.Took("pipeline.index", "x", 2, 1)}
