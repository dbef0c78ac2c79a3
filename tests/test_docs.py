"""What the repository's pages say can be followed: links lead somewhere, commands and checks exist."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
YAML_FILE = YAML(typ="safe", pure=True)


def prose(page: Path) -> str:
    """A page without its blocks of code, in which brackets are no links."""
    return re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of the headings of a page."""
    found = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https://[\w.-]+(/|$)", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A b!\n[x](#a-b) [x](page.md#c) ![x](no.jpg) [x](http://a.org) [x](https://a.org/b)")
    assert broken_links(page) == ["page.md#c", "no.jpg", "http://a.org"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_command_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"python -m ((?:pipeline|benchmarks)\.[a-z0-9_]+)", text):
        file = REPOSITORY / module.replace(".", "/")
        assert file.with_suffix(".py").is_file() or (file / "__main__.py").is_file(), module


def test_every_page_stands_in_the_table_of_contents() -> None:
    contents = (REPOSITORY / "docs/README.md").read_text(encoding="utf-8")
    missing = [page.name for page in (REPOSITORY / "docs").glob("*.md") if f"({page.name})" not in contents]
    assert missing == ["README.md"]


def test_the_documentation_stays_small() -> None:
    pictures = [*(REPOSITORY / "docs").glob("walkthrough*.jpg")]
    assert 0 < sum(file.stat().st_size for file in pictures) < 200_000


def test_a_users_data_and_models_are_ignored_by_git_and_spared_by_make_clean(tmp_path: Path) -> None:
    for name in ("Makefile", ".gitignore"):
        shutil.copy(REPOSITORY / name, tmp_path)
    paper = (REPOSITORY / "profiles/market1501.yaml").read_text()
    named = re.findall(r"^ +\w+: (\S+) # PATH", paper, re.MULTILINE)
    paths = [tmp_path / path for path in named if path != "null"]
    assert (len(paths), len(named)) == (5, 7), "five paths, and two that may be named"
    made = tmp_path / "models/generator"
    for folder in (*paths, made):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    status = subprocess.run(["git", "status", "-s"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert status.stdout.splitlines() == ["?? .gitignore", "?? Makefile"]
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True)
    assert all((folder / "file").exists() for folder in paths) and not made.exists()


def test_hooks_check_what_ci_checks() -> None:
    hooks = YAML_FILE.load(REPOSITORY / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    lint = (REPOSITORY / "Makefile").read_text().split("\nlint: ")[1].split("\n\n")[0].splitlines()[1:]
    assert [hook["entry"] for hook in hooks] == [line.strip() for line in lint]


def test_the_workflow_runs_what_ci_runs() -> None:
    jobs = YAML_FILE.load(REPOSITORY / ".github/workflows/ci.yml")["jobs"]
    assert [step["run"] for step in jobs["test"]["steps"] if "run" in step] == [".ci/run"]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.13"
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    listed = subprocess.run(
        ["git", "ls-files", "-s", ".ci/run"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert listed.returncode or listed.stdout.startswith("100755 "), "the workflow executes it"


def test_the_citation_is_of_this_version_and_names_the_papers() -> None:
    citation = YAML_FILE.load(REPOSITORY / "CITATION.cff")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["title"].startswith(project["name"])
    assert {"cff-version", "message", "authors"} <= set(citation)
    for paper in citation["references"]:
        assert {"type", "title", "authors", "year"} <= set(paper), paper
    titles = " ".join(paper["title"] for paper in citation["references"])
    assert all(
        name in titles for name in ("IMAGPose", "Bag of Tricks", "Scalable Person", "Latent Diffusion")
    )
