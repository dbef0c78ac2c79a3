"""A folder of synthetic images from anywhere is read whole or refused by name."""

from pathlib import Path

import pandas as pd
import pytest

from pipeline.files import md5, write_csv
from pipeline.synthetic import read_synthetic
from tests.pipeline.market import save_image

IDS = {2, 7}


def test_names_as_in_market1501_need_no_table(tmp_path: Path) -> None:
    """For example what PIDM writes, flat, one folder for all subsets."""
    for seed, name in enumerate(("0007_c1s1_000001_00_to_0002_c3.png", "0002_c1s1_000001_00.jpg")):
        save_image(tmp_path / name, seed)
    (tmp_path / "notes.txt").write_text("made by another generator")
    for fraction in (20, 40):
        folder, table = read_synthetic(tmp_path, fraction, IDS)
        assert folder == tmp_path
        assert table.name.tolist() == ["0002_c1s1_000001_00.jpg", "0007_c1s1_000001_00_to_0002_c3.png"]
        assert table.pid.tolist() == [2, 7]
        assert table.md5.tolist() == [md5(tmp_path / name) for name in table.name]


def test_a_mapping_table_names_any_file(tmp_path: Path) -> None:
    save_image(tmp_path / "person b" / "1.png", 1)
    save_image(tmp_path / "a.jpg", 2)
    write_csv(pd.DataFrame({"pid": [7, 2], "name": ["person b/1.png", "a.jpg"]}), tmp_path / "manifest.csv")
    _, table = read_synthetic(tmp_path, 20, IDS)
    assert table[["name", "pid"]].to_numpy().tolist() == [["person b/1.png", 7], ["a.jpg", 2]]


def test_a_folder_per_fraction_is_read_for_its_own_only(tmp_path: Path) -> None:
    save_image(tmp_path / "20" / "0002_c1s1_000001_00.jpg")
    folder, table = read_synthetic(tmp_path, 20, IDS)
    assert folder == tmp_path / "20" and len(table) == 1
    with pytest.raises(FileNotFoundError, match=r"40 is missing; .* has folders of other fractions only"):
        read_synthetic(tmp_path, 40, IDS)


def test_a_checksum_is_that_of_the_file_and_not_of_the_table(tmp_path: Path) -> None:
    """An image that was painted over after its manifest was written must not pass for the old one."""
    save_image(tmp_path / "a.jpg")
    write_csv(pd.DataFrame({"name": ["a.jpg"], "pid": [2], "md5": ["0" * 32]}), tmp_path / "manifest.csv")
    assert read_synthetic(tmp_path, 20, IDS)[1].md5.tolist() == [md5(tmp_path / "a.jpg")]


@pytest.mark.parametrize(
    ("names", "table", "sentence"),
    [
        ([], None, "holds no synthetic image"),
        (["0002_c1.jpg", "fake.jpg"], None, "fake.jpg: the name does not begin as in Market-1501"),
        (["0003_c1.jpg"], None, "0003_c1.jpg shows identity 3, which is not among the training identities"),
        (["a.jpg"], {"name": ["a.jpg"], "pid": [3]}, "a.jpg shows identity 3, which is not among"),
        (
            ["a.jpg"],
            {"name": ["a.jpg", "b.jpg"], "pid": [2, 2]},
            "b.jpg is listed in .*; there is no such file",
        ),
        (["a.jpg"], {"name": ["../20/a.jpg"], "pid": [2]}, "there is no such file in"),
        (["a.jpg"], {"name": ["a.jpg", "a.jpg"], "pid": [2, 7]}, "a.jpg has two rows"),
        (["a.jpg"], {"name": ["a.jpg"], "pid": ["two"]}, "manifest.csv: line 2, column 'pid' is 'two'"),
        (["a.jpg"], {"image": ["a.jpg"]}, "manifest.csv"),
    ],
)
def test_what_cannot_be_used_is_named(
    names: list[str], table: dict[str, list[object]] | None, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "20").mkdir()
    for name in names:
        save_image(tmp_path / "20" / name)
    if table:
        write_csv(pd.DataFrame(table), tmp_path / "20" / "manifest.csv")
    with pytest.raises((ValueError, OSError), match=sentence):
        read_synthetic(tmp_path, 20, IDS)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="pidm is missing; it is the folder of synthetic images"):
        read_synthetic(tmp_path / "pidm", 20, IDS)
