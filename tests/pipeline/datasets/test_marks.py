"""Synthetic images say in their own bytes that a model made them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchreid.reid.utils.tools import read_image

from pipeline.datasets.indexing import index_dataset
from pipeline.datasets.marks import (
    COMPOSITE,
    DIGITAL_SOURCE_TYPE,
    Mark,
    is_marked_synthetic,
    read_mark,
    save_baseline,
    save_composite,
    save_image,
)
from pipeline.params import BaselineKind, IndexSettings

MARK = Mark(
    "0123abcd", "query/0002_c1s1_000001_00.jpg|a&b<\"'é.jpg", "0003_c2s1_000001_00.jpg", 2**32 - 1, 2.5
)
PIXELS = np.random.default_rng(0).integers(0, 256, (128, 64, 3), np.uint8)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    save_image(PIXELS, tmp_path / "a.jpg", 92, MARK)
    return tmp_path / "a.jpg"


def test_a_mark_is_read_as_it_was_written(image: Path) -> None:
    assert read_mark(image) == MARK


def test_others_find_what_iptc_and_exif_define(image: Path) -> None:
    data = image.read_bytes()
    assert f'Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE_TYPE}"'.encode() in data
    assert DIGITAL_SOURCE_TYPE.startswith("http://cv.iptc.org/newscodes/digitalsourcetype/trained")
    assert b'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"' in data
    assert b'AISystemVersionUsed="0123abcd"' in data
    with Image.open(image) as opened:
        exif = opened.getexif()
        assert exif[0x010E].startswith("Synthetic image") and exif[0x0131] == "reid-imagpose"


def test_equal_images_are_equal_bytes_and_pixels_know_nothing_of_the_mark(
    image: Path, tmp_path: Path
) -> None:
    save_image(PIXELS, tmp_path / "b.jpg", 92, MARK)
    assert image.read_bytes() == (tmp_path / "b.jpg").read_bytes()
    Image.fromarray(PIXELS).save(tmp_path / "plain.jpg", quality=92)
    marked, plain = (np.asarray(read_image(str(file))) for file in (image, tmp_path / "plain.jpg"))
    np.testing.assert_array_equal(marked, plain)  # as torchreid reads them
    assert len(image.read_bytes()) < len((tmp_path / "plain.jpg").read_bytes()) + 2000


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pictures_of_synthetic_images_say_so_and_are_no_synthetic_images(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"sheet.{suffix}"
    save_composite(Image.fromarray(PIXELS), file)
    with Image.open(file) as opened:
        packet = opened.info["xmp"]
        if suffix == "png":
            np.testing.assert_array_equal(np.asarray(opened), PIXELS)
    assert f'Iptc4xmpExt:DigitalSourceType="{COMPOSITE}"'.encode() in packet
    with pytest.raises(ValueError, match="does not say that a model made it"):
        read_mark(file)


def test_a_mark_that_another_program_wrote_anew_is_still_read() -> None:
    elements = MARK.to_xmp().decode()
    for name in ("Iptc4xmpExt:DigitalSourceType", "imagpose:pose"):
        start = elements.index(f"{name}=")
        end = elements.index('"', start + len(name) + 2)
        value = elements[start + len(name) + 2 : end]
        elements = elements[:start] + elements[end + 1 :]
        elements = elements.replace("/>", f"><{name}>{value}</{name}></rdf:Description>", 1).replace(
            f"</rdf:Description><{name}>{value}</{name}></rdf:Description>",
            f"<{name}>{value}</{name}></rdf:Description>",
        )
        elements = elements.replace("<rdf:Description/>", "")
        break
    assert Mark.from_xmp(elements.encode()) == MARK


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"trainedAlgorithmicMedia", b"digitalCapture", "does not say that a model made it"),
        (b"imagpose:seed=", b"imagpose:other=", "has no seed"),
        (b"</x:xmpmeta>", b"", "its XMP is broken"),
        (b"<x:xmpmeta", b"<!DOCTYPE a [<!ENTITY b 'c'>]><x:xmpmeta", "declares entities"),
    ],
)
def test_what_is_no_mark_is_refused(old: bytes, new: bytes, message: str) -> None:
    packet = MARK.to_xmp()
    assert old in packet
    with pytest.raises(ValueError, match=message):
        Mark.from_xmp(packet.replace(old, new))


def test_an_image_without_a_mark_and_a_file_that_is_none(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "plain.jpg")
    with pytest.raises(ValueError, match="it has no XMP"):
        read_mark(tmp_path / "plain.jpg")
    (tmp_path / "text.jpg").write_text("text")
    with pytest.raises(ValueError, match="it is no readable image"):
        read_mark(tmp_path / "text.jpg")


def test_a_composite_of_photographs_by_another_program_is_a_photograph(tmp_path: Path) -> None:
    """For example a panorama from which people were cut."""
    save_baseline(PIXELS, tmp_path / "pasted.jpg", 92, "pasted")
    with Image.open(tmp_path / "pasted.jpg") as image:
        packet = image.info["xmp"]
    assert is_marked_synthetic(tmp_path / "pasted.jpg") and b'imagpose:baseline="pasted"' in packet
    other = packet.replace(b'imagpose:baseline="pasted"', b"")
    Image.fromarray(PIXELS).save(tmp_path / "panorama.jpg", xmp=other)
    assert not is_marked_synthetic(tmp_path / "panorama.jpg")


@pytest.mark.parametrize("kind", [None, "pasted", "rendered"])
def test_an_index_takes_no_image_that_says_it_is_synthetic(
    kind: BaselineKind | None, image: Path, market: Path
) -> None:
    """For example this pipeline's own export, named as the root of a data set."""
    name = "bounding_box_train/0002_c1s1_000001_01_g0001.jpg"
    if kind:
        save_baseline(PIXELS, market / name, 92, kind)
    else:
        shutil.copy(image, market / name)
    index, rejected, _ = index_dataset("market1501", market, IndexSettings(validation_identities=0, seed=0))
    assert name not in set(index.image)
    reason = "a synthetic image, as the mark in its bytes says; a data set holds real images alone"
    assert rejected.values.tolist() == [[name, reason]]
