"""Stage `table4`: the gain from generated images over all trained re-ID models, as a table and a figure.

Reads data/reid/<arm>.csv, one row per model, and data/reid/cross/<data set>.csv; writes reports/table4.csv
with all rows and the summary as reports/table4.json, .md and .png.
"""

from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.artifacts import (
    BOUND_COLUMN,
    CROSS,
    CROSS_COLUMNS,
    HEADLINE,
    JUDGE_COLUMN,
    NUMBERS_FIGURE,
    REID_RESULTS,
    SECTION_JUDGE,
    TABLE4,
    TABLE4_SUMMARY,
    is_standard,
    read_results,
)
from pipeline.params import Params, load_params
from pipeline.runtime.fonts import show_names
from pipeline.runtime.outputs import atomic, read_csv, write_csv, write_json
from pipeline.runtime.page import COLOURS
from pipeline.runtime.stage import command_line, stage_main
from pipeline.shared.statistics import (
    INTERVALS,
    Summary,
    aligned_table,
    half_width,
    result_cells,
    result_titles,
    summarise,
)

_KEY = ["arm", "train_on", "percent", "seed"]
_TITLES = {
    "rank1": "rank-1",
    "mAP": "mAP",
    "rank5": "rank-5",
    "rank10": "rank-10",
    "mAP_trapezoid": "mAP, trapezoid",
    "rank1_rerank": "rank-1, re-ranked",
    "mAP_rerank": "mAP, re-ranked",
}

# Rank-1 (%) on Market-1501 as printed in Table 4 of the IMAGPose paper (Shen and Tang, NeurIPS 2024).
PUBLISHED_PERCENTS = (20, 40, 60, 80)
PUBLISHED = {
    "Standard": (33.4, 56.6, 64.9, 69.2),
    "PTN": (55.6, 57.3, 67.1, 72.5),
    "GFLA": (57.3, 59.7, 67.6, 73.2),
    "DPTN": (58.1, 62.6, 69.0, 74.2),
    "PIDM": (61.3, 64.8, 71.6, 75.3),
    "PCDMs": (63.8, 67.1, 73.3, 76.4),
    "IMAGPose": (66.4, 69.2, 75.1, 77.6),
}
PUBLISHED_FULL = 76.7  # 100 % real images
_HATCHES = ("", "////", "....", "xxxx")  # for arms beyond the colours
_FULL = "100 % real images"


def collect(params: Params) -> pd.DataFrame:
    """Put the rows of all result files that belong to the present parameters into one table.

    Results of an arm, a percent or a seed that was taken out of params.yaml may still lie in the folder.

    Raises:
        ValueError: There is no result, two rows are of one model, or models were not trained equally long.
    """
    folder = REID_RESULTS
    # <arm>.csv alone, not <arm>.queries.csv and <arm>.curves.csv: an arm's name has no dot. Hidden files are
    # temporaries of a run that is at work, or was killed.
    files = [file for file in sorted(folder.glob("[!.]*.csv")) if "." not in file.stem]
    tables = [read_results(file.stem) for file in files]
    if not tables:
        raise ValueError(f"{folder} holds no results; run the stages standard and augmented")
    rows = pd.concat(tables, ignore_index=True)
    arms = params.all_arms
    percents = {*params.subset.percents, 100}
    rows = rows[rows.arm.isin(arms) & rows.percent.isin(percents) & rows.seed.isin(params.reid.seeds)]
    twice = rows[rows.duplicated(_KEY)]
    if len(twice):
        first = twice.iloc[0]
        raise ValueError(
            f"{folder}: arm {first.arm} at {first.percent} %, seed {first.seed} is in two files; delete one"
        )
    judge = rows.arm.map(lambda arm: params.judge_of(arm) or SECTION_JUDGE)
    for _, models in rows.groupby(judge):
        if models.iterations.nunique() > 1:
            lengths = ", ".join(map(str, sorted(models.iterations.unique())))
            raise ValueError(
                f"{folder}: models were trained for {lengths} iterations; `dvc repro` trains all equally long"
            )
    if params.judges:
        rows = rows.assign(**{JUDGE_COLUMN: judge})
    if bounds := params.bounds:
        rows = rows.assign(**{BOUND_COLUMN: rows.arm.map(lambda arm: bounds.get(arm, ""))})
    for name in params.cross_datasets:
        results = read_csv(CROSS / f"{name}.csv", CROSS_COLUMNS, f"cross@{name}")
        rows = rows.merge(results, on=list(CROSS_COLUMNS), how="left", validate="many_to_one")
    place = rows.arm.map(arms.index)  # arms stand in the order of params.yaml
    return rows.assign(place=place).sort_values(["place", *_KEY], ignore_index=True).drop(columns="place")


def render(summary: Summary, dataset: str) -> str:
    """Write the summary as Markdown that is aligned, so that a terminal shows it well too."""
    arms = _arms(summary)
    percents = sorted({percent for _, _, cells in arms for percent in cells}, key=int)
    titles = [f"{percent} %" for percent in percents]
    seeds = "-".join(map(str, sorted({cell["seeds"] for _, _, cells in arms for cell in cells.values()})))
    judges, bound = has_judges(summary), has_bounds(summary)
    titles_of_cells = ["", *result_titles(with_bound=bound)]
    who = ["arm", "generator saw", *(["judge"] if judges else [])]
    names = [
        [arm, _saw(source), *([judge_of(cells)] if judges else [])] for arm, source, cells in arms
    ]  # the cells of `who`
    means = [
        [*name, *(_means(cells[percent]) if percent in cells else "" for percent in percents)]
        for name, (_, _, cells) in zip(names, arms, strict=True)
    ]
    blocks = [
        f"Table 4 on the data set: {dataset}",
        f"Rank-1 / mAP (%) by percent of the real training images, means (seeds: {seeds}):",
        aligned_table([*who, *titles], means, left=len(who)),
        "With 95 % intervals over the seeds; gain over standard paired by seed; recovered share of the gap "
        "between standard and 100 % real images:",
        aligned_table(
            ["real", *who, "images", *2 * titles_of_cells],
            [
                [
                    f"{percent} %",
                    *name,
                    f"{cells[percent]['n_real']} + {cells[percent]['n_synthetic']}",
                    *(
                        text
                        for metric in ("rank1", "mAP")
                        for text in result_cells(cells[percent][metric], with_bound=bound)
                    ),
                ]
                for percent in percents
                for name, (_, _, cells) in zip(names, arms, strict=True)
                if percent in cells
            ],
            left=1 + len(who),
            titles={2 + len(who): "rank-1 (%)", 2 + len(who) + len(titles_of_cells): "mAP (%)"},
        ),
    ]
    others = [name for name in _metrics(summary) if name not in ("rank1", "mAP")]
    blocks += [
        "Other measures (%), means, in brackets the gain over standard with its 95 % interval:",
        aligned_table(
            ["real", *who, *(title(metric) for metric in others)],
            [
                [f"{percent} %", *name, *(_brief(cells[percent][metric]) for metric in others)]
                for percent in percents
                for name, (_, _, cells) in zip(names, arms, strict=True)
                if percent in cells
            ],
            left=1 + len(who),
        ),
        f"Published, Market-1501: rank-1 (%) as printed by Shen and Tang (NeurIPS 2024), {PUBLISHED_FULL} at "
        "100 %, in brackets the recovered share of the gap. Other images and larger models: compare shares.",
        aligned_table(
            ["method", *(f"{percent} %" for percent in PUBLISHED_PERCENTS)],
            [[method, *_published(values)] for method, values in PUBLISHED.items()],
            left=1,
        ),
        INTERVALS
        + " A share is left out where the gap or the gain is not surely there."
        + (" The possible gain is that of rendered images in an arm's place." if bound else ""),
    ]
    return "\n\n".join(blocks) + "\n"


def _arms(summary: Summary) -> list[tuple[str, str, dict[str, dict[str, Any]]]]:
    return [(arm, source, cells) for arm, by_source in summary.items() for source, cells in by_source.items()]


def judge_of(cells: dict[str, dict[str, Any]]) -> str:
    """Return the judge of an arm from its cells: that of the section reid where there is no other."""
    return str(next(iter(cells.values())).get(JUDGE_COLUMN, SECTION_JUDGE))


def has_judges(summary: Summary) -> bool:
    """Tell whether another judge than that of the section reid stands in the table."""
    return any(JUDGE_COLUMN in cell for _, _, cells in _arms(summary) for cell in cells.values())


def has_bounds(summary: Summary) -> bool:
    """Tell whether the table says what share of the possible gain an arm has."""
    cells = [cell for _, _, by_percent in _arms(summary) for cell in by_percent.values()]
    return any("possible" in cell["rank1"] for cell in cells)


def label(arm: str, train_on: str, cells: dict[str, dict[str, Any]]) -> str:
    """Name an arm for readers, with what its generator saw and, where there are several, its judge."""
    details = [f"generator saw: {train_on}"] if train_on != "none" else []
    judge = next(iter(cells.values())).get(JUDGE_COLUMN)
    details += [f"judge: {judge}"] if judge else []
    return f"{arm} ({', '.join(details)})" if details else arm


def _metrics(summary: Summary) -> list[str]:
    cell = next(cell for _, _, cells in _arms(summary) for cell in cells.values())
    return [name for name, value in cell.items() if isinstance(value, dict)]


def title(metric: str) -> str:
    """Name a column of the table for readers; those of another data set end in its name."""
    for name, text in sorted(_TITLES.items(), key=lambda item: -len(item[0])):
        if metric == name or metric.startswith(f"{name}_"):
            return text + metric.removeprefix(name).replace("_", ", ", 1)
    return metric


def _saw(train_on: str) -> str:
    return "-" if train_on == "none" else train_on


def _means(cell: dict[str, Any]) -> str:
    return f"{cell['rank1']['mean']:.1f} / {cell['mAP']['mean']:.1f}"


def _brief(metric: dict[str, Any]) -> str:
    if metric["mean"] is None:
        return ""
    gain = metric.get("gain")
    mean = f"{metric['mean']:.1f}"
    return mean if gain is None else f"{mean} ({gain:+.1f}{half_width(gain, metric['gain_high'])})"


def _published(values: tuple[float, ...]) -> list[str]:
    if values == PUBLISHED["Standard"]:
        return [f"{value:.1f}" for value in values]
    shares = [
        (value - standard) / (PUBLISHED_FULL - standard)
        for value, standard in zip(values, PUBLISHED["Standard"], strict=True)
    ]
    return [f"{value:.1f} ({round(100 * share)} %)" for value, share in zip(values, shares, strict=True)]


def draw(summary: Summary, dataset: str) -> Figure:
    """Draw rank-1 and mAP as bars with their 95 % intervals, a row per judge, and the published rows."""
    arms = _arms(summary)
    judges = list(dict.fromkeys(judge_of(cells) for _, _, cells in arms))
    figure = Figure(figsize=(12, 4.4 * len(judges)), layout="constrained")
    grid = figure.subplots(len(judges), 3, squeeze=False, width_ratios=[1, 1, 1])
    percents = sorted({int(percent) for arm, _, cells in arms if not is_standard(arm) for percent in cells})
    for judge, axes in zip(judges, grid, strict=True):
        under = f" under {judge}" if has_judges(summary) else ""
        for axis, metric in zip(axes, ("rank1", "mAP"), strict=False):
            _draw_bars(axis, summary, judge, percents, metric)
            axis.set_title(f"{dataset}: {_TITLES[metric]}{under}", fontsize=10)
        axes[0].set_ylabel("mean and 95 % interval over seeds (%)")
    _draw_published(grid[0][2])
    for axis in grid[1:, 2]:
        axis.set_axis_off()
    for axis in grid.flat:
        ticks = PUBLISHED_PERCENTS if axis is grid[0][2] else percents
        axis.set_xticks(range(len(ticks)), [f"{percent}" for percent in ticks])
        axis.set(xlabel="real training images (%)", ylim=(0, 100))
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    _legend(figure, list(grid[:, 0]), "outside lower left", columns=3)
    _legend(figure, [grid[0][2]], "outside lower right", columns=4)
    return figure


def _draw_bars(axis: Axes, summary: Summary, judge: str, percents: list[int], metric: str) -> None:
    """Draw a group of bars for each percent, one bar per arm of a judge; 100 % real images as a line."""
    numbered = [(i, arm) for i, arm in enumerate(_arms(summary)) if judge_of(arm[2]) == judge]
    width = 0.84 / len(numbered)
    for place_in_group, (i, (arm, train_on, cells)) in enumerate(numbered):
        offset = width * (place_in_group - (len(numbered) - 1) / 2)
        bars = [
            (place + offset, cells[str(percent)][metric])
            for place, percent in enumerate(percents)
            if str(percent) in cells
        ]
        halves = [0 if cell["high"] is None else cell["high"] - cell["mean"] for _, cell in bars]
        axis.bar(
            [place for place, _ in bars],
            [cell["mean"] for _, cell in bars],
            0.92 * width,
            yerr=halves if any(halves) else None,
            label=label(arm, train_on, cells),
            facecolor=COLOURS[i % len(COLOURS)],
            edgecolor="white",
            linewidth=0,
            hatch=_HATCHES[i // len(COLOURS) % len(_HATCHES)],
            error_kw={"elinewidth": 1, "capsize": 2.5},
        )
    for _, (arm, _, cells) in numbered:
        if is_standard(arm) and "100" in cells:
            full = cells["100"][metric]
            axis.axhline(full["mean"], color="black", ls="--", lw=1, label=_FULL)
            if full["high"] is not None:
                axis.axhspan(full["low"], full["high"], color="#ebebeb", lw=0, zorder=0)


def draw_numbers(summary: Summary, families: list[list[str]], dataset: str) -> Figure:
    """Draw the gain over the number of synthetic images per real one, a line for each share of real images.

    Args:
        summary: What `summarise` returns.
        families: Arms that differ in their number of images alone, as `Params.families` groups them.
        dataset: Name of the evaluation set.
    """
    families = families or [[]]
    figure = Figure(figsize=(10, 0.6 + 3.4 * len(families)), layout="constrained")
    figure.suptitle(f"Gain by the number of synthetic images, with 95 % intervals: {dataset}", fontsize=11)
    grid = figure.subplots(len(families), 2, squeeze=False, sharex=True, sharey="col")
    for row, arms in zip(grid, families, strict=True):
        cells = [
            (int(percent), cell["n_synthetic"] / cell["n_real"], cell)
            for arm, _, by_percent in _arms(summary)
            if arm in arms
            for percent, cell in by_percent.items()
            if cell["n_synthetic"]
        ]
        percents = sorted({percent for percent, _, _ in cells})
        for axis, metric in zip(row, ("rank1", "mAP"), strict=True):
            for i, percent in enumerate(percents):
                points = sorted((ratio, cell[metric]) for at, ratio, cell in cells if at == percent)
                halves = [
                    0 if gain["gain_high"] is None else gain["gain_high"] - gain["gain"] for _, gain in points
                ]
                beside = 2 ** (0.04 * (i - (len(percents) - 1) / 2))  # intervals must not hide each other
                axis.errorbar(
                    [ratio * beside for ratio, _ in points],
                    [gain["gain"] for _, gain in points],
                    halves if any(halves) else None,
                    label=f"{percent} % real images",
                    color=colormaps["viridis"](0.85 * i / max(1, len(percents) - 1)),
                    marker="o",
                    ms=4,
                    lw=1.3,
                    capsize=2,
                )
            axis.axhline(0, color="black", lw=0.8)
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter("{x:g}")
            axis.set_title(f"{', '.join(arms)}: {_TITLES[metric]}", fontsize=9)
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("gain over real images alone (points)")
        if percents:
            row[1].legend(frameon=False, fontsize=8)
    for axis in grid[-1]:
        axis.set_xlabel("synthetic images per real one")
    return figure


def headline(summary: Summary) -> dict[str, dict[str, float | None]]:
    """Return the columns of `dvc exp show`: 100 % real images, and the gain of each arm at every percent.

    Returns:
        "standard", of each judge: rank1_100 and mAP_100 (percent). Every other arm, with what its generator
        saw where there are several: gain_20 and so on (points of rank-1). None where a run does not say it.
    """
    metrics = ("rank1", "mAP")
    numbers: dict[str, dict[str, float | None]] = {"standard": {f"{name}_100": None for name in metrics}}
    for arm, source, cells in _arms(summary):
        if is_standard(arm):
            full = cells.get("100")
            numbers[arm] = {f"{name}_100": full[name]["mean"] if full else None for name in metrics}
        else:
            name = arm if len(summary[arm]) == 1 else f"{arm}_{source}"
            numbers[name] = {f"gain_{percent}": cell["rank1"]["gain"] for percent, cell in cells.items()}
    return numbers


def _legend(
    figure: Figure,
    axes: list[Axes],
    place: Literal["outside lower left", "outside lower right"],
    columns: int,
) -> None:
    """Put the legend of some axes below all, each name once and the reference at its end."""
    named: dict[str, Any] = {}
    for axis in axes:
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(text, handle)
    labels = sorted(named, key=lambda text: text == _FULL)
    handles = [named[text] for text in labels]
    figure.legend(handles, labels, loc=place, ncols=columns, frameon=False, fontsize=8)


def _draw_published(axis: Axes) -> None:
    width = 0.84 / len(PUBLISHED)
    for i, (method, values) in enumerate(PUBLISHED.items()):
        axis.bar(
            np.arange(len(values)) + width * (i - (len(PUBLISHED) - 1) / 2),
            values,
            0.92 * width,
            label=method,
            facecolor=str(1 - 0.13 * i),  # from white to dark grey: other colours than the arms have
            edgecolor="#333333",
            lw=0.6,
        )
    axis.axhline(PUBLISHED_FULL, color="black", ls="--", lw=1, label=_FULL)
    axis.set_title("published, Market-1501: rank-1", fontsize=10)


def main() -> None:
    """Run the stage."""
    params = load_params()
    rows = collect(params)
    print(f"{len(rows)} models to compare", flush=True)
    summary = summarise(rows)
    text = render(summary, params.tested_on)
    show_names(params.tested_on)
    write_csv(rows, TABLE4)
    write_json(summary, TABLE4_SUMMARY)
    write_json(headline(summary), HEADLINE)
    with atomic(TABLE4.with_suffix(".md")) as file:
        file.write_text(text, encoding="utf-8")
    with atomic(TABLE4.with_suffix(".png")) as file:
        draw(summary, params.tested_on).savefig(file, dpi=130)
    with atomic(NUMBERS_FIGURE) as file:
        draw_numbers(summary, params.families, params.tested_on).savefig(file, dpi=130)
    print(text)


if __name__ == "__main__":
    command_line("table4", __doc__).parse_args()
    stage_main(main)
