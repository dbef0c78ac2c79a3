"""Stages hand files over whole or not at all, and name what is wrong with one."""

import errno
import json
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from pipeline.datasets import marks
from pipeline.runtime.outputs import atomic, read_csv, write_csv, write_json
from pipeline.runtime.stage import stage_main


def entries(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_atomic_makes_parents_and_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic(tmp_path / "a" / "b.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("x")
        assert not (tmp_path / "a" / "b.png").exists()
    assert entries(tmp_path) == ["a", "a/b.png"]


@pytest.mark.parametrize("directory", [False, True])
def test_atomic_keeps_the_old_output_on_failure(tmp_path: Path, directory: bool) -> None:
    path = tmp_path / "out"

    def write(target: Path, text: str) -> None:
        if directory:
            target.mkdir()
            target = target / text
        target.write_text(text)

    with atomic(path) as temporary:
        write(temporary, "old")
    before = entries(tmp_path)
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        write(temporary, "half")
        raise RuntimeError
    assert entries(tmp_path) == before

    with atomic(path) as temporary:
        write(temporary, "new")
    assert (path / "new" if directory else path).read_text() == "new"
    assert len(entries(tmp_path)) == 1 + directory  # nothing of the old directory, no temporary


def test_atomic_replaces_a_link_not_what_it_points_to(tmp_path: Path) -> None:
    cached = tmp_path / "cached"
    cached.write_text("DVC's copy")
    path = tmp_path / "out"
    path.symlink_to(cached)
    with atomic(path) as temporary:
        temporary.write_text("new")
    assert cached.read_text() == "DVC's copy"
    assert path.read_text() == "new" and not path.is_symlink()


def test_atomic_says_which_file_a_full_disk_concerns(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, atomic(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "out")


def replace_forever(path: Path, directory: bool) -> None:
    while True:
        with atomic(path) as temporary:
            if directory:
                temporary.mkdir()
            for file in [temporary / str(i) for i in range(9)] if directory else [temporary]:
                file.write_text("x" * 999)


@pytest.mark.slow
@pytest.mark.parametrize("directory", [False, True])
def test_atomic_survives_a_kill_at_any_moment(tmp_path: Path, directory: bool) -> None:
    """A process that replaces an output over and over is killed; the output is whole, and leftovers go."""
    path = tmp_path / "out"
    for delay in np.random.default_rng(0).uniform(0.002, 0.02, 20):
        process = get_context("fork").Process(target=replace_forever, args=(path, directory))
        process.start()
        time.sleep(delay)
        process.kill()
        process.join()
        if path.exists():
            sizes = [file.stat().st_size for file in (path.iterdir() if directory else [path])]
            assert sizes == [999] * (9 if directory else 1)
    with atomic(path) as temporary:
        temporary.mkdir() if directory else temporary.write_text("")
    assert entries(tmp_path) == ["out"]


def test_atomic_puts_back_what_a_process_killed_between_the_renames_took_away(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").write_text("old")

    def replace() -> None:
        rename = Path.rename

        def rename_and_die(self: Path, target: Path) -> None:
            rename(self, target)
            os.kill(os.getpid(), signal.SIGKILL)

        with pytest.MonkeyPatch.context() as patch, atomic(path) as temporary:
            temporary.mkdir()
            patch.setattr(Path, "rename", rename_and_die)

    process = get_context("fork").Process(target=replace)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not path.exists()
    with pytest.raises(RuntimeError), atomic(path):
        assert entries(path) == ["old"]
        raise RuntimeError
    assert entries(tmp_path) == ["out", "out/old"]


def test_two_processes_that_replace_one_directory_do_not_collide(tmp_path: Path) -> None:
    def replace() -> None:
        for _ in range(100):
            with atomic(tmp_path / "out") as temporary:
                temporary.mkdir()
                (temporary / "a").write_text("x")

    processes = [get_context("fork").Process(target=replace) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert entries(tmp_path) == ["out", "out/a"]


# --- tables and JSON ----------------------------------------------------------------------------------------


def test_csv_round_trip_keeps_types(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"image": ["a.jpg", "b.jpg"], "md5": ["00", "1e5"], "pid": [-1, 2], "x": [0.1, 1 / 3]}
    )
    write_csv(frame, tmp_path / "t.csv")
    kinds = {"image": str, "md5": str, "pid": int}
    pd.testing.assert_frame_equal(read_csv(tmp_path / "t.csv", kinds, "index"), frame)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is missing; run the stage 'index', which writes it"),
        ("", "No columns to parse from file; run the stage 'index' again"),
        ("image,x\na,1\n", "it has no column 'pid'"),
        ("image,pid\na,1\nb,one\n", "line 3, column 'pid' is 'one', expected a whole number"),
        ("image,pid\na,1.5\n", "line 2, column 'pid' is '1.5', expected a whole number"),
        ("image,pid\na,\n", "line 2, column 'pid' is '', expected a whole number"),
        ("image,pid\n,1\n", "line 2, column 'image' is '', expected text"),
        ("image,pid\na,1\nb,2,3,4\n", "Expected 2 fields in line 3, saw 4"),
        ("image;pid\na;1\n", "it has no column 'image' (expected commas between cells)"),
        ("sep=,\nimage,pid\na,1\n", "it has no column 'image' (expected commas between cells)"),
        ("\x80", "it is no text in UTF-8; save it in that encoding"),
    ],
)
def test_read_csv_names_what_is_wrong(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "t.csv"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read_csv(path, {"image": str, "pid": int}, "index")
    assert str(path) in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_read_csv_reads_an_empty_float_as_nan(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,pid\n,1\n2.5,2\n")
    frame = read_csv(tmp_path / "t.csv", {"x": float, "pid": int}, "s")
    assert frame.x.isna().tolist() == [True, False]
    (tmp_path / "t.csv").write_text("x,pid\n,1\n2,5,2\nz,2\n")
    with pytest.raises(ValueError):
        read_csv(tmp_path / "t.csv", {"x": float, "pid": int}, "s")


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json({"a": 1}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    with pytest.raises(ValueError):
        write_json({"a": float("nan")}, tmp_path / "a.json")
    assert entries(tmp_path) == ["a.json"]


# --- disks --------------------------------------------------------------------------------------------------


def full(path: Path, kind: str) -> None:
    """Write an output until the disk is full: a file may not grow beyond 4 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    with atomic(path) as temporary:
        if kind == "directory":
            temporary.mkdir()
            (temporary / "a").write_bytes(bytes(4096))
            (temporary / "b").write_bytes(bytes(5000))
        elif kind == "copy":
            shutil.copy(path.with_name("large"), temporary)
        elif kind == "image":
            pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
            marks.save_image(pixels, temporary, 100, marks.Mark("a", "b", "c", 1, 2.0))
        elif kind == "safetensors":
            save_file({"a": np.zeros(5000, np.uint8)}, temporary)
        else:
            temporary.write_bytes(bytes(5000))


def forbidden(path: Path, kind: str) -> None:
    """Write an output to a folder that may only be read; root could write there."""
    path.parent.chmod(0o555)
    if os.geteuid() == 0:
        path.parent.parent.chmod(0o777)
        os.seteuid(65534)
    write_json({}, path)


def in_child(target: Callable[[Path, str], None], path: Path, kind: str) -> str:
    """Return what a process says at its end that runs `target` as a stage."""

    def run(sender: Connection) -> None:
        try:
            stage_main(lambda: target(path, kind))
        except SystemExit as error:
            sender.send(error.code)

    receiver, sender = get_context("fork").Pipe(duplex=False)
    process = get_context("fork").Process(target=run, args=(sender,))
    process.start()
    sender.close()
    sentence = receiver.recv()
    process.join()
    return sentence.split(": ", 1)[1]


@pytest.mark.parametrize("kind", ["file", "directory", "copy", "image", "safetensors"])
def test_a_full_disk_costs_one_sentence_and_nothing_that_was_there(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    if kind == "directory":
        path.mkdir()
        (path / "old").write_text("old")
    else:
        path.write_text("old")
    (tmp_path / "large").write_bytes(bytes(5000))
    before = entries(tmp_path)
    sentence = f"{path}: cannot be written (File too large); it was not changed"
    assert in_child(full, path, kind) == sentence
    assert entries(tmp_path) == before
    assert (path / "old" if kind == "directory" else path).read_text() == "old"


def test_a_read_only_folder_costs_one_sentence() -> None:
    # Not tmp_path: who is not root may not even look into its parents.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data" / "out.json"
        path.parent.mkdir()
        path.write_text("old")
        sentence = f"{path}: cannot be written (Permission denied); it was not changed"
        assert in_child(forbidden, path, "") == sentence
        path.parent.chmod(0o755)
        assert path.read_text() == "old" and len(list(path.parent.iterdir())) == 1


def test_a_lost_mount_costs_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(tmp_path / "mount" / "data")
    with pytest.raises(OSError, match="cannot be written") as caught:
        write_json({}, tmp_path / "data" / "a" / "b.json")
    assert caught.value.filename == str(tmp_path / "data" / "a" / "b.json")


def test_a_missing_input_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic(tmp_path / "out") as temporary:
        shutil.copy(tmp_path / "input", temporary)
    assert caught.value.filename == str(tmp_path / "input")
