"""Where the tests' subject lies, and the parameters that ship with it: `params.yaml` is the user's own."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

REPOSITORY = Path(__file__).parents[1]
EMBEDDED = REPOSITORY / "profiles/embedded.yaml"


def embedded(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the values of profiles/embedded.yaml, changed.

    Args:
        changes: New values by key, such as {"generator.train.steps": 4}; a mistyped key is a KeyError.
    """
    values = deepcopy(_read_embedded())
    for key, value in (changes or {}).items():
        *sections, name = key.split(".")
        section = values
        for part in sections:
            section = section[part]
        if name not in section:
            raise KeyError(key)
        section[name] = value
    return values


def write_params(folder: Path, values: dict[str, Any]) -> None:
    """Write params.yaml of a project."""
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(values, file)


def read_params(folder: Path) -> dict[str, Any]:
    """Read params.yaml of a project."""
    return YAML(typ="safe", pure=True).load((folder / "params.yaml").read_text(encoding="utf-8"))


@cache
def _read_embedded() -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(EMBEDDED.read_text(encoding="utf-8"))
