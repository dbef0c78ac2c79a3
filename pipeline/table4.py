"""Stage `table4`: what generated images bring, over all trained re-ID models, as a table and a figure.

Reads data/reid/*.csv, one row per model; writes reports/table4.csv with all rows and the summary as
reports/table4.json, .md and .png.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from pipeline.cli import command_line
from pipeline.files import atomic, read_csv, stage_main, write_csv, write_json
from pipeline.params import Params, load_params

RESULTS = Path("data/reid")
TABLE = Path("reports/table4.csv")

COLUMNS = {
    "arm": str,  # the recipe; "standard" has real images only
    "train_on": str,  # what the generator was trained on: all or subset of the real images, none, or other
    "fraction": int,  # percent of the real training images
    "seed": int,
    "n_real": int,  # training images
    "n_synthetic": int,
    "iterations": int,
    "rank1": float,  # percent
    "mAP": float,
    "mINP": float,
}
METRICS = ("rank1", "mAP", "mINP")
CONFIDENCE = 0.95
_KEY = ["arm", "train_on", "fraction", "seed"]
_TITLES = {"rank1": "rank-1 (%)", "mAP": "mAP (%)"}
_COLOURS = ("#555555", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's

_FULL = "100 % real images"

Summary = dict[str, dict[str, dict[str, dict[str, Any]]]]


def collect(folder: Path, params: Params) -> pd.DataFrame:
    """Put the rows of all result files that belong to the present parameters into one table.

    Results of an arm, a fraction or a seed that was taken out of params.yaml may still lie in the folder.

    Raises:
        ValueError: there is none, a model stands there twice, or models were not trained equally long.
    """
    tables = [read_csv(file, COLUMNS, "train_reid") for file in sorted(folder.glob("*.csv"))]
    if not tables:
        raise ValueError(f"{folder} holds no results; run the stages that train re-ID models")
    rows = pd.concat(tables, ignore_index=True)
    arms = ["standard", *params.arms]
    fractions = [*params.subset.fractions, 100]
    rows = rows[rows.arm.isin(arms) & rows.fraction.isin(fractions) & rows.seed.isin(params.reid.seeds)]
    twice = rows[rows.duplicated(_KEY)]
    if len(twice):
        raise ValueError(f"{folder}: the model {twice[_KEY].iloc[0].to_dict()} stands in two files")
    if rows.iterations.nunique() > 1:
        lengths = ", ".join(map(str, sorted(rows.iterations.unique())))
        raise ValueError(
            f"{folder}: models were trained for {lengths} iterations; a table compares equal ones"
        )
    by_arm = rows.arm.map(arms.index)
    return rows.assign(by_arm=by_arm).sort_values(["by_arm", *_KEY], ignore_index=True).drop(columns="by_arm")


def summarise(rows: pd.DataFrame) -> Summary:
    """Summarise models as arm -> train_on -> fraction -> seeds, n_real, n_synthetic and the three metrics.

    A metric has its mean, sd and the 95 % interval low..high of the mean over seeds (Student's t). Arms other
    than "standard" also have gain, gain_low and gain_high, the difference to "standard" at the same fraction,
    paired by seed, and recovered, the gain as a share of the gap between "standard" and 100 % real images.
    What cannot be said (the interval of one seed, the share of no gap) is None. All in percent or points,
    except recovered, a ratio.
    """
    standard = rows[rows.arm == "standard"]
    summary: Summary = {}
    for (arm, train_on, fraction), models in rows.groupby(["arm", "train_on", "fraction"], sort=False):
        cell: dict[str, Any] = {
            "seeds": len(models),
            "n_real": int(models.n_real.iloc[0]),
            "n_synthetic": int(models.n_synthetic.iloc[0]),
        }
        for metric in METRICS:
            mean, low, high = _interval(models[metric])
            spread = models[metric].std() if len(models) > 1 else None
            cell[metric] = {"mean": mean, "sd": spread, "low": low, "high": high}
            if arm != "standard":
                reference = standard[standard.fraction == fraction].set_index("seed")[metric]
                full = standard[standard.fraction == 100][metric]
                paired = (models.set_index("seed")[metric] - reference).dropna()
                gain, gain_low, gain_high = _interval(paired)
                gap = full.mean() - reference.mean()
                recovered = gain / gap if gain is not None and gap > 0 else None
                cell[metric] |= {
                    "gain": gain,
                    "gain_low": gain_low,
                    "gain_high": gain_high,
                    "recovered": recovered,
                }
            cell[metric] = {
                name: None if x is None else round(float(x), 3) for name, x in cell[metric].items()
            }
        summary.setdefault(str(arm), {}).setdefault(str(train_on), {})[str(fraction)] = cell
    return summary


def _interval(values: pd.Series) -> tuple[float | None, float | None, float | None]:
    """Mean and the ends of its 95 % interval by Student's t; None where there are too few values."""
    if len(values) == 0:
        return None, None, None
    mean = float(values.mean())
    if len(values) == 1:
        return mean, None, None
    half = float(stats.sem(values) * stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return mean, mean - half, mean + half


def render(summary: Summary, dataset: str) -> str:
    """Write the summary as Markdown that is aligned, so that a terminal shows it well too."""
    arms = _arms(summary)
    seeds = "-".join(map(str, sorted({cell["seeds"] for _, _, cells in arms for cell in cells.values()})))
    blocks = [
        f"Table 4 on the data set: {dataset}",
        f"Rank-1 / mAP (%) by percent of the real training images, means (seeds: {seeds}):",
        _table(arms, lambda cell: f"{cell['rank1']['mean']:.1f} / {cell['mAP']['mean']:.1f}"),
    ]
    augmented = [row for row in arms if row[0] != "standard"]
    if augmented:
        blocks += [
            "Gain in rank-1 over standard in points, with the 95 % interval of the difference paired by seed "
            "and, in brackets, the recovered share of the gap to 100 % real images:",
            _table(augmented, lambda cell: _gain(cell["rank1"])),
        ]
    blocks.append("Intervals cover the chance of training, not the choice of people and images to test on.")
    return "\n\n".join(blocks) + "\n"


def _arms(summary: Summary) -> list[tuple[str, str, dict[str, dict[str, Any]]]]:
    return [(arm, source, cells) for arm, by_source in summary.items() for source, cells in by_source.items()]


def _gain(metric: dict[str, Any]) -> str:
    if metric["gain"] is None:
        return ""
    half = "" if metric["gain_high"] is None else f" ± {metric['gain_high'] - metric['gain']:.1f}"
    share = "" if metric["recovered"] is None else f" ({100 * metric['recovered']:.0f} %)"
    return f"{metric['gain']:+.1f}{half}{share}"


def _table(
    arms: list[tuple[str, str, dict[str, dict[str, Any]]]], text: Callable[[dict[str, Any]], str]
) -> str:
    """Make a Markdown table of arms by fractions, with columns of equal width and numbers to the right."""
    fractions = sorted({fraction for _, _, cells in arms for fraction in cells}, key=int)
    table = [["arm", "generator saw", *(f"{fraction} %" for fraction in fractions)]]
    for arm, source, cells in arms:
        entries = [text(cells[fraction]) if fraction in cells else "" for fraction in fractions]
        table.append([arm, "-" if source == "none" else source, *entries])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rule = ["-" * widths[0], "-" * widths[1], *("-" * (width - 1) + ":" for width in widths[2:])]
    lines = []
    for row in (table[0], rule, *table[1:]):
        labels = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append(f"| {' | '.join(labels + numbers)} |")
    return "\n".join(lines)


def draw(summary: Summary, dataset: str) -> Figure:
    """Draw rank-1 and mAP over the fraction of real images; bars are 95 % intervals of the means."""
    figure = Figure(figsize=(9, 3.9), layout="constrained")
    figure.suptitle(f"Re-identification with and without generated images, data set: {dataset}", fontsize=11)
    arms = _arms(summary)
    axes = figure.subplots(1, len(_TITLES))
    for axis, (metric, title) in zip(axes, _TITLES.items(), strict=True):
        for i, (arm, train_on, cells) in enumerate(arms):
            below = {int(fraction): cell[metric] for fraction, cell in cells.items() if fraction != "100"}
            means = [cell["mean"] for cell in below.values()]
            halves = [0 if cell["high"] is None else cell["high"] - cell["mean"] for cell in below.values()]
            # Arms stand side by side, so that their intervals do not hide each other.
            places = np.array(list(below)) + 1.2 * (i - (len(arms) - 1) / 2)
            label = arm if train_on == "none" else f"{arm} (generator saw: {train_on})"
            colour = _COLOURS[i % len(_COLOURS)]
            axis.errorbar(
                places, means, halves, label=label, color=colour, marker="o", ms=4, lw=1.5, capsize=3
            )
        full = summary.get("standard", {}).get("none", {}).get("100")
        if full is not None:
            axis.axhline(full[metric]["mean"], color="black", ls="--", lw=1, label=_FULL)
        axis.set(xlabel="real training images (%)", ylabel=title)
        axis.set_xticks(sorted({int(f) for _, _, cells in arms for f in cells if f != "100"}))
        axis.grid(axis="y", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i] == _FULL)
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside lower center",
        ncols=min(4, len(labels)),
        frameon=False,
        fontsize=9,
    )
    return figure


def headline(summary: Summary) -> dict[str, dict[str, float | None]]:
    """The columns of `dvc exp show`: 100 % real images, and each arm's gain in the mean over the fractions.

    Returns:
        "standard": rank1_100 and mAP_100 (percent). Every other arm, with what its generator saw where there
        are several: gain_rank1 and gain_mAP (points). None where a run does not say it.
    """
    metrics = ("rank1", "mAP")
    full = summary.get("standard", {}).get("none", {}).get("100")
    numbers = {"standard": {f"{name}_100": full[name]["mean"] if full else None for name in metrics}}
    for arm, source, cells in _arms(summary):
        if arm != "standard":
            label = arm if len(summary[arm]) == 1 else f"{arm}_{source}"
            numbers[label] = {f"gain_{name}": _mean_gain(cells, name) for name in metrics}
    return numbers


def _mean_gain(cells: dict[str, dict[str, Any]], metric: str) -> float | None:
    gains = [cell[metric]["gain"] for cell in cells.values()]
    return None if None in gains else round(sum(gains) / len(gains), 3)


def main() -> None:
    """Run the stage."""
    params = load_params()
    rows = collect(RESULTS, params)
    summary = summarise(rows)
    text = render(summary, params.dataset.name)
    write_csv(rows, TABLE)
    write_json(summary, TABLE.with_suffix(".json"))
    write_json(headline(summary), TABLE.with_name("summary.json"))
    with atomic(TABLE.with_suffix(".md")) as file:
        file.write_text(text, encoding="utf-8")
    with atomic(TABLE.with_suffix(".png")) as file:
        draw(summary, params.dataset.name).savefig(file, dpi=130)
    print(text)


if __name__ == "__main__":
    command_line("table4", __doc__).parse_args()
    stage_main(main)
