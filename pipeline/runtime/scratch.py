"""Scratch folders, each under a hash of everything that determines what lies in it; and the hashes."""

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

from pipeline.runtime.outputs import write_json

SCRATCH = Path(".scratch")


LIBRARIES = (  # whose version can change a result
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "accelerate",
    "numpy",
    "scipy",
    "pillow",
    "opencv-python-headless",
)


_CHECKPOINTS = Path(__file__).with_name("checkpoints.py")


def md5(path: str | Path) -> str:
    """Hexadecimal MD5 of a file's bytes: DVC's checksum, so that tables and dvc.lock can be compared."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def code_hash(*sources: ModuleType | str | Path) -> str:
    """Hash of the Python source of modules, packages, files or folders (with what they contain).

    A checkpoint whose key holds it is never continued by other code.
    """
    digest = hashlib.md5(usedforsecurity=False)
    for source in sources:
        if isinstance(source, ModuleType):
            source = source.__path__[0] if hasattr(source, "__path__") else str(source.__file__)
        root = Path(source)
        for file in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            digest.update(f"{file.relative_to(root.parent)}\n{md5(file)}\n".encode())
    return digest.hexdigest()


def model_hash(folder: str | Path) -> str:
    """MD5 over the names and contents of a saved model's files, .json and .safetensors alike."""
    digest, folder = hashlib.md5(usedforsecurity=False), Path(folder)
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".json", ".safetensors"):
            digest.update(f"{file.relative_to(folder)}\n{md5(file)}\n".encode())
    return digest.hexdigest()


def scratch(stage: str, *code: ModuleType | str, **key: Any) -> Path:
    """Make and return the folder for a stage's checkpoints that belongs to `code` and `key` alone.

    The two hold everything that determines the result; the code of checkpoints and the versions of the
    libraries are added. The folder is no output of the stage and git ignores it. It belongs to this process
    until `release`, or until it ends, however it ends: a second process that wants the same folder waits, and
    then finds the work done. The processes of one distributed run share it.

    Args:
        stage: its name.
        code: the caller's own `__file__`, and the modules and packages that it computes with.
        key: settings, checksums of the inputs: JSON values or pydantic models.
    """
    key["code"] = code_hash(*code, _CHECKPOINTS)
    key["versions"] = {name: version(name) for name in LIBRARIES}
    text = json.dumps(key, sort_keys=True, default=_model_to_dict)
    folder = SCRATCH / stage / hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    if os.environ.get("RANK", "0") == "0":  # of a distributed run, as torchrun and accelerate set it
        hold(folder)
    return folder


_locks: dict[Path, TextIO] = {}  # the open files hold the locks; the system lets go of them with the process


def hold(folder: Path, wait: bool = True) -> bool:
    """Have a folder to this process alone until `release` or its end.

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
        file.seek(0)
        owner = file.read().strip() or "another process"
        print(f"waiting for {owner}, which is at work in {folder}", file=sys.stderr, flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        warnings.warn(f"{folder} has no locks ({error.strerror}): run one stage at a time", stacklevel=3)
    with suppress(OSError):  # the name is for the sentence above only; a full disk is found out soon enough
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    return True


def release(folder: Path) -> None:
    """Let other processes have a scratch folder whose work is done; many locks are too many open files."""
    if file := _locks.pop(folder.resolve() / "lock", None):
        file.close()


def seal(path: Path, *done: Path) -> None:
    """Write down at `path` that files in its folder are done: their names and MD5."""
    write_json({file.name: md5(file) for file in done}, path)


def is_sealed(path: Path) -> bool:
    """Whether what `seal` wrote down is there, and as it was; a warning says what must be made again."""
    if not path.is_file():
        return False
    try:
        for name, checksum in json.loads(path.read_text()).items():
            file = path.with_name(name)
            if not file.is_file() or md5(file) != checksum:
                raise ValueError(f"{name} is not as it was written")
    except ValueError as error:
        warnings.warn(f"{path.parent}: {error}; it is made again", stacklevel=2)
        return False
    return True


def _model_to_dict(value: Any) -> Any:
    if not isinstance(value, BaseModel):
        raise TypeError(
            f"{value!r} cannot stand in the key of a scratch folder; give JSON values or settings"
        )
    return value.model_dump(mode="json")
