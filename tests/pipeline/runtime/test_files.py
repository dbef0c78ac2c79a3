"""Stages hand files over whole or not at all, and name what is wrong with one."""

import ast
import errno
import json
import os
import re
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import BaseModel
from safetensors.numpy import save_file

from pipeline.datasets import marks
from pipeline.runtime import outputs as files


def entries(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_atomic_makes_parents_and_keeps_the_suffix(tmp_path: Path) -> None:
    with files.atomic(tmp_path / "a" / "b.png") as temporary:
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

    with files.atomic(path) as temporary:
        write(temporary, "old")
    before = entries(tmp_path)
    with pytest.raises(RuntimeError), files.atomic(path) as temporary:
        write(temporary, "half")
        raise RuntimeError
    assert entries(tmp_path) == before

    with files.atomic(path) as temporary:
        write(temporary, "new")
    assert (path / "new" if directory else path).read_text() == "new"
    assert len(entries(tmp_path)) == 1 + directory  # nothing of the old directory, no temporary


def test_atomic_replaces_a_link_not_what_it_points_to(tmp_path: Path) -> None:
    cached = tmp_path / "cached"
    cached.write_text("DVC's copy")
    path = tmp_path / "out"
    path.symlink_to(cached)
    with files.atomic(path) as temporary:
        temporary.write_text("new")
    assert cached.read_text() == "DVC's copy"
    assert path.read_text() == "new" and not path.is_symlink()


def test_atomic_says_which_file_a_full_disk_concerns(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, files.atomic(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "out")


def replace_forever(path: Path, directory: bool) -> None:
    while True:
        with files.atomic(path) as temporary:
            if directory:
                temporary.mkdir()
            for file in [temporary / str(i) for i in range(9)] if directory else [temporary]:
                file.write_text("x" * 999)


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
    with files.atomic(path) as temporary:
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

        with pytest.MonkeyPatch.context() as patch, files.atomic(path) as temporary:
            temporary.mkdir()
            patch.setattr(Path, "rename", rename_and_die)

    process = get_context("fork").Process(target=replace)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not path.exists()
    with pytest.raises(RuntimeError), files.atomic(path):
        assert entries(path) == ["old"]
        raise RuntimeError
    assert entries(tmp_path) == ["out", "out/old"]


def test_csv_round_trip_keeps_types(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"image": ["a.jpg", "b.jpg"], "md5": ["00", "1e5"], "pid": [-1, 2], "x": [0.1, 1 / 3]}
    )
    files.write_csv(frame, tmp_path / "t.csv")
    kinds = {"image": str, "md5": str, "pid": int}
    pd.testing.assert_frame_equal(files.read_csv(tmp_path / "t.csv", kinds, "index"), frame)


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
    ],
)
def test_read_csv_names_what_is_wrong(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "t.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        files.read_csv(path, {"image": str, "pid": int}, "index")
    assert str(path) in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_read_csv_reads_an_empty_float_as_nan(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,pid\n,1\n2.5,2\n")
    frame = files.read_csv(tmp_path / "t.csv", {"x": float, "pid": int}, "s")
    assert frame.x.isna().tolist() == [True, False]
    (tmp_path / "t.csv").write_text("x,pid\n,1\n2,5,2\nz,2\n")
    with pytest.raises(ValueError):
        files.read_csv(tmp_path / "t.csv", {"x": float, "pid": int}, "s")


def test_json_has_no_nan(tmp_path: Path) -> None:
    files.write_json({"a": 1}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    with pytest.raises(ValueError):
        files.write_json({"a": float("nan")}, tmp_path / "a.json")
    assert entries(tmp_path) == ["a.json"]


def test_scratch_belongs_to_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings(BaseModel):
        rate: float

    monkeypatch.chdir(tmp_path)
    one = files.scratch("train", settings=Settings(rate=0.1), part="a")
    assert one.is_dir() and one.parent == Path(".scratch/train")
    assert one == files.scratch("train", part="a", settings=Settings(rate=0.1))
    assert one != files.scratch("train", settings=Settings(rate=0.2), part="a")
    assert one.name != files.scratch("other", settings=Settings(rate=0.2), part="a").name
    with pytest.raises(TypeError):
        files.scratch("train", path=tmp_path)


def test_scratch_belongs_to_the_code_that_it_is_given_and_to_that_of_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stage, checkpoints = tmp_path / "stage.py", tmp_path / "checkpoints.py"
    monkeypatch.setattr(files, "_CHECKPOINTS", checkpoints)
    found = []
    for own, shared in ((1, 1), (2, 1), (2, 2), (1, 1)):
        stage.write_text(f"x = {own}")
        checkpoints.write_text(f"x = {shared}")
        found.append(files.scratch("train", str(stage), part=1))
    assert len(set(found)) == 3 and found[0] == found[3]


def test_every_scratch_belongs_to_the_code_of_the_module_that_asks_for_it() -> None:
    asked = []
    for module in Path(files.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "scratch":
                asked.append(module.stem)
                assert any(isinstance(code, ast.Name) and code.id == "__file__" for code in node.args), module
    assert {"train_reid", "generate", "train_generator", "scores", "foundation", "filter"} <= set(asked)


def test_a_released_scratch_is_free_for_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here, there = get_context("fork").Pipe()
    folder = files.scratch("train", part=1)
    files.release(folder)
    files.release(folder)  # no error
    second = get_context("fork").Process(target=want_scratch, args=(there,))
    second.start()
    assert here.poll(10) and here.recv() == "done"
    second.join()
    assert Path("said").read_text() == ""


@pytest.mark.parametrize("damage", ["none", "cut", "deleted", "seal"])
def test_a_seal_says_whether_files_are_as_they_were_written(tmp_path: Path, damage: str) -> None:
    done, seal = [tmp_path / name for name in ("a.csv", "b.json")], tmp_path / "seal.json"
    assert not files.is_sealed(seal)
    for file in done:
        file.write_text("whole")
    files.seal(seal, *done)
    if damage == "none":
        assert files.is_sealed(seal)
        return
    if damage == "deleted":
        done[1].unlink()
    else:
        (seal if damage == "seal" else done[1]).write_text("who")
    with pytest.warns(UserWarning, match="it is made again"):
        assert not files.is_sealed(seal)


def test_code_hash_follows_the_source(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    module = tmp_path / "package" / "a.py"
    module.write_text("x = 1")
    before = files.code_hash(tmp_path / "package")
    assert before == files.code_hash(tmp_path / "package")
    (tmp_path / "package" / "note.txt").write_text("not code")
    assert before == files.code_hash(tmp_path / "package")
    module.write_text("x = 2")
    assert before != files.code_hash(tmp_path / "package")
    assert files.code_hash(files) == files.code_hash(Path(str(files.__file__)))


def test_progress_is_silent_when_it_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(files.progress(range(5), total=5, desc="images")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("index.seed is -1"), "index.seed is -1"),
        (FileNotFoundError("data/index.csv is missing"), "data/index.csv is missing"),
        (OSError(errno.ENOSPC, "No space left on device", "x.csv"), "x.csv: No space left on device"),
    ],
)
def test_stage_main_ends_with_one_sentence(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["/somewhere/pipeline/index.py"])
    monkeypatch.delenv("PIPELINE_DEBUG", raising=False)
    with pytest.raises(SystemExit) as caught:
        files.stage_main(main)
    assert caught.value.code == f"index: {sentence}"  # a text as code: to stderr, exit status 1
    monkeypatch.setenv("PIPELINE_DEBUG", "1")
    with pytest.raises(type(error)):
        files.stage_main(main)


def test_stage_main_lets_defects_through() -> None:
    def main() -> None:
        raise AssertionError

    with pytest.raises(AssertionError):
        files.stage_main(main)


# ---- disks ----


def full(path: Path, kind: str) -> None:
    """Write an output until the disk is full: a file may not grow beyond 4 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    with files.atomic(path) as temporary:
        if kind == "directory":
            temporary.mkdir()
            (temporary / "a").write_bytes(bytes(4096))
            (temporary / "b").write_bytes(bytes(5000))
        elif kind == "copy":
            shutil.copy(path.with_name("large"), temporary)
        elif kind == "image":
            pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
            marks.save_image(pixels, temporary, 100, marks.Mark("a", "b", "c", 1))
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
    files.write_json({}, path)


def in_child(target: Callable[[Path, str], None], path: Path, kind: str) -> str:
    """What a process that runs `target` as a stage says at its end."""

    def run(said: Connection) -> None:
        try:
            files.stage_main(lambda: target(path, kind))
        except SystemExit as error:
            said.send(error.code)

    receiver, sender = get_context("fork").Pipe(duplex=False)
    process = get_context("fork").Process(target=run, args=(sender,))
    process.start()
    sender.close()
    said = receiver.recv()
    process.join()
    return said.split(": ", 1)[1]


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
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "data" / "out.json"
        path.parent.mkdir()
        path.write_text("old")
        sentence = f"{path}: cannot be written (Permission denied); it was not changed"
        assert in_child(forbidden, path, "") == sentence
        path.parent.chmod(0o755)
        assert path.read_text() == "old" and len(list(path.parent.iterdir())) == 1


def test_a_lost_mount_costs_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(tmp_path / "mount" / "data")
    with pytest.raises(OSError, match="cannot be written") as caught:
        files.write_json({}, tmp_path / "data" / "a" / "b.json")
    assert caught.value.filename == str(tmp_path / "data" / "a" / "b.json")


def test_a_missing_input_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, files.atomic(tmp_path / "out") as temporary:
        shutil.copy(tmp_path / "input", temporary)
    assert caught.value.filename == str(tmp_path / "input")


def test_two_processes_that_replace_one_directory_do_not_collide(tmp_path: Path) -> None:
    def replace() -> None:
        for _ in range(100):
            with files.atomic(tmp_path / "out") as temporary:
                temporary.mkdir()
                (temporary / "a").write_text("x")

    processes = [get_context("fork").Process(target=replace) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert entries(tmp_path) == ["out", "out/a"]


# ---- scratch of two processes ----


def hold_scratch(ready: Connection) -> None:
    files.scratch("train", part=1)
    ready.send(os.getpid())
    time.sleep(600)


def want_scratch(done: Connection) -> None:
    with Path("said").open("w", encoding="utf-8") as said, redirect_stderr(said):
        files.scratch("train", part=1)
    done.send("done")


def test_a_second_process_waits_for_the_scratch_until_the_first_ends_even_by_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    context = get_context("fork")
    here, there = context.Pipe()
    first, second = (context.Process(target=t, args=(there,)) for t in (hold_scratch, want_scratch))
    first.start()
    assert here.recv() == first.pid
    second.start()
    assert not here.poll(0.5), "it must wait"
    folder = next((tmp_path / ".scratch" / "train").iterdir()).relative_to(tmp_path)
    said = f"waiting for process {first.pid} on {socket.gethostname()}, which is at work in {folder}\n"
    assert Path("said").read_text() == said
    first.kill()
    assert here.recv() == "done"
    for process in (first, second):
        process.join()
    files.scratch("train", part=1)  # nobody holds it any more
    files.scratch("train", part=1)  # one's own is no obstacle


def test_processes_of_one_distributed_run_share_the_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    context = get_context("fork")
    here, there = context.Pipe()
    first = context.Process(target=hold_scratch, args=(there,))
    first.start()
    here.recv()
    monkeypatch.setenv("RANK", "1")
    second = context.Process(target=want_scratch, args=(there,))
    second.start()
    assert here.recv() == "done"
    first.kill()
    for process in (first, second):
        process.join()


def test_another_version_of_a_library_has_another_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = files.scratch("train", part=1)
    monkeypatch.setattr(files, "version", lambda name: "0.0")
    assert files.scratch("train", part=1) != before


def test_model_hash_follows_weights_and_configuration_and_no_folder_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "unet" / "model.safetensors").write_bytes(b"weights")
        (tmp_path / name / "config.json").write_text("{}")
    before = files.model_hash(tmp_path / "a")
    assert before == files.model_hash(tmp_path / "b")
    (tmp_path / "a" / "README.md").write_text("text")
    assert before == files.model_hash(tmp_path / "a")
    for file in ("config.json", "unet/model.safetensors"):
        (tmp_path / "a" / file).write_text("other")
        assert before != files.model_hash(tmp_path / "a")
        before = files.model_hash(tmp_path / "a")


def test_too_little_memory_for_torch_on_a_cpu_costs_one_sentence() -> None:
    def main() -> None:
        torch.empty(2**52, dtype=torch.uint8)

    reason = r"can't allocate memory: you tried to allocate 4503599627370496 bytes"
    with pytest.raises(SystemExit, match=rf": the memory is too small \({reason}\); lower the stage's batch"):
        files.stage_main(main)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError("x"), "the memory is too small (x); lower the stage's batch sizes"),
        (MemoryError(), "the memory is too small; lower the stage's batch sizes"),
        (
            type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2 GiB."),
            "the memory is too small (CUDA out of memory); lower the stage's batch sizes",
        ),
        (
            RuntimeError("No executable batch size found, reached zero."),
            "the memory is too small (No executable batch size found, reached zero.); lower",
        ),
        (BrokenProcessPool("A process in the pool was terminated"), "a worker process was killed, as the"),
    ],
)
def test_too_little_memory_costs_one_sentence(error: Exception, sentence: str) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit, match=re.escape(sentence)):
        files.stage_main(main)
