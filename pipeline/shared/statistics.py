"""Means, intervals and paired differences over trained models."""

import math
from typing import Any

import pandas as pd
from scipy import stats

from common.seeding import make_rng
from pipeline.artifacts import (
    BOUND_COLUMN,
    GENERATOR_COLUMN,
    JUDGE_COLUMN,
    METRICS,
    RESULT_COLUMNS,
    is_standard,
)

CONFIDENCE = 0.95
RESAMPLES = 1000  # of a bootstrap
INTERVALS = (
    "Intervals cover the chance of re-ID training alone: all seeds share one subset, one generator with its "
    "images, and one set of people to test on."
)

Summary = dict[str, dict[str, dict[str, dict[str, Any]]]]  # arm -> train_on -> percent -> cell


def summarise(rows: pd.DataFrame) -> Summary:
    """Summarise models as arm -> train_on -> percent -> seeds, n_real, n_synthetic, generator, every metric.

    A metric has the mean over seeds, sd, and low and high, the mean's 95 % interval (Student's t). Arms other
    than "standard" also have gain, gain_low and gain_high, the difference to "standard" at the same percent,
    paired by seed, and recovered, the gain as a share of the gap between "standard" and 100 % real images.
    Where there are several judges, a cell has judge too, and an arm's "standard" is that of its own judge.
    Where the rows name bounds, there is possible too: the gain as a share of that of the arm that is the
    bound. All are in percent or points, except recovered and possible, which are ratios.

    A value is None if it cannot be known: the interval with one seed, and a share if one of the two
    differences is not significant, that is if its 95 % interval, paired by seed too, includes 0.

    Args:
        rows: One row per model, with the columns of `RESULT_COLUMNS`. With a column `run`, models of several
            runs (of several worlds, say) are taken together: a pair is then a seed of a run, and intervals
            are about the mean over these runs alone.
    """
    standard = rows[rows.arm.map(is_standard)]
    key = [name for name in ("run", "seed") if name in rows]
    metrics = [
        name
        for name in rows.columns
        if name in METRICS
        or name not in (*RESULT_COLUMNS, GENERATOR_COLUMN, JUDGE_COLUMN, BOUND_COLUMN, *key)
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
        alone = standard
        if JUDGE_COLUMN in rows:
            cell[JUDGE_COLUMN] = str(models[JUDGE_COLUMN].iloc[0])
            alone = standard[standard[JUDGE_COLUMN] == cell[JUDGE_COLUMN]]
        for metric in metrics:
            values = models.set_index(key)[metric].dropna()
            mean, low, high = interval(values)
            numbers = {
                "mean": mean,
                "sd": values.std() if len(values) > 1 else None,
                "low": low,
                "high": high,
            }
            if not is_standard(str(arm)):
                reference = alone[alone.percent == percent].set_index(key)[metric]
                full = alone[alone.percent == 100].set_index(key)[metric]
                numbers |= _gain(values, reference, full)
                if BOUND_COLUMN in rows:
                    bound = rows[(rows.arm == models[BOUND_COLUMN].iloc[0]) & (rows.percent == percent)]
                    numbers["possible"] = _share(values - reference, bound.set_index(key)[metric] - reference)
            cell[metric] = {name: None if x is None else round(float(x), 3) for name, x in numbers.items()}
        summary.setdefault(str(arm), {}).setdefault(str(train_on), {})[str(percent)] = cell
    return summary


def _gain(values: pd.Series, reference: pd.Series, full: pd.Series) -> dict[str, float | None]:
    """Return gain, gain_low, gain_high and recovered of one arm, percent and metric; see `summarise`."""
    gain, gain_low, gain_high = interval((values - reference).dropna())
    recovered = _share(values - reference, full - reference)
    return {"gain": gain, "gain_low": gain_low, "gain_high": gain_high, "recovered": recovered}


def _share(part: pd.Series, whole: pd.Series) -> float | None:
    """Return a mean difference as a share of another one; None unless both are surely there."""
    (mean, low, high), (most, most_low, most_high) = (interval(values.dropna()) for values in (part, whole))
    significant = _excludes_zero(mean, low, high) and _excludes_zero(most, most_low, most_high)
    return mean / most if mean and most and most > 0 and significant else None


def difference(rows: pd.DataFrame, arm: str, other: str, metric: str = "rank1") -> dict[int, str]:
    """Subtract one arm from another, paired by seed: for each percent "+1.2 ± 0.4", with the 95 % interval.

    Args:
        rows: One row per model, as in `summarise`.
        arm: Name of the arm.
        other: Name of the arm that is subtracted.
        metric: A column in percent.
    """
    key = ["percent", *(name for name in ("run", "seed") if name in rows)]
    values = rows[rows.arm.isin([arm, other])].pivot(index=key, columns="arm", values=metric)
    differences = (values[arm] - values[other]).dropna()
    texts = {}
    for percent in differences.index.unique("percent"):
        mean, _, high = interval(differences.loc[percent])
        texts[int(percent)] = f"{mean:+.1f}{half_width(mean, high)}"
    return texts


def interval(values: pd.Series) -> tuple[float | None, float | None, float | None]:
    """Return the mean and the ends of its 95 % interval by Student's t; None if there are too few values.

    Values whose index has a level `run` vary about the mean of their run: the interval says nothing about
    other runs.
    """
    if len(values) == 0:
        return None, None, None
    mean = float(values.mean())
    runs = values.groupby(level="run") if "run" in values.index.names else None
    freedom = len(values) - (1 if runs is None else runs.ngroups)
    if freedom == 0:
        return mean, None, None
    deviations = values - (mean if runs is None else runs.transform("mean"))
    error = math.sqrt(deviations.pow(2).sum() / freedom / len(values))
    half = float(error * stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
    return mean, mean - half, mean + half


def interval_over_people(values: pd.Series, pids: pd.Series, purpose: str) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a mean, by a bootstrap over people.

    The values of one person stay together, so that the interval covers the choice of people.

    Args:
        values: One value per image, [N].
        pids: Identities, int [N], with the same index.
        purpose: What is drawn: other purposes have other resamples.

    Returns:
        Both ends; NaN for one person.
    """
    people = values.groupby(pids).agg(["sum", "count"])
    if len(people) < 2:
        return math.nan, math.nan
    ends = stats.bootstrap(
        (people["sum"].to_numpy(), people["count"].to_numpy()),
        lambda sums, counts, axis: sums.sum(axis=axis) / counts.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=make_rng(0, purpose),
    ).confidence_interval
    return float(ends.low), float(ends.high)


def _excludes_zero(mean: float | None, low: float | None, high: float | None) -> bool:
    """Tell whether a difference is known and its interval, if there is one, excludes 0."""
    return mean is not None and (low is None or high is None or low > 0 or high < 0)


def result_cells(metric: dict[str, Any], *, with_bound: bool) -> list[str]:
    """Write mean, gain and recovered share of one metric; a cell is empty if its value is not known.

    Args:
        metric: Numbers of a cell of `summarise`.
        with_bound: Write the share of the possible gain too.
    """
    mean = f"{metric['mean']:.1f}{half_width(metric['mean'], metric['high'])}"
    gain = metric.get("gain")
    change = "" if gain is None else f"{gain:+.1f}{half_width(gain, metric['gain_high'])}"
    shares = [metric.get(name) for name in ("recovered", *(["possible"] if with_bound else []))]
    return [mean, change, *("" if share is None else f"{round(100 * share)} %" for share in shares)]


def result_titles(*, with_bound: bool) -> list[str]:
    """Name the columns of `result_cells` but for the first, which has the metric's own name."""
    return ["gain", "recovered", *(["of possible"] if with_bound else [])]


def half_width(mean: float | None, high: float | None) -> str:
    """Return the half width of an interval as " ± 1.2"; empty if there is no interval."""
    return "" if mean is None or high is None else f" ± {high - mean:.1f}"


def aligned_table(
    header: list[str], rows: list[list[str]], left: int = 2, titles: dict[int, str] | None = None
) -> str:
    """Write a Markdown table with aligned columns.

    Args:
        header: Names of the columns.
        rows: Cells of each row.
        left: Number of columns, from the first, that are aligned to the left; the others go to the right.
        titles: Other names for columns, by their number.
    """
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
