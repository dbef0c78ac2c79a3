"""The files of an export: which images it has, under which names, and its folder and archive."""

import tarfile
from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Literal

import pandas as pd

from pipeline.datasets.loaders import LOADERS, misreadings, read_as_loaders
from pipeline.datasets.market1501 import FOLDERS
from pipeline.datasets.names import speaking_stem
from pipeline.datasets.table import TABLE
from pipeline.runtime.outputs import atomic, link_or_copy, write_csv
from pipeline.runtime.stage import progress
from reid.cameras import NO_CAMERA, cameras_separate

Layout = Literal["market1501", "table", "imagefolder"]

MARKET, LINK, CARD, LIST = "Market-1501-v15.09.15", "market1501", "README.md", "synthetic.csv"
# Folders of the splits in the layout imagefolder; datasets' builder knows splits named train and test.
PARTS = {"train": "train", "query": "test/query", "gallery": "test/gallery"}
METADATA = "metadata.jsonl"
_ANY_CAMERA = 1  # of training images without a camera: loaders want one, and no training looks at it


def contents(
    index: pd.DataFrame,
    subset: list[str],
    root: Path,
    synthetic: pd.DataFrame,
    folder: Path,
    layout: Layout = "market1501",
) -> pd.DataFrame:
    """List the files of an export: the subset, the synthetic images, all queries, the whole gallery.

    Validation identities are left out, as they are of every training here. Distractors and junk stay in the
    gallery, where loaders expect them.

    Args:
        index: Table of the data set.
        subset: Names of the real training images to export.
        root: Folder of the data set.
        synthetic: Synthetic images, columns name, pid and camid, and maybe sources and pose; may be empty.
        folder: Folder of the synthetic images.
        layout: Who is to read it.

    Returns:
        Columns file (relative to the folder of the export), pid, camid, split, synthetic, sources and pose
        (empty where not known), path (of the present file), in the order of `file`.
    """
    real = index[index.image.isin(subset) | index.split.isin(["query", "gallery"])]
    origins = {
        column: synthetic[column].tolist() if column in synthetic else [""] * len(synthetic)
        for column in ("sources", "pose")
    }
    rows = pd.DataFrame(
        {
            "file": [*real.image, *synthetic.name],
            "pid": [*real.pid, *synthetic.pid],
            "camid": [*real.camid, *synthetic.camid],
            "split": [*real.split, *["train"] * len(synthetic)],
            "synthetic": [False] * len(real) + [True] * len(synthetic),
            **{column: [""] * len(real) + values for column, values in origins.items()},
            "path": [*(root / image for image in real.image), *(folder / name for name in synthetic.name)],
        }
    )
    kinds = rows.synthetic.map({False: "real", True: "synthetic"})
    if layout == "table":
        rows["file"] = kinds + "/" + rows.file
    elif layout == "imagefolder":
        rows["file"] = list(_free_names(rows.split.map(PARTS) + "/" + kinds, rows.file.map(_base_name)))
    else:
        rows.loc[(rows.split == "train") & (rows.camid == NO_CAMERA), "camid"] = _ANY_CAMERA
        rows["file"] = list(
            _free_names(f"{MARKET}/" + rows.split.map(FOLDERS), pd.Series(_loader_names(rows)))
        )
    return rows.sort_values("file", ignore_index=True)


def _base_name(file: str) -> str:
    return Path(file).name


def _loader_names(rows: pd.DataFrame) -> Iterator[str]:
    """Yield a name for each image: its own, if loaders read it right."""
    for file, pid, camid in zip(rows.file, rows.pid, rows.camid, strict=True):
        name = Path(file).name
        is_read = name.endswith(".jpg") and read_as_loaders(name) == (pid, camid)
        yield name if is_read else f"{speaking_stem(name, pid, camid)}.jpg"


def _free_names(folders: pd.Series, names: pd.Series) -> Iterator[str]:
    """Yield a path for each image, with a counter where images of a folder share a name."""
    taken: set[str] = set()
    for folder, name in zip(folders, names, strict=True):
        stem, suffix = Path(name).stem, Path(name).suffix
        further = (f"{stem}_{number}{suffix}" for number in count(2))
        free = next(one for one in chain([name], further) if f"{folder}/{one}" not in taken)
        taken.add(f"{folder}/{free}")
        yield f"{folder}/{free}"


def check_loaders(rows: pd.DataFrame, output: Path) -> None:
    """Raise a ValueError unless Market-1501's loaders would read an export as it is meant.

    Args:
        rows: Files of the export, as `contents` lists them.
        output: Folder of the export.
    """
    query, gallery = (rows.camid[rows.split == split].to_numpy() for split in ("query", "gallery"))
    mend = "; --layout table exports it as it is"
    if not cameras_separate(query, gallery):
        raise ValueError(
            f"the data set has no two cameras in its test, and {LOADERS} look for images from another camera "
            f"than the query's: they would find nobody{mend}"
        )
    if sentences := misreadings(output, rows.rename(columns={"file": "image"})):
        raise ValueError(sentences[0] + mend)


def write_export(
    rows: pd.DataFrame,
    texts: dict[str, str],
    output: Path,
    layout: Layout,
    sign: Callable[[Path, Path], None] | None = None,
) -> None:
    """Write the folder whole: the images of `contents`, their lists, and further texts.

    Args:
        rows: Files of the export, as `contents` lists them.
        texts: Further files, by their names.
        output: Folder to write.
        layout: Who is to read it.
        sign: Writes a signed copy of the first file to the second, for synthetic images; None links them.
    """
    with atomic(output) as temporary:
        files = zip(rows.file, rows.path, rows.synthetic, strict=True)
        desc = "linking images" if sign is None else "linking and signing images"
        for file, path, is_synthetic in progress(files, len(rows), desc):
            target = temporary / file
            target.parent.mkdir(parents=True, exist_ok=True)
            if is_synthetic and sign:
                sign(path, target)
            else:
                link_or_copy(path, target)
        if layout == "market1501":
            (temporary / LINK).symlink_to(MARKET)
        elif layout == "table":
            table = rows.rename(columns={"file": "image"})[["image", "pid", "camid", "split", "synthetic"]]
            table["camid"] = table.camid.where(table.camid != NO_CAMERA).astype("Int64")  # empty: unknown
            write_csv(table, temporary / TABLE)
        for name, text in texts.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_text(text, encoding="utf-8")
        write_csv(rows.loc[rows.synthetic, ["file", "pid"]], temporary / LIST)


def write_archive(folder: Path, archive: Path) -> None:
    """Put an export into one .tar: sorted names, no owners, no times, so that equal content is equal bytes.

    JPEGs do not compress, so the archive does not try.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    with atomic(archive) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in progress(files, len(files), "archiving"):
            entry = tarfile.TarInfo(f"{archive.stem}/{path.relative_to(folder).as_posix()}")
            if path.is_symlink():
                entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
                tar.addfile(entry)
            else:
                entry.size, entry.mode = path.stat().st_size, 0o644
                with path.open("rb") as content:
                    tar.addfile(entry, content)
