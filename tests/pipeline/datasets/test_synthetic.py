"""A folder of synthetic images from anywhere is read whole or refused by name."""

from pathlib import Path

import pandas as pd
import pytest

from pipeline.datasets.synthetic import list_synthetic, read_arm, read_synthetic, unused_files
from pipeline.params import ArmSettings
from pipeline.runtime.outputs import write_csv
from pipeline.runtime.scratch import md5
from tests.pipeline.market import save_image

IDS = {2, 7}
STRANGER = " shows identity 3, which is not among the training identities"
LISTED = " is listed in {images}/manifest.csv; there is no such file in {images}"
AGAIN = "; run the stage 'generate' again, which writes it"


def test_names_as_in_market1501_need_no_table(tmp_path: Path) -> None:
    """For example what PIDM writes, flat, one folder for all subsets."""
    for seed, name in enumerate(("0007_c1s1_000001_00_to_0002_c3.png", "0002_c1s1_000001_00.jpg")):
        save_image(tmp_path / name, seed)
    (tmp_path / "notes.txt").write_text("made by another generator")
    for percent in (20, 40):
        folder, table = read_synthetic(tmp_path, percent, IDS)
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
    with pytest.raises(FileNotFoundError, match=r"40 is missing; .* has folders of other percents only"):
        read_synthetic(tmp_path, 40, IDS)


def test_a_checksum_is_that_of_the_file_and_not_of_the_table(tmp_path: Path) -> None:
    """An image that was painted over after its manifest was written must not pass for the old one."""
    save_image(tmp_path / "a.jpg")
    write_csv(pd.DataFrame({"name": ["a.jpg"], "pid": [2], "md5": ["0" * 32]}), tmp_path / "manifest.csv")
    assert read_synthetic(tmp_path, 20, IDS)[1].md5.tolist() == [md5(tmp_path / "a.jpg")]


@pytest.mark.parametrize(
    ("names", "table", "sentence"),
    [
        ([], None, "{images} holds no synthetic image; expected *.jpg or *.png, or a manifest.csv"),
        (
            ["0002_c1.jpg", "fake.jpg"],
            None,
            "{images}/fake.jpg: the name does not begin as in Market-1501 (0002_c1...); rename it, or write "
            "{images}/manifest.csv with the columns name and pid",
        ),
        (["0003_c1.jpg"], None, "{images}/0003_c1.jpg" + STRANGER),
        (["a.jpg"], {"name": ["a.jpg"], "pid": [3]}, "{images}/a.jpg" + STRANGER),
        (["a.jpg"], {"name": ["a.jpg", "b.jpg"], "pid": [2, 2]}, "{images}/b.jpg" + LISTED),
        (["a.jpg"], {"name": ["../20/a.jpg"], "pid": [2]}, "{images}/../20/a.jpg" + LISTED),
        (["a.jpg"], {"name": ["/etc/hostname"], "pid": [2]}, "/etc/hostname" + LISTED),
        (
            ["a.jpg"],
            {"name": ["a.jpg", "a.jpg"], "pid": [2, 7]},
            "{images}/manifest.csv: a.jpg has two rows; leave one",
        ),
        (
            ["a.jpg"],
            {"name": ["a.jpg"], "pid": ["two"]},
            "{images}/manifest.csv: line 2, column 'pid' is 'two', expected a whole number" + AGAIN,
        ),
        (["a.jpg"], {"image": ["a.jpg"]}, "{images}/manifest.csv: it has no column 'name'" + AGAIN),
    ],
)
def test_what_cannot_be_used_is_named(
    names: list[str], table: dict[str, list[object]] | None, sentence: str, tmp_path: Path
) -> None:
    images = tmp_path / "20"
    images.mkdir()
    for name in names:
        save_image(images / name)
    if table:
        write_csv(pd.DataFrame(table), images / "manifest.csv")
    with pytest.raises((ValueError, OSError)) as caught:
        read_synthetic(tmp_path, 20, IDS)
    assert str(caught.value) == sentence.format(images=images)


def test_what_no_list_names_is_found(tmp_path: Path) -> None:
    for name in ("20/a.jpg", "20/more/b.jpg", "40/0002_c1.jpg", "60/0002_c1.jpg"):
        save_image(tmp_path / name)
    write_csv(pd.DataFrame({"name": ["a.jpg"], "pid": [2]}), tmp_path / "20" / "manifest.csv")
    (tmp_path / "40" / "notes.txt").touch()
    (tmp_path / ".gitignore").touch()
    unused = [file.relative_to(tmp_path).as_posix() for file in unused_files(tmp_path, (20, 40))]
    assert unused == ["20/more/b.jpg", "40/notes.txt", "60/0002_c1.jpg"]


def test_a_ratio_that_leaves_no_image_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "0002_c1.jpg")
    arm = ArmSettings(synthetic=tmp_path, synthetic_share=0.5, synthetic_weight=1.0, synthetic_ratio=0.04)
    assert len(read_arm(arm, 20, IDS, 13)[1]) == 1
    with pytest.raises(ValueError) as caught:
        read_arm(arm, 20, IDS, 12)
    assert str(caught.value) == (
        f"synthetic_ratio is 0.04, which is no image of {tmp_path} beside 12 real ones; raise it"
    )


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="pidm is missing; it is the folder of synthetic images"):
        read_synthetic(tmp_path / "pidm", 20, IDS)


def test_folders_of_identities_are_no_fractions(tmp_path: Path) -> None:
    (tmp_path / "0020").mkdir()
    (tmp_path / "0020/a.png").touch()
    pd.DataFrame({"name": ["0020/a.png"], "pid": [20]}).to_csv(tmp_path / "manifest.csv", index=False)
    folder, table = list_synthetic(tmp_path, 40)
    assert folder == tmp_path and table.name.tolist() == ["0020/a.png"]
