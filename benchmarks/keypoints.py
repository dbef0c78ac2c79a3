"""Time a detector of keypoints with a model of your own, on one core, per rendered 64x128 image.

The images go through what the stage `poses` does with each: decoding, enlarging, the detector. OpenPose's
model is not at hand everywhere; `benchmarks.openpose` times it without.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from time import process_time

from PIL import Image

from pipeline.keypoints.detect import DETECTORS, detect_one
from pipeline.runtime.stage import command_line, stage_main
from pipeline.world.camera import sample_view
from pipeline.world.shots import render_shot
from pipeline.world.stance import sample_stance

IMAGES, PEOPLE = 50, 10


def main() -> None:
    """Print images per second, and in how many somebody is found."""
    parser = command_line("keypoints", __doc__, "benchmarks")
    parser.add_argument("source", choices=list(DETECTORS))
    parser.add_argument("path", type=Path, help="what poses.path names: file or folder of the model")
    arguments = parser.parse_args()
    DETECTORS[arguments.source].check(arguments.path)

    times, found = [], []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "a.jpg"
        for k in range(-1, IMAGES):  # the first loads the model and does not count
            stance, view = sample_stance(0, "b", k + 1), sample_view(0, "b", k + 1)
            shot = render_shot(0, "test", k % PEOPLE, 1 + k % 6, stance, view, 128, 64, 0.3)
            Image.fromarray(shot.image).save(file, quality=95)
            start = process_time()
            people = detect_one(file, arguments.source, arguments.path, False)
            if k >= 0:
                times.append(process_time() - start)
                found.append(len(people) > 0)
    rate = 1 / median(times)
    print(
        f"{arguments.source}: {1e3 * median(times):.0f} ms per image and core; {rate:.1f} images/s per "
        f"core (median of {IMAGES}); somebody is found in {mean(found):.0%}"
    )


if __name__ == "__main__":
    stage_main(main)
