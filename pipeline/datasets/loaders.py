"""What public loaders make of a folder in Market-1501's layout.

The classes Market1501 of torchreid, fast-reid and reid-strong-baseline do the same: they take `*.jpg`, search
an identity and a camera in the whole path, pass over identity -1, and stop at an identity over 1501 or a
camera that is none of 1 to 6. What they misread is no mistake of a data set, since nothing here reads it with
them; `tools.export` refuses to hand it to them.
"""

import re
from collections import Counter
from pathlib import Path

import pandas as pd

LOADERS = "torchreid, fast-reid and reid-strong-baseline"
_SEARCHED = re.compile(r"([-\d]+)_c(\d)")
_LAST_IDENTITY, _LAST_CAMERA = 1501, 6


def read_as_loaders(path: str) -> tuple[int, int] | None:
    """Return the identity and the camera that the loaders find in a path; None if they find none."""
    found = _SEARCHED.search(path)
    return (int(found[1]), int(found[2])) if found and found[1].lstrip("-").isdecimal() else None


def misreadings(root: Path, images: pd.DataFrame) -> list[str]:
    """List what the loaders misread, one sentence for each kind, with the first image and their number.

    Args:
        root: Folder in Market-1501's layout, as it would be given to them: they follow links, but do not
            resolve them.
        images: Columns image (path in that folder), pid and camid.
    """
    path = str(root.absolute())
    if (found := _SEARCHED.search(path)) is not None:
        return [
            f"{LOADERS} read identity {found[1]} and camera {found[2]} from the path {path} of every image"
        ]
    first: dict[str, str] = {}  # what goes wrong -> how, for the first image
    counts: Counter[str] = Counter()
    for image, pid, camid in zip(images.image, images.pid, images.camid, strict=True):
        read = read_as_loaders(image)
        if not image.endswith(".jpg"):
            kind, how = "unseen", f"do not see {image}, for they take *.jpg alone"
        elif read != (pid, camid):
            found_there = f"identity {read[0]} and camera {read[1]}" if read else "no identity"
            kind, how = "misread", f"read {found_there} from {image}, which is identity {pid}, camera {camid}"
        elif pid >= 0 and not (pid <= _LAST_IDENTITY and 1 <= camid <= _LAST_CAMERA):
            limits = f"identities up to {_LAST_IDENTITY} and cameras 1 to {_LAST_CAMERA}"
            kind, how = "refused", f"stop at {image}, for they take {limits}"
        else:
            continue
        first.setdefault(kind, how)
        counts[kind] += 1
    return [f"{LOADERS} {how} ({counts[kind]} such images)" for kind, how in first.items()]
