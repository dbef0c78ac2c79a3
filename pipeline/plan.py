"""Stage `plan`: who is generated from which images, in which pose, with which noise.

Reads data/index.csv, data/poses.csv and data/subsets/; writes data/plans/<fraction>.csv with random poses
and, where a generator is to follow it, data/plans/planned/<fraction>.csv with poses that each identity lacks.
A plan is made of the images of its subset alone; of the others it knows only how many they are.
"""

import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cli import command_line
from pipeline.files import atomic, progress, read_csv, stage_main
from pipeline.index import read_index
from pipeline.params import PlanSettings, load_params
from pipeline.poses import read_poses
from pipeline.posture import cells
from pipeline.subset import read_subset

PLANS = Path("data/plans")
COLUMNS = {
    "name": str,  # file name of the synthetic image: that of its first source and a counter
    "pid": int,
    "camid": int,  # that of the first source, as the name says
    "sources": str,  # 1 to 3 images of the identity, joined by |
    "pose": str,  # image whose keypoints are the target pose
    "joint": int,  # rows of one joint image are adjacent and share identity and sources
    "scenario": str,  # of the joint image: T1, T2, T3, or multi for IMAGPose*
    "seed": int,  # of the image's noise, 32 bits
}


def make_plan(
    subset: pd.DataFrame,
    visible: NDArray[np.integer],
    count: int,
    fraction: int,
    settings: PlanSettings,
    cell: NDArray[np.integer] | None = None,
) -> pd.DataFrame:
    """Plan synthetic images by the rule of Table 4: source and pose are random images of the subset.

    The images go to those identities that have the fewest, real and synthetic together, so that all end up
    with about as many; the paper does not say how it shares them out. Sources are drawn per joint image among
    the identity's images, poses among all images of the subset that show `min_keypoints` and are no source of
    that joint image.

    With `cell`, poses are planned instead: each is a random one out of the cell (heading and gait, see
    `pipeline.posture`) in which the identity has the fewest images, real and synthetic together. Names,
    sources and noise are those of the plan with random poses.

    Args:
        subset: columns image, pid, camid.
        visible: [N] visible keypoints of each image of the subset.
        count: number of synthetic images.
        fraction: the subset's share in percent; draws of different shares are independent.
        settings: sources and poses per joint image, and the seed.
        cell: cell of each image of the subset, -1 where it is not known; None chooses poses at random.

    Returns:
        `COLUMNS`, ordered by identity.

    Raises:
        ValueError: `count` is below 1, or too few images show enough keypoints.
    """
    if count < 1:
        raise ValueError(
            f"plan.fill_percent is {settings.fill_percent}; expected more, for the {fraction} % subset is no "
            f"image short of that with its {len(subset)}"
        )
    usable = visible >= settings.min_keypoints
    if cell is not None:
        usable &= cell >= 0
    poses = sorted(subset.image[usable])
    needed = settings.sources + settings.poses_per_joint
    if len(poses) < needed:
        raise ValueError(
            f"plan.min_keypoints is {settings.min_keypoints}; only {len(poses)} images of the {fraction} % "
            f"subset show so many{' and their heading' if cell is not None else ''}, expected at least "
            f"{needed} to choose a joint image's poses from"
        )
    camid = dict(zip(subset.image, subset.camid, strict=True))
    images_of = {pid: sorted(images) for pid, images in subset.groupby("pid").image}
    cell_of = dict.fromkeys(subset.image, -1) if cell is None else dict(zip(subset.image, cell, strict=True))
    poses_in: dict[int, list[str]] = {}  # empty if poses are random
    for pose in poses if cell is not None else []:
        poses_in.setdefault(cell_of[pose], []).append(pose)
    used: Counter[str] = Counter()
    rows, joint = [], 0
    for pid, share in _spread(Counter(subset.pid), count, fraction, settings.seed).items():
        shown = Counter(cell_of[image] for image in images_of[pid])
        for start in range(0, share, settings.poses_per_joint):
            rng = np.random.default_rng([settings.seed, zlib.crc32(b"plan"), fraction, pid, start])
            sources = rng.permutation(images_of[pid])[: settings.sources].tolist()
            many = min(settings.poses_per_joint, share - start)
            if poses_in:
                targets = _rarest(poses_in, sources, shown, many, rng)
            else:
                candidates = rng.permutation(poses)[:needed].tolist()
                targets = [pose for pose in candidates if pose not in sources][:many]
            for pose in targets:
                used[sources[0]] += 1
                name = f"{Path(sources[0]).stem}_g{used[sources[0]]:04d}.jpg"
                rows.append(
                    {
                        "name": name,
                        "pid": pid,
                        "camid": camid[sources[0]],
                        "sources": "|".join(sources),
                        "pose": pose,
                        "joint": joint,
                        "scenario": _scenario(len(targets), len(sources), settings),
                        "seed": zlib.crc32(f"{settings.seed} {fraction} {name}".encode()),
                    }
                )
            joint += 1
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _spread(images: Counter[int], count: int, fraction: int, seed: int) -> dict[int, int]:
    """Give `count` images one by one to the identity that has the fewest; a random order settles ties."""
    rng = np.random.default_rng([seed, zlib.crc32(b"spread"), fraction])
    identities = rng.permutation(sorted(images)).tolist()
    have = np.array([images[pid] for pid in identities])
    level = have.copy()
    for _ in range(count):
        level[level.argmin()] += 1
    return {
        pid: int(level[i] - have[i]) for i, pid in sorted(enumerate(identities), key=lambda item: item[1])
    }


def _rarest(
    poses_in: dict[int, list[str]],
    sources: list[str],
    shown: Counter[int],
    count: int,
    rng: np.random.Generator,
) -> list[str]:
    """Choose poses one by one, each at random out of the cell that is `shown` least, and count it there."""
    chosen: list[str] = []
    order = rng.permutation(list(poses_in)).tolist()  # settles ties
    for _ in range(count):
        free = {cell: [pose for pose in poses_in[cell] if pose not in (*sources, *chosen)] for cell in order}
        rarest = min((cell for cell in order if free[cell]), key=lambda cell: shown[cell])
        chosen.append(free[rarest][rng.integers(len(free[rarest]))])
        shown[rarest] += 1
    return chosen


def _scenario(targets: int, sources: int, settings: PlanSettings) -> str:
    """Name the layout of a joint image: what its four views show.

    multi (IMAGPose*): several poses at once. T3: several sources, one pose. For one source and one pose, T1
    repeats the pose; T2 repeats the source, and stands in for T3 where an identity has a single image.
    """
    if targets > 1:
        return "multi"
    if sources > 1:
        return "T3"
    return "T2" if settings.sources > 1 else "T1"


def read_plan(fraction: int, planned: bool = False) -> pd.DataFrame:
    """Read the plan of a share, with random or with planned poses; the columns are `COLUMNS`."""
    return read_csv((PLANS / "planned" if planned else PLANS) / f"{fraction}.csv", COLUMNS, "plan")


def main() -> None:
    """Run the stage."""
    params, index = load_params(), read_index().set_index("image", drop=False)
    total = len(read_subset(100)) * params.plan.fill_percent // 100
    print(f"{len(params.subset.fractions)} subsets to fill up to {total} images each", flush=True)
    with atomic(PLANS) as folder:
        folder.mkdir()
        for fraction in progress(
            params.subset.fractions, total=len(params.subset.fractions), desc="planning"
        ):
            images = read_subset(fraction)
            poses = read_poses(images)
            rows, visible = index.loc[images], (poses[..., 2] > 0).sum(-1)
            plan = make_plan(rows, visible, total - len(images), fraction, params.plan)
            plan.to_csv(folder / f"{fraction}.csv", index=False)
            if params.plan.planned:
                (folder / "planned").mkdir(exist_ok=True)
                plan = make_plan(rows, visible, len(plan), fraction, params.plan, cells(poses))
                plan.to_csv(folder / "planned" / f"{fraction}.csv", index=False)


if __name__ == "__main__":
    command_line("plan", __doc__).parse_args()
    stage_main(main)
