"""Take in synthetic images that another generator made, as the folder of an arm.

Reads a folder of images; writes data/imported/<name>/<fraction>/ with the images under Market-1501 names and
manifest.csv, for `synthetic: data/imported/<name>` in an arm of params.yaml. Who is shown stands in the file
names (0002_c1s1_000451_03.jpg, also with another ending or a counter _g0001, which is kept), or for other
names in a table with the columns file (relative to the folder), pid and camid. JPEGs are copied as they are;
PNGs become JPEGs and keep their XMP, where marks of synthetic images stand. Images made for one subset must
not teach another: import each share's own.
"""

import re
import shutil
from itertools import count
from pathlib import Path

import pandas as pd
from PIL import Image

from pipeline.cli import command_line
from pipeline.files import atomic, md5, progress, read_csv, stage_main, write_csv
from pipeline.images import read_image
from pipeline.index import read_index
from pipeline.params import load_params

IMPORTED = Path("data/imported")
MAPPING = {"file": str, "pid": int, "camid": int}
_NAME = re.compile(r"((\d{4})_c([1-6])s\d+_\d{6}_\d{2})(_g\d{4,})?", re.ASCII)
_SUFFIXES = (".jpg", ".jpeg", ".png")
_MOST_XMP = 65_504  # bytes in a JPEG's one segment
_QUALITY = 95  # of JPEGs made of other formats


def read_names(folder: Path) -> pd.DataFrame:
    """Read who is shown from the Market-1501 names of all images in a folder.

    Returns:
        Columns file, pid, camid and stem, the part of the name that a counter follows.

    Raises:
        ValueError: there is no image, or one with another name.
    """
    rows = []
    for file in sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES):
        match = _NAME.fullmatch(file.stem)
        if match is None:
            raise ValueError(
                f"{file}: the name is not of the form 0002_c1s1_000451_03_g0001 with cameras c1 to c6; "
                f"give a table with the columns {', '.join(MAPPING)} (--mapping)"
            )
        name = file.relative_to(folder).as_posix()
        rows.append({"file": name, "pid": int(match[2]), "camid": int(match[3]), "stem": match[1]})
    if not rows:
        raise ValueError(f"{folder} holds no images ({', '.join(_SUFFIXES)})")
    return pd.DataFrame(rows)


def read_mapping(table: Path, folder: Path) -> pd.DataFrame:
    """Read who is shown from a table; returns the same columns as `read_names`.

    Stems get sequence 0 and frame 0, which no real image of Market-1501 has.

    Raises:
        ValueError: it is no such table, a file stands twice or lies outside the folder, or a camera is not 1
            to 6.
    """
    try:
        rows = read_csv(table, MAPPING, "")[list(MAPPING)]
    except (ValueError, OSError) as error:
        reason = str(error).split("; run the stage")[0]  # the table is the user's, no stage writes it
        raise ValueError(f"{reason}; expected a table with the columns {', '.join(MAPPING)}") from None
    for file, camid in zip(rows.file, rows.camid, strict=True):
        if not (folder / file).resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{table}: {file} lies outside {folder}")
        if camid not in range(1, 7):
            raise ValueError(f"{table}: {file} has camid {camid}, expected 1 to 6")
    twice = rows.file[rows.file.duplicated()]
    if len(twice):
        raise ValueError(f"{table}: {twice.iloc[0]} stands there twice")
    stems = [f"{pid:04d}_c{camid}s0_000000_00" for pid, camid in zip(rows.pid, rows.camid, strict=True)]
    return rows.assign(stem=stems)


def import_folder(rows: pd.DataFrame, folder: Path, known: set[int], output: Path) -> pd.DataFrame:
    """Write the images of `rows`, in order of their files, to `output`; returns its manifest.

    Args:
        rows: as `read_names` gives them.
        folder: that holds the files.
        known: training identities; images of others could not be trained on, or would leak the test.
        output: replaced whole.

    Returns:
        Columns name, pid, camid, file (where it came from) and md5.

    Raises:
        ValueError: an identity is not in training, or a file is refused by `read_image`.
    """
    strangers = rows[~rows.pid.isin(list(known))]
    if len(strangers):
        first = strangers.iloc[0]
        raise ValueError(
            f"{folder / first.file} shows identity {first.pid}, which is no training identity of "
            f"data/index.csv ({len(strangers)} such images)"
        )
    rows = rows.sort_values("file")
    names = _names(rows)
    manifest = []
    with atomic(output) as temporary:
        temporary.mkdir()
        for row in progress(rows.to_dict("records"), len(rows), f"importing {output.name}"):
            name = f"{names[row['file']]}.jpg"
            _to_jpeg(folder / row["file"], temporary / name)
            made = {"name": name, "pid": row["pid"], "camid": row["camid"], "file": row["file"]}
            manifest.append(made | {"md5": md5(temporary / name)})
        write_csv(pd.DataFrame(manifest), temporary / "manifest.csv")
    return pd.DataFrame(manifest)


def _names(rows: pd.DataFrame) -> dict[str, str]:
    """A name for each file: its own if it has a counter, else its stem with the first free counter."""
    names, taken = {}, set()
    for file, stem in zip(rows.file, rows.stem, strict=True):
        own = Path(file).stem
        match = _NAME.fullmatch(own)
        if match and match[1] == stem and match[4] and own not in taken:
            names[file] = own
            taken.add(own)
    for file, stem in zip(rows.file, rows.stem, strict=True):
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
    """Run the command."""
    parser = command_line("import_images", __doc__)
    parser.add_argument("folder", type=Path, help="the outside images, in any subfolders")
    parser.add_argument("name", help="of the arm's folder, data/imported/<name>")
    parser.add_argument(
        "--fractions",
        type=int,
        nargs="+",
        metavar="PERCENT",
        help="subsets that these images were made for (default: all of subset.fractions)",
    )
    parser.add_argument("--mapping", type=Path, metavar="CSV", help="table of file, pid, camid")
    arguments = parser.parse_args()
    fractions = load_params().subset.fractions
    chosen = arguments.fractions or fractions
    for fraction in chosen:
        if fraction not in fractions:
            listed = ", ".join(map(str, fractions))
            raise ValueError(f"the fraction is {fraction}; expected one of {listed} (subset.fractions)")
    if not re.fullmatch("[a-z][a-z0-9_-]*", arguments.name):
        raise ValueError(f"the name is {arguments.name}; expected small letters, digits, - and _")
    if not arguments.folder.is_dir():
        raise ValueError(f"{arguments.folder} is no folder")
    if arguments.mapping:
        rows = read_mapping(arguments.mapping, arguments.folder)
    else:
        rows = read_names(arguments.folder)
    index = read_index()
    known = set(index.pid[index.split == "train"])
    output = IMPORTED / arguments.name
    left = [file for file in arguments.folder.rglob("*") if file.is_file() and file != arguments.mapping]
    left = sorted({file.relative_to(arguments.folder).as_posix() for file in left} - set(rows.file))
    if left:
        print(f"{arguments.folder}: {len(left)} files are not imported, the first is {left[0]}", flush=True)
    for fraction in chosen:
        made = import_folder(rows, arguments.folder, known, output / str(fraction))
        print(f"{output / str(fraction)}: {len(made)} images of {made.pid.nunique()} identities")
    print(f"Use them in an arm of params.yaml: synthetic: {output}")


if __name__ == "__main__":
    stage_main(main)
