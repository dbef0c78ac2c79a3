"""The synthetic images of an arm: data/synthetic/<generator>/<percent>/, a folder with its manifest.

Every such folder is written by a stage (`generate`, `import_images` or `filter`), so that it always has the
same form, whoever made the images.
"""

from pathlib import Path

import pandas as pd

from pipeline.artifacts import MANIFEST, MANIFEST_COLUMNS, SYNTHETIC
from pipeline.params import ArmSettings
from pipeline.runtime.hashes import md5
from pipeline.runtime.outputs import read_csv


def read_synthetic(generator: str, percent: int, identities: set[int]) -> tuple[Path, pd.DataFrame]:
    """List the synthetic images of a generator for one subset.

    Args:
        generator: all, subset, or a key of imports or filters.
        percent: Share of the subset.
        identities: Identities (pids) that the images may show: those of the subset.

    Returns:
        The folder of the images, and a table of them: the columns of their manifest, with md5 of the files as
        they are now.

    Raises:
        FileNotFoundError: The manifest or an image is missing.
        ValueError: There is no image, or one shows nobody among `identities`.
    """
    folder = SYNTHETIC / generator / str(percent)
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise FileNotFoundError(
            f"{manifest} is missing; `dvc repro` makes the images of generator {generator}"
        )
    table = read_csv(manifest, MANIFEST_COLUMNS)
    if table.empty:
        raise ValueError(f"{manifest} lists no image; `dvc repro` makes the images of generator {generator}")
    for name, pid in zip(table.name, table.pid, strict=True):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; {manifest} lists it")
        if pid not in identities:
            raise ValueError(
                f"{folder / name} shows identity {pid}, which is not among the training identities"
            )
    return folder, table.assign(md5=[md5(folder / name) for name in table.name])


def read_arm(
    arm: ArmSettings, percent: int, identities: set[int], real_images: int, all_real: int
) -> tuple[Path, pd.DataFrame]:
    """List the synthetic images that an arm adds to the real ones of a subset, as `read_synthetic` does.

    Args:
        arm: The recipe.
        percent: Share of the subset.
        identities: Identities of the subset.
        real_images: Number of its images.
        all_real: Number of all real training images.
    """
    folder, table = read_synthetic(arm.generator, percent, identities)
    return folder, table.sort_values("order").head(arm.count(real_images, all_real)).sort_index()
