"""Checkpoints that are written whole, verified when read, and hold everything that a resumed run needs."""

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file

from pipeline.files import atomic

KEEP = 2


class Stateful(Protocol):
    """A module, an optimiser, an EMA: whatever gives its state away and takes it back."""

    def state_dict(self) -> dict[str, Any]:
        """The state: nested dicts, lists and tuples of tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take a state back."""


class Checkpoints:
    """The checkpoints of one run, in a folder of its own; the two newest are kept.

    Each is a folder `step-00001000/` with `tensors.safetensors` and `state.json`, which holds the SHA-256 of
    the tensors and of itself. A folder that fails verification is set aside as `*.corrupt` with a warning and
    the one before is used.

    Args:
        folder: must belong to this run's exact inputs and parameters, as `pipeline.files.scratch` makes them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        found = self._newest_first()
        return f"checkpoint {found[0]}" if found else "no checkpoint"

    def save(self, done: int, **parts: Stateful) -> None:
        """Write the state of `parts` after so many steps.

        Raises:
            OSError: the disk is full or lost; the checkpoints before stay.
        """
        tensors: dict[str, torch.Tensor] = {}
        state = {name: _split(part.state_dict(), name, tensors) for name, part in parts.items()}
        with atomic(self.folder / f"step-{done:08d}") as temporary:
            temporary.mkdir()
            save_file(tensors, temporary / "tensors.safetensors")
            text = json.dumps({"step": done, "state": state})
            seal = {
                "tensors": _sha256((temporary / "tensors.safetensors").read_bytes()),
                "state": _sha256(text.encode()),
            }
            (temporary / "state.json").write_text(json.dumps(seal) + "\n" + text)
        for old in self._newest_first()[KEEP:]:
            shutil.rmtree(old)

    def load(self, **parts: Stateful) -> int:
        """Restore `parts` in place from the newest valid checkpoint; returns its step, or 0.

        Raises:
            OSError: a checkpoint cannot be read at present, which says nothing about it; it stays.
        """
        for folder in self._newest_first():
            try:
                seal_line, text = (folder / "state.json").read_text().split("\n", 1)
                seal = json.loads(seal_line)
                data = (folder / "tensors.safetensors").read_bytes()
                if seal != {"tensors": _sha256(data), "state": _sha256(text.encode())}:
                    raise ValueError("its checksum is wrong")
            except (ValueError, FileNotFoundError) as error:
                aside = folder.with_suffix(".corrupt")
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
                warnings.warn(f"{folder} is set aside as {aside.name}: {error}", stacklevel=2)
                continue
            content = json.loads(text)
            tensors = load_file(folder / "tensors.safetensors")
            for name, part in parts.items():
                part.load_state_dict(_join(content["state"][name], tensors))
            return content["step"]
        return 0

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-" + "[0-9]" * 8), reverse=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _split(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Nested state -> JSON, its tensors moved to `tensors` under their path."""
    if isinstance(value, torch.Tensor):
        # A clone, because safetensors refuses tensors that share memory.
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": [name, value.stride()]}
    if isinstance(value, dict):
        return {"dict": [[key, _split(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_split(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]}
    return {"value": value}


def _join(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The inverse of `_split`."""
    ((kind, content),) = value.items()
    if kind == "tensor":
        # safetensors stores row-major memory only, but a fused optimiser walks a parameter and its moments in
        # parallel, so they need the same order in memory again.
        name, stride = content
        return torch.empty_strided(tensors[name].shape, stride, dtype=tensors[name].dtype).copy_(
            tensors[name]
        )
    if kind == "dict":
        return {key: _join(item, tensors) for key, item in content}
    if kind in ("list", "tuple"):
        items = [_join(item, tensors) for item in content]
        return tuple(items) if kind == "tuple" else items
    return content
