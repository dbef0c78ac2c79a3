"""Repeat the whole pipeline under other parameters and gather one table: `python -m tools.replicate FILE`.

FILE, for example experiments/study.yaml, lists runs. Each is a `dvc repro` in a workspace of its own under
.scratch/replicate, with the parameters of a profile (profiles/embedded.yaml unless FILE names another) and
the run's changes. Data sets and models that git does not track are read where they lie. All runs share the
repository's DVC cache: what two of them have in common is computed once, and a command that was stopped goes
on where it was. Writes the rows of all runs' Table 4 as the CSV that FILE names, and beside it the gains,
with their intervals, as Markdown.
"""

import copy
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

from common.settings import Settings
from pipeline.artifacts import BOUND_COLUMN, JUDGE_COLUMN, RESULT_COLUMNS, SCORES, TABLE4, is_standard
from pipeline.params import load, load_params, parse_params
from pipeline.runtime.outputs import atomic, read_csv, write_csv
from pipeline.runtime.scratch import SCRATCH, hold
from pipeline.runtime.stage import command_line, stage_main
from pipeline.shared.statistics import (
    INTERVALS,
    aligned_table,
    difference,
    result_cells,
    result_titles,
    summarise,
)

SCORES_PIPELINE = Path("experiments/scores/dvc.yaml")
_SCORE = "score_"  # prefix of the columns of scores


class Run(Settings):
    """One run: its changes, and the columns that tell its rows from those of other runs."""

    columns: dict[str, int | float | str] = Field(description="columns of its rows in the gathered table")
    changes: dict[str, Any] = Field(description="dotted keys of the profile and their values")


class Replication(Settings):
    """The runs, and where the gathered table goes."""

    table: Path = Field(strict=False, description="the gathered table, CSV; the gains lie beside it as .md")
    profile: Path = Field(
        default=Path("profiles/embedded.yaml"), strict=False, description="parameters that the runs change"
    )
    pooled: bool = Field(default=False, description="also over all runs together")
    scores: Literal["T1", "T2", "T3", "IMAGPose*"] | None = Field(
        default=None, description="scenario whose scores of generated images stand beside the gains"
    )
    every: dict[str, Any] = Field(description="changes of the profile that all runs share")
    runs: list[Run] = Field(min_length=1)


# --- the runs -----------------------------------------------------------------------------------------------


def tracked_files(repository: Path) -> list[Path]:
    """List the files of a git repository as they are now, with new ones and without ignored ones."""
    command = ["git", "-C", str(repository), "ls-files", "-co", "--exclude-standard", "-z"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise ValueError(
            f"{repository.resolve()} is no git repository; a replication copies what git tracks"
        ) from None
    return [Path(name) for name in output.split("\0") if name and (repository / name).is_file()]


def change_params(values: dict[str, Any], changes: dict[str, Any], name: str | Path) -> dict[str, Any]:
    """Return the values of a parameter file with dotted keys changed, such as reid.seeds.

    Keys that have a default, and new recipes, may be missing in the file.

    Args:
        values: Contents of the file.
        changes: Dotted keys and their values.
        name: Name of the file, for the sentences.

    Raises:
        ValueError: A key is in no section, or the changed parameters are not valid.
    """
    changed = copy.deepcopy(values)
    for key, value in changes.items():
        *sections, last = key.split(".")
        section: Any = changed
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise ValueError(f"{name} has no section for the key {key}, which a run wants to change")
        section[last] = value
    parse_params(changed, f"{name}, as a run changes it")
    return changed


def reach_untracked(values: dict[str, Any], repository: Path) -> dict[str, Any]:
    """Make the paths absolute that a workspace would not have: data sets and models that git does not track.

    Args:
        values: Contents of a parameter file.
        repository: Folder in which relative paths begin.
    """
    tracked = set(tracked_files(repository))
    copied = tracked.union(*(name.parents for name in tracked))

    def reach(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: reach(part) for key, part in value.items()}
        if isinstance(value, list):
            return [reach(part) for part in value]
        if not isinstance(value, str) or not (repository / value).exists():
            return value
        # A workspace's own stages make data/.
        is_there = Path(value) in copied or Path(value).parts[:1] in ((), ("data",))
        return value if is_there else str((repository / value).absolute())

    return {key: reach(part) for key, part in values.items()}


def prepare(repository: Path, workspace: Path, values: dict[str, Any]) -> None:
    """Put the repository's present files into a workspace, with these parameters; keep its results."""
    # Code that was deleted in the repository must not stay.
    tracked = tracked_files(repository)
    for entry in {name.parts[0] for name in tracked} - {".dvc", "reports", "dvc.lock"}:
        if (workspace / entry).is_dir():
            shutil.rmtree(workspace / entry)
    for name in tracked:
        if name.parts[0] == "reports" or (name.name == "dvc.lock" and (workspace / name).exists()):
            continue
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repository / name, workspace / name)

    # A git repository of its own, as DVC needs one, and the cache that all workspaces share.
    if not (workspace / ".git").exists():
        subprocess.run(["git", "init", "-q", str(workspace)], check=True)
    cache = (repository / ".dvc" / "cache").resolve()
    (workspace / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {cache}\n")
    with (workspace / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(values, file)


def replicate(repository: Path, settings: Replication, scratch: Path) -> pd.DataFrame:
    """Make all runs and return their rows of Table 4, with the columns of the runs in front.

    Args:
        repository: Folder of the project.
        settings: The runs.
        scratch: Folder of the workspaces.

    Raises:
        ValueError: Two runs have the same columns, a run's parameters are not valid, or it failed.
    """
    # Name mistakes before anything runs.
    names = ["_".join(f"{key}-{value}" for key, value in run.columns.items()) for run in settings.runs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two runs have the columns {name}, which tell runs apart; give each its own")
    profile = load_params(repository / settings.profile).model_dump(mode="json", exclude_unset=True)
    params = [change_params(profile, settings.every | run.changes, settings.profile) for run in settings.runs]
    workspaces = [scratch / name for name in names]
    for workspace, values in zip(workspaces, params, strict=True):
        prepare(repository, workspace, reach_untracked(values, repository))

    tables = []
    for number, (run, workspace) in enumerate(zip(settings.runs, workspaces, strict=True), 1):
        print(f"run {number} of {len(workspaces)}: {workspace}", flush=True)
        reproduce(workspace, ["dvc.yaml", *([str(SCORES_PIPELINE)] if settings.scores else [])])
        table = read_csv(workspace / TABLE4, RESULT_COLUMNS, "table4")
        if settings.scores:
            scores = json.loads((workspace / SCORES).read_text())[settings.scores]
            table = table.assign(**{_SCORE + name: value for name, value in scores.items()})
        for place, (column, value) in enumerate(run.columns.items()):
            table.insert(place, column, value)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def reproduce(workspace: Path, pipelines: list[str]) -> None:
    """Run `dvc repro` for each pipeline file of a workspace; raises ValueError if one fails."""
    python = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{python}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)  # the workspace's own code is to run
    for pipeline in pipelines:
        if subprocess.run(["dvc", "repro", pipeline], cwd=workspace, env=environment).returncode:
            raise ValueError(f"the run in {workspace} failed; what it printed above says why")


# --- the gains ----------------------------------------------------------------------------------------------


def gains(rows: pd.DataFrame, settings: Replication) -> str:
    """Write the gain of every arm of every run over `standard`, and over the run's first arm, as Markdown.

    Args:
        rows: Rows from `replicate`.
        settings: The runs: their columns, and whether all runs are also taken together. There a pair is a
            seed of a run, and the interval is about the mean over these runs.
    """
    columns = list(settings.runs[0].columns)
    scores = [column for column in map(str, rows) if column.startswith(_SCORE)]
    parts = [(tuple(map(str, name)), part) for name, part in rows.groupby(columns, sort=False)]
    if settings.pooled:
        parts.append((("all",) * len(columns), rows.assign(run=rows.groupby(columns, sort=False).ngroup())))
    lines = [[*name, *cells] for name, part in parts for cells in _arm_lines(part, columns, scores)]
    comparisons = [[*name, *cells] for name, part in parts for cells in _comparison_lines(part)]

    about = [
        "Means with 95 % intervals; gain over standard paired by seed; recovered share of the gap between "
        f"standard and 100 % real images. {INTERVALS}"
    ]
    if settings.pooled:
        about.append("Rows of all runs together are about these runs: another one may differ by more.")
    if scores:
        about.append(f"Scores of generated images of strangers are those of {settings.scores}.")
    judges = [JUDGE_COLUMN] if JUDGE_COLUMN in rows else []
    header = [*columns, "real", "arm", "generator saw", *judges, "models"]
    titles = result_titles(with_bound=BOUND_COLUMN in rows)
    header += ["rank-1 (%)", *titles, "mAP (%)", *titles, *(score.removeprefix(_SCORE) for score in scores)]
    blocks = [" ".join(about), aligned_table(header, lines, left=len(columns) + 3 + len(judges))]
    if comparisons:
        blocks += [
            "Arms against each other, paired by seed, with 95 % intervals:",
            aligned_table([*columns, "real", "arms", "rank-1", "mAP"], comparisons, left=len(columns) + 2),
        ]
    return "\n\n".join(blocks)


def _arm_lines(part: pd.DataFrame, columns: list[str], scores: list[str]) -> list[list[str]]:
    """Write the cells of every arm and percent of one run."""
    lines = []
    for arm, by_source in summarise(part.drop(columns=[*columns, *scores])).items():
        for source, cells in by_source.items():
            # Only the generator that saw all images was measured.
            values = [
                f"{part[score].mean():.4g}" if source == "all" and part[score].notna().all() else ""
                for score in scores
            ]
            saw = "-" if source == "none" else source
            lines += [
                [
                    f"{percent} %",
                    arm,
                    saw,
                    *([cell[JUDGE_COLUMN]] if JUDGE_COLUMN in cell else []),
                    str(cell["seeds"]),
                    *result_cells(cell["rank1"], with_bound=BOUND_COLUMN in part),
                    *result_cells(cell["mAP"], with_bound=BOUND_COLUMN in part),
                    *values,
                ]
                for percent, cell in cells.items()
            ]
    return lines


def _comparison_lines(part: pd.DataFrame) -> list[list[str]]:
    """Write the difference of every further arm of one run to the first one of its judge, by percent."""
    lines = []
    for _, models in part.groupby(JUDGE_COLUMN, sort=False) if JUDGE_COLUMN in part else [("", part)]:
        first, *others = [arm for arm in models.arm.unique() if not is_standard(arm)] or [""]
        for arm in others:
            differences = [difference(models, arm, first, metric) for metric in ("rank1", "mAP")]
            lines += [
                [f"{percent} %", f"{arm} - {first}", *(by_percent[percent] for by_percent in differences)]
                for percent in differences[0]
            ]
    return lines


def main() -> None:
    """Run the command."""
    parser = command_line("replicate", __doc__, "tools")
    parser.add_argument("file", type=Path, help="list of runs, for example experiments/study.yaml")
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
