import fcntl
import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipeline.runtime.curve import Curve


def test_steps_that_a_resumed_run_takes_again_replace_the_old_ones(tmp_path):
    torn, whole = Curve(tmp_path / "torn.jsonl"), Curve(tmp_path / "whole.jsonl")
    for step in (1, 2, 3, 4, 5):
        whole.log(step, {"loss": 1 / step})
    for step in (1, 2, 3, 3, 4, 5):  # killed after step 3, the last checkpoint was at 2
        torn.log(step, {"loss": 1 / step})
    assert torn.table().equals(whole.table())
    assert whole.table().step.tolist() == [1, 2, 3, 4, 5]


def test_a_long_curve_is_averaged(tmp_path):
    curve = Curve(tmp_path / "curve.jsonl")
    for step in range(1, 11):
        curve.log(step, {"loss": float(step)})
    table = curve.table(points=5)
    assert table.step.tolist() == [2, 4, 6, 8, 10]
    assert table.loss.tolist() == [1.5, 3.5, 5.5, 7.5, 9.5]


def test_a_curve_can_leave_out_what_was_logged_in_between(tmp_path):
    curve = Curve(tmp_path / "curve.jsonl")
    for step in (4, 5, 8, 10, 12, 13):
        curve.log(step, {"loss": float(step)})
    assert curve.table(every=4).step.tolist() == [4, 8, 12, 13]
    assert curve.table(points=2, every=4).loss.tolist() == [6.0, 12.5]


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path):
    curve = Curve(tmp_path / "curve.jsonl")
    curve.log(1, {"loss": 1.0})
    with curve.file.open("a") as file:
        file.write('\n{"step": 2, "lo')
    curve.log(2, {"loss": 2.0})
    assert curve.table().loss.tolist() == [1.0, 2.0]


def test_dvclive_shows_each_step_of_a_resumed_run_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def plotted(name):
        return pd.read_csv(f"dvclive/plots/metrics/{name}.tsv", sep="\t").to_dict("list")

    for name in ("a", "b"):
        earlier = Curve(tmp_path / f"{name}.jsonl", f"generator/{name}")
        for step in range(1, 9):
            earlier.log(step, {"loss": 9.0, "accuracy": 0.0})
    killed = Curve(tmp_path / "curve.jsonl", "generator/a", every=2)
    for step in range(1, 8):
        killed.log(step, {"loss": 1 / step})
    assert plotted("generator/a/loss") == {"step": [2, 4, 6], "loss": [1 / 2, 1 / 4, 1 / 6]}
    Path("dvclive/metrics.json").write_text("{")  # torn by the kill
    resumed = Curve(tmp_path / "curve.jsonl", "generator/a", every=2)
    for step in range(5, 11):  # the last checkpoint was at 4
        resumed.log(step, {"loss": 10.0 * step})
    resumed.close()
    assert plotted("generator/a/loss") == {"step": [2, 4, 6, 8, 10], "loss": [1 / 2, 1 / 4, 60, 80, 100]}
    assert not Path("dvclive/plots/metrics/generator/a/accuracy.tsv").exists()  # of the earlier run
    assert len(plotted("generator/b/loss")["step"]) == 8  # another curve stays


def test_of_trainings_at_the_same_time_the_first_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("dvclive").mkdir()
    with Path("dvclive/lock").open("w") as lock:  # another process's
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = Curve(tmp_path / "second.jsonl", "reid/a")
        second.log(1, {"loss": 1.0})
    second.log(2, {"loss": 1.0})
    second.close()
    assert second.table().step.tolist() == [1, 2]
    assert [file.name for file in Path("dvclive").iterdir()] == ["lock"]
    third = Curve(tmp_path / "third.jsonl", "reid/a")
    third.log(1, {"loss": 1.0})
    third.close()
    assert pd.read_csv("dvclive/plots/metrics/reid/a/loss.tsv", sep="\t").step.tolist() == [1]


def test_a_curve_that_nobody_watches_writes_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    curve = Curve(tmp_path / "curve.jsonl")
    curve.log(1, {"loss": 1.0})
    curve.close()
    assert [file.name for file in tmp_path.iterdir()] == ["curve.jsonl"]


@pytest.mark.parametrize("broken_after", [0, 3])
def test_a_display_that_fails_ends_no_training(tmp_path, monkeypatch, broken_after):
    """Other trainings write to the folder of the display, and the disk may be full there."""
    monkeypatch.chdir(tmp_path)
    curve = Curve(tmp_path / "curve.jsonl", "generator/a")
    for step in range(1, broken_after + 1):
        curve.log(step, {"loss": 1.0})
    shutil.rmtree("dvclive", ignore_errors=True)
    Path("dvclive").write_text("no folder")
    with pytest.warns(UserWarning, match="the curve is not shown any more") as warned:
        for step in range(broken_after + 1, 7):
            curve.log(step, {"loss": 1.0})
        curve.close()
    assert len(warned) == 1
    assert curve.table().step.tolist() == [1, 2, 3, 4, 5, 6]


def test_a_display_that_fails_at_its_end_ends_no_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    curve = Curve(tmp_path / "curve.jsonl", "generator/a")
    curve.log(1, {"loss": 1.0})
    shutil.rmtree("dvclive")
    Path("dvclive").write_text("no folder")
    with pytest.warns(UserWarning, match="the curve is not shown any more"):
        curve.close()


def test_a_curve_that_was_removed_is_named_with_the_mend(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"curve\.jsonl is missing, .* remove .* to train again"):
        Curve(tmp_path / "curve.jsonl").table()
