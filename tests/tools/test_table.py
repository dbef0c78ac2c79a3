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
    (folder / "val").mkdir()
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
    assert f"2 files and folders are not used, the first is {folder}/val\n" in said
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
