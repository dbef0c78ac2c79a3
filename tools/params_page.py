"""Write docs/parameters.md: every setting with what is allowed, both scales' values and what it means.

It is made of the schema in pipeline/params.py and the two files of settings, so that it cannot say anything
else than they do; a test holds that it is up to date.
"""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.params import Params, describe
from pipeline.runtime.outputs import atomic
from pipeline.runtime.stage import command_line, stage_main

PAGE = Path("docs/parameters.md")
EMBEDDED, PAPER = Path("params.yaml"), Path("profiles/market1501.yaml")

_HEAD = """# Parameters

Made by `python -m tools.params_page`; do not edit it by hand.

Every number that you may turn stands in `params.yaml`, one section per stage. `profiles/market1501.yaml` has
the same keys at paper scale: copy it over `params.yaml` (see the [README](../README.md)). A key that is
missing, unknown or out of its range is refused with one sentence, before any stage runs.
"""


def page(embedded: dict[str, Any], paper: dict[str, Any]) -> str:
    """Make the page from the values of params.yaml and profiles/market1501.yaml."""
    schema = Params.model_json_schema()
    parts = [_HEAD]
    for section, settings in groupby(describe(schema), key=lambda setting: setting[0].split(".")[0]):
        parts.append(f"\n## {section}\n")
        parts.append(f"\n{_meaning(schema, section)}\n\n")
        parts.append("| Setting | Allowed | Embedded | Paper scale | Meaning |\n")
        parts.append("| --- | --- | --- | --- | --- |\n")
        for key, allowed, what in settings:
            cells = [allowed, _value(embedded, key), _value(paper, key), what]
            row = " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells)
            parts.append(f"| `{key.removeprefix(f'{section}.')}` | {row} |\n")
    return "".join(parts)


def _meaning(schema: dict[str, Any], section: str) -> str:
    """The docstring of a section's model, or of the model of its entries, or what its field says."""
    field = schema["properties"][section]
    entry = next(iter(field.get("patternProperties", {}).values()), field)
    model = schema["$defs"][entry["$ref"].rsplit("/", 1)[1]] if "$ref" in entry else field
    return model["description"]


def _value(values: Any, key: str) -> str:
    """A value as YAML writes it; `<name>` in a key stands for the first section there, if there is one."""
    for part in key.split("."):
        if part == "<name>":
            part = next(iter(values), "")
        if part not in values:
            return ""
        values = values[part]
    return f"`{json.dumps(values, ensure_ascii=False)}`".replace('"', "")


def main() -> None:
    """Run the command."""
    yaml = YAML(typ="safe", pure=True)
    with atomic(PAGE) as file:
        file.write_text(page(yaml.load(EMBEDDED), yaml.load(PAPER)), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    command_line("params_page", __doc__).parse_args()
    stage_main(main)
