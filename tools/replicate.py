"""Repeat the whole pipeline under other parameters and gather one table: `python -m tools.replicate FILE`.

FILE, for example experiments/study.yaml, lists runs. Each is a `dvc repro` in a workspace of its own under
.scratch/replicate, with params.yaml changed as the run says. All share the repository's DVC cache, so what
two runs have in common is computed once, and a command that was stopped goes on where it was. Writes the rows
of all runs' Table 4 as the CSV that FILE names, and beside it the gains, with their intervals, as Markdown.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field
from ruamel.yaml import YAML

from pipeline.artifacts import RESULT_COLUMNS as COLUMNS
from pipeline.artifacts import SCORES
from pipeline.artifacts import TABLE4 as TABLE
from pipeline.params import Settings, load, load_params
from pipeline.runtime.outputs import atomic, read_csv, write_csv
from pipeline.runtime.scratch import SCRATCH, hold
from pipeline.runtime.stage import command_line, stage_main
from pipeline.shared.statistics import INTERVALS, aligned_table, difference, result_cells, summarise

SCORES_PIPELINE = Path("experiments/scores/dvc.yaml")
_SCORE = "score_"  # what the columns of scores begin with


class Run(Settings):
    """One run: what it changes, and what tells its rows from those of the others."""

    columns: dict[str, int | float | str] = Field(description="columns of its rows in the gathered table")
    changes: dict[str, Any] = Field(description="dotted keys of params.yaml and their values")


class Replication(Settings):
    """What to run and where the gathered table goes."""

    table: Path = Field(strict=False, description="the gathered table, CSV; the gains lie beside it as .md")
    pooled: bool = Field(default=False, description="also over all runs together")
    scores: Literal["T1", "T2", "T3", "IMAGPose*"] | None = Field(
        default=None, description="scenario whose scores of generated images stand beside the gains"
    )
    every: dict[str, Any] = Field(description="changes of params.yaml that all runs share")
    runs: list[Run] = Field(min_length=1)


def tracked_files(repository: Path) -> list[Path]:
    """The files of a git repository as they are now, new ones included, ignored ones not."""
    command = ["git", "-C", str(repository), "ls-files", "-co", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise ValueError(
            f"{repository.resolve()} is no git repository; a replication copies what git tracks"
        ) from None
    return [Path(name) for name in listed.split("\0") if name and (repository / name).is_file()]


def prepare(repository: Path, workspace: Path, changes: dict[str, Any]) -> None:
    """Put the repository's present files into a workspace, with changed parameters; keep its results.

    Raises:
        ValueError: a changed key is not in params.yaml (recipes of arms and filters may be new), or the
            changed parameters are not valid.
    """
    for entry in {name.parts[0] for name in tracked_files(repository)} - {".dvc", "reports", "dvc.lock"}:
        if (workspace / entry).is_dir():  # a file that is no longer tracked must not stay
            shutil.rmtree(workspace / entry)
    for name in tracked_files(repository):
        if name.parts[0] == "reports" or (name.name == "dvc.lock" and (workspace / name).exists()):
            continue
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repository / name, workspace / name)
    if not (workspace / ".git").exists():
        subprocess.run(["git", "init", "-q", str(workspace)], check=True)
    cache = (repository / ".dvc" / "cache").resolve()
    (workspace / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {cache}\n")
    change_params(workspace / "params.yaml", changes)


def change_params(file: Path, changes: dict[str, Any]) -> None:
    """Change dotted keys of a parameter file in place; comments stay.

    Raises:
        ValueError: there is no such key, or the changed parameters are not valid.
    """
    yaml = YAML()
    values = yaml.load(file.read_text())
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = values
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict) or not (last in section or sections in (["arms"], ["filters"])):
            raise ValueError(f"params.yaml has no key {key}, which a run wants to change")
        section[last] = value
    with file.open("w") as stream:
        yaml.dump(values, stream)
    load_params(file)


def replicate(repository: Path, settings: Replication, scratch: Path) -> pd.DataFrame:
    """Make all runs and return their rows of Table 4, with the columns of the runs in front.

    Raises:
        ValueError: two runs have the same columns, a run's parameters are not valid, or it failed.
    """
    names = ["_".join(f"{key}-{value}" for key, value in run.columns.items()) for run in settings.runs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two runs have the columns {name}, which tell runs apart; give each its own")
    pipelines = ["dvc.yaml", *([str(SCORES_PIPELINE)] if settings.scores else [])]
    workspaces = []
    for name, run in zip(names, settings.runs, strict=True):
        workspaces.append(scratch / name)
        prepare(repository, workspaces[-1], settings.every | run.changes)
    tables = []
    for number, (run, workspace) in enumerate(zip(settings.runs, workspaces, strict=True), 1):
        print(f"run {number} of {len(workspaces)}: {workspace}", flush=True)
        python = Path(sys.executable).parent
        environment = os.environ | {"PATH": f"{python}:{os.environ['PATH']}"}
        environment.pop("PYTHONPATH", None)  # the workspace's own code is to run
        for pipeline in pipelines:
            if subprocess.run(["dvc", "repro", pipeline], cwd=workspace, env=environment).returncode:
                raise ValueError(f"the run in {workspace} failed; what it printed above says why")
        table = read_csv(workspace / TABLE, COLUMNS, "table4")
        if settings.scores:
            scores = json.loads((workspace / SCORES).read_text())[settings.scores]
            table = table.assign(**{_SCORE + name: value for name, value in scores.items()})
        for place, (column, value) in enumerate(run.columns.items()):
            table.insert(place, column, value)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def gains(rows: pd.DataFrame, settings: Replication) -> str:
    """What every arm of every run gains over `standard`, and over the run's first arm, as Markdown.

    Args:
        rows: from `replicate`.
        settings: which columns name the runs, and whether all runs are also taken together. There a pair is
            a seed of a run, and the interval is that of the mean over these very runs.
    """
    named = list(settings.runs[0].columns)
    scores = [column for column in map(str, rows) if column.startswith(_SCORE)]
    parts = [(tuple(map(str, name)), part) for name, part in rows.groupby(named, sort=False)]
    if settings.pooled:
        parts.append((("all",) * len(named), rows.assign(run=rows.groupby(named, sort=False).ngroup())))
    lines, compared = [], []
    for name, part in parts:
        part_arms = [arm for arm in part.arm.unique() if arm != "standard"]
        for arm in part_arms[1:]:
            changes = [difference(part, arm, part_arms[0], metric) for metric in ("rank1", "mAP")]
            compared += [
                [*name, f"{percent} %", f"{arm} - {part_arms[0]}", *(change[percent] for change in changes)]
                for percent in changes[0]
            ]
        summary = summarise(part.drop(columns=[*named, *scores]))
        for arm, by_source in summary.items():
            for source, cells in by_source.items():
                lines += [
                    [
                        *name,
                        f"{percent} %",
                        arm,
                        "-" if source == "none" else source,
                        str(cell["seeds"]),
                        *result_cells(cell["rank1"]),
                        *result_cells(cell["mAP"]),
                        *(
                            # Of the generator that saw all images; no other was measured.
                            f"{part[score].mean():.4g}"
                            if source == "all" and part[score].notna().all()
                            else ""
                            for score in scores
                        ),
                    ]
                    for percent, cell in cells.items()
                ]
    header = [*named, "real", "arm", "generator saw", "models", "rank-1 (%)", "gain", "recovered"]
    header += ["mAP (%)", "gain", "recovered", *(score.removeprefix(_SCORE) for score in scores)]
    about = [
        "Means with 95 % intervals; gain over standard paired by seed; recovered share of the gap between "
        f"standard and 100 % real images. {INTERVALS}"
    ]
    if settings.pooled:
        about.append("Rows of all runs together are about these runs: another one may differ by more.")
    if scores:
        about.append(f"Scores of generated images of strangers are those of {settings.scores}.")
    blocks = [" ".join(about), aligned_table(header, lines, left=len(named) + 3)]
    if compared:
        blocks += [
            "Arms against each other, paired by seed, with 95 % intervals:",
            aligned_table([*named, "real", "arms", "rank-1", "mAP"], compared, left=len(named) + 2),
        ]
    return "\n\n".join(blocks)


def main() -> None:
    """Run the command."""
    parser = command_line("replicate", __doc__)
    parser.add_argument("file", type=Path, help="the list of runs, for example experiments/study.yaml")
    settings = load(parser.parse_args().file, Replication)
    workspaces = SCRATCH / "replicate"
    workspaces.mkdir(parents=True, exist_ok=True)
    hold(workspaces)  # a second replication would change the files of this one's runs
    rows = replicate(Path(), settings, workspaces)
    write_csv(rows, settings.table)
    with atomic(settings.table.with_suffix(".md")) as file:
        file.write_text(gains(rows, settings) + "\n")
    print(f"{len(rows)} models are in {settings.table}, their gains in {settings.table.with_suffix('.md')}")


if __name__ == "__main__":
    stage_main(main)
