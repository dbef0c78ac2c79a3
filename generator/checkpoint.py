"""Checkpoints that survive a kill at any moment: written whole or not at all, verified when they are read."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

_KEEP = 2  # the newest, and the one before it in case the newest is damaged
_TENSORS = "state.safetensors"
_RECORD = "state.json"


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
    """Write `folder`/step-N atomically, and remove all but the newest two.

    Args:
        folder: of the run; it is made.
        step: number of steps that are done.
        tensors: the state, flat.
        extra: what else belongs to the state, as JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for half_written in folder.glob("*.writing"):
        shutil.rmtree(half_written)
    target = folder / f"step-{step:08d}"
    writing = target.with_suffix(".writing")
    writing.mkdir()
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, writing / _TENSORS)
    record = {"step": step, "sha256": _sha256(writing / _TENSORS), "extra": dict(extra)}
    (writing / _RECORD).write_text(json.dumps(record))
    if target.exists():
        shutil.rmtree(target)
    writing.rename(target)
    for old in _checkpoints(folder)[:-_KEEP]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """Read the newest sound checkpoint: (steps done, tensors, extra), or None where there is none.

    A damaged one is set aside as step-N.damaged with a warning, and the one before it is read.
    """
    for checkpoint in reversed(_checkpoints(folder)):
        try:
            record = json.loads((checkpoint / _RECORD).read_text())
            if _sha256(checkpoint / _TENSORS) != record["sha256"]:
                raise ValueError("its checksum is wrong")
            return record["step"], load_file(checkpoint / _TENSORS), record["extra"]
        except (OSError, ValueError, KeyError) as error:
            warnings.warn(f"The checkpoint {checkpoint} is damaged and set aside ({error}).", stacklevel=2)
            damaged = checkpoint.with_suffix(".damaged")
            if damaged.exists():
                shutil.rmtree(damaged)
            checkpoint.rename(damaged)
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if not path.suffix)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
