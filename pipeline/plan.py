"""Stage `plan`: who is generated from which images, in which pose, with which noise.

Reads data/index.csv, data/poses.csv and data/subsets/; writes data/plans/<generator>/: needs.json, how many
images the arms need, and of generators that follow a plan <percent>.csv, which ones they are. A plan is made
of the images of its subset alone; of the others it knows only how many they are.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.seeding import make_rng, make_seed
from pipeline.artifacts import (
    NEEDS,
    PLAN_COLUMNS,
    PLANS,
    read_index,
    read_pose_table,
    read_subset,
    to_keypoints,
)
from pipeline.datasets.names import speaking_stem
from pipeline.params import PlanSettings, load_params
from pipeline.runtime.outputs import atomic, write_csv, write_json
from pipeline.runtime.stage import command_line, progress, stage_main


def make_plan(
    subset: pd.DataFrame,
    visible: NDArray[np.integer],
    count: int,
    percent: int,
    settings: PlanSettings,
    surroundings: bool = False,
) -> pd.DataFrame:
    """Plan synthetic images by the rule of Table 4: source and pose are random images of the subset.

    The images go one by one to the identity that has the fewest, real and synthetic together, so that all end
    up with about as many; the paper does not say how it shares them out. Sources are drawn per joint image
    among the identity's images, poses among all images of the subset that show `min_keypoints` and are no
    source of that joint image. A joint image is always planned whole, so the plan may have a few images more
    than `count`.

    A longer plan begins with the rows of a shorter one. So the images of an arm that asks for fewer are among
    those of an arm that asks for more, and none is generated twice.

    Args:
        subset: Images of the subset, columns image, pid, camid.
        visible: Number of visible keypoints of each of these images, [N].
        count: Number of synthetic images that the largest arm asks for.
        percent: Share of the subset; draws for different shares are independent.
        settings: Sources and poses per joint image, and the seed.
        surroundings: Whether the image that lends the pose lends its surroundings, and so its camera, too.

    Returns:
        `PLAN_COLUMNS`, joint image by joint image.

    Raises:
        ValueError: Too few images show enough keypoints.
    """
    if count == 0:
        return pd.DataFrame(columns=list(PLAN_COLUMNS))
    poses = np.array(_usable_poses(subset, visible, percent, settings))
    images_of = {pid: np.array(sorted(images)) for pid, images in subset.groupby("pid").image}
    camid = dict(zip(subset.image, subset.camid, strict=True))
    counters: Counter[str] = Counter()  # synthetic images with each stem so far; sources may share one
    planned: Counter[int] = Counter()  # synthetic images of each identity so far
    rows: list[dict[str, str | int]] = []
    waiting: dict[int, list[dict[str, str | int]]] = {}  # planned images whose turn has not come yet
    joints = 0
    for order, pid in enumerate(_turns(Counter(subset.pid), percent, settings.seed)):
        if order >= count and not any(waiting.values()):
            break
        if order < count and not waiting.get(pid):
            # A joint image: its sources, and the poses that its free views take.
            rng = make_rng(settings.seed, "plan", percent, pid, planned[pid])
            sources = rng.permutation(images_of[pid])[: settings.sources].tolist()
            candidates = rng.permutation(poses)[: settings.sources + settings.poses_per_joint].tolist()
            targets = [pose for pose in candidates if pose not in sources][: settings.poses_per_joint]
            joint = []
            for pose in targets:
                camera = camid[pose if surroundings else sources[0]]
                stem = speaking_stem(sources[0], pid, camera)
                counters[stem] += 1
                name = f"{stem}_g{counters[stem]:04d}.jpg"
                joint.append(
                    {
                        "name": name,
                        "pid": pid,
                        "camid": camera,
                        "order": -1,
                        "sources": "|".join(sources),
                        "pose": pose,
                        "joint": joints,
                        "scenario": _scenario(len(targets), len(sources), settings),
                        "seed": make_seed(settings.seed, percent, name),
                    }
                )
            joints += 1
            planned[pid] += len(joint)
            rows += joint
            waiting[pid] = list(joint)
        if waiting.get(pid):
            waiting[pid].pop(0)["order"] = order
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


def _turns(images: Counter[int], percent: int, seed: int) -> Iterator[int]:
    """Yield without end the identity that gets the next image: one with the fewest; ties fall at random.

    Args:
        images: Number of real images of each identity.
        percent: Share of the subset.
        seed: Seed of the plan.
    """
    identities = make_rng(seed, "spread", percent).permutation(sorted(images)).tolist()
    total = np.array([images[pid] for pid in identities])
    while True:
        fewest = int(total.argmin())
        total[fewest] += 1
        yield identities[fewest]


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
    subsets = {percent: read_subset(percent) for percent in {*params.subset.percents, 100}}
    sizes, poses = {percent: len(images) for percent, images in subsets.items()}, read_pose_table()
    generators = dict.fromkeys([*params.planned, *params.imports, *params.filters])
    with atomic(PLANS) as folder:
        for generator in progress(generators, total=len(generators), desc="planning"):
            needs = params.needs(generator, sizes)
            write_json({str(percent): count for percent, count in needs.items()}, folder / generator / NEEDS)
            # A baseline says itself which camera its images look like; another generator does as it likes.
            surroundings = params.generate.surroundings and generator in params.generator.train_on
            for percent in params.subset.percents if generator in params.planned else []:
                images, count = subsets[percent], needs.get(percent, 0)
                visible = (to_keypoints(poses, images)[..., 2] > 0).sum(-1)
                plan = make_plan(index.loc[images], visible, count, percent, params.plan, surroundings)
                write_csv(plan, folder / generator / f"{percent}.csv")


if __name__ == "__main__":
    command_line("plan", __doc__).parse_args()
    stage_main(main)
