"""Measure how far two sources of keypoints agree on the same images.

Each of the two is a table in the form of data/poses.csv, or SOURCE=PATH as in the section `poses` of
params.yaml, such as mediapipe=models/pose_landmarker_full.task. Such a source is run on the images of
data/index.csv, which the stage `index` writes. Prints a table in Markdown:

    seen by A, by B   share of the images in which the source sees the keypoint
    both              share of the images in which both see it, among those in which either does
    median, p90       distance between the two places where both see it, in percent of the image's height
    PCK@5             share of these distances that are at most 5 percent of the height

Neither of the two counts as true.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.seeding import make_rng
from generator.keypoints import KEYPOINT_NAMES
from pipeline.artifacts import POSE_COLUMNS, read_index, to_keypoints
from pipeline.keypoints.sources import find_keypoints
from pipeline.params import Params, PosesSettings, load_params
from pipeline.runtime.outputs import read_csv
from pipeline.runtime.stage import command_line, stage_main

_NEAR = 5.0  # percent of the image's height
_COLUMNS = {
    "seen by A": "%",
    "seen by B": "%",
    "both": "%",
    "median": "% of height",
    "p90": "% of height",
} | {"PCK@5": "%"}


def agreement(a: NDArray[np.floating], b: NDArray[np.floating], height: int) -> pd.DataFrame:
    """Compare two sets of keypoints of the same images; the module's docstring defines the columns.

    Args:
        a: Keypoints of one source, [N, 18, 3]: x, y in pixels, score (0: not seen).
        b: Those of the other.
        height: Height of the images in pixels.

    Returns:
        A row per keypoint, by its name, and "all" for all of them together, in percent. NaN where there is
        nothing to compare.
    """
    distance = np.linalg.norm(a[..., :2].astype(np.float64) - b[..., :2], axis=-1) * 100 / height  # [N, 18]
    rows = {}
    for name in ("all", *KEYPOINT_NAMES):
        part = slice(None) if name == "all" else [KEYPOINT_NAMES.index(name)]
        by_a, by_b = a[:, part, 2] > 0, b[:, part, 2] > 0
        either, distances = (by_a | by_b).sum(), distance[:, part][by_a & by_b]
        is_any = len(distances) > 0
        rows[name] = {
            "seen by A": by_a.mean() * 100,
            "seen by B": by_b.mean() * 100,
            "both": len(distances) * 100 / either if either else np.nan,
            "median": np.median(distances) if is_any else np.nan,
            "p90": np.quantile(distances, 0.9) if is_any else np.nan,
            "PCK@5": (distances <= _NEAR).mean() * 100 if is_any else np.nan,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def split_source(text: str) -> tuple[str, Path] | None:
    """Return source and path of SOURCE=PATH; None for the name of a table.

    Raises:
        ValueError: There is neither such a table nor such a source.
    """
    if Path(text).is_file():
        return None
    sources = get_args(PosesSettings.model_fields["source"].annotation)
    source, _, path = text.partition("=")
    if source not in sources or not path:
        raise ValueError(
            f"{text} is no file; expected a table of keypoints, or SOURCE=PATH with {', '.join(sources)}"
        )
    return source, Path(path)


def read_side(
    text: str, params: Params, index: pd.DataFrame | None, images: Sequence[str]
) -> NDArray[np.float32]:
    """Return the keypoints [N, 18, 3] of images in pixels of a view, from a table or a source.

    Args:
        text: Path of a table, or SOURCE=PATH.
        params: Parameters; a source is run with their dataset.
        index: data/index.csv, of which a source needs the images.
        images: Names of the images.
    """
    run = split_source(text)
    if run is None:
        return to_keypoints(read_csv(text, POSE_COLUMNS), images)
    assert index is not None
    source, path = run
    settings = params.poses.model_copy(update={"source": source, "path": path})
    rows = index.set_index("image", drop=False).loc[list(images)].reset_index(drop=True)
    return find_keypoints(settings, params.dataset, rows)[0]


def common_images(sides: Sequence[str], index: pd.DataFrame | None) -> list[str]:
    """Return the images that both tables list, or a table and data/index.csv, in the order of their names.

    Raises:
        ValueError: There are none, or a table lists an image twice.
    """
    sets = [] if index is None else [set(index.image)]
    for text in sides:
        if split_source(text) is None:
            names = read_csv(text, {"image": str}).image
            if names.duplicated().any():
                raise ValueError(f"{text}: {names[names.duplicated()].iloc[0]} has two rows; leave one")
            sets.append(set(names))
    images = sorted(set.intersection(*sets))
    if not images:
        raise ValueError(
            f"{' and '.join(sides)} have no image in common; expected keypoints of the same images"
        )
    return images


def as_markdown(table: pd.DataFrame) -> str:
    """Format the table of `agreement`, one decimal."""
    lines = ["| | " + " | ".join(f"{name} ({unit})" for name, unit in _COLUMNS.items()) + " |"]
    lines.append("|---|" + "---:|" * len(_COLUMNS))
    for name, row in table[list(_COLUMNS)].iterrows():
        cells = ["–" if np.isnan(value) else f"{value:.1f}" for value in row]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the command."""
    parser = command_line("compare_poses", __doc__, "tools")
    parser.add_argument("a", metavar="A", help="table, or SOURCE=PATH")
    parser.add_argument("b", metavar="B", help="table, or SOURCE=PATH")
    parser.add_argument(
        "--sample", type=int, default=500, help="images at most, drawn at random; 0 takes all"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    arguments = parser.parse_args()

    params, sides = load_params(), (arguments.a, arguments.b)
    index = read_index() if any(map(split_source, sides)) else None
    images = common_images(sides, index)
    if 0 < arguments.sample < len(images):
        drawn = make_rng(arguments.seed, "compare poses").permutation(len(images))[: arguments.sample]
        images = [images[row] for row in sorted(drawn)]
    a, b = (read_side(text, params, index, images) for text in sides)
    people = np.stack([(side[..., 2] > 0).any(-1) for side in (a, b)])  # [2, N]
    print(f"A: {sides[0]}\nB: {sides[1]}\n")
    print(
        f"{len(images)} images; a person is seen by both in {(people.all(0)).sum()}, by A alone in "
        f"{(people[0] & ~people[1]).sum()}, by B alone in {(people[1] & ~people[0]).sum()}, by neither in "
        f"{(~people.any(0)).sum()}\n"
    )
    print(as_markdown(agreement(a, b, params.dataset.height)))


if __name__ == "__main__":
    stage_main(main)
