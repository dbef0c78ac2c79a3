"""Folders of synthetic images, of this pipeline or of any other generator: which images, of whom."""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from pipeline.files import md5, read_csv
from pipeline.params import ArmSettings

MANIFEST = {"name": str, "pid": int}  # columns of manifest.csv that any folder must have
_LIST = "manifest.csv"
_SUFFIXES = (".jpg", ".jpeg", ".png")
_FRACTION = re.compile(r"[1-9]\d?", re.ASCII)
_NAME = re.compile(r"(\d{4})_c\d.*", re.ASCII)  # the start of a Market-1501 name, as public loaders read it


def list_synthetic(folder: Path, fraction: int) -> tuple[Path, pd.DataFrame]:
    """List the synthetic images for one subset by their names alone; no image is opened.

    They lie in `folder`/`fraction`, or in `folder` itself for all subsets alike if no folder in it is named
    after a fraction. A manifest.csv there says who is who: columns name (a path in that folder) and pid.
    Without one, every image must have a name that begins as in Market-1501: 0002_c1...

    Args:
        folder: as an arm or a filter names it.
        fraction: the subset's share in percent.

    Returns:
        The folder of the images, and a table of them with the columns name, pid and what else the manifest
        has.

    Raises:
        FileNotFoundError: a folder or an image is missing.
        ValueError: there is no image, one is listed twice, or one whose identity is not known.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing; it is the folder of synthetic images of an arm")
    # 20, and not 0020, which may be an identity's
    by_fraction = any(child.is_dir() and _FRACTION.fullmatch(child.name) for child in folder.iterdir())
    images = folder / str(fraction) if by_fraction else folder
    if not images.is_dir():
        raise FileNotFoundError(f"{images} is missing; {folder} has folders of other fractions only")
    manifest = images / _LIST
    table = read_csv(manifest, MANIFEST, "generate") if manifest.is_file() else _by_names(images)
    if table.empty:
        raise ValueError(f"{images} holds no synthetic image; expected *.jpg or *.png, or a manifest.csv")
    for name in table.name:
        if Path(name).is_absolute() or ".." in Path(name).parts or not (images / name).is_file():
            raise FileNotFoundError(
                f"{images / name} is listed in {manifest}; there is no such file in {images}"
            )
    repeated = table.name[table.name.duplicated()]
    if len(repeated):
        raise ValueError(f"{manifest}: {repeated.iloc[0]} has two rows; leave one")
    return images, table


def read_synthetic(folder: Path, fraction: int, identities: set[int]) -> tuple[Path, pd.DataFrame]:
    """List the synthetic images for one subset, as `list_synthetic` does, and what is in them.

    Args:
        folder: as an arm or a filter names it.
        fraction: the subset's share in percent.
        identities: pids that may be shown, those of the subset.

    Returns:
        The folder of the images, and a table of them with the columns name, pid, md5 (of the present file)
        and what else the manifest has.

    Raises:
        FileNotFoundError: a folder or an image is missing.
        ValueError: as `list_synthetic` does, or an image shows nobody among `identities`.
    """
    images, table = list_synthetic(folder, fraction)
    for name, pid in zip(table.name, table.pid, strict=True):
        if pid not in identities:
            raise ValueError(
                f"{images / name} shows identity {pid}, which is not among the training identities"
            )
    return images, table.assign(md5=[md5(images / name) for name in table.name])


def unused_files(folder: Path, fractions: Iterable[int]) -> list[Path]:
    """Files in a folder of synthetic images that no subset's list names; tables and hidden files are none."""
    listed = {
        images / name
        for images, table in (list_synthetic(folder, fraction) for fraction in fractions)
        for name in table.name
    }
    return sorted(
        file
        for file in folder.rglob("*")
        if not (file.is_dir() or file.suffix == ".csv" or file.name.startswith(".") or file in listed)
    )


def say_unused(folder: Path, fractions: Iterable[int]) -> None:
    """Print how many `unused_files` there are, and the first."""
    unused = unused_files(folder, fractions)
    if unused:
        print(f"{folder}: {len(unused)} files are not used, the first is {unused[0]}", flush=True)


def read_arm(
    arm: ArmSettings, fraction: int, identities: set[int], real_images: int
) -> tuple[Path, pd.DataFrame]:
    """The synthetic images of an arm beside so many real ones: `read_synthetic`, within `synthetic_ratio`.

    Raises:
        ValueError: as `read_synthetic` does, or the ratio leaves no image.
    """
    folder, table = read_synthetic(arm.synthetic, fraction, identities)
    if arm.synthetic_ratio is not None:
        most = round(arm.synthetic_ratio * real_images)
        if not most:
            raise ValueError(
                f"synthetic_ratio is {arm.synthetic_ratio}, which is no image of {folder} beside "
                f"{real_images} real ones; raise it"
            )
        # By their checksums: as good as at random, and a smaller ratio's images are among a larger one's.
        table = table.sort_values("md5").head(most).sort_index()
    return folder, table


def _by_names(folder: Path) -> pd.DataFrame:
    rows = []
    for file in sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES):
        match = _NAME.fullmatch(file.name)
        if match is None:
            raise ValueError(
                f"{file}: the name does not begin as in Market-1501 (0002_c1...); rename it, or write "
                f"{folder / _LIST} with the columns name and pid"
            )
        rows.append((file.name, int(match[1])))
    return pd.DataFrame(rows, columns=list(MANIFEST))
