"""docs/parameters.md says what the schema and the files of settings say."""

from ruamel.yaml import YAML

from tests import REPOSITORY
from tests.pipeline.test_params import VALUES, keys
from tools import params_page

PAPER = YAML(typ="safe", pure=True).load(REPOSITORY / params_page.PAPER)


def test_the_page_is_up_to_date() -> None:
    written = (REPOSITORY / params_page.PAGE).read_text(encoding="utf-8")
    assert written == params_page.page(VALUES, PAPER), "run: python -m tools.params_page"


def test_every_setting_has_its_row_with_both_values() -> None:
    page = params_page.page(VALUES, PAPER)
    sections = {key[:depth] for key in keys(VALUES) for depth in range(1, len(key))}
    for section, *rest in set(keys(VALUES)) - sections:
        rows = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
        name = ".".join(["<name>", *rest[1:]] if section in ("arms", "filters") else rest)
        assert f"\n| `{name}` | " in rows or not rest, (section, rest)
    (row,) = [line for line in page.splitlines() if line.startswith("| `iterations` |")]
    assert f"| `{VALUES['reid']['iterations']}` | `{PAPER['reid']['iterations']}` |" in row


def test_a_setting_that_one_scale_lacks_has_an_empty_cell() -> None:
    page = params_page.page(VALUES | {"arms": {}}, PAPER)
    assert "|  | `data/synthetic/all` |" in page
