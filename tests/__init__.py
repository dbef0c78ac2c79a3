"""Where the tests' subject lies, and the parameters that ship with it: `params.yaml` is the user's own."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

REPOSITORY = Path(__file__).parents[1]
EMBEDDED = REPOSITORY / "profiles/embedded.yaml"


@cache
def _embedded() -> dict[str, Any]:
    return read_yaml(EMBEDDED)


def embedded(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the values of profiles/embedded.yaml, with changes such as {"generator.train.steps": 4}."""
    return change(deepcopy(_embedded()), changes or {})


def change(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Change parameters, by their keys with dots, in place; a key that is not there is a KeyError."""
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = values
        for part in sections:
            section = section[part]
        if name not in section:
            raise KeyError(key)
        section[name] = value
    return values


def read_yaml(file: Path) -> Any:
    """Read a YAML file as DVC does."""
    return YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))


def write_params(folder: Path, values: dict[str, Any]) -> None:
    """Write params.yaml of a project."""
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(values, file)
