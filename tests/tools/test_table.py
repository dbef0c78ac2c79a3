"""Folders per identity become a table that the format table reads."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from pipeline.datasets.indexing import index_dataset
from pipeline.params import IndexSettings
from tests.pipeline.market import save_image
from tools import table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "mine"
    for seed, name in enumerate(
        ("train/anna/1.png", "train/anna/in/cam2.JPG", "test/b 1/cam1.png", "test/b 1/cam2.jpg")
    ):
        save_image(root / name, seed)
    for name in ("train/.DS_Store", "train/anna/Thumbs.db", "readme.txt"):
        (root / name).touch()
    return root


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["table", *map(str, arguments)])
    table.main()


def test_the_table_of_folders(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "train/anna/notes.txt").touch()
    save_image(folder / "val/anna/1.png")
    run(monkeypatch, folder, "--camera", r"cam(\d)")
    assert pd.read_csv(folder / "images.csv", dtype=str, keep_default_na=False).to_numpy().tolist() == [
        ["train/anna/1.png", "anna", "", "train"],
        ["train/anna/in/cam2.JPG", "anna", "2", "train"],
        ["test/b 1/cam1.png", "b 1", "1", "test"],
        ["test/b 1/cam2.jpg", "b 1", "2", "test"],
    ]
    said = capsys.readouterr().out
    assert "4 images; identities: train 1, test 1; 2 cameras\n" in said
    assert "1 images without a camera, the first is train/anna/1.png\n" in said
    assert f"2 files are not used, the first is {folder}/train/anna/notes.txt\n" in said
    index, rejected, _ = index_dataset("table", folder, IndexSettings(validation_identities=0, seed=0))
    assert len(index) == 4 and rejected.empty and sorted(index.camid) == [-1, 1, 2, 2]
    with pytest.raises(ValueError, match=r"images\.csv exists; remove it if it may be written anew"):
        run(monkeypatch, folder)


def test_folders_that_cannot_be_used_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"--camera is '\('; it is no regular expression"):
        run(monkeypatch, folder, "--camera", "(")
    with pytest.raises(ValueError, match="nowhere is no folder"):
        run(monkeypatch, folder / "nowhere")
    save_image(folder / "train/2.jpg")
    with pytest.raises(
        ValueError, match=r"2\.jpg lies in no folder of an identity; expected train/<identity>/"
    ):
        run(monkeypatch, folder)
    (folder / "train/2.jpg").unlink()
    (folder / "train/bert").symlink_to(folder / "test")
    with pytest.raises(ValueError, match="bert is a link to a folder"):
        run(monkeypatch, folder)
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="has no image in a folder such as train/<identity>/"):
        run(monkeypatch, folder / "empty")


@pytest.fixture
def names(tmp_path: Path) -> Path:
    """CUHK03 as archives have it: names say identity and image, and of ten images five are of each camera."""
    root = tmp_path / "cuhk"
    for pid in range(6):
        for seed, image in enumerate((0, 4, 5)):
            save_image(root / f"detected/{pid:04}_{image:02}.jpg", 10 * pid + seed)
    save_image(root / "sheet.jpg")
    return root


TWO_CAMERAS = ("--identity", r"detected/(\d+)_", "--camera", "A=_0[0-4]", "B=_0[5-9]")


def test_names_that_tell_identity_and_camera(
    names: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, names, *TWO_CAMERAS, "--test", 2)
    made = pd.read_csv(names / "images.csv", dtype=str)
    assert made.pid.tolist() == [f"{pid:04}" for pid in range(6) for _ in range(3)]
    assert made.camid.tolist() == ["A", "A", "B"] * 6
    assert (made.groupby("pid").split.nunique() == 1).all()
    assert made.groupby("split").pid.nunique().to_dict() == {"test": 2, "train": 4}
    said = capsys.readouterr().out
    assert "18 images; identities: train 4, test 2; 2 cameras\n" in said
    assert f"1 files are not used, the first is {names}/sheet.jpg\n" in said
    index, rejected, _ = index_dataset("table", names, IndexSettings(validation_identities=0, seed=0))
    assert rejected.empty and (index.split == "query").sum() == 4  # two people, two cameras


def test_the_people_of_the_test_follow_from_the_people_and_the_seed(
    names: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(seed: int) -> set[str]:
        (names / "images.csv").unlink(missing_ok=True)
        run(monkeypatch, names, *TWO_CAMERAS, "--test", 2, "--seed", seed)
        made = pd.read_csv(names / "images.csv", dtype=str)
        return {*made.pid[made.split == "test"]}

    first = drawn(0)
    (names / "detected/0000_04.jpg").unlink()
    assert drawn(0) == first
    assert any(drawn(seed) != first for seed in range(1, 5))


def test_a_pattern_keeps_the_splits_of_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, folder, "--identity", "anna|b 1", "--camera", r"cam\d")
    made = pd.read_csv(folder / "images.csv", dtype=str, keep_default_na=False)
    assert made[["pid", "camid", "split"]].to_numpy().tolist() == [
        ["anna", "", "train"],
        ["anna", "cam2", "train"],
        ["b 1", "cam1", "test"],
        ["b 1", "cam2", "test"],
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--identity", "("], r"--identity is '\('; it is no regular expression"),
        (
            ["--identity", "x(y)?"],
            "--identity .* finds an identity in none of the 19 images of .*cuhk, such as",
        ),
        (["--camera", "A=1", "_2"], "--camera is '_2'; each of several cameras is NAME=PATTERN"),
        (["--camera", "A=1", "B=("], r"--camera is '\('; it is no regular expression"),
        ([], "--identity finds people elsewhere"),
        ([*TWO_CAMERAS, "--test", "6"], "--test is 6, expected 1 to 5 of 6 people"),
        ([*TWO_CAMERAS, "--test", "0"], "--test is 0, expected 1 to 5 of 6 people"),
    ],
)
def test_arguments_that_do_not_fit_are_named(
    names: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        run(monkeypatch, names, *arguments)
    assert not (names / "images.csv").exists()


def test_no_second_test_is_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match="--test draws people for a test, but folders say who is test already"
    ):
        run(monkeypatch, folder, "--test", 1)
