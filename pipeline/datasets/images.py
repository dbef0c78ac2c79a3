"""Read image files: the one way from a file to pixels, for real and for synthetic images."""

import errno
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.datasets.marks import is_marked_synthetic
from pipeline.runtime.hashes import md5
from pipeline.runtime.stage import progress

_ORIENTATION = 0x0112  # EXIF tag
_TURNED = range(2, 9)  # its values that turn or mirror; all others mean nothing
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK")
_FILE_ERRORS = (errno.ENOENT, errno.EACCES, errno.EPERM)  # errors that concern one file
_MOST_PIXELS = 4096 * 4096  # more is no crop of a person, and decoding it may exhaust the memory


def read_image(file: Path) -> Image.Image:
    """Decode an image to 8-bit RGB as public re-ID loaders do: `Image.open(file).convert("RGB")`.

    An image is read if torchreid, reid-strong-baseline and fast-reid agree on its pixels; it is refused if
    they differ or are wrong:

    - The content decides, not the name: JPEG and PNG. Other formats are refused, also because decoding some
      of them starts other programs.
    - Grey, black-and-white, palette and CMYK images become RGB.
    - 16-bit grey (loaders clip it to white) and transparent pixels (loaders show the colour beneath) are
      refused.
    - An EXIF orientation is never applied. If it turns or mirrors the image it is refused: torchreid and
      reid-strong-baseline ignore it, fast-reid applies it. An EXIF block that cannot be read is ignored.
    - Empty, truncated and damaged files are refused, and images of more than 4096 x 4096 pixels, before they
      are decoded. Links are followed wherever they lead: DVC's cache may be made of links.

    Raises:
        ValueError: The file is refused, may not be read or is missing; the message is "<file>: <reason>".
        OSError: The disk or the system fails, which says nothing about the image.
    """
    try:
        with Image.open(file, formats=("JPEG", "PNG")) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError("more than 4096 x 4096 pixels are no crop of a person")
            if image.mode not in _MODES:
                raise ValueError(f"more than 8 bits per channel ({image.mode}), which public loaders clip")
            image.load()
            if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
                raise ValueError("it has transparent pixels, of which public loaders show the colour beneath")
            orientation = _orientation(image)
            if orientation in _TURNED:
                raise ValueError(
                    f"EXIF orientation {orientation}: some public loaders turn the image, others do not; "
                    "save it turned, without the tag"
                )
            return image.convert("RGB")
    except Image.DecompressionBombError:
        reason = "more than 4096 x 4096 pixels are no crop of a person"
    except UnidentifiedImageError:
        reason = "an empty file" if file.stat().st_size == 0 else "no JPEG or PNG image"
    except (OSError, SyntaxError) as error:  # what Pillow raises for damaged files, without a number
        number = getattr(error, "errno", None)
        if number is not None and number not in _FILE_ERRORS:
            reason = f"cannot be read at present ({os.strerror(number)}); run again when this is mended"
            raise OSError(number, reason, str(file)) from None
        reason = f"damaged or unreadable: {os.strerror(number) if number else error}"
    except ValueError as error:
        reason = str(error)
    raise ValueError(f"{file}: {reason}")


def load_images(files: Sequence[Path], height: int, width: int) -> NDArray[np.uint8]:
    """Decode images and resize them to `height` x `width` pixels: uint8 [N, height, width, 3], RGB.

    Raises:
        ValueError: An image is refused (`read_image`).
        OSError: The disk or the system fails.
    """
    images = np.empty((len(files), height, width, 3), np.uint8)

    def load(i: int) -> None:
        images[i] = np.asarray(read_image(files[i]).resize((width, height), Image.Resampling.BILINEAR))

    # Pillow lets go of the interpreter while it decodes and resizes, so threads use all cores.
    with ThreadPoolExecutor() as pool:
        for _ in progress(pool.map(load, range(len(files))), total=len(files), desc="decoding images"):
            pass
    return images


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image; 1 means upright."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged block raises errors of many kinds; every loader ignores it
        return 1


def printable(name: str) -> str:
    """Escape control characters and bytes that are no text, so that a file's name fits a cell of a table."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in name
    )


def refuse_path(root: Path, image: str) -> str | None:
    """Return why a path in a data set is no image, before it is opened; None if it may be one."""
    if "|" in image:
        return "the name holds |, which separates images in the tables of a run; rename it"
    if not image.isprintable():
        return "the name holds signs that cannot be printed; rename it"
    path = root / image
    if path.is_file():
        return None
    if path.is_dir():
        return "a folder, where images are looked for and no further folders"
    if path.is_symlink():
        return "a link that leads nowhere"
    return "no regular file" if path.exists() else "there is no such file"


def inspect_all(files: list[Path]) -> list[dict[str, Any] | str]:
    """Decode images; return width, height, md5 and a checksum `pixels` of each, or why it cannot be used."""
    with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter while it decodes
        return list(progress(pool.map(_inspect, files), total=len(files), desc="decoding images"))


def _inspect(file: Path) -> dict[str, Any] | str:
    """Decode an image; return its size and checksums, or why it cannot be used."""
    try:
        image = read_image(file)
    except ValueError as error:
        return str(error).removeprefix(f"{file}: ")
    if is_marked_synthetic(file):
        return "a synthetic image, as the mark in its bytes says; a data set holds real images alone"
    pixels = hashlib.md5(repr(image.size).encode() + image.tobytes(), usedforsecurity=False).hexdigest()
    return {"width": image.width, "height": image.height, "md5": md5(file), "pixels": pixels}
