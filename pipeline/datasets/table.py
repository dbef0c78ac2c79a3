"""Any folder of images with a table, images.csv, that says whom they show and what they are for.

    image,pid,camid,split
    cam1/anna/0001.png,anna,lobby,train
    cam2/anna/0002.png,anna,stairs,train

- `image` is a path relative to the folder. Files that the table does not list do not belong to the data set.
- `pid` is the identity, any text. Whole numbers are kept, 0 is a distractor of the gallery and -1 junk there.
  If there are other texts, or a 0 outside the gallery, identities are numbered from 1 in the order of their
  names, and the index keeps the texts in the column pid_in_table.
- `camid` is the camera, likewise (camid_in_table). It may be empty, and the column may be missing: then no
  camera is known (`reid.cameras` says what a match is then).
- `split` is train, query, gallery, or test: people of the test without queries of their own.
- Further columns are kept. For poses.source annotations, keypoints.csv may lie beside the table.

`python -m tools.table` writes such a table from the names of folders or files. No class of torchreid reads
one.
"""

import csv
import re
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.datasets.listing import Listing, make_listing
from reid.cameras import NO_CAMERA

TABLE = "images.csv"
SPLITS = ("train", "query", "gallery", "test")
_NEEDED = ("image", "pid", "split")
_MEASURED = {"width", "height", "md5"}  # of the index: what the files say counts, not what a table says
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


def list_images(root: Path) -> Listing:
    """List the images of the table, in its order.

    Raises:
        ValueError: The table is missing or not of the form, or an image has two rows.
    """
    file = root / TABLE
    if not file.is_file():
        raise ValueError(
            f"{file} is missing; a data set of the format table has it, with the columns image, pid, camid, "
            "split (python -m tools.table writes it)"
        )
    rows = _read_rows(file)
    rows["image"] = [_to_path(file, line, image) for line, image in rows.image.items()]
    _refuse_rows(file, rows, rows.image.duplicated(), "{image} has two rows; leave one")
    rows["split"] = rows.split.str.lower()
    expected = f"the split of {{image}} is {{split!r}}, expected {', '.join(SPLITS)}"
    _refuse_rows(file, rows, ~rows.split.isin(SPLITS), expected)
    _refuse_rows(file, rows, rows.pid == "", "{image} has no pid; say whom it shows, or take the row out")
    is_stray = (rows.pid == "-1") & rows.split.isin(["train", "query"])
    _refuse_rows(file, rows, is_stray, "{image} is junk (pid -1), which only the gallery has")

    # Identities and cameras as numbers, and the texts beside them if they are no numbers
    numbers = {"pid": _to_numbers(file, rows.pid, "pid", {"-1": -1}, rows.split != "gallery")}
    cameras = rows.camid if "camid" in rows else pd.Series("", rows.index)
    unknown = {"": NO_CAMERA, str(NO_CAMERA): NO_CAMERA}
    numbers["camid"] = _to_numbers(file, cameras, "camid", unknown)
    images = rows[["image", "split"]].assign(**numbers)
    further = rows[[name for name in rows if name not in images and name not in _MEASURED]]
    for name, texts in (("pid", rows.pid), ("camid", cameras)):
        if (texts != images[name].astype(str)).any() and not set(texts) <= set(unknown):
            further = further.assign(**{f"{name}_in_table": texts})
    records = (
        ({str(name): value for name, value in row.items()}, None)
        for row in images.join(further).to_dict("records")
    )
    needed = ["test"] if (rows.split == "test").any() else ["query", "gallery"]
    return make_listing(root, records, dict.fromkeys(["train", *needed], file))


def _read_rows(file: Path) -> pd.DataFrame:
    """Read the table as texts; the index has the numbers of the lines."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            head = [name.strip() for name in next(reader, [])]
            missing = [name for name in _NEEDED if name not in head]
            if missing or len(set(head)) < len(head):
                fault = f"has no column {missing[0]}" if missing else "has a column twice"
                raise ValueError(
                    f"{file} {fault}; expected image, pid, camid, split and perhaps others, each once and "
                    f"separated by commas, where its first line is {','.join(head)[:80]!r}"
                )
            lines, rows = [], []
            for row in reader:
                if len(row) not in (0, len(head)):
                    raise ValueError(
                        f"{file}: line {reader.line_num} has {len(row)} cells, expected {len(head)}"
                    )
                if row:
                    lines.append(reader.line_num)
                    rows.append([cell.strip() for cell in row])
    except UnicodeDecodeError:
        raise ValueError(f"{file}: this is no text in UTF-8; save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{file}: line {reader.line_num} is no CSV ({error})") from None
    return pd.DataFrame(rows, columns=head, index=lines, dtype=str)


def _to_path(file: Path, line: object, image: str) -> str:
    """Return a path with forward slashes, within the folder of the table."""
    path = PurePosixPath(image.replace("\\", "/"))
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{file}: line {line}: the image is {image!r}, expected a path in {file.parent}")
    return path.as_posix()


def _refuse_rows(file: Path, rows: pd.DataFrame, is_wrong: "pd.Series[bool]", sentence: str) -> None:
    """Raise a ValueError that names the first wrong row, if there is one."""
    if is_wrong.any():
        row = rows[is_wrong].iloc[0]
        raise ValueError(f"{file}: line {row.name}: {sentence.format(**row[['image', 'split']])}")


def _to_numbers(
    file: Path,
    texts: "pd.Series[str]",
    column: str,
    fixed: dict[str, int],
    is_never_0: "pd.Series[bool] | None" = None,
) -> "pd.Series[int]":
    """Return texts as numbers: their own if all have one, else from 1 in the order of the texts.

    Args:
        file: The table, for the sentence.
        texts: Texts of a column.
        column: Its name.
        fixed: Texts with a number of their own.
        is_never_0: Rows in which 0 is a name like any other; none if it is None.

    Raises:
        ValueError: One number is written in two ways.
    """
    names = set(texts) - set(fixed)
    zeros = texts[is_never_0] if is_never_0 is not None else texts[:0]
    if all(map(_NUMBER.fullmatch, names)) and not any(text and int(text) == 0 for text in set(zeros) & names):
        written: dict[int, str] = {}
        for name in sorted(names):
            if written.setdefault(int(name), name) != name:
                raise ValueError(
                    f"{file}: {column} is {written[int(name)]} in one row and {name} in another; write one "
                    "number in one way, or with a letter if they are two"
                )
        return texts.map(fixed | {name: int(name) for name in names})
    order = {name: number for number, name in enumerate(sorted(names, key=_natural), start=1)}
    return texts.map(fixed | order)


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a key by which a2 comes before a10, and equal names alone are equal."""
    parts = re.split(r"(\d{1,18})", name, flags=re.ASCII)
    return [(int(part), "") if _NUMBER.fullmatch(part) else (0, part) for part in parts], name


def warnings(root: Path, images: pd.DataFrame) -> list[str]:
    """Return nothing: no public loader reads such a table."""
    return []
