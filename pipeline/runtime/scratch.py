"""Scratch folders, in which a stage that was killed finds its work again.

Each belongs to everything that determines what lies in it, and to one process at a time.
"""

import fcntl
import hashlib
import json
import os
import socket
import sys
import warnings
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from pydantic import BaseModel

import common
from pipeline.runtime.hashes import code_hash, md5
from pipeline.runtime.outputs import write_json

SCRATCH = Path(".scratch")

_CHECKPOINTS = Path(__file__).with_name("checkpoints.py")
_LIBRARIES = (  # whose version can change a result
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "accelerate",
    "timm",
    "torchreid",
    "numpy",
    "scipy",
    "pillow",
    "opencv-python-headless",
)


# --- folders ------------------------------------------------------------------------------------------------


def scratch(stage: str, *code: ModuleType | str, **key: Any) -> Path:
    """Make and return the scratch folder that belongs to `code` and `key` alone.

    The two hold everything that determines the result; the code of draws, settings and checkpoints and the
    versions of the libraries are added. The folder is no output of the stage and git ignores it. It belongs
    to this process until `release`, or until the process ends. A second process that needs the same folder
    waits, and then finds the work done. The processes of one distributed run share it.

    Args:
        stage: Name of the stage.
        code: The caller's own `__file__`, and the modules and packages that it computes with.
        key: Settings and checksums of the inputs: JSON values or pydantic models.
    """
    key["code"] = code_hash(*code, common, _CHECKPOINTS)
    key["versions"] = {name: version(name) for name in _LIBRARIES}
    text = json.dumps(key, sort_keys=True, default=_model_to_dict)
    folder = SCRATCH / stage / hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    if os.environ.get("RANK", "0") == "0":  # the first process of a distributed run, as torchrun numbers them
        hold(folder)
    return folder


def _model_to_dict(value: Any) -> Any:
    if not isinstance(value, BaseModel):
        raise TypeError(
            f"{value!r} cannot stand in the key of a scratch folder; give JSON values or settings"
        )
    return value.model_dump(mode="json")


# --- locks --------------------------------------------------------------------------------------------------

_locks: dict[Path, TextIO] = {}  # the open files hold the locks; the system lets go of them with the process


def hold(folder: Path, wait: bool = True) -> bool:
    """Keep a folder to this process alone until `release` or its end.

    While another process has it, wait, or return False at once.
    """
    path = folder.resolve() / "lock"
    if path in _locks:
        return True
    file = _locks[path] = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            release(folder)
            return False
        # Another process holds it, and its name is in the file.
        file.seek(0)
        owner = file.read().strip() or "another process"
        print(f"waiting for {owner}, which is at work in {folder}", file=sys.stderr, flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        warnings.warn(f"{folder} has no locks ({error.strerror}): run one stage at a time", stacklevel=3)
    with suppress(OSError):  # the name is for the sentence above only; a full disk shows up soon enough
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    return True


def release(folder: Path) -> None:
    """Let other processes have a scratch folder whose work is done; many locks are too many open files."""
    if file := _locks.pop(folder.resolve() / "lock", None):
        file.close()


# --- seals --------------------------------------------------------------------------------------------------


def seal(path: Path, *files: Path) -> None:
    """Write down at `path` that files in its folder are done: their names and MD5."""
    write_json({file.name: md5(file) for file in files}, path)


def is_sealed(path: Path) -> bool:
    """Tell whether the files that `seal` wrote down are there and unchanged; warn if one is not."""
    if not path.is_file():
        return False
    try:
        for name, checksum in json.loads(path.read_text(encoding="utf-8")).items():
            file = path.with_name(name)
            if not file.is_file() or md5(file) != checksum:
                raise ValueError(f"{name} is not as it was written")
    except ValueError as error:
        warnings.warn(f"{path.parent}: {error}; it is made again", stacklevel=2)
        return False
    return True
