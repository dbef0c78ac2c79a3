"""A command ends with one sentence where its user can mend something, and shows its defects."""

import errno
import re
import sys
from concurrent.futures.process import BrokenProcessPool
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
import torch

from pipeline.runtime.stage import progress, stage_main


def test_progress_is_silent_when_it_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(5), total=5, desc="images")) == [0, 1, 2, 3, 4]
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
        stage_main(main)
    assert caught.value.code == f"index: {sentence}"  # a text as code: to stderr, exit status 1
    monkeypatch.setenv("PIPELINE_DEBUG", "1")
    with pytest.raises(type(error)):
        stage_main(main)


def test_stage_main_lets_defects_through() -> None:
    def main() -> None:
        raise AssertionError

    with pytest.raises(AssertionError):
        stage_main(main)


def test_too_little_memory_for_torch_on_a_cpu_costs_one_sentence() -> None:
    def main() -> None:
        torch.empty(2**52, dtype=torch.uint8)

    reason = r"can't allocate memory: you tried to allocate 4503599627370496 bytes"
    with pytest.raises(SystemExit, match=rf": the memory is too small \({reason}\); lower the stage's batch"):
        stage_main(main)


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
        stage_main(main)


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "? 1"), ("gbk", "数 1"), ("utf-8", "数 1")])
def test_a_name_that_the_terminal_cannot_write_ends_no_stage(
    encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    terminal = TextIOWrapper(BytesIO(), encoding=encoding, write_through=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    stage_main(lambda: print("数 1"))
    assert terminal.buffer.getvalue().decode(encoding).strip() == shown  # type: ignore[attr-defined]
