from pipeline.curve import Curve


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


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path):
    curve = Curve(tmp_path / "curve.jsonl")
    curve.log(1, {"loss": 1.0})
    with curve.file.open("a") as file:
        file.write('\n{"step": 2, "lo')
    curve.log(2, {"loss": 2.0})
    assert curve.table().loss.tolist() == [1.0, 2.0]
