"""Images of another generator are taken in whole, under Market-1501 names, or refused by name."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline import import_images as stage
from pipeline.artifacts import NEEDS, PLANS
from pipeline.datasets.marks import Mark, read_mark
from pipeline.datasets.synthetic import read_synthetic
from pipeline.params import Params, parse_params
from pipeline.runtime.hashes import md5
from pipeline.runtime.outputs import write_csv, write_json
from tests.pipeline.market import save_image

LISTED = " is listed in {images}/manifest.csv; there is no such file in {images}"


def fake(path: Path, seed: int = 0, size: tuple[int, int] = (64, 128)) -> Path:
    """An image that is none of the data set's."""
    return save_image(path, 700 + seed, size)


@pytest.fixture
def outside(workspace: Params) -> Path:
    """A folder of images beside a project whose training identities are 2, 7, 10 and 11."""
    folder = Path("elsewhere/pidm")
    folder.mkdir(parents=True)
    return folder


def run(workspace: Params, monkeypatch: pytest.MonkeyPatch, percents: tuple[int, ...] = (50,)) -> Path:
    values = workspace.model_dump(mode="json")
    values["imports"] = {"pidm": {"folder": "elsewhere/pidm"}}
    values["arms"]["pidm"] = {"generator": "pidm"}
    values["subset"]["percents"] = list(percents)
    write_json(dict.fromkeys(percents, 4), PLANS / "pidm" / NEEDS)
    monkeypatch.setattr(stage, "load_params", lambda: parse_params(values))
    monkeypatch.setattr(sys, "argv", ["import_images", "pidm"])
    stage.main()
    return Path("data/synthetic/pidm")


def test_names_that_begin_as_in_market1501_need_no_table(
    outside: Path, workspace: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example what PIDM writes, flat, one folder for all subsets, and what this pipeline exports."""
    for seed, name in enumerate(
        (
            "0002_c1s1_000001_00_g0007.jpg",
            "0007_c1s1_000001_00_to_0002_c3.png",
            "0010_c2_fake3.jpg",
            "deeper/0011_c6s1_000002_01.jpg",
        )
    ):
        fake(outside / name, seed)
    output = run(workspace, monkeypatch, (40, 50))
    for percent in (40, 50):
        folder, table = read_synthetic("pidm", percent, {2, 7, 10, 11})
        assert folder == output / str(percent)
        assert dict(zip(table.file, table.name, strict=True)) == {
            "0002_c1s1_000001_00_g0007.jpg": "0002_c1s1_000001_00_g0007.jpg",
            "0007_c1s1_000001_00_to_0002_c3.png": "0007_c1s1_000001_00_to_0002_c3_g0001.jpg",
            "0010_c2_fake3.jpg": "0010_c2_fake3_g0001.jpg",
            "deeper/0011_c6s1_000002_01.jpg": "0011_c6s1_000002_01_g0001.jpg",
        }
        assert table.md5.tolist() == [md5(folder / name) for name in table.name]
    assert md5(output / "50/0010_c2_fake3_g0001.jpg") == md5(outside / "0010_c2_fake3.jpg")


def test_a_manifest_names_any_file(outside: Path, workspace: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(outside / "person b" / "1.png", 1)
    fake(outside / "a.jpg", 2)
    table = pd.DataFrame({"pid": [7, 2], "name": ["person b/1.png", "a.jpg"], "camid": [3, 1]})
    write_csv(table, outside / "manifest.csv")
    run(workspace, monkeypatch)
    _, images = read_synthetic("pidm", 50, {2, 7})
    assert images[["file", "name", "pid", "camid"]].to_numpy().tolist() == [
        ["a.jpg", "0002_c1_a_g0001.jpg", 2, 1],
        ["person b/1.png", "0007_c3_1_g0001.jpg", 7, 3],
    ]


def test_a_camera_may_be_any_or_unknown(
    outside: Path, workspace: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate("abc"):
        fake(outside / f"{name}.jpg", seed)
    table = pd.DataFrame({"name": ["a.jpg", "b.jpg", "c.jpg"], "pid": [2, 2, 7], "camid": [12, None, 0]})
    write_csv(table, outside / "manifest.csv")
    run(workspace, monkeypatch)
    _, images = read_synthetic("pidm", 50, {2, 7})
    assert images.name.tolist() == ["0002_c12_a_g0001.jpg", "0002_c0_b_g0001.jpg", "0007_c0_c_g0001.jpg"]
    assert images.camid.tolist() == [12, -1, 0]


def test_a_folder_per_percent_is_read_for_its_own_subset_only(
    outside: Path, workspace: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(outside / "40" / "0002_c1.jpg", 1)
    fake(outside / "50" / "0007_c1.jpg", 2)
    run(workspace, monkeypatch, (40, 50))
    assert read_synthetic("pidm", 40, {2, 7})[1].pid.tolist() == [2]
    assert read_synthetic("pidm", 50, {2, 7})[1].pid.tolist() == [7]
    with pytest.raises(FileNotFoundError, match=r"60 is missing; .* has folders of other percents only"):
        run(workspace, monkeypatch, (40, 60))


def test_folders_of_identities_are_no_percents(outside: Path) -> None:
    fake(outside / "0020/a.png")
    write_csv(pd.DataFrame({"name": ["0020/a.png"], "pid": [20]}), outside / "manifest.csv")
    folder, table = stage.list_folder(outside, 40)
    assert folder == outside and table.file.tolist() == ["0020/a.png"]


def test_hidden_files_are_passed_over_and_others_are_counted(
    outside: Path, workspace: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("0002_c1.jpg", "._0002_c1.jpg", ".thumbs/0002_c2.jpg", "notes.txt", "more/notes.txt"):
        fake(outside / name) if name.endswith("jpg") else (outside / name).parent.mkdir(exist_ok=True)
        (outside / name).touch()
    run(workspace, monkeypatch)
    assert len(read_synthetic("pidm", 50, {2})[1]) == 1
    said = capsys.readouterr().out
    assert "elsewhere/pidm: 2 files are not used, the first is elsewhere/pidm/more/notes.txt\n" in said


def test_a_png_becomes_a_jpeg_with_the_same_pixels_and_keeps_its_mark(
    outside: Path, workspace: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = Mark("0" * 32, "a.jpg|b.jpg", "c.jpg", 7, 2.0)
    packet = mark.to_xmp().decode()
    pixels = np.full((128, 64, 3), 90, np.uint8)
    chunks = PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", packet)
    Image.fromarray(pixels).save(outside / "0002_c1.png", pnginfo=chunks)
    output = run(workspace, monkeypatch)
    (image,) = (output / "50").glob("*.jpg")
    with Image.open(image) as jpeg:
        assert jpeg.format == "JPEG" and np.abs(np.asarray(jpeg).astype(int) - pixels).max() <= 2
    assert read_mark(image) == mark

    chunks = PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", " " * 70_000)
    Image.fromarray(pixels).save(outside / "0002_c1.png", pnginfo=chunks)
    with pytest.raises(ValueError, match="its XMP has 70000 bytes, a JPEG holds 65504"):
        run(workspace, monkeypatch)


def test_a_counter_stays_and_other_files_get_a_free_one(
    outside: Path, workspace: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A counter may be that of our plan, by whose names a user study compares generators."""
    stem = "0002_c1s1_000001_01"
    for seed, file in enumerate((f"{stem}.jpg", f"{stem}_g0007.png", f"again/{stem}_g0007.png")):
        fake(outside / file, seed)
    run(workspace, monkeypatch)
    table = read_synthetic("pidm", 50, {2})[1]
    assert dict(zip(table.file, table.name, strict=True)) == {
        f"{stem}.jpg": f"{stem}_g0001.jpg",
        f"{stem}_g0007.png": f"{stem}_g0007.jpg",
        f"again/{stem}_g0007.png": f"{stem}_g0002.jpg",
    }


def test_a_manifest_outweighs_what_a_name_says(
    outside: Path, workspace: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = "0002_c1s1_000001_01_g0007.jpg"
    fake(outside / file)
    write_csv(pd.DataFrame({"name": [file], "pid": [7], "camid": [3]}), outside / "manifest.csv")
    run(workspace, monkeypatch)
    assert read_synthetic("pidm", 50, {7})[1].name.tolist() == ["0007_c3_0002_c1s1_000001_01_g0001.jpg"]


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
        (
            ["0003_c1.jpg"],
            None,
            "{images}/0003_c1.jpg shows identity 3, which is no training identity of data/index.csv "
            "(1 such images)",
        ),
        (["a.jpg"], {"name": ["a.jpg", "b.jpg"], "pid": [2, 2]}, "{images}/b.jpg" + LISTED),
        (["a.jpg"], {"name": ["../50/a.jpg"], "pid": [2]}, "{images}/../50/a.jpg" + LISTED),
        (["a.jpg"], {"name": ["/etc/hostname"], "pid": [2]}, "/etc/hostname" + LISTED),
        (
            ["a.jpg"],
            {"name": ["a.jpg", "a.jpg"], "pid": [2, 7]},
            "{images}/manifest.csv: a.jpg has two rows; leave one",
        ),
        (
            ["a.jpg"],
            {"name": ["a.jpg"], "pid": ["two"]},
            "{images}/manifest.csv: line 2, column 'pid' is 'two', expected a whole number; expected the "
            "columns name and pid",
        ),
        (
            ["a.jpg"],
            {"image": ["a.jpg"]},
            "{images}/manifest.csv: it has no column 'name'; expected the columns name and pid",
        ),
        (
            ["a.jpg"],
            {"name": ["a.jpg"], "pid": [2], "camid": ["lobby"]},
            "{images}/manifest.csv: a.jpg has camid lobby, expected a whole number or nothing",
        ),
    ],
)
def test_what_cannot_be_used_is_named_and_nothing_is_written(
    names: list[str],
    table: dict[str, list[object]] | None,
    sentence: str,
    outside: Path,
    workspace: Params,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = outside / "50"
    images.mkdir()
    for name in names:
        fake(images / name)
    if table:
        write_csv(pd.DataFrame(table), images / "manifest.csv")
    with pytest.raises((ValueError, OSError)) as caught:
        run(workspace, monkeypatch)
    assert str(caught.value) == sentence.format(images=images)
    assert not Path("data/synthetic/pidm").exists()


def test_a_damaged_image_is_named(outside: Path, workspace: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    (outside / "0002_c1.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"pidm/0002_c1.jpg: no JPEG or PNG image"):
        run(workspace, monkeypatch)


def test_copies_of_real_images_are_left_out_and_listed(
    outside: Path, workspace: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As they are, re-compressed or resized, of training and of test images."""
    root = workspace.dataset.root
    train = "bounding_box_train/0002_c1s1_000001_01.jpg"
    shutil.copy(root / train, outside / "0002_c1_a.jpg")
    with Image.open(root / "query/0003_c1s1_000001_00.jpg") as image:
        image.save(outside / "0007_c1_b.jpg", quality=40)
    with Image.open(root / train) as image:
        image.resize((48, 96)).save(outside / "0007_c1_c.png")
    fake(outside / "0010_c1_d.jpg")
    run(workspace, monkeypatch)
    assert read_synthetic("pidm", 50, {10})[1].file.tolist() == ["0010_c1_d.jpg"]
    table = pd.read_csv("data/copies/pidm.csv")
    assert table[["percent", "file", "real", "split"]].to_numpy().tolist() == [
        [50, "0002_c1_a.jpg", train, "train"],
        [50, "0007_c1_b.jpg", "query/0003_c1s1_000001_00.jpg", "query"],
        [50, "0007_c1_c.png", train, "train"],
    ]
    said = capsys.readouterr().err
    assert "import_images: 3 images are copies of real ones and left out, see data/copies/pidm.csv" in said


def test_panels_of_pictures_are_refused(
    outside: Path, workspace: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(outside / "0002_c1.jpg", size=(320, 128))
    with pytest.raises(
        ValueError, match=r"0002_c1.jpg is 320 x 128 pixels; expected a crop of one person, w"
    ):
        run(workspace, monkeypatch)


def test_an_unknown_import_is_named(workspace: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["import_images", "pcdms"])
    with pytest.raises(ValueError, match="the import is pcdms; expected one of none"):
        stage.main()


def test_arms_take_one_image_of_everybody_first(
    outside: Path, workspace: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = [2, 2, 2, 2, 7, 10, 10, 11]
    for seed, pid in enumerate(people):
        fake(outside / f"{pid:04d}_c1_{seed}.jpg", seed)
    run(workspace, monkeypatch)
    table = read_synthetic("pidm", 50, {2, 7, 10, 11})[1].sort_values("order")
    assert table.order.tolist() == list(range(8))
    assert [sorted(part) for part in np.split(table.pid.to_numpy(), [4, 6])] == [
        [2, 7, 10, 11],
        [2, 10],
        [2, 2],
    ]
