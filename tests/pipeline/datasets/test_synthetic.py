"""The images of a generator are read whole, as their manifest lists them, or refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.datasets.synthetic import read_arm, read_synthetic
from pipeline.params import ArmSettings
from pipeline.runtime.hashes import md5
from pipeline.runtime.outputs import write_csv
from tests.pipeline.market import save_image

IDS = {2, 7}
FOLDER = Path("data/synthetic/pidm/20")


def write(names: list[str], **columns: Any) -> None:
    """Images of identities 2 and 7 in turn, listed with the checksum of another image."""
    for seed, name in enumerate(names):
        save_image(FOLDER / name, seed)
    pids = [(2, 7)[i % 2] for i in range(len(names))]
    order = np.random.default_rng(0).permutation(len(names))
    columns = {"name": names, "pid": pids, "order": order, "md5": ["0" * 32] * len(names)} | columns
    write_csv(pd.DataFrame(columns), FOLDER / "manifest.csv")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_manifest_lists_the_images_and_what_else_it_knows() -> None:
    write(["a.jpg", "b.jpg"], sources=["x", "y"])
    folder, table = read_synthetic("pidm", 20, IDS)
    assert folder == FOLDER
    assert table[["name", "pid", "sources"]].to_numpy().tolist() == [["a.jpg", 2, "x"], ["b.jpg", 7, "y"]]


def test_a_checksum_is_that_of_the_file_and_not_of_the_table() -> None:
    """An image that was painted over after its manifest was written must not pass for the old one."""
    write(["a.jpg"])
    assert read_synthetic("pidm", 20, IDS)[1].md5.tolist() == [md5(FOLDER / "a.jpg")]


def test_what_cannot_be_used_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"20/manifest.csv is missing; `dvc repro` makes the "):
        read_synthetic("pidm", 20, IDS)
    write([])
    with pytest.raises(ValueError, match=r"manifest.csv lists no image; `dvc repro` makes the images"):
        read_synthetic("pidm", 20, IDS)
    write(["a.jpg"], pid=[3])
    with pytest.raises(ValueError, match=r"20/a.jpg shows identity 3, which is not among the training ident"):
        read_synthetic("pidm", 20, IDS)
    write(["a.jpg"])
    (FOLDER / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"20/a.jpg is missing; .*20/manifest.csv lists it"):
        read_synthetic("pidm", 20, IDS)


def test_an_arm_has_the_first_images_by_order() -> None:
    """So those of a smaller arm are among those of a larger one; rows stay in the manifest's order."""
    write([f"{i}.jpg" for i in range(8)])
    manifest = read_synthetic("pidm", 20, IDS)[1]
    for keys, count in (({"ratio": 0.01}, 1), ({"ratio": 1.0}, 4), ({"images": 30}, 6), ({}, 8)):
        _, table = read_arm(ArmSettings(generator="pidm", **keys), 20, IDS, 4, 20)
        assert table.name.tolist() == manifest.name[manifest.order < count].tolist() and len(table) == count
