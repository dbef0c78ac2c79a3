"""Stage `plan`: who is generated from which images, in which pose, with which noise.

Reads data/index.csv, data/poses.csv and data/subsets/; writes data/plans/<percent>.csv. A plan is made of the
images of its subset alone; of the others it knows only how many they are.
"""

from collections import Counter

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.seeding import make_rng, make_seed
from pipeline.artifacts import PLAN_COLUMNS, PLANS, read_index, read_pose_table, read_subset, to_keypoints
from pipeline.datasets.names import speaking_stem
from pipeline.params import PlanSettings, load_params
from pipeline.runtime.outputs import atomic
from pipeline.runtime.stage import command_line, progress, stage_main


def make_plan(
    subset: pd.DataFrame, visible: NDArray[np.integer], count: int, percent: int, settings: PlanSettings
) -> pd.DataFrame:
    """Plan synthetic images by the rule of Table 4: source and pose are random images of the subset.

    The images go to those identities that have the fewest, real and synthetic together, so that all end up
    with about as many; the paper does not say how it shares them out. Sources are drawn per joint image among
    the identity's images, poses among all images of the subset that show `min_keypoints` and are no source of
    that joint image.

    Args:
        subset: Images of the subset, columns image, pid, camid.
        visible: Number of visible keypoints of each of these images, [N].
        count: Number of synthetic images.
        percent: Share of the subset; draws for different shares are independent.
        settings: Sources and poses per joint image, and the seed.

    Returns:
        `PLAN_COLUMNS`, ordered by identity.

    Raises:
        ValueError: `count` is below 1, or too few images show enough keypoints.
    """
    if count < 1:
        raise ValueError(
            f"plan.fill_percent is {settings.fill_percent}; expected more, for the {percent} % subset is no "
            f"image short of that with its {len(subset)}"
        )
    poses = np.array(_usable_poses(subset, visible, percent, settings))
    images_of = {pid: np.array(sorted(images)) for pid, images in subset.groupby("pid").image}
    camid = dict(zip(subset.image, subset.camid, strict=True))
    counters: Counter[str] = Counter()  # synthetic images with each stem so far; sources may share one
    rows, joint = [], 0
    for pid, share in _spread(Counter(subset.pid), count, percent, settings.seed).items():
        for start in range(0, share, settings.poses_per_joint):
            # One joint image: its sources, and the poses that its free views take.
            rng = make_rng(settings.seed, "plan", percent, pid, start)
            sources = rng.permutation(images_of[pid])[: settings.sources].tolist()
            candidates = rng.permutation(poses)[: settings.sources + settings.poses_per_joint].tolist()
            most = min(settings.poses_per_joint, share - start)
            targets = [pose for pose in candidates if pose not in sources][:most]
            scenario = _scenario(len(targets), len(sources), settings)
            stem = speaking_stem(sources[0], pid, camid[sources[0]])
            for pose in targets:
                counters[stem] += 1
                name = f"{stem}_g{counters[stem]:04d}.jpg"
                rows.append(
                    {
                        "name": name,
                        "pid": pid,
                        "camid": camid[sources[0]],
                        "sources": "|".join(sources),
                        "pose": pose,
                        "joint": joint,
                        "scenario": scenario,
                        "seed": make_seed(settings.seed, percent, name),
                    }
                )
            joint += 1
    return pd.DataFrame(rows, columns=list(PLAN_COLUMNS))


def _usable_poses(
    subset: pd.DataFrame, visible: NDArray[np.integer], percent: int, settings: PlanSettings
) -> list[str]:
    """Return the images that may lend their pose, in the order of their names."""
    poses = sorted(subset.image[visible >= settings.min_keypoints])
    needed = settings.sources + settings.poses_per_joint  # then enough are left that are no source
    if len(poses) < needed:
        raise ValueError(
            f"plan.min_keypoints is {settings.min_keypoints}; only {len(poses)} images of the {percent} % "
            f"subset show so many, expected at least {needed} to choose a joint image's poses from"
        )
    return poses


def _spread(images: Counter[int], count: int, percent: int, seed: int) -> dict[int, int]:
    """Give `count` images one by one to the identity that has the fewest; a random order settles ties.

    Args:
        images: Number of real images of each identity.
        count: Number of synthetic images.
        percent: Share of the subset.
        seed: Seed of the plan.

    Returns:
        The number of synthetic images of each identity, by its pid in increasing order.
    """
    identities = make_rng(seed, "spread", percent).permutation(sorted(images)).tolist()
    real = np.array([images[pid] for pid in identities])
    total = real.copy()
    for _ in range(count):
        total[total.argmin()] += 1
    return dict(sorted(zip(identities, (total - real).tolist(), strict=True)))


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


def main() -> None:
    """Run the stage."""
    params, index = load_params(), read_index().set_index("image", drop=False)
    percents = params.subset.percents
    total = len(read_subset(100)) * params.plan.fill_percent // 100
    print(f"{len(percents)} subsets to fill up to {total} images each", flush=True)
    poses = read_pose_table()
    with atomic(PLANS) as folder:
        folder.mkdir()
        for percent in progress(percents, total=len(percents), desc="planning"):
            images = read_subset(percent)
            visible = (to_keypoints(poses, images)[..., 2] > 0).sum(-1)
            plan = make_plan(index.loc[images], visible, total - len(images), percent, params.plan)
            plan.to_csv(folder / f"{percent}.csv", index=False)


if __name__ == "__main__":
    command_line("plan", __doc__).parse_args()
    stage_main(main)
