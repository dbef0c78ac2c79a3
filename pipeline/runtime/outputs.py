"""Files that stages hand to each other: written whole or not at all, read with their columns checked."""

import errno
import fcntl
import glob
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError

_KIND = {str: "text", int: "a whole number", float: "a number"}


# --- whole or not at all ------------------------------------------------------------------------------------


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, for a file or a directory; on success it takes its place.

    On an error the temporary is removed and `path` stays as it was. A killed process leaves its temporary
    behind; the next `atomic` on that path removes it. A directory cannot be replaced in one system call: a
    kill between the two renames leaves no directory at `path`, never half of one, and the next `atomic` puts
    the old one back before it starts.

    Raises:
        OSError: The disk is full, lost or may not be written to; the message names `path`.
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
        number = _write_error(error, temporary)
        if number is None:
            raise
        reason = f"cannot be written ({os.strerror(number)}); it was not changed"
        raise OSError(number, reason, str(path)) from error
    finally:
        with suppress(OSError):  # the disk may be gone, and the next `atomic` cleans up
            _remove(temporary)


def _write_error(error: OSError | SafetensorError, temporary: Path) -> int | None:
    """Return the number of an error in writing `temporary` or its parents; None for any other error."""
    if isinstance(error, SafetensorError):  # it has the number in its text only
        number = re.search(r"os error (\d+)", str(error))
        return int(number[1]) if number and int(number[1]) != errno.ENOENT else None
    if isinstance(error, FileExistsError) and Path(str(error.filename)) in temporary.parents:
        return errno.ENOTDIR  # a file, or a link to a disk that is gone, stands where a folder is needed
    names = [Path(str(name)) for name in (error.filename, error.filename2) if name]
    ours = any(name in (temporary, *temporary.parents) or temporary in name.parents for name in names)
    return error.errno if ours or not names else None


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from renaming outputs in a folder, if its disk has locks (NFS has none)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _clean_up(path: Path, prefix: str) -> None:
    """Remove what killed processes of this machine left beside `path`; put an old directory back.

    Leftovers of other machines stay: nobody here can tell whether their process runs. Age does not say it
    either, since a training makes its output in a temporary that is as old as the training.
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
    """Rename `new` to `path`; the directory that was there is removed, or goes back if that fails."""
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
            with file.open("rb") as stream:
                os.fsync(stream.fileno())


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


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy if the disk has no hard links or is another one."""
    try:
        os.link(source.resolve(), target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


# --- tables and JSON ----------------------------------------------------------------------------------------


def write_csv(frame: pd.DataFrame, path: str | Path, float_format: str | None = None) -> None:
    """Write a table without its row index; floats in their shortest exact form, or as `float_format`."""
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False, float_format=float_format, lineterminator="\n")


def write_json(value: Any, path: str | Path) -> None:
    """Write indented JSON; NaN and infinity raise ValueError, for JSON has none: a missing number is null."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_csv(path: str | Path, columns: Mapping[str, type], stage: str | None = None) -> pd.DataFrame:
    """Read a table.

    Text and whole numbers must not be empty; an empty float is NaN. Further columns keep the types that
    pandas gives them.

    Args:
        path: File of the table.
        columns: Columns that must be there, with their types: str, int or float.
        stage: Stage that writes the table, for the sentence that sends the user there; None for a table of
            the user's own.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is no CSV table, a column is missing, or a cell is not of its column's type.
    """
    path = Path(path)
    if not path.is_file():
        mend = f"; run the stage '{stage}', which writes it" if stage else ""
        raise FileNotFoundError(f"{path} is missing{mend}")
    try:
        names = pd.read_csv(path, nrows=0).columns
        for name in columns:
            if name not in names:
                form = " (expected commas between cells)" if re.search(r"[;\t]|^sep=", names[0]) else ""
                raise ValueError(f"it has no column '{name}'{form}")
        try:
            frame = pd.read_csv(path, dtype=dict(columns))
        except ValueError as error:
            raise ValueError(_first_bad_cell(path, columns) or error) from None
        for name, kind in columns.items():
            if kind is str and frame[name].isna().any():
                raise ValueError(_first_bad_cell(path, columns))
    except ValueError as error:
        is_text = not isinstance(error, UnicodeDecodeError)
        reason = str(error).strip() if is_text else "it is no text in UTF-8; save it in that encoding"
        mend = f"; run the stage '{stage}' again, which writes it" if stage else ""
        raise ValueError(f"{path}: {reason}{mend}") from None
    return frame


def _first_bad_cell(path: Path, columns: Mapping[str, type]) -> str:
    """Describe the first cell that is not of its type; empty if there is none. The header is line 1."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    for name, kind in columns.items():
        for line, cell in enumerate(frame[name], start=2):
            try:
                if kind(cell) == "":  # only a text can be empty here: int("") and float("") raise
                    raise ValueError
            except ValueError:
                if cell == "" and kind is float:
                    continue
                return f"line {line}, column '{name}' is {cell!r}, expected {_KIND[kind]}"
    return ""
