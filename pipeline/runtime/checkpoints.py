"""Checkpoints that are written whole, verified when read, and hold everything that a resumed run needs."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.runtime.outputs import atomic

KEEP = 2

# Why not torch.save and torch.load(weights_only=True), without `_split` and `_join`: they pickle, and the
# restricted unpickler has let code run before (CVE-2025-32434). Here files hold only numbers and JSON.


class Stateful(Protocol):
    """A module, an optimizer, an EMA: anything with a state to save and to load."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state: nested dicts, lists and tuples of tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take over a state that `state_dict` returned."""


class Checkpoints:
    """The checkpoints of one run, in a folder of its own; the two newest are kept.

    Each is a folder `step-00001000/` with `tensors.safetensors` and `state.json`, which holds the SHA-256 of
    the tensors and of itself. A folder that fails verification is set aside as `*.corrupt` with a warning and
    the one before is used.

    Args:
        folder: Folder that belongs to this run's exact inputs and parameters, as `pipeline.runtime.scratch`
            makes them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        folders = self._newest_first()
        return f"checkpoint {folders[0]}" if folders else "no checkpoint"

    def save(self, done: int, **parts: Stateful) -> None:
        """Write the state of `parts` after `done` steps.

        Raises:
            OSError: The disk is full or lost; earlier checkpoints stay.
        """
        tensors: dict[str, torch.Tensor] = {}
        state = {name: _split(part.state_dict(), name, tensors) for name, part in parts.items()}
        with atomic(self.folder / f"step-{done:08d}") as temporary:
            temporary.mkdir()
            save_file(tensors, temporary / "tensors.safetensors")
            text = json.dumps({"step": done, "state": state})
            seal = {
                "tensors": _file_sha256(temporary / "tensors.safetensors"),
                "state": _sha256(text.encode()),
            }
            (temporary / "state.json").write_text(json.dumps(seal) + "\n" + text)
        for old in self._newest_first()[KEEP:]:
            shutil.rmtree(old)

    def load(self, **parts: Stateful) -> int:
        """Restore `parts` in place from the newest valid checkpoint; return its step, or 0 without one.

        Raises:
            OSError: A checkpoint cannot be read at present, which says nothing about it; it stays.
        """
        for folder in self._newest_first():
            # Compare both files with the checksums in the first line of state.json.
            try:
                seal_line, text = (folder / "state.json").read_text().split("\n", 1)
                seal = json.loads(seal_line)
                tensors_hash = _file_sha256(folder / "tensors.safetensors")
                if seal != {"tensors": tensors_hash, "state": _sha256(text.encode())}:
                    raise ValueError("its checksum is wrong")
            except (ValueError, FileNotFoundError) as error:
                aside = folder.with_suffix(".corrupt")
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
                warnings.warn(f"{folder} is set aside as {aside.name}: {error}", stacklevel=2)
                continue

            # Load one part after the other: a whole state of Stable Diffusion takes 18 GB.
            content = json.loads(text)
            with safe_open(folder / "tensors.safetensors", framework="pt") as tensors:
                for name, part in parts.items():
                    part.load_state_dict(_join(content["state"][name], tensors.get_tensor))
            return content["step"]
        return 0

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-" + "[0-9]" * 8), reverse=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _file_sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _split(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Turn a nested state into JSON; put its tensors into `tensors`, under their path."""
    if isinstance(value, torch.Tensor):
        # A copy in any case, because safetensors refuses tensors that share memory.
        copy = value.detach().clone() if value.device.type == "cpu" else value.detach().cpu()
        tensors[name] = copy.contiguous()
        return {"tensor": [name, value.stride()]}
    if isinstance(value, dict):
        return {"dict": [[key, _split(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_split(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]}
    return {"value": value}


def _join(value: Any, tensors: Callable[[str], torch.Tensor]) -> Any:
    """Undo `_split`; `tensors` returns a tensor by its path."""
    ((kind, content),) = value.items()
    if kind == "tensor":
        # safetensors stores row-major memory only. A fused optimizer walks a parameter and its moments in
        # parallel, so they need their old order in memory again.
        name, stride = content
        tensor = tensors(name)
        return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)
    if kind == "dict":
        return {key: _join(item, tensors) for key, item in content}
    if kind in ("list", "tuple"):
        items = [_join(item, tensors) for item in content]
        return tuple(items) if kind == "tuple" else items
    return content
