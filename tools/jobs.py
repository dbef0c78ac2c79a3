"""Hand the plan to another generator: a folder of jobs, whose results an arm takes in.

Reads data/plans/<name>/ of an entry of `imports` with `jobs: true`; writes the entry's folder, with all that
another generator needs to make these images. For each share there is a table jobs.csv: each image's sources,
target pose and seed, and the name under which to save it. Beside it are the source images, and each pose as a
picture of its skeleton and as keypoints. README.md in the folder says the same.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from generator.keypoints import KEYPOINT_NAMES
from generator.pose import draw_skeleton
from pipeline.artifacts import read_needs, read_plan, read_poses
from pipeline.datasets.images import read_image
from pipeline.datasets.views import from_view, to_view
from pipeline.params import Params, load_params
from pipeline.runtime.outputs import atomic, write_csv
from pipeline.runtime.stage import command_line, progress, stage_main

JOBS = "jobs.csv"
_README = """# Jobs for another generator

For each row of {tables}, make one image of {width} x {height} pixels and save it in the folder of
that table under the row's `name` (JPEG; or PNG with that ending).

- `sources`: one to three photographs of the person to show, in sources/, joined by |.
- `skeleton`: the target pose as a picture, in poses/, in OpenPose's colours. The .json beside it has the 18
  keypoints by name: x and y in pixels, and a score, 0 where not visible.
- `seed`: for the generator's noise, so that the image can be made again.
- `pid` says who is shown. An image must show this person in this pose; the surroundings are up to you.

No image may be left out or have another size. Sources of another share must not be used.
Then run `dvc repro` where this folder was written.
"""


def write_jobs(name: str, params: Params, folder: Path) -> None:
    """Write the jobs of an import to a folder, which exists and is empty.

    Args:
        name: Key of the section imports.
        params: Settings of the run.
        folder: Folder to write to.
    """
    plans = {percent: read_plan(name, percent) for percent in read_needs(name)}
    whole = pd.concat(plans.values())
    sources = _files(sorted({*"|".join(whole.sources).split("|")}), "sources", ".png")
    poses = _files(sorted(set(whole.pose)), "poses", ".png")
    height, width = params.dataset.height, params.dataset.width - 2 * params.dataset.border
    for kind in ("sources", "poses"):
        (folder / kind).mkdir()
    for image, file in progress(sources.items(), len(sources), "sources"):
        view = to_view(read_image(params.dataset.root / image), params.dataset)
        Image.fromarray(from_view(view, params.dataset.border)).save(folder / file)
    keypoints = read_poses(list(poses))
    for pose, file in progress(zip(keypoints, poses.values(), strict=True), len(poses), "poses"):
        skeleton = draw_skeleton(pose, params.dataset.height, params.dataset.width)
        Image.fromarray(from_view(skeleton, params.dataset.border)).save(folder / file)
        shifted = pose - np.array([params.dataset.border, 0, 0])
        named = {
            joint: [round(float(value), 2) for value in values]
            for joint, values in zip(KEYPOINT_NAMES, shifted, strict=True)
        }
        (folder / file).with_suffix(".json").write_text(json.dumps(named, indent=1), encoding="utf-8")
    for percent, plan in plans.items():
        jobs = pd.DataFrame(
            {
                "name": plan.name,
                "pid": plan.pid,
                "sources": ["|".join(sources[image] for image in row.split("|")) for row in plan.sources],
                "skeleton": plan.pose.map(poses),
                "seed": plan.seed,
            }
        )
        (folder / str(percent)).mkdir()
        write_csv(jobs, folder / str(percent) / JOBS)
    tables = " and ".join(f"{percent}/{JOBS}" for percent in plans)
    readme = _README.format(tables=tables, width=width, height=height)
    (folder / "README.md").write_text(readme, encoding="utf-8")


def _files(images: list[str], folder: str, suffix: str) -> dict[str, str]:
    """Number images, and return for each the path of a file in a folder."""
    return {image: f"{folder}/{number:06d}{suffix}" for number, image in enumerate(images)}


def main() -> None:
    """Run the command."""
    parser = command_line("jobs", __doc__, "tools")
    parser.add_argument("name", help="key of the section imports of params.yaml, with jobs: true")
    name, params = parser.parse_args().name, load_params()
    known = [key for key, entry in params.imports.items() if entry.jobs]
    if name not in known:
        raise ValueError(
            f"the import is {name}; expected one with jobs: true ({', '.join(known) or 'none yet'})"
        )
    folder = params.imports[name].folder
    if folder.exists():
        raise ValueError(f"{folder} exists; remove it, or name a new folder as imports.{name}.folder")
    with atomic(folder) as temporary:
        temporary.mkdir()
        write_jobs(name, params, temporary)
    count = sum(read_needs(name).values())
    print(f"{folder}: jobs for {count} images or a few more; {folder / 'README.md'} says what to do")


if __name__ == "__main__":
    stage_main(main)
