"""Stage `report`: one page with the results of a run, reports/report.html.

Reads what the other stages wrote. The page is a single file without scripts: it opens offline, prints, and
can be sent to somebody. Time and memory of each stage come from the log in .scratch/, which is no input.
"""

import json
import platform
import subprocess
import tomllib
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from packaging.requirements import Requirement
from PIL import Image
from ruamel.yaml import YAML

from common.seeding import make_rng
from generator.pose import draw_skeleton
from pipeline import table4
from pipeline.artifacts import (
    CURVE_COLUMNS,
    FILTER_FIGURES,
    GENERATOR_CURVES,
    IDENTITY,
    IDENTITY_COLUMNS,
    LEAKED,
    REJECTED,
    REPORT,
    SYNTHETIC,
    TABLE4_SUMMARY,
    WORLD,
    is_standard,
    read_curves,
    read_index,
    read_pose_table,
    read_queries,
    read_subset,
    split_images,
    standard_of,
    to_keypoints,
)
from pipeline.datasets.synthetic import read_arm
from pipeline.params import Params, load_params
from pipeline.runtime import times
from pipeline.runtime.fonts import show_names
from pipeline.runtime.outputs import atomic, read_csv
from pipeline.runtime.page import COLOURS, INK, Picture, figure, graphic, photograph, render
from pipeline.runtime.scratch import SCRATCH
from pipeline.runtime.stage import command_line, progress, stage_main
from pipeline.shared.statistics import INTERVALS, Summary, difference
from reid.cameras import NO_CAMERA, cameras_separate, count_cameras

PROFILES = tuple(  # the defaults that are shipped
    f"profiles/{name}.yaml"
    for name in ("embedded", "harder", "market1501", "market1501_authors", "market1501_judges", "photographs")
)

_MODEL_QUERY = ["percent", "seed", "query"]
_SMOOTH = 20  # a running mean takes in one of so many parts of its curve


def table4_section(summary: Summary, families: list[list[str]], dataset: str) -> dict[str, Any]:
    """Return Table 4 as text: the means of rank-1 and mAP with their intervals, and the gains."""
    arms = [(arm, saw, cells) for arm, by_source in summary.items() for saw, cells in by_source.items()]
    percents = sorted({percent for _, _, cells in arms for percent in cells}, key=int)
    augmented = {percent for arm, _, cells in arms if not is_standard(arm) for percent in cells}
    gain_percents = [percent for percent in percents if percent in augmented]
    rows, gains = [], []
    for arm, saw, cells in arms:
        name = table4.label(arm, saw, cells)
        for metric, title in (("rank1", "rank-1"), ("mAP", "mAP")):
            values = {percent: cell[metric] for percent, cell in cells.items()}
            rows.append((name, title, [_mean(values.get(percent)) for percent in percents]))
            if not is_standard(arm):
                gains.append((name, title, [_gain(values.get(percent)) for percent in gain_percents]))
    return {
        "percents": percents,
        "gain_percents": gain_percents,
        "rows": rows,
        "gains": gains,
        "figure": figure(
            lambda: table4.draw(summary, dataset),
            "Rank-1 and mAP over the share of real training images, of each arm with 95 % intervals; "
            "the numbers stand in the table",
        ),
        "numbers": figure(
            lambda: table4.draw_numbers(summary, families, dataset),
            "Gain over real images alone by the number of synthetic images per real one, a line for each "
            "share of real images",
        ),
    }


def _mean(metric: dict[str, Any] | None) -> tuple[str, str] | None:
    if metric is None:
        return None
    half = "" if metric["high"] is None else f"± {metric['high'] - metric['mean']:.1f}"
    return f"{metric['mean']:.1f}", half


def _gain(metric: dict[str, Any] | None) -> dict[str, str] | None:
    if metric is None or metric["gain"] is None:
        return None
    low, high, share = metric["gain_low"], metric["gain_high"], metric["recovered"]
    return {
        "gain": f"{metric['gain']:+.1f}",
        "interval": "" if low is None else f"{low:+.1f} to {high:+.1f}",
        "recovered": "" if share is None else f"recovers {100 * share:.0f} %",
        "verdict": "" if low is None else "gain" if low > 0 else "loss" if high < 0 else "not resolved",
    }


def parameters_section(params: Params) -> dict[str, Any]:
    """Return all settings by their dotted names, and how they differ from the nearest profile."""
    mine = _flatten(params.model_dump(mode="json"))
    shipped = {name: _flatten(load_params(name).model_dump(mode="json")) for name in PROFILES}

    def list_changes(name: str) -> list[str]:
        defaults = shipped[name]
        keys = [*mine, *(key for key in defaults if key not in mine)]
        return [key for key in keys if mine.get(key, "") != defaults.get(key, "")]

    nearest = min(PROFILES, key=lambda name: len(list_changes(name)))
    sections: dict[str, list[tuple[str, str]]] = {}
    for key, value in mine.items():
        section, _, rest = key.partition(".")
        sections.setdefault(section, []).append((rest, value))
    changed = [(key, mine.get(key, "-"), shipped[nearest].get(key, "-")) for key in list_changes(nearest)]
    return {"defaults": nearest, "changed": changed, "sections": sections}


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if not isinstance(value, str) else value
    return flat


def data_section(index: pd.DataFrame, params: Params) -> dict[str, Any]:
    """Return the images, identities and cameras of each split and subset, and the rejected files."""
    splits = [
        (
            name,
            len(rows),
            rows.pid[rows.pid > 0].nunique(),
            count_cameras(rows.camid.to_numpy()),
            _spread(rows),
        )
        for name, rows in index.groupby("split", sort=False)
    ]
    rejected = read_csv(REJECTED, {"image": str, "reason": str}, "index")
    reasons = [
        (reason, len(rows), rows.image.iloc[0]) for reason, rows in rejected.groupby("reason", sort=False)
    ]
    train = index[index.split == "train"]
    percents = sorted({*params.subset.percents, 100})
    counts = {
        percent: train[train.image.isin(read_subset(percent))].groupby("pid").size() for percent in percents
    }
    prefix = "val_" if params.reid.evaluate_on == "validation" else ""
    sides = (index.camid[index.split == prefix + split].to_numpy() for split in ("query", "gallery"))
    return {
        "splits": splits,
        "cameras_separate": cameras_separate(*sides),
        "subsets": [(percent, int(count.sum()), _spread_of(count)) for percent, count in counts.items()],
        "cameras": [
            (_camera(camid), count) for camid, count in sorted(train.groupby("camid").size().items())
        ],
        "rejected": sorted(reasons, key=lambda reason: -reason[1]),
        "rejected_files": len(rejected),
        "leaked": read_csv(LEAKED, {"train": str}, "index").train.nunique(),
        "figure": figure(
            lambda: _draw_counts(counts),
            "Box plot of the training images per identity, one box per subset; the ranges stand in the table",
        ),
    }


def _camera(camid: Any) -> str:
    """Name a camera."""
    return "unknown camera" if camid == NO_CAMERA else f"camera {camid}"


def _spread(rows: pd.DataFrame) -> str:
    return _spread_of(rows[rows.pid > 0].groupby("pid").size())


def _spread_of(counts: pd.Series) -> str:
    return f"{counts.min()} to {counts.max()}, mean {counts.mean():.1f}"


def _draw_counts(counts: dict[int, pd.Series]) -> Figure:
    drawing = Figure(figsize=(7, 0.9 + 0.32 * len(counts)), layout="constrained")
    axis = drawing.subplots()
    axis.boxplot(
        list(counts.values()),
        orientation="horizontal",
        whis=(0, 100),
        tick_labels=[f"{percent} %" for percent in counts],
        medianprops={"color": COLOURS[2]},
        boxprops={"color": INK},
        whiskerprops={"color": INK},
        capprops={"color": INK},
    )
    axis.set(xlabel="training images of an identity", ylabel="subset", xlim=(0, None))
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    return drawing


def curves_section(params: Params) -> list[tuple[str, Any]]:
    """Return the learning curves of the generators, and of the re-ID models as means over the seeds."""
    tables = {
        f"Generator trained on: {name}": read_csv(
            GENERATOR_CURVES / f"{name}.csv", CURVE_COLUMNS, "train_generator"
        )
        for name in params.generator.train_on
    }
    for arm in params.all_arms:
        models = read_curves(arm)
        means = models.groupby(["percent", "step"])[["loss"]].mean().reset_index()
        tables[f"Re-ID models of the arm {arm}, mean over seeds"] = means
    return [
        (title, figure(partial(_draw_curves, table), f"{title}: loss over the steps; {_ends(table)}"))
        for title, table in tables.items()
    ]


def _ends(table: pd.DataFrame) -> str:
    losses = table.groupby("percent").loss.agg(["first", "last"])
    return ", ".join(
        f"at {row.Index} % from {row.first:.3f} to {row.last:.3f}" for row in losses.itertuples()
    )


def _draw_curves(table: pd.DataFrame) -> Figure:
    drawing = Figure(figsize=(7, 2.8), layout="constrained")
    axis = drawing.subplots()
    for i, (percent, rows) in enumerate(table.groupby("percent")):
        colour = COLOURS[(i + 1) % len(COLOURS)]
        axis.plot(rows.step, rows.loss, color=colour, lw=0.8, alpha=0.35)
        smooth = rows.loss.rolling(max(1, len(rows) // _SMOOTH), min_periods=1, center=True).mean()
        axis.plot(rows.step, smooth, color=colour, lw=1.8, label=f"{percent} % of the images")
    axis.set(xlabel="step", ylabel="loss, and its running mean")
    axis.grid(axis="y", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return drawing


def galleries_section(index: pd.DataFrame, poses: pd.DataFrame, params: Params) -> list[dict[str, Any]]:
    """Return for each generator, subset and identity the real images of the subset and the generated ones."""
    galleries = _arm_with_most(params)
    return [
        {
            "folder": SYNTHETIC / generator,
            "percent": percent,
            "identities": _gallery(arm, percent, index, poses, params),
        }
        for (generator, percent), arm in progress(galleries.items(), len(galleries), "galleries")
    ]


def _arm_with_most(params: Params) -> dict[tuple[str, int], str]:
    """Return for every generator and percent, in order, the arm that has most of its images."""
    sizes = {percent: len(read_subset(percent)) for percent in (*params.subset.percents, 100)}
    arms: dict[tuple[str, int], str] = {}
    counts: dict[tuple[str, int], int] = {}
    for name, arm in params.arms.items():
        for percent in params.percents_of(name):
            key, count = (arm.generator, percent), arm.count(sizes[percent], sizes[100])
            if count > counts.get(key, 0):
                arms[key], counts[key] = name, count
    return dict(sorted(arms.items()))


def _gallery(
    arm: str, percent: int, index: pd.DataFrame, poses: pd.DataFrame, params: Params
) -> list[dict[str, Any]]:
    settings, root = params.report, params.dataset.root
    images, manifest = read_generated(arm, percent, index, params)
    subset = index[index.image.isin(read_subset(percent))]
    # The same people at every percent, as far as they are there, so that galleries can be compared.
    people = sorted(index.pid[index.split == "train"].unique())
    people = [
        pid for pid in make_rng(settings.seed, "gallery").permutation(people) if pid in set(manifest.pid)
    ]
    identities = []
    for pid in people[: settings.identities]:
        order = make_rng(settings.seed, "gallery", pid)
        real = subset[subset.pid == pid]
        generated = manifest[manifest.pid == pid]
        identities.append(
            {
                "pid": pid,
                "score": generated.agreement.mean(),
                "real": [
                    photograph(root / str(row.image), f"Real image, {_camera(row.camid)}")
                    for row in _some(real, settings.images_per_identity, order).itertuples()
                ],
                "real_total": len(real),
                "made": [
                    show_generated(row, images, poses, params)
                    for row in _some(generated, settings.images_per_identity, order).to_dict("records")
                ],
                "made_total": len(generated),
            }
        )
    return identities


def _some(rows: pd.DataFrame, count: int, order: np.random.Generator) -> pd.DataFrame:
    return rows.iloc[sorted(order.permutation(len(rows))[:count])]


def read_generated(arm: str, percent: int, index: pd.DataFrame, params: Params) -> tuple[Path, pd.DataFrame]:
    """Return the folder and the manifest of an arm's images for a subset, with their identity scores."""
    subset = read_subset(percent)
    pids = set(index.pid[index.image.isin(subset)])
    images, table = read_arm(params.arms[arm], percent, pids, len(subset), len(read_subset(100)))
    file = IDENTITY / f"{arm}.csv"
    scores = read_csv(file, IDENTITY_COLUMNS, "identity")
    scored = table.merge(scores[scores.percent == percent], on="name", validate="one_to_one")
    if len(scored) < len(table):
        raise ValueError(f"{file}: images of {images} are missing; run the stage 'identity' again")
    return images, scored


def show_generated(row: dict[Any, Any], folder: Path, poses: pd.DataFrame, params: Params) -> dict[str, Any]:
    """Return a generated image with its sources and its target pose, as far as its manifest names them."""
    root, height, width = params.dataset.root, params.dataset.height, params.dataset.width
    is_planned = {"sources", "pose"} <= set(row)  # images of another generator have neither
    pose = draw_skeleton(to_keypoints(poses, [row["pose"]])[0], height, width) if is_planned else None
    sources = row["sources"].split("|") if is_planned else []
    return {
        "pid": row["pid"],
        "sources": [photograph(root / source, f"Source {source}") for source in sources],
        "pose": None if pose is None else graphic(Image.fromarray(pose), f"Target pose of {row['pose']}"),
        "image": photograph(folder / row["name"], f"Generated image of identity {row['pid']}"),
        "score": row["agreement"],
    }


def filters_section(params: Params) -> list[dict[str, Any]]:
    """Return each filter's picture, and the change in rank-1 that it made.

    The change is that between two arms which differ in their generator alone: with the filter and without.
    """
    recipes = {name: arm.model_dump(exclude={"generator"}) for name, arm in params.arms.items()}
    sections = []
    for name in params.filters:
        file = FILTER_FIGURES / f"{name}.png"
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; run the stage 'filter', which writes it")
        alt = f"Scores of the filter {name} in each subset, with examples of what it kept and rejected"
        pairs = [
            (arm, other)
            for arm, other in permutations(params.arms, 2)
            if params.arms[arm].generator == name
            and params.arms[other].generator == params.filters[name].generator
            and recipes[arm] == recipes[other]
        ]
        rows = table4.collect(params) if pairs else pd.DataFrame()
        sections.append(
            {
                "name": name,
                "image": graphic(Image.open(file), alt),
                "changes": [(arm, other, difference(rows, arm, other)) for arm, other in pairs],
            }
        )
    return sections


def compare_queries(standard: pd.DataFrame, arm: pd.DataFrame) -> pd.DataFrame:
    """Join two arms' queries by model: columns percent, seed, query, ap, top of both and the change of AP.

    `mean_change` is the change's mean over the seeds, for a query may be won by chance.
    """
    both = standard.merge(arm, on=_MODEL_QUERY, suffixes=("_standard", "_arm"), validate="one_to_one")
    both["change"] = both.ap_arm - both.ap_standard
    both["mean_change"] = both.groupby(["percent", "query"]).change.transform("mean")
    return both


def pick_queries(both: pd.DataFrame, count: int) -> dict[str, pd.DataFrame]:
    """Choose the queries to show: those that gained and lost most in the mean over seeds, and the worst.

    Each query stands once in a list, with the percent where its change is largest (its AP lowest) and the
    seed that shows it best. A query that nothing changed is neither won nor lost.
    """
    lists = {
        "won": both[both.mean_change > 0].sort_values(["mean_change", "change"], ascending=False),
        "lost": both[both.mean_change < 0].sort_values(["mean_change", "change"]),
        "failed": both.assign(best=both[["ap_standard", "ap_arm"]].max(axis=1)).sort_values("best"),
    }
    return {name: rows.drop_duplicates("query").head(count) for name, rows in lists.items()}


def rankings_section(index: pd.DataFrame, params: Params) -> list[dict[str, Any]]:
    """Return for each arm the rankings of queries that it won, lost or failed, with those of `standard`."""
    # Queries without a right image in the gallery have no average precision.
    images = index.set_index("image")
    by_arm = []
    for name in params.arms:
        standard, queries = (
            read_queries(arm).dropna(subset="ap") for arm in (standard_of(params.judge_of(name)), name)
        )
        picked = pick_queries(compare_queries(standard, queries), params.report.queries)
        lists = {
            title: [_ranking(row, name, images, params.dataset.root) for row in rows.to_dict("records")]
            for title, rows in picked.items()
        }
        by_arm.append({"arm": name, "lists": lists})
    return by_arm


def _ranking(row: dict[Any, Any], arm: str, images: pd.DataFrame, root: Path) -> dict[str, Any]:
    person = images.loc[row["query"]]

    def hits(top: str) -> list[tuple[bool, Picture]]:
        pictures = []
        for rank, image in enumerate(split_images(top), start=1):
            right = bool(images.pid[image] == person.pid)
            alt = f"Rank {rank}, {'right' if right else 'wrong'} person, {_camera(images.camid[image])}"
            pictures.append((right, photograph(root / image, alt)))
        return pictures

    return {
        "query": photograph(root / row["query"], f"Query: identity {person.pid}, {_camera(person.camid)}"),
        "pid": person.pid,
        "camera": _camera(person.camid),
        "percent": row["percent"],
        "seed": row["seed"],
        "mean_change": row["mean_change"],
        "rows": [
            ("standard", row["ap_standard"], hits(row["top_standard"])),
            (arm, row["ap_arm"], hits(row["top_arm"])),
        ],
    }


def worst_generated(index: pd.DataFrame, poses: pd.DataFrame, params: Params) -> list[dict[str, Any]]:
    """Return the generated images with the lowest identity scores, over all generators."""
    images: list[tuple[dict[Any, Any], Path]] = []
    for (_, percent), arm in _arm_with_most(params).items():
        folder, table = read_generated(arm, percent, index, params)
        # Rows and no table: manifests of different generators have different columns.
        images += [(row, folder) for row in table.to_dict("records")]
    worst = sorted(images, key=lambda image: image[0]["agreement"])[: 2 * params.report.queries]
    return [show_generated(row, folder, poses, params) for row, folder in worst]


def stages_section() -> list[dict[str, Any]]:
    """Return every stage of dvc.lock with the time and memory of its last run here, and its outputs."""
    lock = (
        YAML(typ="safe", pure=True).load(Path("dvc.lock").read_text(encoding="utf-8"))
        if Path("dvc.lock").is_file()
        else {}
    )
    took = times.read(SCRATCH)
    stages = []
    for name, stage in lock.get("stages", {}).items():
        run = took.get(times.read_command(str(stage["cmd"])))
        stages.append(
            {
                "name": name,
                "took": run,
                "outs": [(out["path"], out.get("md5", "-")) for out in stage.get("outs", [])],
            }
        )
    return stages


def versions_section() -> list[tuple[str, str]]:
    """Return the versions of the code, of Python and of the packages, and the kind of machine."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    versions = [("commit", _commit()), ("Python", platform.python_version())]
    for requirement in project["dependencies"]:
        name = Requirement(requirement).name
        try:
            versions.append((name, version(name)))
        except PackageNotFoundError:
            versions.append((name, "not installed"))
    return [*versions, ("machine", f"{platform.system()} {platform.machine()}")]


def _commit() -> str:
    """Return the commit of the code, and the tracked files that differ from it."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository with a commit
        return "unknown"
    files = [line[3:] for line in changes.stdout.splitlines()]
    return commit.stdout.strip() + (f", with changes in {', '.join(files)}" if files else "")


def make_report(params: Params) -> str:
    """Put the page together from what the stages wrote."""
    index, poses = read_index(), read_pose_table()
    summary = json.loads(TABLE4_SUMMARY.read_text(encoding="utf-8"))
    return render(
        "report.html.jinja",
        dataset=params.tested_on,
        rendered=params.dataset.root == WORLD,
        table4=table4_section(summary, params.families, params.tested_on),
        intervals=INTERVALS,
        parameters=parameters_section(params),
        data=data_section(index, params),
        curves=curves_section(params),
        galleries=galleries_section(index, poses, params),
        filters=filters_section(params),
        rankings=rankings_section(index, params),
        worst=worst_generated(index, poses, params),
        stages=stages_section(),
        versions=versions_section(),
    )


def main() -> None:
    """Run the stage."""
    params = load_params()
    print(f"{1 + len(params.arms)} arms at {len(params.subset.percents)} percents to report on", flush=True)
    show_names(params.tested_on)
    page = make_report(params)
    with atomic(REPORT) as file:
        file.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    command_line("report", __doc__).parse_args()
    stage_main(main)
