"""docs/parameters.md says what the schema and the profiles say."""

from typing import Any

from ruamel.yaml import YAML

from tests import REPOSITORY
from tools.params_page import EMBEDDED, PAGE, PAPER, page

FILE = YAML(typ="safe", pure=True)
VALUES, PAPER_VALUES = (FILE.load(REPOSITORY / profile) for profile in (EMBEDDED, PAPER))
TEXT = page(VALUES, PAPER_VALUES)


def test_the_page_is_up_to_date() -> None:
    assert (REPOSITORY / PAGE).read_text(encoding="utf-8") == TEXT, "run: python -m tools.params_page"


def rows(section: str) -> list[str]:
    return TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0].splitlines()


def leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
    return [
        key
        for name, value in values.items()
        for key in (leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name])
    ]


def test_every_setting_has_its_row() -> None:
    for section, settings in VALUES.items():
        names = ["<name>.generator"] if section == "arms" else leaves(settings)
        for name in names:
            assert any(row.startswith(f"| `{name}` | ") for row in rows(section)), (section, name)


def cells(section: str, name: str) -> list[str]:
    (row,) = [row for row in rows(section) if row.startswith(f"| `{name}` |")]
    return [cell.strip() for cell in row.strip("|").split(" | ")]


def test_a_row_has_range_both_values_and_meaning() -> None:
    _, allowed, embedded, paper, meaning = cells("generator", "train.ema_decay")
    assert allowed == "a number at least 0 and less than 1"
    assert embedded == f"`{VALUES['generator']['train']['ema_decay']}`"
    assert paper == f"`{PAPER_VALUES['generator']['train']['ema_decay']}`"
    assert "moving average" in meaning


def test_a_key_with_a_default_says_it_and_a_section_that_is_null_has_empty_cells() -> None:
    assert cells("arms", "<name>.rate")[1].endswith("; 0.4 if the key is absent")
    assert PAPER_VALUES["world"] is None and cells("world", "seed")[2:4] == ["`0`", ""]


def test_sections_of_which_there_is_none_are_described_too() -> None:
    assert VALUES["filters"] == {} and cells("filters", "<name>.min_agreement")[2:4] == ["", ""]
