"""Images of a batch are there whole or not at all, wherever a kill strikes."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.marks import Mark
from pipeline.params import Params, load_params
from pipeline.runtime.hashes import md5
from pipeline.runtime.scratch import is_sealed
from pipeline.shared.imagpose import write_batch
from tests import REPOSITORY

PARAMS: Params = load_params(REPOSITORY / "profiles/embedded.yaml")
IMAGES = {
    f"0002_c1s1_000451_03_g{number:04d}.jpg": np.random.default_rng(number).integers(
        0, 256, (32, 16, 3), np.uint8
    )
    for number in range(40)
}
MARKS = {name: Mark("0" * 32, "a.jpg", "b.jpg", number) for number, name in enumerate(IMAGES)}


def write(folder: Path) -> Path:
    seal = folder / "batch-00000000.json"
    write_batch(IMAGES, seal, MARKS, PARAMS)
    return seal


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_batch_leaves_its_images_and_a_seal_that_lists_them(tmp_path: Path) -> None:
    seal = write(tmp_path)
    assert json.loads(seal.read_text()) == {name: md5(tmp_path / name) for name in IMAGES}
    assert set(contents(tmp_path)) == {*IMAGES, seal.name}
    assert is_sealed(seal)


@pytest.mark.parametrize("calls", [0, 1, 25, 40])
def test_a_kill_leaves_whole_images_and_no_seal_and_the_batch_is_made_again(
    calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "whole")
    replace, done = Path.replace, 0

    def killed(source: Path, target: Path) -> Path:
        nonlocal done
        if done == calls:
            raise KeyboardInterrupt
        done += 1
        return replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        write(tmp_path / "killed")
    whole = contents(tmp_path / "whole")
    images = {file.name: file.read_bytes() for file in (tmp_path / "killed").glob("*.jpg")}
    assert len(images) == calls and images.items() <= whole.items()
    assert not is_sealed(tmp_path / "killed" / "batch-00000000.json")
    write(tmp_path / "killed")
    assert contents(tmp_path / "killed") == whole
