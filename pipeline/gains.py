"""Stage `gains`: where the gain of generated images comes from, computed from the rankings of Table 4.

Reads data/reid/*.queries.csv, data/index.csv and data/poses.csv; writes reports/gains/<question>.csv, one row
per arm, percent and group of queries, and the figure reports/gains.png.

No model was trained on the people of the test, so a query has no number of real training images. Two things
can be told apart. On the side of training: the size of the subset (`subset_size`, real images per training
identity). On the side of the test: from which camera a query is to be found in which (`camera_pair`), among
how many right gallery images (`gallery_images`), in how many cameras (`gallery_cameras`), and how far from
its own pose (`pose_distance`). "Right" gallery images are the query's matches (`reid.cameras`): images of its
identity from other cameras, or any others where no cameras are known. Such data sets have no camera pairs.
"""

import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from generator.keypoints import pose_distance
from pipeline.artifacts import (
    GAINS,
    GAINS_FIGURE,
    read_index,
    read_poses,
    read_queries,
    read_results,
    reid_stage,
    results_file,
    standard_of,
)
from pipeline.params import Params, load_params
from pipeline.runtime.fonts import show_names
from pipeline.runtime.outputs import atomic, write_csv
from pipeline.runtime.stage import command_line, stage_main
from pipeline.shared.statistics import RESAMPLES, interval_over_people
from reid.cameras import NO_CAMERA, comparable_cameras, count_cameras

QUESTIONS = ("subset_size", "camera_pair", "gallery_images", "gallery_cameras", "pose_distance")
_BINS = 4  # groups of about equally many queries
_AXES = {
    "subset_size": "real images per training identity",
    "gallery_images": "right gallery images",
    "pose_distance": "pose distance to them (% of the height)",
}


# --- queries and their gains --------------------------------------------------------------------------------


def pair(augmented: pd.DataFrame, standard: pd.DataFrame) -> pd.DataFrame:
    """Pair two arms query by query, with means over the seeds that both have.

    Args:
        augmented: Rankings of an arm: columns percent, seed, query, ap (percent, NaN if nothing can be
            found), ap_c<camera>.
        standard: Rankings of the standard arm, with the same columns.

    Returns:
        Indexed by percent and query: columns `<measure>_standard` and `<measure>_augmented` for ap and each
        ap_c<camera>, in percent.
    """
    key = ["percent", "seed", "query"]
    measures = [name for name in standard.columns if name == "ap" or name.startswith("ap_c")]
    both = standard[key + measures].merge(
        augmented[key + measures], on=key, suffixes=("_standard", "_augmented"), validate="one_to_one"
    )
    return both.drop(columns="seed").groupby(["percent", "query"]).mean()


def describe_queries(index: pd.DataFrame, prefix: str, height: int) -> pd.DataFrame:
    """Describe how each query is to be found.

    Args:
        index: All images of the data set.
        prefix: Prefix of the splits query and gallery: "val_" for the validation set, else empty.
        height: Height in pixels of the images to which data/poses.csv refers.

    Returns:
        Indexed by query, for queries with right gallery images: pid, camid, gallery_images, gallery_cameras
        and pose_distance, the mean over the right gallery images in percent of the image's height. The mean
        and not the minimum, because average precision counts all of them.
    """
    queries = index[index.split == f"{prefix}query"].reset_index(drop=True)
    gallery = index[index.split == f"{prefix}gallery"].reset_index(drop=True)
    poses, gallery_poses = read_poses(queries.image.tolist()), read_poses(gallery.image.tolist())
    rows_of = gallery.groupby("pid").indices  # pid -> rows of the gallery
    query_cameras, gallery_cameras = comparable_cameras(queries.camid.to_numpy(), gallery.camid.to_numpy())
    rows = []
    for pose, camera, query in zip(poses, query_cameras, queries.itertuples(), strict=True):
        same_pid = rows_of.get(query.pid, np.empty(0, np.int64))
        right = same_pid[gallery_cameras[same_pid] != camera]
        if len(right):
            distance = pose_distance(pose, gallery_poses[right], height).mean()
            cameras = count_cameras(gallery.camid.to_numpy()[right])
            rows.append((query.image, query.pid, query.camid, len(right), cameras, 100 * distance / height))
    columns = ["query", "pid", "camid", "gallery_images", "gallery_cameras", "pose_distance"]
    return pd.DataFrame(rows, columns=columns).set_index("query")


def gain_by(
    groups: pd.Series, values: pd.Series, standard: pd.Series, augmented: pd.Series, pids: pd.Series
) -> pd.DataFrame:
    """Compute the mean gain of each group of queries with its 95 % interval.

    The interval is a bootstrap over test identities, whose queries stay together: it covers the choice of
    people, with the trained models as they are. (The intervals of Table 4 cover the chance of re-ID
    training.) All arguments have the same index.

    Args:
        groups: Name of each query's group; NaN is left out.
        values: Value by which the queries are grouped, for the mean of each group.
        standard: Average precision of each query in the standard arm, percent; NaN is left out.
        augmented: Average precision of each query in the other arm, percent.
        pids: Identities of the queries.

    Returns:
        Columns group, value, queries, identities, standard, augmented, gain, low and high (percent and
        points); low and high are NaN for a group of one identity.
    """
    frame = pd.DataFrame({"group": groups, "value": values, "standard": standard, "augmented": augmented})
    frame = frame.assign(pid=pids, gain=frame.augmented - frame.standard).dropna()
    rows = []
    for group, queries in frame.groupby("group", sort=False):
        means = queries[["value", "standard", "augmented", "gain"]].mean()
        low, high = interval_over_people(queries.gain, queries.pid, str(group))
        counts = {"queries": len(queries), "identities": queries.pid.nunique()}
        rows.append({"group": str(group), **counts, **means, "low": low, "high": high})
    columns = ["group", "value", "queries", "identities", "standard", "augmented", "gain", "low", "high"]
    return pd.DataFrame(rows, columns=columns).sort_values(["value", "group"], ignore_index=True)


def bins(values: pd.Series, digits: int) -> pd.Series:
    """Divide values into groups of about equal size, named by their ends ("9.1-10.4")."""
    edges = np.unique(values.quantile(np.arange(1, _BINS) / _BINS))
    group = pd.Series(np.searchsorted(edges, values), values.index)
    ends = values.groupby(group).agg(["min", "max"])
    names = {
        number: f"{low:.{digits}f}-{high:.{digits}f}" if low < high else f"{low:.{digits}f}"
        for number, low, high in ends.itertuples()
    }
    return group.map(names)


# --- the questions ------------------------------------------------------------------------------------------


def ask(both: pd.DataFrame, queries: pd.DataFrame, images_per_identity: float) -> dict[str, pd.DataFrame]:
    """Answer all questions for one arm at one percent.

    Args:
        both: Rankings of both arms from `pair`, indexed by query.
        queries: Queries from `describe_queries`.
        images_per_identity: Real training images per training identity.
    """
    both = both.loc[both.index.intersection(queries.index)]
    queries = queries.loc[both.index]
    ap = both.ap_standard, both.ap_augmented, queries.pid

    # One table of gains per camera of the gallery; a group is a camera of the query and this one.
    cameras = [match[1] for name in map(str, both) if (match := re.fullmatch(r"ap_c(\d+)_standard", name))]
    from_camera = queries.camid.astype(str).where(queries.camid != NO_CAMERA)
    pairs = [
        gain_by(
            from_camera + f"-{camera}",
            queries.camid,
            both[f"ap_c{camera}_standard"],
            both[f"ap_c{camera}_augmented"],
            queries.pid,
        )
        for camera in cameras
    ] or [gain_by(*[queries.camid[:0]] * 5)]  # no camera is known
    size = pd.Series(images_per_identity, both.index)
    gallery_images, distance = queries.gallery_images, queries.pose_distance
    return {
        "subset_size": gain_by(size.map("{:.1f}".format), size, *ap),
        "camera_pair": pd.concat(pairs).sort_values("group", ignore_index=True).drop(columns="value"),
        "gallery_images": gain_by(bins(gallery_images, 0), gallery_images, *ap),
        "gallery_cameras": gain_by(queries.gallery_cameras.astype(str), queries.gallery_cameras, *ap),
        "pose_distance": gain_by(bins(distance, 1), distance, *ap),
    }


def collect(params: Params) -> dict[str, pd.DataFrame]:
    """Answer all questions for all arms and percents; arm, train_on and percent are the first columns.

    Each arm is compared with real images alone under its own judge.

    Raises:
        ValueError: An arm has no query in common with that one, or a table is not as expected.
    """
    # The queries are the same for all arms, and real images alone for all of one judge.
    index = read_index()
    identities = index.pid[index.split == "train"].nunique()
    prefix = "val_" if params.reid.evaluate_on == "validation" else ""
    queries = describe_queries(index, prefix, params.dataset.height)
    sizes = read_results("standard").groupby("percent").n_real.first()
    references = {
        judge: _in_use(read_queries(standard_of(judge)), params)
        for judge in map(params.judge_of, params.arms)
    }
    answers: dict[str, list[pd.DataFrame]] = {question: [] for question in QUESTIONS}
    for arm in params.arms:
        train_on = read_results(arm).train_on.iloc[0]
        judge = params.judge_of(arm)
        both = pair(_in_use(read_queries(arm), params), references[judge])
        for percent in params.percents_of(arm):
            if percent not in both.index.get_level_values("percent"):
                raise ValueError(
                    f"{results_file(arm, 'queries')} has no query at {percent} % with a seed and an image "
                    f"of {results_file(standard_of(judge), 'queries')}; run the stages "
                    f"{reid_stage(standard_of(judge))} and {reid_stage(arm)} again"
                )
            rankings = both[both.index.get_level_values("percent") == percent].droplevel("percent")
            tables = ask(rankings, queries, sizes[percent] / identities)
            for question, table in tables.items():
                who = {"arm": arm, "train_on": train_on, "percent": percent}
                answers[question].append(pd.DataFrame({**who, **table}))
    return {question: pd.concat(tables, ignore_index=True) for question, tables in answers.items()}


def _in_use(rows: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Return the rankings of the percents and seeds in use."""
    return rows[rows.percent.isin(params.subset.percents) & rows.seed.isin(params.reid.seeds)]


# --- the figure ---------------------------------------------------------------------------------------------


def draw(answers: dict[str, pd.DataFrame], dataset: str) -> Figure:
    """Draw the gain in mAP, one row of axes per arm; camera pairs at the smallest percent."""
    arms = list(dict.fromkeys(answers["subset_size"].arm))
    figure = Figure(figsize=(13, 0.8 + 3 * len(arms)), layout="constrained")
    figure.suptitle(
        f"Where the gain in mAP comes from, with 95 % intervals over the people of the test: {dataset}",
        fontsize=11,
    )
    all_axes = figure.subplots(len(arms), 4, squeeze=False, width_ratios=[1, 1, 1, 1.1])
    for arm, axes in zip(arms, all_axes, strict=True):
        tables = {question: table[table.arm == arm] for question, table in answers.items()}
        _draw_lines(axes[0], tables["subset_size"], "subset_size", join=True)
        _draw_lines(axes[1], tables["gallery_images"], "gallery_images")
        _draw_lines(axes[2], tables["pose_distance"], "pose_distance")
        axes[0].set_ylabel(f"{arm}: gain in mAP (points)")
        # One scale for the three, so that their gains can be compared.
        low = min(axis.get_ylim()[0] for axis in axes[:3])
        high = max(axis.get_ylim()[1] for axis in axes[:3])
        for axis in axes[:3]:
            axis.set_ylim(low, high)
        pairs = tables["camera_pair"]
        _draw_pairs(axes[3], pairs[pairs.percent == pairs.percent.min()])
    handles, labels = axes[1].get_legend_handles_labels()
    style: dict[str, Any] = {"ncols": len(labels), "frameon": False, "fontsize": 9}
    figure.legend(handles, labels, loc="outside lower center", **style)
    return figure


def _draw_lines(axis: Axes, table: pd.DataFrame, question: str, join: bool = False) -> None:
    """Draw one line per percent, dark if real images are few; bars are intervals over test identities.

    With `join` a thin line joins the percents, which have one group each.
    """
    if join:
        axis.plot(table.value, table.gain, color="#999999", lw=1, zorder=0)
    percents = sorted(table.percent.unique())
    for i, percent in enumerate(percents):
        line = table[table.percent == percent]
        axis.errorbar(
            line.value,
            line.gain,
            [line.gain - line.low, line.high - line.gain],
            label=f"{percent} % real images",
            color=colormaps["viridis"](0.85 * i / max(1, len(percents) - 1)),
            marker="o",
            ms=4,
            lw=1.3,
            elinewidth=0.9,
            capsize=2,
        )
    axis.axhline(0, color="black", lw=0.8)
    axis.set_xlabel(_AXES[question])
    axis.grid(axis="y", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_pairs(axis: Axes, pairs: pd.DataFrame) -> None:
    """Draw a matrix of camera pairs, blue where generated images help and red where they harm."""
    if pairs.empty:
        axis.axis("off")
        axis.text(0.5, 0.5, "no camera is known", ha="center", va="center", transform=axis.transAxes)
        return
    cameras = pairs.group.str.split("-", expand=True).astype(int).set_axis(["query", "gallery"], axis=1)
    matrix = pairs.assign(**cameras).pivot(index="query", columns="gallery", values="gain")
    most = max(1.0, float(np.nanmax(np.abs(matrix.to_numpy()))))
    axis.imshow(matrix, cmap="RdBu", vmin=-most, vmax=most)
    for (row, column), gain in np.ndenumerate(matrix.to_numpy()):
        if np.isfinite(gain):
            ink = "white" if abs(gain) > 0.6 * most else "black"
            axis.text(column, row, f"{round(gain):+d}", ha="center", va="center", fontsize=8, color=ink)
    axis.set_xticks(range(len(matrix.columns)), matrix.columns)
    axis.set_yticks(range(len(matrix.index)), matrix.index)
    axis.set(xlabel="camera of the gallery", ylabel="camera of the query")
    axis.set_title(f"at {pairs.percent.iloc[0]} % real images", fontsize=9)


def main() -> None:
    """Run the stage."""
    params = load_params()
    print(
        f"{len(params.arms)} arms at {len(params.subset.percents)} percents to compare query by query, "
        f"{len(QUESTIONS)} questions each, intervals of {RESAMPLES} resamples",
        flush=True,
    )
    answers = collect(params)
    show_names(params.tested_on)
    with atomic(GAINS) as folder:
        folder.mkdir()
        for question, table in answers.items():
            write_csv(table, folder / f"{question}.csv", float_format="%.3f")
    with atomic(GAINS_FIGURE) as file:
        draw(answers, params.tested_on).savefig(file, dpi=130)


if __name__ == "__main__":
    command_line("gains", __doc__).parse_args()
    stage_main(main)
