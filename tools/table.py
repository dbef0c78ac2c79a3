r"""Write images.csv, which dataset.format table reads, for a folder of images.

    FOLDER/train/anna/0001.png      split train, identity anna
    FOLDER/test/bert/lobby/7.jpg    split test, identity bert; folders within are the identity's own

Splits are train, and either query and gallery or test, of which queries are drawn. Identities are the names
of the folders, whatever they are. The camera is what --camera finds in the path behind the identity, such as
--camera 'cam(\d+)'; where it finds nothing, or without it, no camera is known.

Other layouts need a pattern that finds the identity in an image's path, and cameras are then found in the
whole path too. The split is train unless the first folder is another one, and --test draws people for a test:

    FOLDER/detected/0815_07.jpg     --identity '(\d+)_' --camera 'A=_0[0-4]' 'B=_0[5-9]' --test 200

Images in which --identity finds nothing do not belong to the data set. A pattern's first group counts, or
without groups all that it finds. Several cameras are NAME=PATTERN, and the first that fits counts.

Look at the table, and edit it as you like: the stages read nothing else.
"""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from common.seeding import make_rng
from pipeline.datasets.names import SUFFIXES, is_clutter
from pipeline.datasets.table import SPLITS, TABLE
from pipeline.runtime.outputs import write_csv
from pipeline.runtime.stage import command_line, stage_main

Camera = Callable[[str], str]  # finds the camera in a path; empty where none is known


def list_images(root: Path) -> tuple[list[Path], list[Path]]:
    """List the images of a folder, and the files that are none, by path within the folder.

    Raises:
        ValueError: The folder is missing, or one in it is a link.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; expected one with images")
    images: list[Path] = []
    others: list[Path] = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if any(is_clutter(Path(part)) for part in name.parts):
            continue
        if path.is_dir() and path.is_symlink():
            raise ValueError(f"{path} is a link to a folder, behind which DVC sees no changes")
        if not path.is_dir():
            (images if path.suffix.lower() in SUFFIXES else others).append(name)
    return images, others


def split_by_folders(root: Path, images: list[Path], camera: Camera) -> tuple[pd.DataFrame, list[Path]]:
    """Make the table of images in <split>/<identity>/.

    Args:
        root: Folder of the data set, for the sentences.
        images: Paths in it.
        camera: Finds the camera in the path behind the identity.

    Returns:
        Columns image, pid, camid, split; and the images that are not used.

    Raises:
        ValueError: An image lies in the folder of a split itself.
    """
    rows, unused = [], []
    for name in images:
        split, *rest = name.parts
        if split not in SPLITS:
            unused.append(name)
        elif len(rest) < 2:
            raise ValueError(
                f"{root / name} lies in no folder of an identity; expected {split}/<identity>/{rest[-1]}"
            )
        else:
            rows.append([name.as_posix(), rest[0], camera("/".join(rest[1:])), split])
    if not rows:
        raise ValueError(
            f"{root} has no image in a folder such as train/<identity>/; --identity finds people elsewhere"
        )
    return make_table(rows), unused


def split_by_pattern(
    root: Path, images: list[Path], identity: re.Pattern[str], camera: Camera
) -> tuple[pd.DataFrame, list[Path]]:
    """Make the table of images whose path tells the identity, as `split_by_folders` does.

    Raises:
        ValueError: The pattern finds no identity in any image.
    """
    rows, unused = [], []
    for name in images:
        path, split = name.as_posix(), name.parts[0] if name.parts[0] in SPLITS else "train"
        if pid := find(identity, path):
            rows.append([path, pid, camera(path), split])
        else:
            unused.append(name)
    if not rows:
        example = f", such as {images[0]}" if images else ""
        raise ValueError(
            f"--identity {identity.pattern} finds an identity in none of the {len(images)} images of "
            f"{root}{example}"
        )
    return make_table(rows), unused


def make_table(rows: list[list[str]]) -> pd.DataFrame:
    """Make the table of rows of image, pid, camid and split: the training first, the rest as it is."""
    table = pd.DataFrame(rows, columns=["image", "pid", "camid", "split"])
    return table.sort_values("split", key=lambda splits: splits.map(SPLITS.index), kind="stable")


def draw_test(table: pd.DataFrame, identities: int, seed: int) -> pd.DataFrame:
    """Move all images of some identities into the split test.

    Args:
        table: Table with the split train alone.
        identities: Number of identities to draw.
        seed: Seed of the draw, which depends on the set of identities, not on the images.

    Raises:
        ValueError: There is another split already, or nobody would be left.
    """
    if others := sorted({*table.split} - {"train"}):
        raise ValueError(f"--test draws people for a test, but folders say who is {others[0]} already")
    people = sorted(table.pid.unique())
    if not 0 < identities < len(people):
        raise ValueError(f"--test is {identities}, expected 1 to {len(people) - 1} of {len(people)} people")
    drawn = make_rng(seed, "people of the test").choice(people, identities, replace=False)
    return table.assign(split=table.split.mask(table.pid.isin(drawn), "test"))


def find(pattern: re.Pattern[str], path: str) -> str:
    """Return the first group of a pattern in a path, or all that it finds; empty if it finds nothing."""
    found = pattern.search(path)
    return ((found[1] if pattern.groups else found[0]) or "") if found else ""


def read_pattern(option: str, text: str) -> re.Pattern[str]:
    """Compile a regular expression; raises ValueError with the name of the option if it is none."""
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"{option} is {text!r}; it is no regular expression ({error})") from None


def read_camera(texts: list[str]) -> Camera:
    """Return what finds a camera: one pattern, or the name of the first of several that fits.

    Raises:
        ValueError: A text is no pattern, or one of several has no name.
    """
    if not texts:
        return lambda path: ""
    if len(texts) == 1:
        pattern = read_pattern("--camera", texts[0])
        return lambda path: find(pattern, path)
    named = []
    for text in texts:
        name, equals, pattern_text = text.partition("=")
        if not name or not equals:
            raise ValueError(f"--camera is {text!r}; each of several cameras is NAME=PATTERN")
        named.append((name, read_pattern("--camera", pattern_text)))
    return lambda path: next((name for name, pattern in named if pattern.search(path)), "")


def main() -> None:
    """Run the command."""
    parser = command_line("table", __doc__, "tools")
    parser.add_argument("folder", type=Path, help="folder of the data set")
    parser.add_argument("--identity", metavar="PATTERN", help="regular expression that finds the identity")
    parser.add_argument(
        "--camera",
        metavar="PATTERN",
        nargs="+",
        default=[],
        help="what finds the camera; NAME=PATTERN for several",
    )
    parser.add_argument("--test", metavar="N", type=int, help="number of identities to draw for the test")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (0)")
    arguments = parser.parse_args()
    root, file = arguments.folder, arguments.folder / TABLE
    if file.exists():
        raise ValueError(f"{file} exists; remove it if it may be written anew")

    camera = read_camera(arguments.camera)
    images, unused = list_images(root)
    if arguments.identity:
        identity = read_pattern("--identity", arguments.identity)
        table, others = split_by_pattern(root, images, identity, camera)
    else:
        table, others = split_by_folders(root, images, camera)
    if arguments.test is not None:
        table = draw_test(table, arguments.test, arguments.seed)
    write_csv(table, file)

    people = ", ".join(f"{split} {rows.pid.nunique()}" for split, rows in table.groupby("split", sort=False))
    cameras = Counter(table.camid[table.camid != ""])
    print(f"{file}: {len(table)} images; identities: {people}; {len(cameras)} cameras")
    if cameras and (unknown := int((table.camid == "").sum())):
        print(f"{unknown} images without a camera, the first is {table.image[table.camid == ''].iloc[0]}")
    if unused := sorted([*unused, *others]):
        print(f"{len(unused)} files are not used, the first is {root / unused[0]}")


if __name__ == "__main__":
    stage_main(main)
