"""Write docs/parameters.md: every setting with what is allowed, both profiles' values and what it means.

The page is made from the schema in pipeline/params.py and from two profiles, so that it always agrees with
them; a test checks that it is up to date.
"""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.params import Params
from pipeline.runtime.outputs import atomic
from pipeline.runtime.stage import command_line, stage_main

PAGE = Path("docs/parameters.md")
EMBEDDED, PAPER = Path("profiles/embedded.yaml"), Path("profiles/market1501.yaml")

_HEAD = """# Parameters

Made by `python -m tools.params_page`; do not edit it by hand.

Every number that you may change is in `params.yaml`, one section per stage. Two profiles have the same keys:
`profiles/embedded.yaml`, from which `params.yaml` was copied, and `profiles/market1501.yaml`, at paper scale.
A third one, `profiles/market1501_authors.yaml`, follows the code of the paper's authors; [The
generator](generator.md#where-it-differs-from-the-paper) lists what it has in other ways. A fourth one,
`profiles/market1501_judges.yaml`, has [three judges](judges.md#recipes-of-papers), a fifth one,
`profiles/photographs.yaml`, [small models for photographs](photographs.md), and a sixth one,
`profiles/harder.yaml`, [a harder rendered world](protocol.md#what-a-world-can-tell).
A key that is missing, unknown or out of its range is refused with one sentence, before any stage runs.
"""

_KINDS = {  # JSON schema's types in words
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "a text",
    "array": "a list of",
    "object": "a section of settings",
    "null": "null",
}


def page(embedded: dict[str, Any], paper: dict[str, Any]) -> str:
    """Write the page in Markdown from the values of both profiles."""
    schema = Params.model_json_schema()
    parts = [_HEAD]
    for section, settings in groupby(describe(schema), key=lambda setting: setting[0].split(".")[0]):
        parts.append(f"\n## {section}\n\n{_section_meaning(schema, section)}\n\n")
        parts.append("| Setting | Allowed | Embedded | Paper scale | Meaning |\n")
        parts.append("| --- | --- | --- | --- | --- |\n")
        for key, allowed, meaning in settings:
            cells = [allowed, _value(embedded, key), _value(paper, key), meaning]
            row = " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells)
            parts.append(f"| `{key.removeprefix(f'{section}.')}` | {row} |\n")
    return "".join(parts)


def describe(schema: dict[str, Any], node: dict[str, Any] | None = None) -> Iterator[tuple[str, str, str]]:
    """Yield (key, what is allowed, meaning) of all settings of a JSON schema, in their order.

    In a dict of sections, such as the arms, `<name>` stands for a section's name.

    Args:
        schema: JSON schema of the parameters.
        node: Part of it to describe; None for all of it.
    """
    node = node or schema
    entries = node.get("patternProperties", {}).values()
    properties = node.get("properties") or dict(zip(["<name>"], entries, strict=True))
    for name, field in properties.items():
        section = _section(schema, field)
        if section and "properties" not in section and "patternProperties" not in section:
            yield name, _allowed(section), section.get("description", "")  # settings of another section
        elif section:
            for key, allowed, meaning in describe(schema, section):
                yield f"{name}.{key}", allowed, meaning
        else:
            allowed = _allowed(field)
            if "default" in field:
                allowed += f"; {json.dumps(field['default'])} if the key is absent"
            yield name, allowed, field.get("description", "")


def _section(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any] | None:
    """Return the schema of a section or of a dict of sections; None for a single setting."""
    for option in field.get("anyOf", [field]):  # a section that may be null is one of two options
        if "$ref" in option:
            return schema["$defs"][option["$ref"].rsplit("/", 1)[1]]
        if "patternProperties" in option:
            return option
    return None


def _allowed(field: dict[str, Any]) -> str:
    """Describe in words what a JSON schema allows: type and range, or the choices."""
    if "anyOf" in field:
        return " or ".join(_allowed(option) for option in field["anyOf"])
    if "enum" in field:
        return f"one of {', '.join(map(str, field['enum']))}"
    kind = field.get("type", "")
    bounds = {
        "greater than": field.get("exclusiveMinimum"),
        "at least": field.get("minimum", field.get("minItems", field.get("minProperties"))),
        "less than": field.get("exclusiveMaximum"),
        "at most": field.get("maximum", field.get("maxItems")),
    }
    limits = " and ".join(f"{words} {bound}" for words, bound in bounds.items() if bound is not None)
    entries = " entries" if limits and kind in ("array", "object") else ""
    return f"{_KINDS.get(kind, '')} {limits}{entries}".strip()


def _section_meaning(schema: dict[str, Any], section: str) -> str:
    """Return what a section is for: its own description, or the docstring of its model or its entries'."""
    field = schema["properties"][section]
    entries = (entry for entry in field.get("patternProperties", {}).values())
    model = _section(schema, next(entries, field)) or field
    return field.get("description") or model["description"]


def _value(values: Any, key: str) -> str:
    """Return a value as code; empty if it is absent. `<name>` in a key stands for the first section there."""
    for part in key.split("."):
        if part == "<name>":
            part = next(iter(values), "")
        if not isinstance(values, dict) or part not in values:
            return ""
        values = values[part]
    return f"`{json.dumps(values, ensure_ascii=False)}`".replace('"', "")


def main() -> None:
    """Run the command."""
    command_line("params_page", __doc__, "tools").parse_args()
    yaml = YAML(typ="safe", pure=True)
    with atomic(PAGE) as file:
        file.write_text(page(yaml.load(EMBEDDED), yaml.load(PAPER)), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    stage_main(main)
