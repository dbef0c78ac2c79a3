"""The targets of the Makefile: what they delete, and what they say where they cannot work."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import REPOSITORY, read_yaml


def make(folder: Path, *arguments: str, code: int = 0) -> str:
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")  # of the make that may have started the tests
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    done = subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the Makefile and an environment of its own, as far as make knows."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.installed").write_text(f"{tmp_path}\n")
    return tmp_path


def test_an_environment_is_made_once_and_anew_in_a_folder_that_was_moved(project: Path) -> None:
    assert "venv" not in make(project, "-n", "lint")
    (project / ".venv/.installed").write_text("/another/place\n")
    assert "-m venv --clear .venv" in make(project, "-n", "lint")
    (project / ".venv/.installed").unlink()  # a user's own folder of that name is not cleared
    assert "-m venv  .venv" in make(project, "-n", "lint")


def test_a_folder_that_is_no_git_repository_is_told_that_dvc_needs_one(project: Path) -> None:
    assert make(project, "repro", code=2) == (
        f"{project} is no git repository, which DVC needs: clone the project, or run 'git init' here\n"
    )


def stage_outputs() -> set[str]:
    """Return what the stages of dvc.yaml make in data/ and models/, as far as the path is fixed."""
    paths = set()
    for stage in read_yaml(REPOSITORY / "dvc.yaml")["stages"].values():
        stage = stage.get("do", stage)
        for out in [*stage.get("outs", []), *stage.get("plots", [])]:
            (path,) = out if isinstance(out, dict) else [out]
            paths.add(path.split("${")[0].rstrip("/"))
    return {path for path in paths if path.startswith(("data/", "models/"))}


def test_make_clean_removes_what_stages_make_and_spares_a_users_data_and_models(tmp_path: Path) -> None:
    for name in ("Makefile", ".gitignore"):
        shutil.copy(REPOSITORY / name, tmp_path)
    # A user's files, where the profile for Market-1501 expects them and beside the outputs of stages.
    profile = (REPOSITORY / "profiles/market1501.yaml").read_text(encoding="utf-8")
    named = [path for path in re.findall(r"^ +\w+: (\S+) # PATH", profile, re.MULTILINE) if path != "null"]
    assert len(named) >= 4
    own = [tmp_path / path / "file" for path in (*named, "data/market1501", "data/imported", "models/mine")]
    outputs = [tmp_path / path / "file" for path in stage_outputs()]
    for file in (*own, *outputs):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    status = subprocess.run(["git", "status", "-s"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert status.stdout.splitlines() == ["?? .gitignore", "?? Makefile"]
    make(tmp_path, "clean")
    assert [file for file in own if not file.exists()] == []
    assert [file for file in outputs if file.exists()] == []
