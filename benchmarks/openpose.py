"""Time OpenPose, the detector of keypoints, on one core, per Market-1501 image (128x64).

The network has random weights. Its output is replaced by the maps of no, one or two people, so that the
search for people in them, which runs on the CPU, has its usual work.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from generator.keypoints import KEYPOINT_NAMES, LIMBS
from pipeline.keypoints.detect import detect_one, load_detector
from pipeline.keypoints.openpose import import_openpose
from pipeline.runtime.stage import command_line, stage_main

IMAGES, HEIGHT, WIDTH = 5, 128, 64
_CELL = 8  # pixels of the network's input per cell of its maps
_INPUT = 184  # pixels, height of the network's input
# Where the network's 38 channels hold the x of each of `LIMBS` (OpenPose's body model); y follows.
_LIMB_CHANNELS = (12, 20, 14, 16, 22, 24, 0, 2, 4, 6, 8, 10, 28, 30, 34, 32, 36)


def maps(people: NDArray[np.floating], height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Make the maps of a perfect network: its channels for limbs and for keypoints.

    Args:
        people: Keypoints x, y in pixels of an image, [P, 18, 2].
        height: Height of the image in pixels.
        width: Width of the image in pixels.
    """
    scale = _INPUT / height / _CELL
    rows, columns = _INPUT // _CELL, int(np.ceil(width * _INPUT / height / _CELL))
    cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1)
    limbs, heat = np.zeros((38, rows, columns)), np.zeros((19, rows, columns))
    for person in (people + 0.5) * scale - 0.5:
        for channel, point in enumerate(person):
            near = np.exp(-np.square(cells - point).sum(-1) / 2)
            heat[channel] = np.maximum(heat[channel], near)
        for channel, (start, end) in zip(_LIMB_CHANNELS, LIMBS, strict=True):
            along = person[end] - person[start]
            share = ((cells - person[start]) @ along / np.square(along).sum()).clip(0, 1)
            near = np.linalg.norm(cells - person[start] - share[..., None] * along, axis=-1) < 1
            limbs[channel : channel + 2, near] = along[:, None] / np.linalg.norm(along)
    return torch.from_numpy(limbs[None]).float(), torch.from_numpy(heat[None]).float()


def standing(x: float, y: float, size: float) -> NDArray[np.float64]:
    """Return keypoints [18, 2] of a person who stands upright: neck at (x, y), legs to y + size."""
    places = {
        "nose": (0, -0.12), "neck": (0, 0), "eye": (0.05, -0.17), "ear": (0.1, -0.14),
        "shoulder": (0.13, 0.01), "elbow": (0.17, 0.2), "wrist": (0.18, 0.38),
        "hip": (0.08, 0.42), "knee": (0.09, 0.7), "ankle": (0.1, 1),
    }  # fmt: skip
    sides = [-1 if name.startswith("r_") else 1 for name in KEYPOINT_NAMES]
    offsets = np.array([places[name.removeprefix("r_").removeprefix("l_")] for name in KEYPOINT_NAMES])
    return np.array([x, y]) + size * offsets * np.stack([sides, np.ones(len(sides))], 1)


def save_random_model(file: Path) -> None:
    """Save a body model with random weights in the format of controlnet_aux."""
    _, bodypose_model = import_openpose()
    torch.manual_seed(0)
    torch.save({name.split(".", 1)[1]: value for name, value in bodypose_model().state_dict().items()}, file)


class FixedOutput(nn.Module):
    """A network that runs, but whose output is replaced by the maps of given people."""

    def __init__(self, network: nn.Module, people: NDArray[np.floating]) -> None:
        super().__init__()
        self.network, self.maps = network, maps(people, HEIGHT, WIDTH)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the network's time, and return the maps of the people."""
        self.network(images)
        return self.maps


def main() -> None:
    """Print the time per image with nobody, one and two people in it."""
    if find_spec("controlnet_aux") is None:
        raise ValueError("the package controlnet_aux is not installed; pip install -e .[paper]")
    cv2.setNumThreads(1)
    with TemporaryDirectory() as folder:
        model = Path(folder) / "body_pose_model.pth"
        save_random_model(model)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(
            Path(folder) / "a.jpg"
        )
        body = load_detector("openpose", model, False).body
        network = body.model
        for count in range(3):
            people = [standing(22 + 20 * i, 25 + 5 * i, 90 - 20 * i) for i in range(count)]
            body.model = FixedOutput(network, np.array(people).reshape(-1, 18, 2))
            times, forward = [], []
            for _ in range(IMAGES):
                start = process_time()
                found = detect_one(Path(folder) / "a.jpg", "openpose", model, False)
                times.append(process_time() - start)
                start = process_time()
                with torch.no_grad():
                    network(torch.zeros(1, 3, _INPUT, 96))
                forward.append(process_time() - start)
            print(
                f"{len(found)} people: {median(times):.2f} s per image and core, {median(forward):.2f} s of "
                f"it in the network; {1 / median(times):.1f} images/s per core (median of {IMAGES})"
            )


if __name__ == "__main__":
    command_line("openpose", __doc__, "benchmarks").parse_args()
    stage_main(main)
