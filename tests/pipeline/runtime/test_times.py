"""Run time and memory of commands are logged, and a torn log is read as far as it goes."""

from pathlib import Path

from pipeline.runtime import times
from tests import stages

STAGE = """
import sys
from pipeline.runtime.stage import stage_main
block = bytearray(64 * 2**20)
stage_main(lambda: None if sys.argv[1] == "well" else (_ for _ in ()).throw(ValueError("bad")))
"""


def test_a_finished_stage_is_logged_with_time_and_memory(tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(STAGE)
    for end, code in (("well", 0), ("badly", 1), ("well", 0)):
        stages.run(tmp_path, "python", "-m", "stage", end, code=code)
    runs = times.read(tmp_path / ".scratch")
    assert list(runs) == ["stage well"]  # and nothing of the run that failed
    assert 0.005 < runs["stage well"].seconds < 600
    # In MiB and not in KiB. The system counts the size of the process that forked this one too.
    assert 64 < runs["stage well"].peak_mib < 30_000


def test_the_last_whole_line_of_a_command_counts(tmp_path: Path) -> None:
    assert times.read(tmp_path) == {}
    line = '{"command": "pipeline.index", "started": "x", "seconds": %d, "peak_mib": 1}'
    (tmp_path / times.FILE).write_text(f"\n{line % 1}\n{line % 2}\n{line[:30]}\n[]\n" + '{"command": "cut')
    assert times.read(tmp_path) == {"pipeline.index": times.Took("pipeline.index", "x", 2, 1)}
