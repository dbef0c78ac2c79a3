"""Time the training of a re-ID model on random images, at the sizes of a parameters file.

An estimate for one model and for an arm follows from the seconds per iteration; reading the images and the
test are not in it.
"""

import time
from pathlib import Path

import numpy as np
import torch

from common.precision import resolve
from pipeline.params import load_params
from pipeline.runtime.memory import keep_memory
from pipeline.runtime.stage import command_line, stage_main
from reid.settings import ReidSettings
from reid.train import REPORT_EVERY, train

IDENTITIES, IMAGES = 751, 17  # of Market-1501's training set; images of each on average


def seconds_per_iteration(settings: ReidSettings, rounds: int, device: str) -> float:
    """Return the median over rounds of `REPORT_EVERY` iterations, after each of which training waits.

    One more round, the first, does not count. Weights are random: the time does not depend on them.
    """
    pids = np.repeat(np.arange(IDENTITIES), IMAGES)
    shape = (len(pids), settings.height, settings.width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    changes = {"weights": None, "iterations": (rounds + 1) * REPORT_EVERY}
    times: list[float] = []
    train(
        images,
        pids,
        np.zeros(len(pids), bool),
        settings.model_copy(update=changes),
        0,
        device=device,
        title="benchmark",
        log=lambda done, values: times.append(time.perf_counter()),
    )
    return float(np.median(np.diff(times))) / REPORT_EVERY


def main() -> None:
    """Print the times."""
    parser = command_line("reid", __doc__, "benchmarks")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="file with the sizes")
    parser.add_argument("--judge", help="key of its section judges; that of the section reid without it")
    parser.add_argument("--rounds", type=int, default=3, help=f"timed rounds of {REPORT_EVERY} iterations")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        raise ValueError(f"--rounds is {arguments.rounds}; expected at least 1")
    keep_memory()
    params, device = load_params(arguments.params), "cuda" if torch.cuda.is_available() else "cpu"
    section = f"judges.{arguments.judge}" if arguments.judge else "reid"
    if section not in params.judge_settings:
        raise ValueError(
            f"--judge is {arguments.judge}; expected one of {', '.join(params.judges) or 'none'}"
        )
    settings = params.judge_settings[section]
    batch = settings.identities_per_batch * settings.images_per_identity
    seconds = seconds_per_iteration(settings, arguments.rounds, device)
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    models = len(params.subset.percents) * len(settings.seeds)
    minutes = settings.iterations * seconds / 60
    print(
        f"{where}: {settings.backbone}, batch {batch} of {settings.height}x{settings.width}, "
        f"precision {resolve(settings.mixed_precision, device)}\n"
        f"{seconds:.4f} s per iteration, {batch / seconds:.0f} images/s "
        f"(median of {arguments.rounds} x {REPORT_EVERY} iterations)\n"
        f"one model of {settings.iterations} iterations: {minutes:.1f} minutes; "
        f"an arm of {models} models: {models * minutes:.0f} minutes"
    )


if __name__ == "__main__":
    stage_main(main)
