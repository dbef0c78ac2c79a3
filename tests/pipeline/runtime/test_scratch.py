"""Scratch folders belong to what determines their content, and to one process at a time."""

import ast
import os
import socket
import time
from contextlib import redirect_stderr
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline.runtime import scratch as module
from pipeline.runtime.scratch import is_sealed, release, scratch, seal
from tests import REPOSITORY


def test_scratch_belongs_to_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings(BaseModel):
        rate: float

    monkeypatch.chdir(tmp_path)
    one = scratch("train", settings=Settings(rate=0.1), part="a")
    assert one.is_dir() and one.parent == Path(".scratch/train")
    assert one == scratch("train", part="a", settings=Settings(rate=0.1))
    assert one != scratch("train", settings=Settings(rate=0.2), part="a")
    assert one.name != scratch("other", settings=Settings(rate=0.2), part="a").name
    with pytest.raises(TypeError):
        scratch("train", path=tmp_path)


def test_scratch_belongs_to_the_code_that_it_is_given_and_to_that_of_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stage, checkpoints = tmp_path / "stage.py", tmp_path / "checkpoints.py"
    monkeypatch.setattr(module, "_CHECKPOINTS", checkpoints)
    folders = []
    for own, shared in ((1, 1), (2, 1), (2, 2), (1, 1)):
        stage.write_text(f"x = {own}")
        checkpoints.write_text(f"x = {shared}")
        folders.append(scratch("train", str(stage), part=1))
    assert len(set(folders)) == 3 and folders[0] == folders[3]


def test_every_scratch_belongs_to_the_code_of_the_module_that_asks_for_it() -> None:
    callers = []
    for file in (
        file for package in ("pipeline", "foundation") for file in (REPOSITORY / package).rglob("*.py")
    ):
        module = ast.parse(file.read_text(encoding="utf-8"))
        constants = [
            node for node in module.body if isinstance(node, ast.Assign) and "__file__" in names(node)
        ]
        own_code = {"__file__"} | set().union(*map(names, constants))
        for call in (node for node in ast.walk(module) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id == "scratch":
                assert names(call) & own_code, f"{file}, line {call.lineno}"
                callers.append(file)
    assert len(set(callers)) > 4


def names(node: ast.AST) -> set[str]:
    """Return the names in a piece of code."""
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def test_another_version_of_a_library_has_another_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = scratch("train", part=1)
    monkeypatch.setattr(module, "version", lambda name: "0.0")
    assert scratch("train", part=1) != before


@pytest.mark.parametrize("damage", ["none", "cut", "deleted", "seal"])
def test_a_seal_says_whether_files_are_as_they_were_written(tmp_path: Path, damage: str) -> None:
    files, path = [tmp_path / name for name in ("a.csv", "b.json")], tmp_path / "seal.json"
    assert not is_sealed(path)
    for file in files:
        file.write_text("whole")
    seal(path, *files)
    if damage == "none":
        assert is_sealed(path)
        return
    if damage == "deleted":
        files[1].unlink()
    else:
        (path if damage == "seal" else files[1]).write_text("who")
    with pytest.warns(UserWarning, match="it is made again"):
        assert not is_sealed(path)


# --- two processes ------------------------------------------------------------------------------------------


def hold_scratch(ready: Connection) -> None:
    scratch("train", part=1)
    ready.send(os.getpid())
    time.sleep(600)


def want_scratch(done: Connection) -> None:
    with Path("errors").open("w", encoding="utf-8") as errors, redirect_stderr(errors):
        scratch("train", part=1)
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
    sentence = f"waiting for process {first.pid} on {socket.gethostname()}, which is at work in {folder}\n"
    assert Path("errors").read_text() == sentence
    first.kill()
    assert here.recv() == "done"
    for process in (first, second):
        process.join()
    scratch("train", part=1)  # nobody holds it any more
    scratch("train", part=1)  # one's own is no obstacle


def test_a_released_scratch_is_free_for_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here, there = get_context("fork").Pipe()
    folder = scratch("train", part=1)
    release(folder)
    release(folder)  # no error
    second = get_context("fork").Process(target=want_scratch, args=(there,))
    second.start()
    assert here.poll(10) and here.recv() == "done"
    second.join()
    assert Path("errors").read_text() == ""


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
