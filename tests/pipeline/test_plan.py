"""A plan is made of its subset alone, fills identities evenly, and names images as loaders read them."""

import re
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import plan as stage
from pipeline.artifacts import PLAN_COLUMNS, PLANS, read_needs, read_plan
from pipeline.datasets.loaders import read_as_loaders
from pipeline.params import PlanSettings
from pipeline.runtime.outputs import write_csv
from tests import embedded, write_params
from tests.pipeline.market import keypoints_frame

SETTINGS = PlanSettings(sources=1, poses_per_joint=3, min_keypoints=8, seed=0)


def subset_of(images_per_identity: list[int]) -> pd.DataFrame:
    rows = [
        (f"bounding_box_train/{pid:04d}_c{n % 6 + 1}s1_{n:06d}_01.jpg", pid, n % 6 + 1)
        for pid, count in enumerate(images_per_identity, start=1)
        for n in range(count)
    ]
    return pd.DataFrame(rows, columns=["image", "pid", "camid"])


def plan_of(counts: list[int], count: int, **changes: int) -> pd.DataFrame:
    subset = subset_of(counts)
    settings = SETTINGS.model_copy(update=changes)
    return stage.make_plan(subset, np.full(len(subset), 18), count, 20, settings)


@pytest.mark.slow
@settings(deadline=None)
@given(
    counts=st.lists(st.integers(1, 6), min_size=4, max_size=8),
    count=st.integers(1, 60),
    layout=st.sampled_from([(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1)]),
    seed=st.integers(0, 9),
)
def test_every_plan_keeps_the_rules(
    counts: list[int], count: int, layout: tuple[int, int], seed: int
) -> None:
    sources, poses_per_joint = layout
    if sum(counts) < 4:
        return
    subset = subset_of(counts)
    whole = plan_of(counts, count, sources=sources, poses_per_joint=poses_per_joint, seed=seed)
    pid, camid = (subset.set_index("image")[column] for column in ("pid", "camid"))

    # An arm of so many images has the first by order; the others complete the last joint images.
    plan = whole[whole.order < count]
    assert len(plan) == count and whole.name.is_unique and whole.order.is_unique
    assert set(whole.joint) == set(plan.joint)
    assert plan.seed.between(0, 2**32 - 1).all()
    for row in whole.itertuples():
        images = str(row.sources).split("|")
        assert len(set(images)) == len(images) == min(sources, counts[row.pid - 1])
        assert set(pid[images]) == {row.pid} and row.camid == camid[images[0]]
        assert row.pose in pid.index and row.pose not in images
        assert str(row.name).startswith(Path(images[0]).stem + "_g")
        match = re.search(r"([-\d]+)_c(\d)", str(row.name))  # what public loaders read
        assert match is not None and tuple(map(int, match.groups())) == (row.pid, row.camid)

    for joint, rows in whole.groupby("joint"):
        assert rows[["pid", "sources", "scenario"]].drop_duplicates().shape[0] == 1
        assert rows.index.tolist() == list(range(rows.index[0], rows.index[-1] + 1)), joint
        assert len(rows) + rows.sources.iloc[0].count("|") + 1 <= 4
        assert len(rows) == poses_per_joint and rows.pose.is_unique
    assert whole.joint.is_monotonic_increasing and whole.index.tolist() == list(range(len(whole)))

    final = Counter(subset.pid) + Counter(plan.pid)
    received = [final[n] for n in set(plan.pid)]
    assert not received or max(received) - min(final.values()) <= 1


def test_identities_are_filled_from_below() -> None:
    plan = plan_of([1, 2, 9, 3], 6)
    assert dict(Counter(plan[plan.order < 6].pid)) == {1: 3, 2: 2, 4: 1}


@pytest.mark.parametrize("layout", [(1, 1), (1, 3), (2, 2)])
def test_a_longer_plan_begins_with_a_shorter_one(layout: tuple[int, int]) -> None:
    """So the images of a smaller arm are among those of a larger one, and none is generated twice."""
    changes = dict(zip(("sources", "poses_per_joint"), layout, strict=True))
    plans = [plan_of([1, 2, 9, 3, 4, 4], count, **changes) for count in (1, 5, 17, 40)]
    for short, long in pairwise(plans):
        assert len(short) < len(long)
        pd.testing.assert_frame_equal(short, long.head(len(short)))


def test_a_plan_of_no_image_is_empty() -> None:
    plan = plan_of([1], 0)
    assert plan.empty and list(plan) == list(PLAN_COLUMNS)


@pytest.mark.parametrize(
    ("sources", "poses_per_joint", "counts", "scenarios"),
    [
        (1, 1, [4, 4], {"T1"}),
        (1, 3, [4, 4], {"multi"}),
        (2, 2, [4, 4], {"multi"}),
        (3, 1, [4, 4], {"T3"}),
        (3, 1, [1, 5], {"T2"}),
    ],
)
def test_scenarios_follow_sources_and_poses(
    sources: int, poses_per_joint: int, counts: list[int], scenarios: set[str]
) -> None:
    plan = plan_of(counts, 4 if counts == [1, 5] else 12, sources=sources, poses_per_joint=poses_per_joint)
    assert set(plan.scenario) == scenarios


def test_poses_show_enough_keypoints() -> None:
    subset = subset_of([5, 5])
    visible = np.array([18, 7, 8, 0, 8] * 2)
    plan = stage.make_plan(subset, visible, 30, 20, SETTINGS)
    assert set(plan.pose) == set(subset.image[visible >= 8])
    with pytest.raises(
        ValueError, match=r"plan.min_keypoints is 9; only 2 images of the 20 % .* at least 4"
    ) as caught:
        stage.make_plan(
            subset, visible, 30, 20, PlanSettings(**{**SETTINGS.model_dump(), "min_keypoints": 9})
        )
    assert "\n" not in str(caught.value)


def test_the_draw_follows_the_seed_and_not_the_order_of_the_rows() -> None:
    subset = subset_of([3, 4, 5, 6])
    visible = np.arange(len(subset)) % 4 * 6
    plan = stage.make_plan(subset, visible, 40, 20, SETTINGS)
    shuffled = np.random.default_rng(1).permutation(len(subset))
    again = stage.make_plan(subset.iloc[shuffled], visible[shuffled], 40, 20, SETTINGS)
    pd.testing.assert_frame_equal(plan, again)
    for other in (plan_of([3, 4, 5, 6], 40, seed=1), stage.make_plan(subset, visible, 40, 40, SETTINGS)):
        assert plan.pose.tolist() != other.pose.tolist()
        assert not set(plan.seed) & set(other.seed)
    assert plan.seed.is_unique


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A run with 24 training images of four people up to the stage subset, at 50 %; returns its index."""
    monkeypatch.chdir(tmp_path)
    index = subset_of([6] * 4).assign(
        split="train", sequence=1, frame=1, box=1, width=64, height=128, md5="0"
    )
    write_csv(index, "data/index.csv")
    write_csv(keypoints_frame(index.image.tolist()), "data/poses.csv")
    for percent, images in ((50, sorted(index.image)[::2]), (100, sorted(index.image))):
        write_csv(pd.DataFrame({"image": images}), f"data/subsets/{percent}.csv")
    return index


def run(changes: dict[str, object]) -> dict[str, bytes]:
    """Run the stage with the shipped parameters changed, and return its files."""
    write_params(Path(), embedded({"subset.percents": [50], **changes}))
    stage.main()
    return {str(file.relative_to(PLANS)): file.read_bytes() for file in PLANS.rglob("*.*")}


@pytest.mark.usefixtures("project")
def test_the_stage_writes_a_plan_for_every_subset_and_what_the_arms_need() -> None:
    files = run({"arms": {"imagpose": {"generator": "all"}}})
    plan = read_plan("all", 50)
    assert list(plan) == list(PLAN_COLUMNS) and sorted(plan.order[plan.order < 12]) == list(range(12))
    assert set(files) == {"all/needs.json", "all/50.csv"} and read_needs("all") == {50: 12}


@pytest.mark.usefixtures("project")
def test_a_plan_is_as_long_as_the_largest_arm_of_its_generator_needs() -> None:
    few = {"to": 75, "generator": "subset"}
    more = {"ratio": 2.5, "generator": "sure"}
    filters = {"sure": {"generator": "all", "min_agreement": 0.5}}
    both = {"generator.train_on": ["all", "subset"], "subset.percents": [50, 100], "filters": filters}
    arms = {"half": {"images": 50, "generator": "all"}, "few": few, "more": more}
    run(both | {"arms": arms})
    # 12 real images at 50 %, 24 at 100 %
    assert read_needs("subset") == {50: 6} and read_plan("subset", 100).empty
    assert read_needs("all") == read_needs("sure") == {50: 30, 100: 60}
    assert len(read_plan("all", 100)) >= 60


@pytest.mark.usefixtures("project")
def test_a_plan_reads_nothing_of_images_outside_its_subset(project: pd.DataFrame) -> None:
    """With all rows of other images removed from the index and the poses, the plan is the same."""
    plans = run({})
    subset = set(pd.read_csv("data/subsets/50.csv").image)
    poses = pd.read_csv("data/poses.csv")
    shutil.rmtree("data/plans")
    write_csv(project[project.image.isin(subset)], "data/index.csv")
    write_csv(poses[poses.image.isin(subset)], "data/poses.csv")
    assert run({}) == plans


def test_where_poses_lend_their_surroundings_images_are_of_their_cameras() -> None:
    subset = subset_of([6] * 8)
    visible, camid = np.full(len(subset), 18), subset.set_index("image").camid
    own, lent = (
        stage.make_plan(subset, visible, 60, 20, SETTINGS, surroundings) for surroundings in (False, True)
    )
    unchanged = [column for column in PLAN_COLUMNS if column not in ("name", "camid", "seed")]
    pd.testing.assert_frame_equal(own[unchanged], lent[unchanged])
    assert own.camid.tolist() == camid[own.sources].tolist()
    assert lent.camid.tolist() == camid[lent.pose].tolist() != own.camid.tolist()
    assert lent.name.is_unique
    for name, pid, camera in zip(lent.name, lent.pid, lent.camid, strict=True):
        assert name.startswith(f"{pid:04d}_c{camera}") and read_as_loaders(name) == (pid, camera)
