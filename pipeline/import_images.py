"""Stage `import_images`: take in images that another generator made, for arms of params.yaml.

Reads a folder, an entry of the section imports; writes data/synthetic/<its name>/<percent>/ with the images
under names that say identity and camera, and manifest.csv.

The folder has one set of images for all subsets, or a folder per subset named after its percent (20/, 40/,
...): images that were made for one subset must not teach another. Who is shown stands in the file names,
which begin as in Market-1501 (0002_c1...), or in a table manifest.csv beside the images with the columns name
(path in that folder), pid and, where it is known, camid. JPEGs are copied as they are; PNGs become JPEGs and
keep their XMP, where marks of synthetic images stand.

Of an entry with `jobs: true` the folder is that of `python -m tools.jobs`: every planned image must be there,
in the size of the real ones.

No image may be a copy of a real one: that would teach what a subset lacks, or the test. Copies, re-compressed
and resized ones too, are left out and listed in data/copies/<its name>.csv. Images of another shape than the
real ones, such as panels of several pictures, are refused.
"""

import re
import shutil
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from common.seeding import make_rng
from pipeline.artifacts import COPIES, MANIFEST, SYNTHETIC, read_index, read_needs, read_plan
from pipeline.datasets.copies import find_copies, hash_images
from pipeline.datasets.images import read_image
from pipeline.datasets.names import SUFFIXES, is_clutter, read_name, speaking_stem
from pipeline.params import load_params
from pipeline.runtime.hashes import md5
from pipeline.runtime.outputs import atomic, read_csv, write_csv
from pipeline.runtime.stage import command_line, progress, stage_main
from reid.cameras import NO_CAMERA

_PERCENT = re.compile(r"100|[1-9]\d?", re.ASCII)  # 20, and not 0020, which may be an identity's folder
_COUNTER = re.compile(r"(?P<stem>.*)(?P<counter>_g\d{4,})", re.ASCII)
_MOST_XMP = 65_504  # bytes in a JPEG's one segment
_SHAPE_MARGIN = 1.5  # beyond the narrowest and the widest real image
_QUALITY = 95  # of JPEGs made of PNGs


def list_folder(folder: Path, percent: int) -> tuple[Path, pd.DataFrame]:
    """List the images for one subset by their names alone; no image is opened.

    Args:
        folder: An entry of imports.
        percent: Share of the subset.

    Returns:
        The folder of the images, and a table of them with the columns file (path in that folder), pid and
        camid (`NO_CAMERA` where nobody knows).

    Raises:
        FileNotFoundError: A folder or a listed image is missing.
        ValueError: There is no image, one is listed twice, or it is not known whom one shows.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing; expected images, or a folder of images per percent")
    by_percent = any(child.is_dir() and _PERCENT.fullmatch(child.name) for child in folder.iterdir())
    images = folder / str(percent) if by_percent else folder
    if not images.is_dir():
        raise FileNotFoundError(f"{images} is missing; {folder} has folders of other percents only")
    manifest = images / MANIFEST
    table = _by_manifest(manifest) if manifest.is_file() else _by_names(images)
    if table.empty:
        raise ValueError(f"{images} holds no synthetic image; expected *.jpg or *.png, or a {MANIFEST}")
    for file in table.file:
        if Path(file).is_absolute() or ".." in Path(file).parts or not (images / file).is_file():
            raise FileNotFoundError(
                f"{images / file} is listed in {manifest}; there is no such file in {images}"
            )
    return images, table.sort_values("file", ignore_index=True)


def _by_manifest(manifest: Path) -> pd.DataFrame:
    try:
        table = read_csv(manifest, {"name": str, "pid": int})
    except ValueError as error:
        raise ValueError(f"{error}; expected the columns name and pid") from None
    twice = table.name[table.name.duplicated()]
    if len(twice):
        raise ValueError(f"{manifest}: {twice.iloc[0]} has two rows; leave one")
    # Training does not look at the camera.
    texts = table.camid if "camid" in table else pd.Series(NO_CAMERA, table.index)
    camid = pd.to_numeric(texts.fillna(NO_CAMERA), errors="coerce")
    wrong = table[(camid % 1 != 0) | (camid < NO_CAMERA)]
    if len(wrong):
        first = wrong.iloc[0]
        raise ValueError(
            f"{manifest}: {first['name']} has camid {first.camid}, expected a whole number or nothing"
        )
    return table.assign(file=table.name, camid=camid.astype(int))[["file", "pid", "camid"]]


def _by_names(folder: Path) -> pd.DataFrame:
    rows = []
    for file in sorted(_visible_files(folder)):
        if file.suffix.lower() not in SUFFIXES:
            continue
        who = read_name(file.name)
        if who is None:
            raise ValueError(
                f"{file}: the name does not begin as in Market-1501 (0002_c1...); rename it, or write "
                f"{folder / MANIFEST} with the columns name and pid"
            )
        rows.append((file.relative_to(folder).as_posix(), *who))
    return pd.DataFrame(rows, columns=["file", "pid", "camid"])


def _visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files beneath a folder, without clutter: macOS leaves a ._x beside every x."""
    for file in folder.rglob("*"):
        parts = [file, *file.parents]
        if file.is_file() and not any(map(is_clutter, parts[: parts.index(folder)])):
            yield file


def match_jobs(rows: pd.DataFrame, folder: Path, plan: pd.DataFrame, size: tuple[int, int]) -> pd.DataFrame:
    """Match the results of jobs with their plan: one image of the right size for each row.

    Args:
        rows: Images, as `list_folder` lists them.
        folder: Folder that holds them.
        plan: The plan of which the jobs were written.
        size: Width and height that an image must have, pixels.

    Returns:
        The plan with file, the path of each image in the folder.

    Raises:
        ValueError: An image is missing, is in no job, or has another size.
    """
    files = {Path(file).stem: file for file in rows.file}
    missing = [name for name in plan.name if Path(name).stem not in files]
    if missing:
        raise ValueError(
            f"{folder / missing[0]} is missing ({len(missing)} of {len(plan)} images are); the jobs name it"
        )
    strangers = sorted(set(files) - {Path(name).stem for name in plan.name})
    if strangers:
        raise ValueError(
            f"{folder / files[strangers[0]]} is the result of no job ({len(strangers)} such images); remove "
            "it, or write the jobs again if the plan has changed"
        )
    for file in files.values():
        found = read_image(folder / file).size
        if found != size:
            raise ValueError(
                f"{folder / file} is {found[0]} x {found[1]} pixels; expected {size[0]} x {size[1]}, as the "
                "jobs say"
            )
    return plan.assign(file=[files[Path(name).stem] for name in plan.name])


def check_shapes(rows: pd.DataFrame, folder: Path, real: pd.DataFrame) -> None:
    """Raise a ValueError if an image has another shape than real images have, by more than a half.

    Args:
        rows: Images, as `list_folder` lists them.
        folder: Folder that holds them.
        real: All images of the data set, columns width and height (pixels).
    """
    shapes = real.width / real.height
    low, high = shapes.min() / _SHAPE_MARGIN, shapes.max() * _SHAPE_MARGIN
    for file in rows.file:
        width, height = read_image(folder / file).size
        if not low <= width / height <= high:
            raise ValueError(
                f"{folder / file} is {width} x {height} pixels; expected a crop of one person, with "
                f"a width of {low:.2f} to {high:.2f} of the height, as the real images have"
            )


def list_copies(rows: pd.DataFrame, folder: Path, real: pd.DataFrame, hashes: np.ndarray) -> pd.DataFrame:
    """List images that are copies of real ones.

    Args:
        rows: Images, as `list_folder` lists them.
        folder: Folder that holds them.
        real: All images of the data set, columns image and split.
        hashes: Perceptual hashes of the real images, bool [N, 256].

    Returns:
        Columns file, real (its name in data/index.csv), split, and bits that differ (of 256).
    """
    pairs = find_copies(hash_images([folder / file for file in rows.file], "looking for copies"), hashes)
    images = real.iloc[pairs.real]
    return pd.DataFrame(
        {
            "file": rows.file.to_numpy()[pairs.synthetic],
            "real": images.image.to_numpy(),
            "split": images.split.to_numpy(),
            "bits": pairs.bits.to_numpy(),
        }
    )


def import_folder(rows: pd.DataFrame, folder: Path, known: set[int], output: Path) -> pd.DataFrame:
    """Write images to a folder, in the order of their files, and return its manifest.

    Args:
        rows: Images, as `list_folder` lists them or `match_jobs` returns them.
        folder: Folder that holds them.
        known: Training identities; images of others could not be trained on, or would leak the test.
        output: Folder to write to, which exists.

    Returns:
        Columns name, pid, camid, order, file (where the image came from) and md5; of jobs, those of the
        plan too.

    Raises:
        ValueError: An identity is not in training, or a file is refused by `read_image`.
    """
    strangers = rows[~rows.pid.isin(list(known))]
    if len(strangers):
        first = strangers.iloc[0]
        raise ValueError(
            f"{folder / first.file} shows identity {first.pid}, which is no training identity of "
            f"data/index.csv ({len(strangers)} such images)"
        )
    if "name" not in rows:
        names = _names(rows)
        rows = rows.assign(name=[f"{names[file]}.jpg" for file in rows.file], order=_order(rows.pid))
        rows = rows[["name", "pid", "camid", "order", "file"]]
    for file, name in progress(zip(rows.file, rows.name, strict=True), len(rows), f"importing {folder}"):
        _to_jpeg(folder / file, output / name)
    table = rows.assign(md5=[md5(output / name) for name in rows.name])
    write_csv(table, output / MANIFEST)
    return table


def _order(pids: pd.Series) -> np.ndarray:
    """Draw the order in which arms take images: one of every identity, then a second one, and so on."""
    places = pd.Series(make_rng(0, "order of imported images").permutation(len(pids)))
    turns = places.sort_values().groupby(pids).cumcount()  # of each image among those of its identity
    return np.lexsort((places, turns.sort_index())).argsort()


def _names(rows: pd.DataFrame) -> dict[str, str]:
    """Return a name, without suffix, for each file.

    It is the file's `speaking_stem` and a counter. A file that has this form already keeps its name, so that
    images of several generators can be compared name by name; any other gets the first free counter.
    """
    names: dict[str, str] = {}
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for file, pid, camid in zip(rows.file, rows.pid, rows.camid, strict=True):
        own = Path(file).stem
        counted = _COUNTER.fullmatch(own)
        stems[file] = speaking_stem(f"{counted['stem'] if counted else own}.jpg", pid, camid)
        if counted and own == stems[file] + counted["counter"] and own not in taken:
            names[file] = own
            taken.add(own)
    for file, stem in stems.items():
        if file not in names:
            names[file] = next(name for i in count(1) if (name := f"{stem}_g{i:04d}") not in taken)
            taken.add(names[file])
    return names


def _to_jpeg(file: Path, target: Path) -> None:
    pixels = read_image(file)
    with Image.open(file) as image:
        if image.format == "JPEG":
            shutil.copyfile(file, target)
            return
        image.load()  # in a PNG, XMP may follow the pixels
        packet = image.info.get("xmp", b"")
    if len(packet) > _MOST_XMP:
        raise ValueError(f"{file}: its XMP has {len(packet)} bytes, a JPEG holds {_MOST_XMP}; shorten it")
    pixels.save(target, "JPEG", quality=_QUALITY, subsampling=0, xmp=packet)


def main() -> None:
    """Run the stage."""
    parser = command_line("import_images", __doc__)
    parser.add_argument("name", help="key of the section imports of params.yaml")
    name, params = parser.parse_args().name, load_params()
    if name not in params.imports:
        raise ValueError(f"the import is {name}; expected one of {', '.join(params.imports) or 'none'}")
    index, folder = read_index(), params.imports[name].folder
    known = set(index.pid[index.split == "train"])
    size = params.dataset.width - 2 * params.dataset.border, params.dataset.height
    hashes = hash_images([params.dataset.root / image for image in index.image], "hashing real images")
    used: set[Path] = set()
    copies: list[pd.DataFrame] = []
    with atomic(SYNTHETIC / name) as output:
        for percent in read_needs(name):
            (output / str(percent)).mkdir(parents=True)
            images, rows = list_folder(folder, percent)
            used |= {images / file for file in rows.file} | {images / MANIFEST}
            if params.imports[name].jobs:
                rows = match_jobs(rows, images, read_plan(name, percent), size)
            else:
                check_shapes(rows, images, index)
            copies.append(list_copies(rows, images, index, hashes).assign(percent=percent))
            rows = rows[~rows.file.isin(copies[-1].file)]
            if rows.empty:
                raise ValueError(f"{images} holds copies of real images alone; expected generated ones")
            table = import_folder(rows, images, known, output / str(percent))
            print(f"{percent} %: {len(table)} images of {table.pid.nunique()} identities", flush=True)
    all_copies = pd.concat(copies)
    write_csv(all_copies[["percent", "file", "real", "split", "bits"]], COPIES / f"{name}.csv")
    if len(all_copies):
        print(
            f"import_images: {len(all_copies)} images are copies of real ones and left out, see "
            f"{COPIES / name}.csv",
            file=sys.stderr,
        )
    unused = sorted(set(_visible_files(folder)) - used)
    if unused:
        print(f"{folder}: {len(unused)} files are not used, the first is {unused[0]}", flush=True)


if __name__ == "__main__":
    stage_main(main)
