"""A tiny training as a process of its own, for test_train.py: killed after some step, or one of several.

Usage: python -m tests.generator.killed <checkpoint folder> <step of the kill, or 0> <file for the weights>
LARGEST in the environment: samples beyond which its memory runs out; COMPILE: the backend of torch.compile.
"""

import os
import signal
import sys
from functools import partial, partialmethod
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from generator.train import train
from pipeline.runtime.checkpoints import Checkpoints
from tests.generator import tiny


def main() -> None:
    folder, kill_after, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)

    def log(step: int, values: dict[str, float]) -> None:
        if step == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    if "LARGEST" in os.environ:
        tiny.run_out_of_memory(pytest.MonkeyPatch(), int(os.environ["LARGEST"]))
    backend = os.environ.get("COMPILE")
    if backend:
        torch.compile = partial(torch.compile, backend=backend)  # type: ignore[assignment]
        # Gradients travel in buckets, and dynamo cuts the graph between them: some here, as at full size.
        ddp = torch.nn.parallel.DistributedDataParallel
        ddp.__init__ = partialmethod(ddp.__init__, bucket_cap_mb=0.05)  # type: ignore[assignment]
        torch.distributed._DEFAULT_FIRST_BUCKET_BYTES = 10_000
    settings = tiny.TRAIN.model_copy(update={"compile": backend is not None})
    views = tiny.views([1] * 5 + [2])
    denoiser = tiny.denoiser(levels=1)
    average = train(denoiser, views, tiny.scheduler(), settings, 1, Checkpoints(folder), log=log)
    if os.environ.get("RANK", "0") == "0":
        save_file(average.state_dict(), out)


if __name__ == "__main__":
    main()
