"""A stage starts in every shell, with a launcher or without, and the processes of a launcher are counted."""

import shutil
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from pipeline.runtime.launch import count_processes
from tests import REPOSITORY
from tests.stages import run


def launch(*arguments: str, code: int = 0, **variables: str) -> CompletedProcess[str]:
    command = ("python", "-m", "pipeline.runtime.launch", *arguments)
    return run(REPOSITORY, *command, code=code, environment=variables)


@pytest.mark.slow
def test_without_a_launcher_the_stage_runs_with_its_arguments() -> None:
    done = launch("pipeline.generate", "--help")
    assert done.stdout.startswith("usage: python -m pipeline.generate")


def test_a_launcher_starts_the_stage() -> None:
    done = launch("pipeline.generate", "all", "20", LAUNCH="echo 'with spaces'")
    assert done.stdout == "with spaces -m pipeline.generate all 20\n"


def test_a_launcher_that_cannot_be_started_is_named() -> None:
    done = launch("pipeline.generate", code=1, LAUNCH="acelerate")
    assert done.stderr.startswith("launch: LAUNCH is 'acelerate', which cannot be started (No such")


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "dash", "zsh", "fish", "tcsh"])
def test_the_commands_of_dvc_yaml_are_the_same_in_every_shell(shell: str, tmp_path: Path) -> None:
    """DVC runs a command in the shell that SHELL names; those that a machine lacks are skipped."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"there is no {shell} on this machine")
    command = "python -m pipeline.runtime.launch pipeline.generate all 20"
    (tmp_path / "dvc.yaml").write_text(
        f"stages:\n  generate:\n    cmd: {command} > words\n    outs: [words]\n"
    )
    run(tmp_path, "dvc", "init", "-q", "--no-scm")
    run(tmp_path, "dvc", "repro", environment={"SHELL": path, "LAUNCH": "echo"})
    assert (tmp_path / "words").read_text() == "-m pipeline.generate all 20\n"


def test_without_a_launcher_a_stage_has_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAUNCH", raising=False)
    assert count_processes() == 1


@pytest.mark.slow
def test_a_launcher_is_asked_how_many_processes_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("LAUNCH", "torchrun --standalone --nproc_per_node 2")
    assert count_processes() == 2


@pytest.mark.parametrize(
    ("launcher", "sentence"),
    [
        ("acelerate launch", r"LAUNCH is 'acelerate', which cannot be started \(No such"),
        ("sh -c 'echo no GPU >&2; exit 3'", r"LAUNCH is .*, which does not start a stage \(no GPU\)"),
        ("true", r"LAUNCH is 'true', which does not start a stage \(no output\)"),
        (
            "sh -c 'sleep 60; true'",
            r"LAUNCH is .*, which starts nothing within 0.1 seconds; a launcher that waits",
        ),
    ],
)
def test_a_launcher_that_starts_no_process_is_named(
    launcher: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUNCH", launcher)
    monkeypatch.setattr("pipeline.runtime.launch._LONGEST", 0.1 if "sleep" in launcher else 60)
    with pytest.raises(ValueError, match=sentence):
        count_processes()
