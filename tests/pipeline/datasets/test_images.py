"""Images are read as public loaders read them, or refused by name (all kinds: test_bad_data.py)."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from pipeline.datasets.images import load_images, read_image


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "JPEG"), ("P", "PNG"), ("1", "PNG"), ("RGBA", "PNG")],
)
def test_pixels_are_those_of_public_loaders(mode: str, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    noise((16, 8)).convert(mode).save(file, kind)
    image = read_image(file)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(image, Image.open(file).convert("RGB"))


def test_load_images_keeps_the_order_and_resizes(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(6)]
    for i, file in enumerate(files):
        noise((20, 10), i).save(file)
    np.testing.assert_array_equal(load_images(files, 20, 10), [noise((20, 10), i) for i in range(6)])
    resized = [np.asarray(Image.open(file).resize((8, 16), Image.Resampling.BILINEAR)) for file in files]
    np.testing.assert_array_equal(load_images(files, 16, 8), resized)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("missing", "damaged or unreadable: No such file or directory"),
        ("truncated", "damaged or unreadable: image file is truncated"),
        ("text", "no JPEG or PNG image"),
        ("turned", "EXIF orientation 3: some public loaders turn the image"),
    ],
)
def test_an_image_that_cannot_be_read_is_named(damage: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "0001_c1s1_000001_00.jpg"
    exif = Image.Exif()
    exif[0x0112] = 3 if damage == "turned" else 1
    noise((64, 32)).save(file, exif=exif)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-500])
    elif damage == "text":
        file.write_text("no image")
    elif damage == "missing":
        file.unlink()
    with pytest.raises(ValueError) as caught:
        load_images([file], 64, 32)
    assert str(caught.value).startswith(f"{file}: {reason}")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize("moment", ["open", "load"])
def test_a_disk_that_fails_says_nothing_about_the_image(
    number: int, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has no name of a file, as that of a read; the stage must end and not list a bad image."""
    file = tmp_path / "0001_c1s1_000001_00.jpg"
    noise((64, 32)).save(file)

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*((Image, "open") if moment == "open" else (ImageFile.ImageFile, "load")), fail)
    with pytest.raises(OSError, match="cannot be read at present") as caught:
        read_image(file)
    assert (caught.value.errno, caught.value.filename) == (number, str(file))


def test_an_image_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ValueError, match=r"a\.jpg: damaged or unreadable: Permission denied"):
        read_image(tmp_path / "a.jpg")
