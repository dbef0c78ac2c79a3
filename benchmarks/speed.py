"""Measure seconds per image and SSIM of T1 and IMAGPose* and draw both as one figure, the paper's Figure 8.

    python -m benchmarks.speed                    the trained generator, or the base weights without one
    python -m benchmarks.speed --people 4         quicker

T1 makes one image per joint image (the target pose three times), IMAGPose* three at once. Both make the same
images of the same people: test identities, one source and three target poses of each. SSIM compares an image
with the photo that lent its pose; its interval is over people. In general another camera than the source's
took that photo, which no generator can know, so SSIM is lower here than on DeepFashion, the paper's data.

Seconds cover the whole way from decoded photo to decoded image: encoders, sampling, VAE. Both methods are
timed in turn in each round, after one round that does not count; medians are reported.
"""

import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from generator.data import encode_views
from generator.metrics import ssim
from generator.sample import IMAGPosePipeline, JointRequest
from generator.settings import SampleSettings
from pipeline.artifacts import read_index, read_poses
from pipeline.datasets.images import read_image
from pipeline.datasets.views import from_view, to_view
from pipeline.params import load_params
from pipeline.runtime.outputs import atomic, write_json
from pipeline.runtime.stage import command_line, stage_main
from tools.preview import load_model

TARGETS = 3  # poses per person
REPORT = Path("reports/speed.json")


def select_images(least_keypoints: int, people: int) -> list[list[str]]:
    """Select a source and three targets of each of the first test identities, spread over their images."""
    index = read_index()
    index = index[index.split.isin(["query", "gallery"]) & (index.pid > 0)]
    visible = (read_poses(index.image.tolist())[..., 2] > 0).sum(-1)
    selection: list[list[str]] = []
    for _, images in index[visible >= least_keypoints].groupby("pid").image:
        if len(images) > TARGETS and len(selection) < people:
            places = np.linspace(0, len(images) - 1, TARGETS + 1).astype(int)
            selection.append([sorted(images)[place] for place in places])
    if len(selection) < people:
        raise ValueError(
            f"--people is {people}; only {len(selection)} test identities have {TARGETS + 1} images with a "
            "pose"
        )
    return selection


def requests(method: str, people: int, poses: NDArray[np.floating]) -> list[JointRequest]:
    """List the joint images of a method; poses are [people, 3, 18, 3]."""
    if method == "T1":
        return [
            JointRequest((i,), poses[i, j : j + 1], (TARGETS * i + j,), "target")
            for i in range(people)
            for j in range(TARGETS)
        ]
    seeds = [tuple(range(TARGETS * i, TARGETS * i + TARGETS)) for i in range(people)]
    return [JointRequest((i,), poses[i], seeds[i], "target") for i in range(people)]


def generate(
    imagpose: IMAGPosePipeline,
    method: str,
    photos: list[np.ndarray],
    poses: np.ndarray,
    settings: SampleSettings,
) -> tuple[NDArray[np.uint8], float]:
    """Make three images of each person; return them and the seconds. Poses are [people, 1 + 3, 18, 3]."""
    start = time.perf_counter()
    views = encode_views(
        photos,
        poses[:, 0],
        np.arange(len(photos)),
        imagpose.vae,
        imagpose.image_encoder,
        view_size=imagpose.view_size,
        token_size=imagpose.token_size,
        flip=False,
        batch_size=settings.batch_size,
    ).near(imagpose.device)
    joints = requests(method, len(photos), poses[:, 1:])
    images = np.concatenate(list(imagpose.generate(views, joints, settings)))
    return images, time.perf_counter() - start


def draw(results: dict[str, dict[str, float]], title: str) -> Figure:
    """Draw SSIM over seconds per image."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axis = figure.subplots()
    for (name, result), marker, colour in zip(results.items(), "os", ("#0072B2", "#D55E00"), strict=True):
        seconds = result["seconds_per_image"]
        axis.errorbar(
            seconds,
            result["ssim"],
            xerr=[[seconds - result["seconds_low"]], [result["seconds_high"] - seconds]],
            yerr=result["ssim_error"],
            marker=marker,
            color=colour,
            capsize=3,
            label=f"{name}: {seconds:.3g} s, SSIM {result['ssim']:.3f}",
        )
    axis.set(xlabel="seconds per image", ylabel="SSIM", title=title)
    axis.set_xlim(left=0)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.title.set_fontsize(9)
    axis.legend(frameon=False, fontsize=9)
    return figure


def main() -> None:
    """Measure, write reports/speed.json and reports/speed.png, and print the numbers."""
    parser = command_line("speed", __doc__, "benchmarks")
    parser.add_argument("--people", type=int, default=16, help="test identities, three images of each")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds")
    parser.add_argument("--batch-size", type=int, default=1, help="joint images at once; 1 is the latency")
    parser.add_argument(
        "--model", type=Path, metavar="FOLDER", help="a generator; the trained one if none is named"
    )
    arguments = parser.parse_args()
    if arguments.people < 2 or min(arguments.rounds, arguments.batch_size) < 1:
        raise ValueError("expected at least 2 --people, 1 of --rounds and a --batch-size of at least 1")

    # 1. The generator, and photos and poses of people: a source and three targets each
    params = load_params()
    settings = params.generate.sample.model_copy(update={"batch_size": arguments.batch_size})
    imagpose, name = load_model(arguments.model, params)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    imagpose.to(device)
    images = select_images(params.plan.min_keypoints, arguments.people)
    dataset = params.dataset
    photos = [[to_view(read_image(dataset.root / image), dataset) for image in four] for four in images]
    poses = np.stack([read_poses(four) for four in images])
    truth = [photo for four in photos for photo in four[1:]]

    # 2. Both methods in turn, round by round
    methods = ("T1", "IMAGPose*")
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    outputs = {}
    sources = [four[0] for four in photos]
    for turn in range(arguments.rounds + 1):
        for method in methods:
            outputs[method], duration = generate(imagpose, method, sources, poses, settings)
            if turn:
                seconds[method].append(duration / len(truth))

    # 3. Time and SSIM, without the border that views have
    results = {}
    for method in methods:
        pairs = ([from_view(view, dataset.border) for view in views] for views in (outputs[method], truth))
        people = ssim(*pairs).reshape(-1, TARGETS).mean(1)  # [people]
        results[method] = {
            "seconds_per_image": statistics.median(seconds[method]),
            "seconds_low": min(seconds[method]),
            "seconds_high": max(seconds[method]),
            "ssim": float(people.mean()),
            "ssim_error": float(1.96 * people.std(ddof=1) / np.sqrt(len(people))),  # over people
        }
    where = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    )
    setting = {
        "data": params.dataset.name,
        "model": name,
        "device": where,
        "machine": platform.machine(),
        "view": "x".join(map(str, imagpose.view_size)),
        "images": len(truth),
        "rounds": arguments.rounds,
        **settings.model_dump(mode="json"),
    }

    # 4. Report
    write_json({"setting": setting, **results}, REPORT)
    title = f"{params.dataset.name}, {settings.steps} steps, batch {settings.batch_size}, {where}"
    with atomic(REPORT.with_suffix(".png")) as file:
        draw(results, title).savefig(file, dpi=150)
    print(f"{title}, {name}; {len(truth)} images, median of {arguments.rounds} rounds (least to most)")
    for method, result in results.items():
        print(
            f"{method:10} {result['seconds_per_image']:.3f} s per image "
            f"({result['seconds_low']:.3f} to {result['seconds_high']:.3f}), "
            f"SSIM {result['ssim']:.3f} ± {result['ssim_error']:.3f}"
        )
    print(f"figure: {REPORT.with_suffix('.png')}")


if __name__ == "__main__":
    stage_main(main)
