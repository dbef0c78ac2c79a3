"""The command lines of stages and tools: what --help prints, and no start on a mistyped argument."""

import argparse

_EPILOG = """Run it in the project's folder: settings come from params.yaml there (see docs/parameters.md).
`dvc repro` runs all stages in their order and skips those that are up to date."""


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the paragraphs of a module's docstring, and adds the defaults that an option has."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help  # "(default: None)" tells nobody anything
        return super()._get_help_string(action)


def command_line(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m pipeline.<name>`, described by the docstring of its module.

    Stages without arguments parse too: otherwise --help would start them.
    """
    return argparse.ArgumentParser(
        prog=f"python -m pipeline.{name}", description=doc, epilog=_EPILOG, formatter_class=_Formatter
    )
