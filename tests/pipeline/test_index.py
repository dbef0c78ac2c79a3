"""The index lists what every public loader reads right; everything else is named with its reason."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipeline import index as stage
from pipeline.artifacts import INDEX_COLUMNS
from pipeline.datasets.images import printable
from pipeline.datasets.indexing import index_dataset
from pipeline.datasets.splits import split_leaks
from pipeline.params import IndexSettings
from pipeline.runtime.outputs import write_csv

NONE_HELD_OUT = IndexSettings(validation_identities=0, seed=0)


def test_every_image_of_a_sound_data_set_is_indexed(market: Path) -> None:
    index, rejected, _ = index_dataset("market1501", market, NONE_HELD_OUT)
    on_disk = sorted(path.relative_to(market).as_posix() for path in market.rglob("*.jpg"))
    assert sorted(index.image) == on_disk and len(rejected) == 0
    assert list(index.columns) == [
        *("image", "split", "pid", "camid", "sequence", "frame", "box", "width", "height", "md5")
    ]
    assert set(INDEX_COLUMNS) <= set(index.columns)
    row = index[index.image == "bounding_box_train/0010_c6s1_000002_01.jpg"].iloc[0]
    assert row[["split", "pid", "camid", "sequence", "frame", "box"]].tolist() == ["train", 10, 6, 1, 2, 1]
    assert row[["width", "height"]].tolist() == [64, 128]
    assert index.md5.is_unique
    assert dict(index.groupby("split").size()) == {"train": 24, "query": 6, "gallery": 14}
    assert sorted(index.pid[index.pid < 1]) == [-1, 0]


def test_public_loaders_read_the_same_identity_and_camera(market: Path) -> None:
    """What torchreid, fast-reid and reid-strong-baseline search in the whole path agrees with the index."""
    index, _, _ = index_dataset("market1501", market, NONE_HELD_OUT)
    for row in index.itertuples():
        match = re.search(r"([-\d]+)_c(\d)", str(market / str(row.image)))
        assert match is not None
        assert tuple(map(int, match.groups())) == (row.pid, row.camid)


def test_validation_identities_leave_training_whole(market: Path) -> None:
    index, _, _ = index_dataset("market1501", market, IndexSettings(validation_identities=2, seed=0))
    queries, gallery = index[index.split == "val_query"], index[index.split == "val_gallery"]
    assert set(queries.pid) == set(gallery.pid) and queries.pid.nunique() == 2
    assert not set(queries.pid) & set(index.pid[index.split == "train"])
    assert queries.groupby(["pid", "camid"]).size().tolist() == [1] * 6
    assert len(gallery) == 6
    assert (index.image.str.split("/").str[0] == "bounding_box_train").sum() == 24

    again, _, _ = index_dataset("market1501", market, IndexSettings(validation_identities=2, seed=0))
    pd.testing.assert_frame_equal(index, again)
    draws = {
        tuple(
            index_dataset("market1501", market, IndexSettings(validation_identities=1, seed=seed))[0]
            .query("split == 'val_query'")
            .pid
        )
        for seed in range(6)
    }
    assert len(draws) > 1


def test_summary_counts_what_is_there(market: Path) -> None:
    shutil.copy(
        market / "bounding_box_train/0002_c1s1_000001_01.jpg", market / "query/0003_c3s1_000007_00.jpg"
    )
    (market / "query/notes.txt").write_text("")
    summary = stage.summarise(*index_dataset("market1501", market, NONE_HELD_OUT))
    assert summary == {
        "train": {"images": 24, "identities": 4, "cameras": 3},
        "query": {"images": 7, "identities": 3, "cameras": 3},
        "gallery": {"images": 14, "identities": 3, "cameras": 3},
        "train_images_in_test": 1,
        "train_images_in_validation": 0,
        "rejected_files": 1,
    }
    assert json.loads(json.dumps(summary)) == summary


@pytest.mark.parametrize(
    "name", ["Icon\r", "a\nb.jpg", "caf\udce9.jpg", 'a,"b.jpg', "tab\t\x00", "café 0.jpg"]
)
def test_every_name_is_one_cell_of_one_line(name: str, tmp_path: Path) -> None:
    cell = printable(name)
    write_csv(pd.DataFrame({"image": [cell], "reason": ["x"]}), tmp_path / "t.csv")
    assert len((tmp_path / "t.csv").read_bytes().splitlines()) == 2
    assert pd.read_csv(tmp_path / "t.csv").image.tolist() == [cell]
    assert (cell == name) == name.isprintable()


def test_a_training_image_that_stands_in_validation_is_listed_by_itself(market: Path) -> None:
    held = IndexSettings(validation_identities=1, seed=0)
    index, *_ = index_dataset("market1501", market, held)
    first = index[index.split == "train"].image.iloc[0]
    validation = index[index.split == "val_gallery"].image.iloc[0]
    copy = f"bounding_box_train/{Path(validation).name[:4]}_c1s1_000009_01.jpg"
    shutil.copy(market / first, market / copy)  # the same picture under an identity that is held out
    index, rejected, leaked = index_dataset("market1501", market, held)
    assert leaked.to_numpy().tolist() == [[first, copy]]
    summary = stage.summarise(index, rejected, leaked)
    assert (summary["train_images_in_test"], summary["train_images_in_validation"]) == (0, 1)
    in_test, in_validation = split_leaks(index, leaked)
    assert in_test.empty and len(in_validation) == 1
