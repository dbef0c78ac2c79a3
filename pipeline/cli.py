"""The command lines of stages and tools: what --help prints, and no start on a mistyped argument."""

import argparse

_EPILOG = {
    "pipeline": "Run it in the project's folder: settings come from params.yaml (see docs/parameters.md).\n"
    "`dvc repro` runs all stages in their order and skips those that are up to date.",
    "benchmarks": "Run it in the project's folder; it prints what it measured and is no part of `dvc repro`.",
}


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the paragraphs of a module's docstring, and adds the defaults that an option has."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help  # "(default: None)" tells nobody anything
        return super()._get_help_string(action)


def command_line(name: str, doc: str | None, package: str = "pipeline") -> argparse.ArgumentParser:
    """The parser of `python -m <package>.<name>`, described by the docstring of its module.

    Stages without arguments parse too: otherwise --help would start them.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {package}.{name}",
        description=doc,
        epilog=_EPILOG[package],
        formatter_class=_Formatter,
    )
