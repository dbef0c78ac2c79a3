"""A stage starts in every shell, with a launcher or without."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import REPOSITORY

ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def launch(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.runtime.launch", *arguments]
    environment = ENVIRONMENT | variables
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)


def test_without_a_launcher_the_stage_runs_with_its_arguments() -> None:
    done = launch("pipeline.generate", "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m pipeline.generate")


def test_a_launcher_starts_the_stage() -> None:
    done = launch("pipeline.generate", "all", "20", LAUNCH="echo 'with spaces'")
    assert done.stdout == "with spaces -m pipeline.generate all 20\n"


def test_a_launcher_that_cannot_be_started_is_named() -> None:
    done = launch("pipeline.generate", LAUNCH="acelerate")
    assert done.returncode == 1
    assert done.stderr.startswith("launch: LAUNCH is 'acelerate', which cannot be started (No such")


@pytest.mark.parametrize("shell", ["bash", "dash", "zsh", "fish", "tcsh"])
def test_the_commands_of_dvc_yaml_are_the_same_in_every_shell(shell: str, tmp_path: Path) -> None:
    """DVC runs a command in the shell that SHELL names; those that a machine lacks are skipped."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"there is no {shell} on this machine")
    command = "python -m pipeline.runtime.launch pipeline.generate all 20"
    (tmp_path / "dvc.yaml").write_text(f"stages:\n  generate:\n    cmd: {command} > said\n    outs: [said]\n")
    environment = ENVIRONMENT | {"SHELL": path, "LAUNCH": "echo", "PYTHONPATH": str(REPOSITORY)}
    for arguments in (["init", "-q", "--no-scm"], ["repro"]):
        done = subprocess.run(
            ["dvc", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "said").read_text() == "-m pipeline.generate all 20\n"
