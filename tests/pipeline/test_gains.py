"""Where the gain comes from: groups of queries, paired by query and seed, with intervals over people."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from generator.keypoints import pose_distance
from pipeline import gains as stage
from pipeline import poses
from pipeline.artifacts import GAINS, GAINS_FIGURE, REID_RESULTS, read_poses
from pipeline.datasets.indexing import index_dataset
from pipeline.params import IndexSettings, load_params
from pipeline.runtime.outputs import write_csv
from tests import REPOSITORY

SHIPPED = REPOSITORY / "profiles/embedded.yaml"


def rankings(queries: list[str], ap: float, seeds: tuple[int, ...] = (0, 1)) -> pd.DataFrame:
    """Rankings at 20 % in which the query number i has ap + i, and 10 points more in camera 2's gallery."""
    rows = [(20, seed, query, ap + i + seed) for seed in seeds for i, query in enumerate(queries)]
    frame = pd.DataFrame(rows, columns=["percent", "seed", "query", "ap"])
    return frame.assign(first_match=1, top="a b", ap_c1=frame.ap, ap_c2=frame.ap + 10)


def test_arms_are_paired_by_query_and_seed_whatever_the_order_of_the_rows() -> None:
    standard = rankings(["a", "b", "c"], 30.0, seeds=(0, 1, 2))
    augmented = rankings(["a", "b", "c"], 50.0).sample(frac=1, random_state=0)
    both = stage.pair(augmented, standard)  # seed 2 is of one arm alone and does not count
    assert both.ap_standard.tolist() == [30.5, 31.5, 32.5]
    assert (both.ap_augmented - both.ap_standard).tolist() == [20, 20, 20]
    assert both.ap_c2_standard.tolist() == [40.5, 41.5, 42.5]


def test_the_gain_of_a_group_and_its_interval() -> None:
    """With one query per person the bootstrap over people agrees with the normal interval of a mean."""
    rng = np.random.default_rng(0)
    n = 400
    standard = pd.Series(rng.uniform(20, 60, n))
    augmented = standard + rng.normal(5, 8, n)
    everybody = pd.Series(["all"] * n)
    (row,) = stage.gain_by(everybody, standard, standard, augmented, pd.Series(range(n))).itertuples()
    gain = augmented - standard
    assert (row.group, row.queries, row.identities) == ("all", n, n)
    assert row.gain == pytest.approx(gain.mean()) and row.standard == pytest.approx(standard.mean())
    half = 1.96 * gain.std() / np.sqrt(n)
    assert (row.low, row.high) == pytest.approx((gain.mean() - half, gain.mean() + half), abs=0.15 * half)


def test_queries_of_one_person_do_not_count_as_independent() -> None:
    """Each person four times over: four times the queries, the same knowledge, the same interval."""
    gain = pd.Series(np.random.default_rng(0).normal(5, 8, 60))
    zero = pd.Series(0.0, gain.index)
    once = stage.gain_by(zero, zero, zero, gain, pd.Series(gain.index))
    more = pd.concat([gain] * 4, ignore_index=True)
    zero = pd.Series(0.0, more.index)
    often = stage.gain_by(zero, zero, zero, more, pd.Series([*gain.index] * 4))
    assert often.queries.tolist() == [240] and often.identities.tolist() == [60]
    pd.testing.assert_frame_equal(once[["gain", "low", "high"]], often[["gain", "low", "high"]])


def test_a_group_of_one_person_has_no_interval_and_what_was_not_found_is_left_out() -> None:
    ap = pd.Series([10.0, 20.0, np.nan])
    group, pids = pd.Series(["x", "x", "y"]), pd.Series([7, 7, 8])
    gains = stage.gain_by(group, ap, ap, ap + 1, pids)
    assert gains.group.tolist() == ["x"] and gains.gain.tolist() == [1]
    assert gains[["low", "high"]].isna().all(axis=None)


def test_bins_hold_equally_many_and_say_their_ends() -> None:
    groups = stage.bins(pd.Series(np.arange(8.0)), 0)
    assert groups.tolist() == ["0-1"] * 2 + ["2-3"] * 2 + ["4-5"] * 2 + ["6-7"] * 2
    assert set(stage.bins(pd.Series([3.0] * 5), 1)) == {"3.0"}
    assert stage.bins(pd.Series([1.0] * 9 + [2.0]), 0).tolist() == ["1"] * 9 + ["2"]


@pytest.fixture
def index(market: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A data set with index, poses and params.yaml in the present folder."""
    monkeypatch.chdir(market.parent)
    Path("params.yaml").write_text(SHIPPED.read_text().replace("data/world", str(market)))
    index, *_ = index_dataset("market1501", market, IndexSettings(validation_identities=2, seed=0))
    write_csv(index, "data/index.csv")
    poses.main()
    return index


def test_queries_are_described_by_their_right_gallery_images(index: pd.DataFrame) -> None:
    queries = stage.describe_queries(index, "", 128)
    assert len(queries) == 6 and (queries.gallery_images == 2).all() and (queries.gallery_cameras == 1).all()
    query = index[index.image == "query/0003_c1s1_000001_00.jpg"].image.tolist()
    right = [f"bounding_box_test/0003_c2s2_00000{n}_01.jpg" for n in (1, 2)]
    apart = pose_distance(read_poses(query)[0], read_poses(right), 128)
    assert queries.pose_distance[query[0]] == pytest.approx(100 * apart.mean() / 128)
    validation = stage.describe_queries(index, "val_", 128)
    assert len(validation) == 6 and not set(validation.pid) & set(queries.pid)


@pytest.mark.slow
def test_the_stage_answers_every_question_and_draws_a_figure(
    index: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = index.image[index.split == "query"].tolist()
    standard, augmented = rankings(queries, 30.0), rankings(queries, 50.0)
    for table, own in ((standard, "standard"), (augmented, "imagpose")):
        for camera in (1, 2):  # nobody is found in the query's own camera
            table.loc[table["query"].str.contains(f"_c{camera}s"), f"ap_c{camera}"] = np.nan
        copies = [table.assign(percent=percent) for percent in (20, 40, 60, 80)]
        write_csv(pd.concat(copies), REID_RESULTS / f"{own}.queries.csv")
    models = pd.DataFrame({"percent": (20, 40, 60, 80), "n_real": (4, 8, 12, 16)})
    numbers = dict.fromkeys(("n_synthetic", "iterations", "rank1", "mAP", "mINP"), 1)
    models = models.assign(arm="standard", train_on="none", seed=0, **numbers)
    write_csv(models, REID_RESULTS / "standard.csv")
    write_csv(models.assign(arm="imagpose", train_on="all"), REID_RESULTS / "imagpose.csv")

    stage.main()
    assert "1 arms at 4 percents to compare query by query, 5 questions each" in capsys.readouterr().out
    answers = {question: pd.read_csv(GAINS / f"{question}.csv") for question in stage.QUESTIONS}
    for table in answers.values():
        assert (
            (table.gain == 20).all()
            and (table.train_on == "all").all()
            and set(table.percent) == {20, 40, 60, 80}
        )
    size = answers["subset_size"]
    assert size.value.tolist() == [2, 4, 6, 8]  # images of two training identities
    assert size.standard.tolist() == [33.0] * 4 and (size.queries == 6).all()
    assert answers["camera_pair"].group.tolist() == ["1-2", "2-1"] * 4
    assert (answers["camera_pair"].query("group == '1-2'").standard == 42.5).all()
    with Image.open(GAINS_FIGURE) as figure:
        assert min(figure.size) > 300

    write_csv(augmented.assign(seed=9), REID_RESULTS / "imagpose.queries.csv")
    with pytest.raises(ValueError, match=r"imagpose.queries.csv has no query at 20 %"):
        stage.collect(load_params())
