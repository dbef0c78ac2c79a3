"""What the repository's pages say can be followed: links lead somewhere, commands and parameters exist."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from foundation.settings import FoundationSettings
from pipeline.params import Params, parse
from tests import REPOSITORY, read_yaml
from tools.replicate import Replication

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))


def prose(page: Path) -> str:
    """Return a page without its blocks of code, in which brackets are no links."""
    return re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


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


@EVERY_PAGE
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A b!\n[x](#a-b) [x](page.md#c) ![x](no.jpg) [x](http://a.org) [x](https://a.org/b)")
    assert broken_links(page) == ["page.md#c", "no.jpg", "http://a.org"]


@EVERY_PAGE
def test_every_command_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"python -m ((?:pipeline|tools|foundation|benchmarks)\.[a-z0-9_.]*\w)", text):
        file = REPOSITORY / module.replace(".", "/")
        assert file.with_suffix(".py").is_file() or (file / "__main__.py").is_file(), module
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)) <= targets


def yaml_blocks(page: Path) -> Iterator[dict[str, Any]]:
    """Yield the blocks of YAML on a page, which may stand in lists."""
    for _, block in re.findall(
        r"^( *)```yaml\n(.*?)^\1```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        yield YAML(typ="safe", pure=True).load(textwrap.dedent(block))


def merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """Change the settings that `changes` names, and add the arms, filters and imports that it has."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            merge(values[key], value)
        else:
            values[key] = value


@EVERY_PAGE
def test_every_block_of_parameters_can_be_put_into_its_profile(page: Path) -> None:
    """Pages on paper scale and on base weights change profiles of their own, all others the shipped one."""
    profile = {"paper_scale.md": "market1501", "base_weights.md": "foundation"}.get(page.name, "embedded")
    for block in yaml_blocks(page):
        if "runs" in block:
            parse(block, Replication, page)
            continue
        values = read_yaml(REPOSITORY / f"profiles/{profile}.yaml")
        merge(values, block)
        parse(values, FoundationSettings if profile == "foundation" else Params, page)


def test_every_page_stands_in_the_table_of_contents() -> None:
    contents = (REPOSITORY / "docs/README.md").read_text(encoding="utf-8")
    missing = [page.name for page in (REPOSITORY / "docs").glob("*.md") if f"({page.name})" not in contents]
    assert missing == ["README.md"]
