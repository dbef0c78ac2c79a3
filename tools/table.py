r"""Write images.csv, which dataset.format table reads, for images in folders per identity.

    FOLDER/train/anna/0001.png      split train, identity anna
    FOLDER/test/bert/lobby/7.jpg    split test, identity bert; folders within are the identity's own

Splits are train, and either query and gallery or test, of which queries are drawn. Identities are the names
of the folders, whatever they are. The camera is what --camera finds in the path behind the identity, such as
--camera 'cam(\d+)'; where it finds nothing, or without it, no camera is known. Look at the table, and edit it
as you like: the stages read nothing else.
"""

import re
from collections import Counter
from pathlib import Path

import pandas as pd

from pipeline.datasets.names import SUFFIXES, is_clutter
from pipeline.datasets.table import SPLITS, TABLE
from pipeline.runtime.outputs import write_csv
from pipeline.runtime.stage import command_line, stage_main


def make_table(root: Path, camera: re.Pattern[str] | None) -> tuple[pd.DataFrame, list[Path]]:
    """List the images of a folder by split and identity.

    Args:
        root: Folder of the data set.
        camera: What finds the camera in the path behind the identity: its first group, or all that it finds.

    Returns:
        Columns image, pid, camid, split, by path; and the files and folders that are not used.

    Raises:
        ValueError: There is no image, one lies in the folder of a split itself, or a folder is a link.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; expected one with {', '.join(SPLITS)}")
    rows = []
    unused = [path for path in sorted(root.iterdir()) if path.name not in SPLITS and not is_clutter(path)]
    for split in SPLITS:
        for file in sorted((root / split).rglob("*")):
            parts = file.relative_to(root).parts
            if any(is_clutter(Path(part)) for part in parts):
                continue
            if file.is_dir() and file.is_symlink():
                raise ValueError(f"{file} is a link to a folder, behind which DVC sees no changes")
            if file.is_dir():
                continue
            if file.suffix.lower() not in SUFFIXES:
                unused.append(file)
                continue
            if len(parts) < 3:
                raise ValueError(
                    f"{file} lies in no folder of an identity; expected {split}/<identity>/{file.name}"
                )
            found = camera.search("/".join(parts[2:])) if camera else None
            camid = (found[1] if found.re.groups else found[0]) if found else ""
            rows.append({"image": "/".join(parts), "pid": parts[1], "camid": camid, "split": split})
    if not rows:
        raise ValueError(f"{root} has no image in a folder such as train/<identity>/")
    return pd.DataFrame(rows), unused


def main() -> None:
    """Run the command."""
    parser = command_line("table", __doc__, "tools")
    parser.add_argument("folder", type=Path, help="folder of the data set")
    parser.add_argument("--camera", metavar="PATTERN", help="regular expression that finds the camera")
    arguments = parser.parse_args()
    root, file = arguments.folder, arguments.folder / TABLE
    if file.exists():
        raise ValueError(f"{file} exists; remove it if it may be written anew")
    try:
        camera = re.compile(arguments.camera) if arguments.camera else None
    except re.error as error:
        raise ValueError(f"--camera is {arguments.camera!r}; it is no regular expression ({error})") from None
    table, unused = make_table(root, camera)
    write_csv(table, file)
    people = ", ".join(f"{split} {rows.pid.nunique()}" for split, rows in table.groupby("split", sort=False))
    cameras = Counter(table.camid[table.camid != ""])
    print(f"{file}: {len(table)} images; identities: {people}; {len(cameras)} cameras")
    if cameras and (unknown := int((table.camid == "").sum())):
        print(f"{unknown} images without a camera, the first is {table.image[table.camid == ''].iloc[0]}")
    if unused:
        print(f"{len(unused)} files and folders are not used, the first is {unused[0]}")


if __name__ == "__main__":
    stage_main(main)
