"""Stage `baseline`: make images by the plan without a learned generator, for arms of params.yaml.

Reads data/plans/<name>/, data/index.csv and data/poses.csv; writes data/synthetic/<name>/<percent>/ with the
images and manifest.csv.

`pasted` is what a trained generator has to beat: the source's person, cut out and put in the place of the
person who lends the pose, in that photo's surroundings. The pose is the source's.

`rendered` is the bound of the embedded world. Its renderer knows every person, so it makes what a perfect
generator would: the planned person in the planned pose, through a camera of the world that is drawn for each
image.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.seeding import make_rng
from pipeline.artifacts import (
    MANIFEST,
    SYNTHETIC,
    read_index,
    read_needs,
    read_plan,
    read_pose_table,
    to_keypoints,
)
from pipeline.datasets.images import read_image
from pipeline.datasets.marks import save_baseline
from pipeline.datasets.names import speaking_stem
from pipeline.datasets.views import from_view, to_view
from pipeline.params import BaselineKind, DatasetSettings, Params, load_params
from pipeline.runtime.hashes import md5
from pipeline.runtime.outputs import atomic, write_csv
from pipeline.runtime.stage import command_line, progress, stage_main
from pipeline.runtime.workers import worker_pool
from pipeline.shared.paste import paste_person
from pipeline.world.camera import sample_view
from pipeline.world.dataset import training_scenes
from pipeline.world.settings import WorldSettings
from pipeline.world.shots import Scene, take

Pixels = NDArray[np.uint8]  # [H, W, 3]
_FEWEST_KEYPOINTS = 2  # that a person must show to be cut out, or to be replaced


class Job(NamedTuple):
    """One image to make.

    Attributes:
        camid: Camera whose image it will look like.
        make: Makes its pixels, in any process.
    """

    camid: int
    make: Callable[[], Pixels]


# --- pasted -------------------------------------------------------------------------------------------------


def paste_jobs(plan: pd.DataFrame, params: Params) -> list[Job]:
    """Return what makes the images of a plan by pasting the first source that shows two keypoints.

    Where none does, or the pose does not, the image is the first source itself.
    """
    table = read_pose_table()
    camid = read_index().set_index("image").camid
    images = sorted({*plan.pose, *"|".join(plan.sources).split("|")})
    keypoints = dict(zip(images, to_keypoints(table, images), strict=True))
    enough = {name for name in images if (keypoints[name][:, 2] > 0).sum() >= _FEWEST_KEYPOINTS}
    jobs = []
    for row in plan.itertuples():
        sources, pose = str(row.sources).split("|"), str(row.pose)
        shown = [name for name in sources if name in enough]
        if shown and pose in enough:
            pair = keypoints[shown[0]], keypoints[pose]
            jobs.append(Job(int(camid[pose]), partial(_paste, params.dataset, shown[0], pose, *pair)))
        else:
            jobs.append(Job(int(camid[sources[0]]), partial(_copy, params.dataset, sources[0])))
    return jobs


def _paste(
    dataset: DatasetSettings,
    source: str,
    target: str,
    source_keypoints: NDArray[np.floating],
    target_keypoints: NDArray[np.floating],
) -> Pixels:
    person, place = (to_view(read_image(dataset.root / image), dataset) for image in (source, target))
    return from_view(paste_person(person, source_keypoints, place, target_keypoints), dataset.border)


def _copy(dataset: DatasetSettings, source: str) -> Pixels:
    return from_view(to_view(read_image(dataset.root / source), dataset), dataset.border)


# --- rendered -----------------------------------------------------------------------------------------------


def render_jobs(plan: pd.DataFrame, params: Params) -> list[Job]:
    """Return what makes the images of a plan by rendering their people again."""
    settings = params.rendered_world()
    return [
        Job(scene.camid, partial(_render, settings, scene, pid - 1))
        for scene, pid in zip(plan_scenes(plan, settings), plan.pid, strict=True)
    ]


def plan_scenes(plan: pd.DataFrame, settings: WorldSettings) -> Iterator[Scene]:
    """Yield the scene of each planned image: the stance of its pose's photo, seen by a camera that is drawn.

    The gain of generated images is almost all across cameras, so a generator that were perfect would not stay
    in the source's.

    Args:
        plan: Rows of synthetic images with the columns pose and seed.
        settings: The world whose photos the poses are from.
    """
    photos = training_scenes(settings)
    for pose, seed in zip(plan.pose, plan.seed, strict=True):
        camid = 1 + int(make_rng(seed, "camera of a rendered image").integers(settings.cameras))
        yield replace(photos[pose], camid=camid, view=sample_view(settings.seed, "rendered image", seed))


def _render(settings: WorldSettings, scene: Scene, number: int) -> Pixels:
    size = settings.height, settings.width
    return take(scene, settings.seed, "train", number, *size, settings.camera_strength).image


# --- the stage ----------------------------------------------------------------------------------------------

_JOBS: dict[BaselineKind, Callable[[pd.DataFrame, Params], list[Job]]] = {
    "pasted": paste_jobs,
    "rendered": render_jobs,
}


def make_images(
    plan: pd.DataFrame, jobs: list[Job], kind: BaselineKind, quality: int, output: Path
) -> pd.DataFrame:
    """Make the images of a plan in the folder `output`, which exists, and return its manifest.

    Args:
        plan: Rows of synthetic images.
        jobs: What makes each of them.
        kind: Kind of the baseline, for the images' marks.
        quality: Quality of the JPEGs.
        output: Folder to write to.

    Returns:
        The plan with the images' own cameras, names that say them, and md5.
    """
    camids = [job.camid for job in jobs]
    names = [
        f"{speaking_stem(name, pid, camid)}.jpg"
        for name, pid, camid in zip(plan.name, plan.pid, camids, strict=True)
    ]
    makers = [job.make for job in jobs]
    with worker_pool() as pool:
        written = pool.map(
            partial(_write, quality, kind), makers, [output / name for name in names], chunksize=8
        )
        for _ in progress(written, len(jobs), f"images for {output.name} %"):
            pass
    return plan.assign(name=names, camid=camids, md5=[md5(output / name) for name in names])


def _write(quality: int, kind: BaselineKind, make: Callable[[], Pixels], file: Path) -> None:
    save_baseline(make(), file, quality, kind)


def main() -> None:
    """Run the stage."""
    parser = command_line("baseline", __doc__)
    parser.add_argument("name", help="key of the section baselines of params.yaml")
    name, params = parser.parse_args().name, load_params()
    if name not in params.baselines:
        raise ValueError(f"the baseline is {name}; expected one of {', '.join(params.baselines) or 'none'}")
    kind = params.baselines[name].kind
    with atomic(SYNTHETIC / name) as folder:
        for percent in read_needs(name):
            plan, output = read_plan(name, percent), folder / str(percent)
            output.mkdir(parents=True)
            jobs = _JOBS[kind](plan, params)
            write_csv(make_images(plan, jobs, kind, params.generate.jpeg_quality, output), output / MANIFEST)


if __name__ == "__main__":
    stage_main(main)
