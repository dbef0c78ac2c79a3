"""Images of a batch are there whole or not at all, wherever a kill strikes."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.datasets.marks import Mark
from pipeline.params import Params, load_params
from pipeline.runtime.hashes import md5
from pipeline.runtime.scratch import is_sealed
from pipeline.shared import imagpose
from pipeline.shared.imagpose import write_batch
from tests import REPOSITORY

PARAMS: Params = load_params(REPOSITORY / "profiles/embedded.yaml")
IMAGES = {
    f"0002_c1s1_000451_03_g{number:04d}.jpg": np.random.default_rng(number).integers(
        0, 256, (32, 16, 3), np.uint8
    )
    for number in range(40)
}
MARKS = {name: Mark("0" * 32, "a.jpg", "b.jpg", number, 2.0) for number, name in enumerate(IMAGES)}


def write(folder: Path) -> Path:
    batch = folder / "batch-0"
    write_batch(IMAGES, batch, MARKS, PARAMS)
    return batch


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_batch_is_a_folder_of_its_images_and_a_seal_that_lists_them(tmp_path: Path) -> None:
    batch = write(tmp_path)
    seal = batch / "seal.json"
    assert json.loads(seal.read_text()) == {name: md5(batch / name) for name in IMAGES}
    assert set(contents(batch)) == {*IMAGES, seal.name}
    assert is_sealed(seal)


@pytest.mark.parametrize("calls", [0, 1, 25, 40])
def test_a_kill_leaves_no_batch_and_it_is_made_again(
    calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(write(tmp_path / "whole"))
    save, done = imagpose.save_image, 0

    def killed(*arguments: Any) -> None:
        nonlocal done
        if done >= calls:
            raise KeyboardInterrupt
        done += 1
        save(*arguments)

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(imagpose, "save_image", killed)
        patch.setattr(imagpose, "seal", lambda *_: killed())
        write(tmp_path / "killed")
    assert not (tmp_path / "killed/batch-0").exists()
    assert contents(write(tmp_path / "killed")) == whole
