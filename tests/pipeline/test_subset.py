"""Subsets of the training images are nested, exact, seeded, and have every identity."""

import itertools
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline import subset as stage
from pipeline.artifacts import read_subset
from pipeline.params import SubsetSettings, load_params
from tests import REPOSITORY

SHIPPED = REPOSITORY / "profiles/embedded.yaml"


def training_set(images_per_identity: list[int]) -> pd.DataFrame:
    rows = [
        (f"{pid:04d}_{n}.jpg", pid) for pid, count in enumerate(images_per_identity) for n in range(count)
    ]
    return pd.DataFrame(rows, columns=["image", "pid"])


COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=20)
PERCENTS = st.sets(st.integers(1, 99), min_size=1, max_size=6).map(lambda percents: tuple(sorted(percents)))


@pytest.mark.slow
@settings(deadline=None)
@given(counts=COUNTS, percents=PERCENTS, seed=st.integers(0, 99))
def test_subsets_are_nested_exact_and_cover_everybody(
    counts: list[int], percents: tuple[int, ...], seed: int
) -> None:
    train = training_set(counts)
    assume(percents[0] * len(train) / 100 >= len(counts))
    subsets = stage.draw_subsets(train, SubsetSettings(percents=percents, seed=seed))
    pid = train.set_index("image").pid
    assert list(subsets) == [*percents, 100]
    for percent, images in subsets.items():
        assert len(images) == int(percent * len(train) / 100 + 0.5)
        assert images == sorted(set(images))
        assert set(pid[images]) == set(pid)
    ordered = list(subsets.values())
    assert all(set(small) <= set(large) for small, large in itertools.pairwise(ordered))
    assert set(ordered[-1]) == set(train.image)


@pytest.mark.slow
@settings(deadline=None)
@given(counts=COUNTS, percent=st.integers(1, 99))
def test_a_subset_that_would_miss_somebody_is_refused_with_the_least_percent(
    counts: list[int], percent: int
) -> None:
    train = training_set(counts)
    assume(int(percent * len(train) / 100 + 0.5) < len(counts))
    with pytest.raises(ValueError, match=rf"subset.percents has {percent}; expected at least \d+") as caught:
        stage.draw_subsets(train, SubsetSettings(percents=(percent,), seed=0))
    least = int(str(caught.value).split("at least ")[1].split(",")[0])
    assert least > percent
    if least < 100:
        stage.draw_subsets(train, SubsetSettings(percents=(least,), seed=0))
        with pytest.raises(ValueError):
            stage.draw_subsets(train, SubsetSettings(percents=(least - 1,), seed=0))


def test_the_draw_follows_the_seed_and_not_the_order_of_the_rows() -> None:
    train = training_set([9] * 10)
    settings = SubsetSettings(percents=(20, 60), seed=0)
    subsets = stage.draw_subsets(train, settings)
    assert subsets == stage.draw_subsets(train.sample(frac=1, random_state=1), settings)
    assert subsets[20] != stage.draw_subsets(train, SubsetSettings(percents=(20, 60), seed=1))[20]
    assert subsets[20] == stage.draw_subsets(train, SubsetSettings(percents=(20,), seed=0))[20]


def test_every_image_can_be_drawn_first() -> None:
    """Whichever image stands for an identity is random too."""
    train = training_set([3, 3])
    subsets = [stage.draw_subsets(train, SubsetSettings(percents=(34,), seed=seed))[34] for seed in range(40)]
    assert {image for images in subsets for image in images} == set(train.image)


def small_batches(text: str) -> str:
    return text.replace("identities_per_batch: 12", "identities_per_batch: 2").replace(
        "images_per_identity: 4 # K", "images_per_identity: 2 # K"
    )


def test_the_stage_leaves_validation_and_test_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = training_set([10] * 4)
    index["split"] = ["train"] * 20 + ["val_query"] * 10 + ["gallery"] * 10
    monkeypatch.chdir(tmp_path)
    shipped = SHIPPED.read_text()
    Path("params.yaml").write_text(small_batches(shipped))
    monkeypatch.setattr(stage, "read_index", lambda: index.assign(pid=range(40)))
    Path("data/subsets").mkdir(parents=True)
    Path("data/subsets/35.csv").write_text("of older parameters")
    with pytest.raises(ValueError, match=r"subset.percents has 20"):
        stage.main()
    assert Path("data/subsets/35.csv").exists()
    monkeypatch.setattr(stage, "read_index", lambda: index)
    stage.main()
    assert sorted(path.name for path in Path("data/subsets").iterdir()) == [
        "100.csv",
        "20.csv",
        "40.csv",
        "60.csv",
        "80.csv",
    ]
    assert read_subset(100) == sorted(index.image[:20])
    assert len(read_subset(20)) == 4
    Path("params.yaml").write_text(shipped)
    with pytest.raises(ValueError) as caught:
        stage.main()
    assert str(caught.value) == "reid.identities_per_batch is 12; expected at most 2, the training identities"
    assert len(read_subset(20)) == 4


def test_a_batch_larger_than_the_smallest_subset_is_refused() -> None:
    train, reid = training_set([10] * 4), load_params(SHIPPED).reid
    subsets = stage.draw_subsets(train, SubsetSettings(percents=(25, 50), seed=0))
    fits = reid.model_copy(update={"identities_per_batch": 2, "images_per_identity": 5})
    stage.check_batch(train, subsets, fits)
    with pytest.raises(ValueError) as caught:
        stage.check_batch(train, subsets, fits.model_copy(update={"images_per_identity": 6}))
    assert str(caught.value) == (
        "reid.images_per_identity is 6; expected at most 5, for a batch of 2 x 6 images is larger than the "
        "25 % subset, which has 10"
    )


def test_validation_queries_need_a_match_in_another_camera() -> None:
    rows = [(1, 1, "val_query"), (1, 1, "val_gallery"), (2, 3, "val_query"), (9, 2, "val_gallery")]
    index = pd.DataFrame(rows, columns=["pid", "camid", "split"])
    with pytest.raises(ValueError) as caught:
        stage.check_validation(index)
    assert str(caught.value) == (
        "index.validation_identities is 2; expected more, since reid.evaluate_on is validation and no query "
        "of theirs has an image of its identity from another camera"
    )
    index.loc[3, "pid"] = 2
    stage.check_validation(index)
