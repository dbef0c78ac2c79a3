"""The index lists what every public loader reads right; everything else is named with its reason."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import index as stage
from pipeline.params import IndexSettings
from tests.pipeline.market import save_image

NONE_HELD_OUT = IndexSettings(validation_identities=0, seed=0)


def test_every_image_of_a_sound_data_set_is_indexed(market: Path) -> None:
    index, rejected = stage.index_dataset(market, NONE_HELD_OUT)
    on_disk = sorted(path.relative_to(market).as_posix() for path in market.rglob("*.jpg"))
    assert sorted(index.image) == on_disk and len(rejected) == 0
    assert list(index.columns) == list(stage.COLUMNS)
    row = index[index.image == "bounding_box_train/0010_c6s1_000002_01.jpg"].iloc[0]
    assert row[["split", "pid", "camid", "sequence", "frame", "box"]].tolist() == ["train", 10, 6, 1, 2, 1]
    assert row[["width", "height"]].tolist() == [64, 128]
    assert index.md5.is_unique
    assert dict(index.groupby("split").size()) == {"train": 24, "query": 6, "gallery": 14}
    assert sorted(index.pid[index.pid < 1]) == [-1, 0]


def test_public_loaders_read_the_same_identity_and_camera(market: Path) -> None:
    """What torchreid, fast-reid and reid-strong-baseline search in the whole path agrees with the index."""
    index, _ = stage.index_dataset(market, NONE_HELD_OUT)
    for row in index.itertuples():
        match = re.search(r"([-\d]+)_c(\d)", str(market / str(row.image)))
        assert match is not None
        assert tuple(map(int, match.groups())) == (row.pid, row.camid)


MISNAMED = [
    "0002_p12_c1s1_000451_03.jpg",
    "0002_c12s1_000451_03.jpg",
    "0002_c0s1_000451_03.jpg",
    "0002_c7s1_000451_03.jpg",
    "0002_s1_000451_03.jpg",
    "2_c1s1_000451_03.jpg",
    "00002_c1s1_000451_03.jpg",
    "-2_c1s1_000451_03.jpg",
    "0002_c1_000451_03.jpg",
    "0002_c1s1_451_03.jpg",
    "0002_c1s1_000451.jpg",
    "0002_c1s1_000451_03_g1.jpg",
    "0002_C1s1_000451_03.jpg",
    "0002_c1s1_000451_03 .jpg",
    " 0002_c1s1_000451_03.jpg",
    "0002_c1s1_000451_03\n.jpg",
    "٠٠٠٢_c1s1_000451_03.jpg",
    "copy of 0002_c1s1_000451_03.jpg",
    ".jpg.jpg",
]
OTHER_NAMES = {
    "0002_c1s1_000451_03.png": "public loaders read only *.jpg",
    "0002_c1s1_000451_03.JPG": "public loaders read only *.jpg",
    "0002_c1s1_000451_03.jpeg": "public loaders read only *.jpg",
    "0002_c1s1_000451_03.jpg\n": "public loaders read only *.jpg",
    "Thumbs.db": "public loaders read only *.jpg",
    "1502_c1s1_000451_03.jpg": "identity 1502 is over 1501, the last one that public loaders take",
    "0000_c1s1_000451_03.jpg": "distractors (0000) and junk (-1) belong in bounding_box_test",
    "-1_c1s1_000451_03.jpg": "distractors (0000) and junk (-1) belong in bounding_box_test",
}


@pytest.mark.parametrize("name", [*MISNAMED, *OTHER_NAMES])
def test_a_misnamed_file_is_listed(name: str, market: Path) -> None:
    shutil.copy(market / "query/0003_c1s1_000001_00.jpg", market / "bounding_box_train" / name)
    index, rejected = stage.index_dataset(market, NONE_HELD_OUT)
    form = "the name is not of the form 0002_c1s1_000451_03.jpg with cameras c1 to c6"
    assert rejected.values.tolist() == [[f"bounding_box_train/{name}", OTHER_NAMES.get(name, form)]]
    assert len(index) == 44


@pytest.mark.parametrize("name", ["0002_c1s1_000451_03_g0001.jpg", "0002_c6s12_000000_99.jpg"])
def test_a_synthetic_or_unusual_name_is_valid(name: str, market: Path) -> None:
    save_image(market / "bounding_box_train" / name)
    _, rejected = stage.index_dataset(market, NONE_HELD_OUT)
    assert len(rejected) == 0


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def save_as(kind: str, mode: str) -> Callable[[Path], None]:
    return lambda path: Image.open(path).convert(mode).save(path, kind)


def turn(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def enlarge_to(side: int) -> Callable[[Path], None]:
    return lambda path: Image.new("L", (side, side)).save(path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: path.write_bytes(b"not an image"), "no image, or a far too large one"),
        (truncate, "damaged or unreadable: image file is truncated"),
        (save_as("PNG", "RGB"), "a PNG file named .jpg"),
        (save_as("JPEG", "CMYK"), "colour mode CMYK; expected RGB or grey"),
        (turn, "EXIF orientation 6; loaders that ignore it see the person turned"),
        (enlarge_to(20_000), "no image, or a far too large one"),
        (enlarge_to(5_000), "5000 x 5000 pixels are no crop of a person"),
        (loop, "a broken link"),
        (make_folder, "a folder"),
    ],
)
def test_an_unusable_file_is_listed(spoil: Callable[[Path], None], reason: str, market: Path) -> None:
    image = "bounding_box_train/0002_c1s1_000001_01.jpg"
    spoil(market / image)
    index, rejected = stage.index_dataset(market, NONE_HELD_OUT)
    assert rejected.image.tolist() == [image] and rejected.reason[0].startswith(reason)
    assert image not in set(index.image)


def test_grey_and_linked_images_are_valid(market: Path, tmp_path: Path) -> None:
    path = market / "bounding_box_train/0002_c1s1_000001_01.jpg"
    Image.open(path).convert("L").save(tmp_path / "elsewhere.jpg")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere.jpg")
    index, rejected = stage.index_dataset(market, NONE_HELD_OUT)
    assert len(index) == 44 and len(rejected) == 0


def test_a_name_that_is_no_text_is_listed(market: Path) -> None:
    (market / "query" / "caf\udce9.jpg").write_bytes(b"")
    _, rejected = stage.index_dataset(market, NONE_HELD_OUT)
    assert rejected.image.tolist() == ["query/caf\\udce9.jpg"]


def test_missing_and_empty_folders_are_refused(market: Path) -> None:
    for image in (market / "query").iterdir():
        image.rename(image.with_suffix(".png"))
    with pytest.raises(
        ValueError, match=r"query holds no image that can be used; 6 files are rejected, the fir"
    ):
        stage.index_dataset(market, NONE_HELD_OUT)
    shutil.rmtree(market / "query")
    with pytest.raises(
        ValueError, match=r"query is missing; a data set in Market-1501 format has bounding_box_t"
    ):
        stage.index_dataset(market, NONE_HELD_OUT)
    (market / "query").mkdir()
    with pytest.raises(ValueError, match=r"query holds no image that can be used$"):
        stage.index_dataset(market, NONE_HELD_OUT)


@pytest.mark.parametrize("name", ["exp_20_c2", "7_c1", "run-_c3"])
def test_a_root_that_misleads_public_loaders_is_refused(name: str, market: Path) -> None:
    root = market.rename(market.parent / name)
    with pytest.raises(ValueError, match="public loaders read an identity and a camera from this path"):
        stage.index_dataset(root, NONE_HELD_OUT)


def test_an_identity_in_training_and_test_is_refused(market: Path) -> None:
    save_image(market / "bounding_box_test/0007_c1s1_000451_03.jpg")
    with pytest.raises(ValueError, match=r"1 identities stand in training and in test \(0007\)"):
        stage.index_dataset(market, NONE_HELD_OUT)


def test_validation_identities_leave_training_whole(market: Path) -> None:
    index, _ = stage.index_dataset(market, IndexSettings(validation_identities=2, seed=0))
    queries, gallery = index[index.split == "val_query"], index[index.split == "val_gallery"]
    assert set(queries.pid) == set(gallery.pid) and queries.pid.nunique() == 2
    assert not set(queries.pid) & set(index.pid[index.split == "train"])
    assert queries.groupby(["pid", "camid"]).size().tolist() == [1] * 6
    assert len(gallery) == 6
    assert (index.image.str.split("/").str[0] == "bounding_box_train").sum() == 24

    again, _ = stage.index_dataset(market, IndexSettings(validation_identities=2, seed=0))
    pd.testing.assert_frame_equal(index, again)
    drawn = {
        tuple(
            stage.index_dataset(market, IndexSettings(validation_identities=1, seed=seed))[0]
            .query("split == 'val_query'")
            .pid
        )
        for seed in range(6)
    }
    assert len(drawn) > 1


def test_someone_must_be_left_to_train_on(market: Path) -> None:
    with pytest.raises(ValueError, match=r"index.validation_identities is 4; expected less than 4"):
        stage.index_dataset(market, IndexSettings(validation_identities=4, seed=0))


def test_summary_counts_what_is_there_and_what_leaks(market: Path) -> None:
    shutil.copy(
        market / "bounding_box_train/0002_c1s1_000001_01.jpg", market / "query/0003_c3s1_000007_00.jpg"
    )
    (market / "query/notes.txt").write_text("")
    summary = stage.summarise(*stage.index_dataset(market, NONE_HELD_OUT))
    assert summary == {
        "train": {"images": 24, "identities": 4, "cameras": 3},
        "query": {"images": 7, "identities": 3, "cameras": 3},
        "gallery": {"images": 14, "identities": 3, "cameras": 3},
        "train_images_in_test": 1,
        "rejected_files": 1,
    }
    assert json.loads(json.dumps(summary)) == summary
    assert np.isfinite(list(summary["train"].values())).all()
