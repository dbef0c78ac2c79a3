"""Means, intervals and paired differences over trained models."""

import math
from typing import Any

import pandas as pd
from scipy import stats

from pipeline.artifacts import GENERATOR_COLUMN, METRICS, RESULT_COLUMNS

CONFIDENCE = 0.95


INTERVALS = (
    "Intervals cover the chance of re-ID training alone: all seeds share one subset, one generator with its "
    "images, and one set of people to test on."
)


Summary = dict[str, dict[str, dict[str, dict[str, Any]]]]


def summarise(rows: pd.DataFrame) -> Summary:
    """Summarise models as arm -> train_on -> percent -> seeds, n_real, n_synthetic, generator, every metric.

    A metric has its mean, sd and the 95 % interval low..high of the mean over seeds (Student's t). Arms other
    than "standard" also have gain, gain_low and gain_high, the difference to "standard" at the same percent,
    paired by seed, and recovered, the gain as a share of the gap between "standard" and 100 % real images.
    What cannot be said is None: the interval of one seed, and the share of a gap or by a gain that is not
    surely there, its 95 % interval, paired by seed too, holding 0. All in percent or points, except
    recovered, a ratio.

    Args:
        rows: one per model. With a column `run`, models of several runs (worlds, say) are taken together: a
            seed is then one of its run, and intervals are those of the mean over these very runs.
    """
    standard = rows[rows.arm == "standard"]
    key = [name for name in ("run", "seed") if name in rows]
    metrics = [
        name
        for name in rows.columns
        if name in METRICS or name not in (*RESULT_COLUMNS, GENERATOR_COLUMN, *key)
    ]
    summary: Summary = {}
    for (arm, train_on, percent), models in rows.groupby(["arm", "train_on", "percent"], sort=False):
        cell: dict[str, Any] = {
            "seeds": len(models),
            "n_real": int(models.n_real.iloc[0]),
            "n_synthetic": int(models.n_synthetic.iloc[0]),
        }
        generators = set(models[GENERATOR_COLUMN].dropna()) - {""} if GENERATOR_COLUMN in models else set()
        cell[GENERATOR_COLUMN] = generators.pop() if len(generators) == 1 else None
        for metric in metrics:
            values = models.set_index(key)[metric].dropna()
            mean, low, high = interval(values)
            found = {"mean": mean, "sd": values.std() if len(values) > 1 else None, "low": low, "high": high}
            if arm != "standard":
                reference = standard[standard.percent == percent].set_index(key)[metric]
                full = standard[standard.percent == 100].set_index(key)[metric]
                gain, gain_low, gain_high = interval((values - reference).dropna())
                gap, gap_low, gap_high = interval((full - reference).dropna())
                there = _there(gain, gain_low, gain_high) and _there(gap, gap_low, gap_high)
                recovered = gain / gap if gain and gap and gap > 0 and there else None
                found |= {
                    "gain": gain,
                    "gain_low": gain_low,
                    "gain_high": gain_high,
                    "recovered": recovered,
                }
            cell[metric] = {name: None if x is None else round(float(x), 3) for name, x in found.items()}
        summary.setdefault(str(arm), {}).setdefault(str(train_on), {})[str(percent)] = cell
    return summary


def difference(rows: pd.DataFrame, arm: str, other: str, metric: str = "rank1") -> dict[int, str]:
    """One arm minus another, paired by seed, with its 95 % interval, by percent.

    Args:
        rows: as those of `summarise`.
        arm: the one.
        other: the other.
        metric: a column of percent.
    """
    key = ["percent", *(name for name in ("run", "seed") if name in rows)]
    values = rows[rows.arm.isin([arm, other])].pivot(index=key, columns="arm", values=metric)
    gained = (values[arm] - values[other]).dropna()
    found = {}
    for percent in gained.index.unique("percent"):
        mean, _, high = interval(gained.loc[percent])
        found[int(percent)] = f"{mean:+.1f}{_half(mean, high)}"
    return found


def interval(values: pd.Series) -> tuple[float | None, float | None, float | None]:
    """Mean and the ends of its 95 % interval by Student's t; None where there are too few values.

    Values whose index has a level `run` vary about the mean of their run: the interval says nothing of other
    runs.
    """
    if len(values) == 0:
        return None, None, None
    mean = float(values.mean())
    runs = values.groupby(level="run") if "run" in values.index.names else None
    free = len(values) - (1 if runs is None else runs.ngroups)
    if free == 0:
        return mean, None, None
    about = values - (mean if runs is None else runs.transform("mean"))
    error = math.sqrt(about.pow(2).sum() / free / len(values))
    half = float(error * stats.t.ppf((1 + CONFIDENCE) / 2, free))
    return mean, mean - half, mean + half


def _there(mean: float | None, low: float | None, high: float | None) -> bool:
    """Whether a difference is known and its interval, if there is one, leaves out 0."""
    return mean is not None and (low is None or high is None or low > 0 or high < 0)


def result_cells(metric: dict[str, Any]) -> list[str]:
    """Mean, gain and recovered share of one metric for readers, as far as they are known."""
    mean = f"{metric['mean']:.1f}{_half(metric['mean'], metric['high'])}"
    if metric.get("gain") is None:
        return [mean, "", ""]
    share = "" if metric["recovered"] is None else f"{round(100 * metric['recovered'])} %"
    return [mean, f"{metric['gain']:+.1f}{_half(metric['gain'], metric['gain_high'])}", share]


def _half(mean: float | None, high: float | None) -> str:
    return "" if mean is None or high is None else f" ± {high - mean:.1f}"


def aligned_table(
    header: list[str], rows: list[list[str]], left: int = 2, titles: dict[int, str] | None = None
) -> str:
    """Make a Markdown table with columns of equal width, the first ones to the left, numbers to the right."""
    header = [(titles or {}).get(i, name) for i, name in enumerate(header)]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = []
    for row in (header, rule, *rows):
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
