"""Time the stages that read a data set of Market-1501's size, and measure their memory.

    python -m benchmarks.data            a data set of 32,668 images of 64x128 pixels: a minute or two
    python -m benchmarks.data --small    a twentieth of the images, in seconds

The images are noise, made anew in a temporary folder, with keypoints. The stages run as commands, each with
its own peak of memory; importing libraries counts.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from ruamel.yaml import YAML

from pipeline.artifacts import POSE_COLUMNS
from pipeline.runtime.stage import command_line, stage_main

PEOPLE = {"bounding_box_train": (751, 12_936), "query": (750, 3_368), "bounding_box_test": (750, 16_364)}
STAGES = ("index", "poses", "subset", "plan")
CAMERAS = 6
_GIB = 2**20  # ru_maxrss is in KiB


def image_names(divisor: int) -> Iterator[str]:
    """Yield the names of the images: as many people and images as Market-1501 has, or a fraction."""
    first = 1
    for folder, (people, images) in PEOPLE.items():
        people, images = people // divisor, images // divisor
        for number in range(images):
            pid, turn = first + number % people, number // people
            yield f"{folder}/{pid:04d}_c{1 + turn % CAMERAS}s1_{number:06d}_01.jpg"
        first = first + people if folder == "bounding_box_train" else first


def make_data_set(root: Path, divisor: int) -> int:
    """Write the images and keypoints.csv; return the number of images."""
    names = list(image_names(divisor))
    for folder in PEOPLE:
        (root / folder).mkdir(parents=True)

    def write(numbered: tuple[int, str]) -> None:
        pixels = np.random.default_rng(numbered[0]).integers(0, 256, (16, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 128)).save(root / numbered[1], quality=90)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, enumerate(names)))
    points = np.random.default_rng(0).uniform((0, 0, 0.1), (63, 127, 1), (len(names), 18, 3)).round(2)
    table = pd.DataFrame(points.reshape(len(names), -1), columns=list(POSE_COLUMNS)[1:])
    table.insert(0, "image", names)
    table.to_csv(root / "keypoints.csv", index=False)
    return len(names)


def run_stages(project: Path) -> Iterator[tuple[str, float, float]]:
    """Run the stages in a project; yield the name of each, its seconds, and its peak of memory in GiB."""
    code = (
        "import resource, runpy, sys; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
    )
    for stage in STAGES:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", code, f"pipeline.{stage}"],
            cwd=project,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise ValueError(f"the stage {stage} failed")
        yield stage, time.perf_counter() - start, usage.ru_maxrss / _GIB


def main() -> None:
    """Print time and memory of the stages, and of all together."""
    parser = command_line("data", __doc__, "benchmarks")
    parser.add_argument("--small", action="store_true", help="a twentieth of the images")
    divisor = 20 if parser.parse_args().small else 1
    with tempfile.TemporaryDirectory() as name:
        project = Path(name)
        images = make_data_set(project / "market", divisor)
        yaml = YAML(typ="safe", pure=True)
        values = yaml.load(Path("profiles/market1501.yaml"))
        values["dataset"]["root"] = "market"
        values["poses"] |= {"source": "annotations", "path": "market/keypoints.csv"}
        values["reid"]["identities_per_batch"] = 4
        with (project / "params.yaml").open("w") as file:
            yaml.dump(values, file)
        print(f"{images} images, {len(os.sched_getaffinity(0))} cores")
        rows = list(run_stages(project))
    for stage, seconds, memory in rows:
        print(f"{stage:8} {seconds:6.1f} s, {memory:.2f} GiB")
    print(f"all      {sum(row[1] for row in rows):6.1f} s, {max(row[2] for row in rows):.2f} GiB at most")


if __name__ == "__main__":
    stage_main(main)
