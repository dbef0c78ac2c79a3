"""Read and write the files that stages hand to each other: whole or not at all, and refused by name."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO, TypeVar

import pandas as pd
from pydantic import BaseModel
from safetensors import SafetensorError
from tqdm import tqdm

from pipeline import times

T = TypeVar("T")

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
_KIND = {str: "text", int: "a whole number", float: "a number"}


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` to make a file or directory at; on success it takes its place.

    On an error the temporary is removed and what stood at `path` stays. A killed process leaves its
    temporary behind; the next `atomic` on that path removes it. A directory cannot be replaced in one
    system call: a kill between the two renames leaves no directory at `path`, never half of one, and the
    next `atomic` puts the old one back before it starts.

    Raises:
        OSError: the disk is full, lost or may not be written to; the message names `path`.
    """
    path = Path(path)
    # The suffix stays last: image writers choose the format by it.
    prefix = f".{path.stem}.{socket.gethostname()}@"
    temporary = path.with_name(f"{prefix}{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clean_up(path, prefix)
        yield temporary
        _sync(temporary)
        if temporary.is_dir():
            _replace_directory(temporary, path)
        else:
            temporary.replace(path)
    except (OSError, SafetensorError) as error:
        number = _why_not_written(error, temporary)
        if number is None:
            raise
        reason = f"cannot be written ({os.strerror(number)}); it was not changed"
        raise OSError(number, reason, str(path)) from error
    finally:
        with suppress(OSError):  # the disk may be gone, and the next `atomic` cleans up
            _remove(temporary)


def _why_not_written(error: OSError | SafetensorError, temporary: Path) -> int | None:
    """The number of an error in writing `temporary` or its parents; None where something else went wrong."""
    if isinstance(error, SafetensorError):  # it has the number in its text only
        found = re.search(r"os error (\d+)", str(error))
        return int(found[1]) if found and int(found[1]) != errno.ENOENT else None
    if isinstance(error, FileExistsError) and Path(str(error.filename)) in temporary.parents:
        return errno.ENOTDIR  # a file, or a link to a disk that is gone, stands where a folder is needed
    names = [Path(str(name)) for name in (error.filename, error.filename2) if name]
    ours = any(name in (temporary, *temporary.parents) or temporary in name.parents for name in names)
    return error.errno if ours or not names else None


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from renaming outputs in a folder, as far as its disk has locks (NFS has none)."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _clean_up(path: Path, prefix: str) -> None:
    """Remove what killed processes of this machine left beside `path`; what they took away goes back.

    Leftovers of other machines stay: nobody here can tell whether their process runs, and age does not say
    it either, since a training makes its output in a temporary that is as old as the training.
    """
    with _alone_in(path.parent):
        for leftover in path.parent.glob(f"{glob.escape(prefix)}*.tmp{glob.escape(path.suffix)}"):
            owner, kind = leftover.name.removeprefix(prefix).split(".")[:2]
            if int(owner) != os.getpid() and _is_running(int(owner)):
                continue
            if kind == "old" and not path.exists():
                leftover.rename(path)
            else:
                _remove(leftover)


def _replace_directory(new: Path, path: Path) -> None:
    old = new.with_name(new.name.replace(".tmp", ".old.tmp"))  # a name that the next `atomic` cleans up
    with _alone_in(path.parent):
        if path.exists():
            _remove(old)
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    _remove(old)


def _sync(path: Path) -> None:
    """Put the bytes on the disk before the name: a machine that stops must not leave an empty output."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs as somebody else
        return True
    return True


def write_csv(frame: pd.DataFrame, path: str | Path, float_format: str | None = None) -> None:
    """Write a table without its row index; floats in their shortest exact form, or as `float_format`."""
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False, float_format=float_format, lineterminator="\n")


def write_json(value: Any, path: str | Path) -> None:
    """Write indented JSON; NaN and infinity are a ValueError, for JSON has none: a missing number is null."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_csv(path: str | Path, columns: Mapping[str, type], stage: str) -> pd.DataFrame:
    """Read a table that `stage` writes; `columns` names those that must be there, with str, int or float.

    Columns that are not named are kept, with the types that pandas finds. Text and whole numbers must not be
    empty; an empty float is NaN.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no CSV table, a column is missing, or a cell is not of its column's type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; run the stage '{stage}', which writes it")
    try:
        names = pd.read_csv(path, nrows=0).columns
        for name in columns:
            if name not in names:
                raise ValueError(f"it has no column '{name}'")
        try:
            frame = pd.read_csv(path, dtype=dict(columns))
        except ValueError as error:
            raise ValueError(_first_bad_cell(path, columns) or error) from None
        for name, kind in columns.items():
            if kind is str and frame[name].isna().any():
                raise ValueError(_first_bad_cell(path, columns))
    except ValueError as error:
        reason = str(error).strip()
        raise ValueError(f"{path}: {reason}; run the stage '{stage}' again, which writes it") from None
    return frame


def _first_bad_cell(path: Path, columns: Mapping[str, type]) -> str:
    """Say where a table breaks its types, or return an empty text; lines count from the header, line 1."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    for name, kind in columns.items():
        for line, cell in enumerate(frame[name], start=2):
            try:
                if kind(cell) == "":  # only text can be
                    raise ValueError
            except ValueError:
                if cell == "" and kind is float:
                    continue
                return f"line {line}, column '{name}' is {cell!r}, expected {_KIND[kind]}"
    return ""


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


def progress(iterable: Iterable[T], total: int | None, desc: str) -> Iterable[T]:
    """Iterate with a progress bar that appears after 2 s; a log file gets it twice a minute."""
    interval = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(iterable, total=total, desc=desc, delay=2.0, mininterval=interval, maxinterval=2 * interval)


def stage_main(main: Callable[[], None]) -> None:
    """Run a stage; bad input, settings, disks or too little memory end it with one sentence and exit code 1.

    What a stage took goes to the log that the report reads (`pipeline.times`). PIPELINE_DEBUG=1 in the
    environment shows the traceback instead.
    """
    try:
        main()
        times.log(SCRATCH)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        # By its name, because stages without tensors must not import torch.
        out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        # accelerate's RuntimeError, and torch's on a CPU
        out_of_memory |= "No executable batch size found" in str(error) or "DefaultCPUAllocator" in str(error)
        lost_worker = isinstance(error, BrokenExecutor)
        is_defect = isinstance(error, RuntimeError) and not out_of_memory and not lost_worker
        if is_defect or os.environ.get("PIPELINE_DEBUG") == "1":
            raise
        sentence = str(error)
        if isinstance(error, OSError) and error.strerror:  # without Python's "[Errno 28]"
            sentence = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        if out_of_memory:
            reason = sentence.rpartition("DefaultCPUAllocator: ")[2].partition(". ")[0]
            told = f" ({reason})" if reason else ""  # Python's own MemoryError says nothing
            sentence = f"the memory is too small{told}; lower the stage's batch sizes"
        if lost_worker:
            sentence = (
                "a worker process was killed, as the system does when memory runs out; free memory or give "
                "the stage fewer cores (taskset), and run it again"
            )
        sys.exit(f"{Path(sys.argv[0]).stem}: {sentence}")
