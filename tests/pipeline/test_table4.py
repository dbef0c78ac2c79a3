"""Table 4's statistics agree with hand and library, and nothing is compared that may not be."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.container import BarContainer
from PIL import Image
from scipy import stats

from pipeline import table4 as stage
from pipeline.artifacts import REID_RESULTS, RESULT_COLUMNS
from pipeline.params import load_params
from pipeline.runtime.outputs import write_csv
from pipeline.shared.statistics import interval, summarise
from tests import REPOSITORY

PARAMS = load_params(REPOSITORY / "profiles/embedded.yaml")


def models(arm: str, train_on: str, percent: int, rank1: list[float], **changes: Any) -> pd.DataFrame:
    frame = pd.DataFrame({"seed": range(len(rank1)), "rank1": rank1})
    frame = frame.assign(arm=arm, train_on=train_on, percent=percent, n_real=percent, n_synthetic=5)
    frame = frame.assign(iterations=100, mAP=frame.rank1 / 2, mINP=frame.rank1 / 4, **changes)
    return frame[[*RESULT_COLUMNS, *changes.keys() - RESULT_COLUMNS.keys()]]


STANDARD = [50.0, 52.0, 54.0]
AUGMENTED = [60.0, 61.0, 67.0]
ROWS = pd.concat(
    [
        models("standard", "none", 20, STANDARD),
        models("imagpose", "all", 20, AUGMENTED),
        models("standard", "none", 100, [70.0, 72.0, 74.0]),
    ]
)


def test_a_case_done_by_hand() -> None:
    cell = summarise(ROWS)["imagpose"]["all"]["20"]
    assert cell["seeds"] == 3 and cell["n_real"] == 20 and cell["n_synthetic"] == 5
    # t(0.975, 2) = 4.3027. Gains are 10, 9 and 13: mean 10.667, sd 2.0817.
    assert cell["rank1"]["mean"] == pytest.approx(188 / 3, abs=1e-3)
    assert cell["rank1"]["sd"] == pytest.approx(3.786, abs=1e-3)
    assert cell["rank1"]["gain"] == pytest.approx(10.667, abs=1e-3)
    assert cell["rank1"]["gain_high"] - cell["rank1"]["gain"] == pytest.approx(
        4.3027 * 2.0817 / math.sqrt(3), abs=2e-3
    )
    assert cell["rank1"]["recovered"] == pytest.approx(10.667 / 20, abs=1e-3)
    assert cell["mAP"]["gain"] == pytest.approx(10.667 / 2, abs=1e-3)


JUDGES = pd.concat(
    [
        ROWS.assign(judge="reid"),
        models("standard@osnet", "none", 20, [20.0, 22.0, 24.0], judge="osnet"),
        models("standard@osnet", "none", 100, [60.0, 62.0, 64.0], judge="osnet"),
        models("imagpose_osnet", "all", 20, [40.0, 42.0, 45.0], judge="osnet"),
    ]
)


def test_an_arm_is_compared_with_real_images_under_its_own_judge() -> None:
    summary, alone = summarise(JUDGES), summarise(ROWS)
    cell = summary["imagpose_osnet"]["all"]["20"]
    assert cell["judge"] == "osnet"
    assert cell["rank1"]["gain"] == pytest.approx(61 / 3, abs=1e-3)
    assert cell["rank1"]["recovered"] == pytest.approx(61 / 3 / 40, abs=1e-3)
    for arm, by_source in alone.items():  # another judge changes nothing but says whose the rows are
        for source, cells in by_source.items():
            for percent, numbers in cells.items():
                assert summary[arm][source][percent] == numbers | {"judge": "reid"}


def test_the_judge_is_a_column_where_there_are_several() -> None:
    text = stage.render(summarise(JUDGES), "x")
    assert "| arm            | generator saw | judge |" in text
    assert "| 20 %  | imagpose_osnet | all           | osnet |" in text
    assert "judge" not in stage.render(summarise(ROWS), "x")
    assert stage.headline(summarise(JUDGES))["standard@osnet"] == {"rank1_100": 62.0, "mAP_100": 31.0}


def test_the_figure_has_a_row_for_each_judge() -> None:
    figure = stage.draw(summarise(JUDGES), "x")
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0] == "x: rank-1 under reid" and titles[3] == "x: rank-1 under osnet"
    bars = [len([c for c in axis.containers if isinstance(c, BarContainer)]) for axis in figure.axes]
    assert bars[0] == bars[3] == 2
    (left, _) = figure.legends
    assert [text.get_text() for text in left.get_texts()] == [
        "standard (judge: reid)",
        "imagpose (generator saw: all, judge: reid)",
        "standard@osnet (judge: osnet)",
        "imagpose_osnet (generator saw: all, judge: osnet)",
        "100 % real images",
    ]


def test_intervals_agree_with_the_library() -> None:
    rng = np.random.default_rng(0)
    standard, imagpose = rng.normal(50, 3, 7), rng.normal(55, 3, 7)
    rows = pd.concat(
        [models("standard", "none", 20, list(standard)), models("imagpose", "all", 20, list(imagpose))]
    )
    summary = summarise(rows)
    paired = stats.ttest_rel(imagpose, standard).confidence_interval(0.95)
    gain = summary["imagpose"]["all"]["20"]["rank1"]
    assert (gain["gain_low"], gain["gain_high"]) == pytest.approx((paired.low, paired.high), abs=1e-3)
    alone = stats.ttest_1samp(standard, 0).confidence_interval(0.95)
    cell = summary["standard"]["none"]["20"]["rank1"]
    assert (cell["low"], cell["high"]) == pytest.approx((alone.low, alone.high), abs=1e-3)


def test_the_data_of_students_own_paper() -> None:
    """Hours of sleep under two drugs (Student, "The probable error of a mean", Biometrika 1908).

    R's t.test(extra ~ group, data = sleep, paired = TRUE) prints -2.4598858 to -0.7001142, mean -1.58.
    """
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    rows = pd.concat([models("standard", "none", 20, second), models("imagpose", "all", 20, first)])
    cell = summarise(rows)["imagpose"]["all"]["20"]["rank1"]
    assert (cell["gain"], cell["gain_low"], cell["gain_high"]) == (-1.58, -2.46, -0.7)


def test_the_interval_over_runs_is_that_of_a_linear_model_with_a_level_for_each_run() -> None:
    """An analysis of variance with fixed runs, by its normal equations; runs far apart do not widen it."""
    seeds = {0: [1.0, 4.0, 2.0], 1: [50.0, 53.0, 57.0]}
    values = pd.concat({run: pd.Series(found) for run, found in seeds.items()}, names=["run", "seed"])
    design = np.kron(np.eye(2), np.ones((3, 1)))
    levels, squares, _, _ = np.linalg.lstsq(design, values.to_numpy(), rcond=None)
    contrast = np.full(2, 0.5)
    error = np.sqrt(squares[0] / 4 * contrast @ np.linalg.inv(design.T @ design) @ contrast)
    low, high = stats.t.interval(0.95, 4, contrast @ levels, error)
    assert interval(values) == pytest.approx((contrast @ levels, low, high))
    assert interval(values.drop([(0, 1), (0, 2), (1, 1), (1, 2)]))[1:] == (None, None)


def test_seeds_that_agree_have_an_interval_of_no_width() -> None:
    assert interval(pd.Series([0.1, 0.1, 0.1])) == pytest.approx((0.1, 0.1, 0.1))


def test_a_share_of_a_gap_that_may_be_none_is_not_given() -> None:
    """100 % real images are 20 points better on average, but in one seed of three worse."""
    noisy = pd.concat([ROWS[ROWS.percent == 20], models("standard", "none", 100, [90.0, 80.0, 46.0])])
    cell = summarise(noisy)["imagpose"]["all"]["20"]
    assert cell["rank1"]["gain"] == pytest.approx(10.667, abs=1e-3) and cell["rank1"]["recovered"] is None


def test_every_measure_of_the_models_is_summarised() -> None:
    rows = ROWS.assign(rank1_rerank=ROWS.rank1 + 1, mAP_duke=ROWS.mAP)
    cell = summarise(rows)["imagpose"]["all"]["20"]
    assert cell["rank1_rerank"]["mean"] == pytest.approx(cell["rank1"]["mean"] + 1, abs=1e-3)
    assert cell["mAP_duke"] == cell["mAP"]
    text = stage.render(summarise(rows), "x")
    assert "rank-1, re-ranked" in text and "mAP, duke" in text


def test_the_gain_is_paired_by_seed_whatever_the_order_of_the_rows() -> None:
    """Seeds that move both arms alike do not widen the interval; a seed of one arm alone does not count."""
    shuffled = ROWS.sample(frac=1, random_state=0)
    assert summarise(shuffled)["imagpose"] == summarise(ROWS)["imagpose"]
    lonely = pd.concat([ROWS, models("imagpose", "all", 20, [0.0]).assign(seed=9)])
    assert summarise(lonely)["imagpose"]["all"]["20"]["rank1"]["gain"] == pytest.approx(10.667, abs=1e-3)


def test_what_cannot_be_said_is_none() -> None:
    one = summarise(ROWS[ROWS.seed == 0])["imagpose"]["all"]["20"]["rank1"]
    assert one["mean"] == 60 and one["gain"] == 10 and one["recovered"] == 0.5
    assert [one[name] for name in ("sd", "low", "high", "gain_low", "gain_high")] == [None] * 5
    alone = summarise(ROWS[ROWS.arm == "imagpose"])["imagpose"]["all"]["20"]["rank1"]
    assert alone["gain"] is None and alone["recovered"] is None
    no_gap = summarise(pd.concat([ROWS[ROWS.percent == 20], models("standard", "none", 100, STANDARD)]))
    assert no_gap["imagpose"]["all"]["20"]["rank1"]["recovered"] is None
    assert "gain" not in no_gap["standard"]["none"]["20"]["rank1"]
    json.dumps(no_gap, allow_nan=False)
    no_gain = models("imagpose", "all", 20, [STANDARD[0] + 9, STANDARD[1] - 9, STANDARD[2] + 1])
    no_gain = summarise(pd.concat([ROWS[ROWS.arm == "standard"], no_gain]))
    assert no_gain["imagpose"]["all"]["20"]["rank1"]["recovered"] is None


def test_the_headline_has_the_reference_and_each_arms_gains() -> None:
    more = models("imagpose", "all", 40, [1.0, 1.0, 1.0]), models("standard", "none", 40, [2.0, 2.0, 2.0])
    assert stage.headline(summarise(pd.concat([ROWS, *more]))) == {
        "standard": {"rank1_100": 72, "mAP_100": 36},
        "imagpose": {"gain_20": pytest.approx(32 / 3, abs=1e-3), "gain_40": -1},
    }
    leak_free = models("imagpose", "subset", 20, AUGMENTED)
    assert list(stage.headline(summarise(pd.concat([ROWS, leak_free])))) == [
        "standard",
        "imagpose_all",
        "imagpose_subset",
    ]
    lonely = stage.headline(summarise(ROWS[ROWS.arm == "imagpose"]))
    assert lonely == {
        "standard": {"rank1_100": None, "mAP_100": None},
        "imagpose": {"gain_20": None},
    }


def test_the_table_can_be_read() -> None:
    lines = stage.render(summarise(ROWS), "embedded world").splitlines()
    assert "embedded world" in lines[0]
    tables = [line for line in lines if line.startswith("|")]
    assert tables[:4] == [
        "| arm      | generator saw |        20 % |       100 % |",
        "| -------- | ------------- | ----------: | ----------: |",
        "| standard | -             | 52.0 / 26.0 | 72.0 / 36.0 |",
        "| imagpose | all           | 62.7 / 31.3 |             |",
    ]
    assert tables[4:9] == [
        "| real  | arm      | generator saw |  images | rank-1 (%) |        gain | recovered |    mAP (%) "
        "|       gain | recovered |",
        "| ----- | -------- | ------------- | ------: | ---------: | ----------: | --------: | ---------: "
        "| ---------: | --------: |",
        "| 20 %  | standard | -             |  20 + 5 | 52.0 ± 5.0 |             |           | 26.0 ± 2.5 "
        "|            |           |",
        "| 20 %  | imagpose | all           |  20 + 5 | 62.7 ± 9.4 | +10.7 ± 5.2 |      53 % | 31.3 ± 4.7 "
        "| +5.3 ± 2.6 |      53 % |",
        "| 100 % | standard | -             | 100 + 5 | 72.0 ± 5.0 |             |           | 36.0 ± 2.5 "
        "|            |           |",
    ]
    assert "| 20 %  | imagpose | all           | 15.7 (+2.7 ± 1.3) |" in tables
    alone = stage.render(summarise(ROWS[ROWS.arm == "standard"]), "x")
    assert "+0" not in alone and "nan" not in alone.lower()


def test_published_rows_are_labelled_and_come_with_their_share() -> None:
    lines = stage.render(summarise(ROWS), "embedded world").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Published, Market-1501"))
    imagpose = next(line for line in lines[start:] if "IMAGPose" in line and line.startswith("|"))
    assert "66.4 (76 %)" in imagpose  # (66.4 - 33.4) / (76.7 - 33.4)


def save(rows: pd.DataFrame, folder: Path) -> None:
    for i, (_, row) in enumerate(rows.iterrows()):
        write_csv(row.to_frame().T, folder / f"{i:02d}.csv")


def test_collecting_keeps_what_belongs_to_the_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stale = models("imagpose", "all", 20, [1.0]).assign(seed=77)
    gone = models("no-longer-an-arm", "all", 20, [1.0])
    older = models("imagpose", "all", 35, [1.0])
    extra = models("imagpose", "subset", 20, [55.0], rank5=88.0)
    save(pd.concat([ROWS, stale, gone, older, extra]), REID_RESULTS)
    (REID_RESULTS / ".imagpose.host@1.tmp.csv").write_text("arm,fra")  # of a run that is at work
    rows = stage.collect(PARAMS)
    assert rows[["arm", "train_on", "percent", "seed"]].values.tolist() == [
        *(["standard", "none", 20, seed] for seed in range(3)),
        *(["standard", "none", 100, seed] for seed in range(3)),
        *(["imagpose", "all", 20, seed] for seed in range(3)),
        ["imagpose", "subset", 20, 0],
    ]
    assert rows.rank5.dropna().tolist() == [88.0]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (ROWS[:0], "holds no results; run the stages standard and augmented"),
        (pd.concat([ROWS, ROWS[:1]]), "arm standard at 20 %, seed 0 is in two files; delete one"),
        (
            pd.concat([ROWS, models("imagpose", "subset", 20, [1.0]).assign(iterations=99)]),
            "trained for 99, 100 iterations",
        ),
        (ROWS.drop(columns="mAP"), "it has no column 'mAP'"),
    ],
)
def test_results_that_cannot_stand_in_one_table_are_refused(
    rows: pd.DataFrame, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(rows, REID_RESULTS)
    with pytest.raises(ValueError) as caught:
        stage.collect(PARAMS)
    assert sentence in str(caught.value)


def test_the_stage_writes_table_summary_text_and_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((REPOSITORY / "profiles/embedded.yaml").read_text())
    save(ROWS, REID_RESULTS)
    stage.main()
    assert len(pd.read_csv("reports/table4.csv")) == len(ROWS)
    assert json.loads(Path("reports/table4.json").read_text()) == summarise(ROWS)
    assert json.loads(Path("reports/summary.json").read_text()) == stage.headline(summarise(ROWS))
    assert Path("reports/table4.md").read_text() in capsys.readouterr().out
    for name in ("table4", "numbers"):
        with Image.open(f"reports/{name}.png") as figure:
            assert min(figure.size) > 300
    assert sorted(path.name for path in Path("reports").glob(".*")) == []


def test_the_figure_has_bars_with_intervals_and_the_published_rows_apart() -> None:
    summary = summarise(ROWS)
    figure = stage.draw(summary, "embedded world")
    rank1, _, published = figure.axes
    assert [axis.get_title() for axis in figure.axes] == [
        "embedded world: rank-1",
        "embedded world: mAP",
        "published, Market-1501: rank-1",
    ]
    bars = [container for container in rank1.containers if isinstance(container, BarContainer)]
    assert [bar.patches[0].get_height() for bar in bars] == pytest.approx([52, 188 / 3], abs=1e-3)
    for bar, arm, source in zip(bars, ("standard", "imagpose"), ("none", "all"), strict=True):
        (segment,) = bar.errorbar.lines[2][0].get_segments()
        cell = summary[arm][source]["20"]["rank1"]
        assert segment[:, 1] == pytest.approx([cell["low"], cell["high"]], abs=2e-3)
    heights = [[patch.get_height() for patch in bar.patches] for bar in published.containers]
    assert heights == [list(values) for values in stage.PUBLISHED.values()]
    own, theirs = ([text.get_text() for text in legend.get_texts()] for legend in figure.legends)
    assert own == ["standard", "imagpose (generator saw: all)", "100 % real images"]
    assert theirs == [*stage.PUBLISHED, "100 % real images"]


def test_gains_are_drawn_over_the_number_of_images_per_real_one() -> None:
    """A line for each share; arms that differ in nothing else are on it."""
    fewer = models("fewer", "all", 20, [55.0, 54.0, 60.0]).assign(n_synthetic=2)
    beyond = models("imagpose", "all", 100, [71.0, 72.0, 76.0]).assign(n_synthetic=200)
    summary = summarise(pd.concat([ROWS, fewer, beyond]))
    figure = stage.draw_numbers(summary, [["imagpose", "fewer"], ["absent"]], "embedded world")
    assert len(figure.axes) == 4
    lines = [container.lines[0].get_xydata() for container in figure.axes[0].containers]
    gains = {arm: summary[arm]["all"] for arm in ("imagpose", "fewer")}
    assert [len(line) for line in lines] == [2, 1]
    at_20, at_100 = lines
    assert at_20[:, 0] == pytest.approx([2 / 20, 5 / 20], rel=0.05)
    assert at_20[:, 1] == pytest.approx([gains[arm]["20"]["rank1"]["gain"] for arm in ("fewer", "imagpose")])
    assert at_100[0] == pytest.approx([2, gains["imagpose"]["100"]["rank1"]["gain"]], rel=0.05)
    assert stage.draw_numbers(summary, [], "x").axes, "no arm has generated images"


def test_a_gain_is_a_share_of_what_rendered_images_gain() -> None:
    perfect = models("perfect", "other", 20, [70.0, 72.0, 75.0])
    rows = pd.concat([ROWS, perfect]).assign(bound=lambda rows: rows.arm.map({"imagpose": "perfect"}))
    summary = summarise(rows)
    cell = summary["imagpose"]["all"]["20"]["rank1"]
    assert cell["possible"] == pytest.approx((32 / 3) / (61 / 3), abs=1e-3)
    assert summary["perfect"]["other"]["20"]["rank1"]["possible"] is None
    text = stage.render(summary, "x")
    row = next(line for line in text.splitlines() if line.startswith("| 20 %  | imagpose"))
    assert "of possible" in text and row.count("52 %") == 2
    assert "of possible" not in stage.render(summarise(ROWS), "x")


def test_arms_at_100_percent_have_a_gain_and_no_share_of_a_gap() -> None:
    beyond = models("imagpose", "all", 100, [71.0, 72.0, 76.0])
    summary = summarise(pd.concat([ROWS, beyond]))
    cell = summary["imagpose"]["all"]["100"]["rank1"]
    assert cell["gain"] == pytest.approx(1) and cell["recovered"] is None
    axis = stage.draw(summary, "x").axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["20", "100"]
    assert stage.headline(summary)["imagpose"]["gain_100"] == pytest.approx(1)


def test_one_seed_and_no_reference_can_be_drawn() -> None:
    rows = ROWS[(ROWS.seed == 0) & (ROWS.percent == 20)]
    figure = stage.draw(summarise(rows), "x")
    assert len(figure.axes[0].containers) == 2


def test_no_two_of_many_arms_look_alike() -> None:
    imagpose = ROWS[ROWS.arm == "imagpose"]
    rows = pd.concat([ROWS[ROWS.arm == "standard"], *(imagpose.assign(arm=f"arm{i}") for i in range(12))])
    axis = stage.draw(summarise(rows), "x").axes[0]
    bars = [container for container in axis.containers if isinstance(container, BarContainer)]
    looks = {(bar.patches[0].get_facecolor(), bar.patches[0].get_hatch()) for bar in bars}
    assert len(bars) == len(looks) == 13
