"""Names of image files: identity and camera in Market-1501's way, and what belongs to no data set."""

import re
from pathlib import Path

from reid.cameras import NO_CAMERA

SUFFIXES = (".jpg", ".jpeg", ".png")  # in small or capital letters
_CLUTTER = re.compile(r"\..*|thumbs\.db|desktop\.ini|__macosx|readme(\..*)?|.*\.mat", re.IGNORECASE)
# An identity, or -1 for junk, and the first _c<camera> after it, whatever stands between and behind:
# 0002_c1s1_000451_03 (Market-1501), 0005_c2_f0046985 (DukeMTMC-reID), 0001_c1_1 (CUHK03-NP), 0002_p12_c1
_NAME = re.compile(r"(?P<pid>-1|\d{1,18})_(?:.*?_)??c(?P<camid>\d{1,18})(?!\d).*", re.ASCII | re.DOTALL)
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_LONGEST = (
    120  # characters of a source's name that a generated image's name repeats; systems allow 255 in all
)


def is_clutter(path: Path) -> bool:
    """Return whether a file or folder is none of the data: what systems leave and archives bring along.

    That is everything hidden (.DS_Store, and the ._x that macOS makes of every x), Thumbs.db, desktop.ini,
    __MACOSX, a readme, and MATLAB's lists.
    """
    return _CLUTTER.fullmatch(path.name) is not None


def read_name(name: str) -> tuple[int, int] | None:
    """Return the identity and the camera that a file's name says; None if it does not begin with them."""
    match = _NAME.fullmatch(name)
    return (int(match["pid"]), int(match["camid"])) if match else None


def speaking_stem(image: str, pid: int, camid: int) -> str:
    """Return a name, without suffix, that says an image's identity and camera to people and to loaders.

    It is the image's own stem if that begins with both, as in Market-1501. Any other is preceded by them:
    `walk in/IMG 3.png` of identity 12 and camera 3 becomes `0012_c3_IMG-3`. A camera that nobody knows is c0.
    Signs that are not allowed in names everywhere become `-`, and a long stem is cut, so that stems of two
    images may be the same.

    Args:
        image: Name or path of the image.
        pid: Its identity.
        camid: Its camera, or `NO_CAMERA`.
    """
    stem = Path(image).stem
    start = f"{pid:04d}_c{0 if camid == NO_CAMERA else camid}"
    safe = _UNSAFE.sub("-", stem)[:_LONGEST]
    behind = stem.removeprefix(start)[:1]
    says_both = stem.startswith(start) and not behind.isdecimal()
    return stem if says_both and safe == stem else f"{start}_{safe}"
