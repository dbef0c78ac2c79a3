"""Time the renderer of the embedded world on one core, per 128x64 image, with and without JPEG."""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

from statistics import median
from time import process_time

import cv2

from pipeline.runtime.stage import command_line
from pipeline.world.camera import sample_view
from pipeline.world.dataset import JPEG_QUALITY
from pipeline.world.person import sample_person
from pipeline.world.shots import render_shot, shots
from pipeline.world.stance import sample_stance

IMAGES, PEOPLE = 300, 20


def main() -> None:
    """Print the times of the single steps, and of all together."""
    command_line("render", __doc__, "benchmarks").parse_args()
    cv2.setNumThreads(1)
    draws = [(k % PEOPLE, 1 + k % 6, sample_stance(0, "b", k), sample_view(0, "b", k)) for k in range(IMAGES)]
    for pid in range(PEOPLE):
        sample_person(0, "test", pid)
    render, both = [], []
    for pid, camid, stance, view in draws:
        start = process_time()
        image = render_shot(0, "test", pid, camid, stance, view, 128, 64, 0.3).image
        middle = process_time()
        cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        render.append(middle - start)
        both.append(process_time() - start)
    start = process_time()
    people = [shots(0, "benchmark", pid, 20, 6, 128, 64, 0.3) for pid in range(PEOPLE)]
    whole = (process_time() - start) / sum(map(len, people))
    print(f"render             {1e3 * median(render):.2f} ms per image (median of {IMAGES})")
    print(f"render + JPEG      {1e3 * median(both):.2f} ms per image (median of {IMAGES})")
    print(f"all, new identities and cameras included  {1e3 * whole:.2f} ms per image (mean)")


if __name__ == "__main__":
    main()
