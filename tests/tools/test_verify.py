"""A folder of synthetic images can be held against its manifest."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.datasets.marks import DIGITAL_SOURCE_TYPE, Mark, save_image
from pipeline.datasets.signatures import load_signer, sign_image
from pipeline.runtime.hashes import md5
from tests.pipeline.certificates import make_certificates
from tools import verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shares with three marked images each."""
    for share in ("20", "40"):
        rows = []
        (tmp_path / "all" / share).mkdir(parents=True)
        for seed in range(3):
            name = f"0002_c1s1_000451_03_g000{seed}.jpg"
            file = tmp_path / "all" / share / name
            pixels = np.full((16, 8, 3), 50 * seed, np.uint8)
            save_image(pixels, file, 92, Mark("abc", "source.jpg", "pose.jpg", seed, 2.0))
            rows.append([name, 2, "source.jpg", "pose.jpg", seed, "abc", DIGITAL_SOURCE_TYPE, md5(file)])
        columns = ["name", "pid", "sources", "pose", "seed", "generator", "digital_source_type", "md5"]
        pd.DataFrame(rows, columns=columns).to_csv(file.with_name("manifest.csv"), index=False)
    return tmp_path / "all"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["verify", *map(str, arguments)])
    verify.main()


def test_an_untouched_folder_and_its_copy_are_as_listed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "20" / "scores.csv").write_text("name\n")  # a table beside the images
    run(monkeypatch, folder)
    assert capsys.readouterr().out == f"{folder}: 6 images in 2 manifests, all as listed\n"
    copy = folder.parent / "copy"
    shutil.copytree(folder / "20", copy)
    run(monkeypatch, copy)
    (copy / "manifest.csv").unlink()
    run(monkeypatch, copy, "--manifest", folder / "20" / "manifest.csv")
    assert capsys.readouterr().out == f"{copy}: 3 images in 1 manifest, all as listed\n" * 2


def test_every_difference_is_listed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"0002_c1s1_000451_03_g000{i}.jpg" for i in range(3)]
    with Image.open(folder / "20" / names[0]) as image:
        image.copy().save(folder / "20" / names[0], quality=30)  # the mark is lost with the bytes
    with (folder / "20" / names[1]).open("ab") as file:
        file.write(b"\0")  # the mark stays
    (folder / "20" / names[2]).unlink()
    shutil.copy(folder / "40" / names[0], folder / "40" / "new.jpg")
    shutil.copy(folder / "40" / names[0], folder / "40" / names[1])
    manifest = pd.read_csv(folder / "40" / "manifest.csv")
    manifest.loc[2, "pose"] = "other.jpg"
    manifest.to_csv(folder / "40" / "manifest.csv", index=False)

    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, folder)
    assert caught.value.code == f"verify: {folder}: 6 differences from 6 images in 2 manifests"  # status 1
    assert capsys.readouterr().out.splitlines() == [
        "added: 40/new.jpg",
        f"altered: 20/{names[0]}: its checksum is another, its mark is gone: it has no XMP",
        f"altered: 20/{names[1]}: its checksum is another",
        f"altered: 40/{names[1]}: its checksum is another, its mark says seed 0, the manifest 1",
        f"altered: 40/{names[2]}: its mark says pose pose.jpg, the manifest other.jpg",
        f"removed: 20/{names[2]}",
    ]


def test_a_manifest_of_another_generator_is_held_against_checksums_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 16)).save(folder / "20" / "0002_c1s1_000451_03_g0000.jpg")
    name = "0002_c1s1_000451_03_g0000.jpg"
    for other in (folder / "20").glob("*_g000[12].jpg"):
        other.unlink()
    table = pd.DataFrame([[name, 2, md5(folder / "20" / name)]], columns=["name", "pid", "md5"])
    table.to_csv(folder / "20" / "manifest.csv", index=False)
    run(monkeypatch, folder / "20")
    assert "all as listed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "message"),
    [(["../a.jpg"], "leads out of its folder"), (["a.jpg", "a.jpg"], "is listed twice")],
)
def test_a_manifest_that_makes_no_sense_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    pd.DataFrame({"name": names, "md5": "0"}).to_csv(tmp_path / "manifest.csv", index=False)
    with pytest.raises(ValueError, match=message):
        verify.read_manifest(tmp_path / "manifest.csv", tmp_path)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no manifest\.csv; name one with --manifest"):
        run(monkeypatch, tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        run(monkeypatch, tmp_path / "none")


def test_linked_folders_and_tables_of_nobody_are_additions(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "20" / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "20" / "image.csv").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(SystemExit):
        run(monkeypatch, folder)
    assert capsys.readouterr().out.splitlines() == ["added: 20/image.csv", "added: 20/more"]


def test_signed_altered_unsigned_and_strangers_images_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stranger").mkdir()
    strangers = load_signer(*make_certificates(tmp_path / "stranger")[:2])
    certificates, key, authority = make_certificates(tmp_path)
    signer = load_signer(certificates, key)
    folder = tmp_path / "images"
    folder.mkdir()
    image = tmp_path / "image.jpg"
    save_image(np.zeros((16, 8, 3), np.uint8), image, 92, Mark("abc", "source.jpg", "pose.jpg", 0, 2.0))
    for name in ("a", "b"):
        sign_image(image, folder / f"{name}.jpg", signer)
    run(monkeypatch, folder, "--signatures")
    assert capsys.readouterr().out.splitlines() == [
        "2 signed by A. Signer, A Laboratory",
        f"{folder}: 2 images, all as they were signed",
    ]
    with (folder / "b.jpg").open("ab") as file:
        file.write(b"more")
    shutil.copy(image, folder / "c.jpg")
    sign_image(image, folder / "d.jpg", strangers)
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, folder, "--signatures", "--trust", authority)
    assert caught.value.code == f"verify: {folder}: 3 of 4 images are not as they were signed"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("altered: b.jpg: ")
    assert lines[1:] == [
        "unsigned: c.jpg",
        "signed by a stranger: d.jpg: A. Signer, A Laboratory",
        "1 signed by A. Signer, A Laboratory",
    ]


def test_options_without_a_meaning_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="--trust has no meaning without --signatures"):
        run(monkeypatch, folder, "--trust", "a.pem")
    with pytest.raises(ValueError, match="--manifest has no meaning with --signatures"):
        run(monkeypatch, folder, "--signatures", "--manifest", "a.csv")
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no synthetic images"):
        run(monkeypatch, folder / "empty", "--signatures")
    (folder / "synthetic.csv").write_text("file,pid\ntrain/a.jpg,2\n")
    with pytest.raises(FileNotFoundError, match=r"train/a\.jpg is missing, which .*synthetic\.csv lists"):
        run(monkeypatch, folder, "--signatures")
