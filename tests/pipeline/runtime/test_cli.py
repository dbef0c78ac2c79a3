"""Every command explains itself, and --help starts nothing."""

import runpy
import sys
from pathlib import Path

import pytest

from tests import REPOSITORY
from tools import study

COMMANDS = sorted(
    file.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".").removesuffix(".__main__")
    for package in ("pipeline", "tools", "foundation", "benchmarks")
    for file in (REPOSITORY / package).rglob("*.py")
    if '\nif __name__ == "__main__":\n' in file.read_text()
)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_the_command_and_starts_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # without params.yaml: a command that starts fails
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(threads, "1")  # some benchmarks set them when they are imported
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module(command, run_name="__main__", alter_sys=False)
    printed, errors = capsys.readouterr()
    assert left.value.code == 0 and errors == ""
    assert printed.startswith(f"usage: python -m {command} ")
    assert len(printed.split("\n\n")[1]) > 40, "a description follows the usage"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["make", "rates"])
def test_help_explains_the_commands_of_the_study(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["study", command, "--help"])
    with pytest.raises(SystemExit):
        study.main()
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: python -m tools.study {command} ")
    assert "write" in printed.split("\n\n")[1] and ".json" in printed.split("\n\n")[1]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_a_mistyped_argument_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["subset", "20"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("pipeline.subset", run_name="__main__", alter_sys=False)
    assert left.value.code == 2
    assert "python -m pipeline.subset: error: unrecognized arguments: 20" in capsys.readouterr().err
