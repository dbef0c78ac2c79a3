"""Stages as processes of their own, without the seconds that importing their libraries takes each time."""

import os
import resource
import sys
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from pipeline.runtime.stage import stage_main

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["tests.stages", "pipeline.train_generator", "pipeline.generate", "pipeline.train_reid"]
)
LOG = "log"
# As `accelerate launch --num_processes 2` does on GPUs; with --cpu it starts one process in any case.
TWO_PROCESSES = {"LAUNCH": "torchrun --standalone --nproc_per_node 2", "ACCELERATE_USE_CPU": "1"}


def start(
    folder: Path, stage: str, *arguments: str, threads: int = 1, disk: int | None = None
) -> BaseProcess:
    """Start a stage in a project; what it says is appended to `LOG` there.

    Args:
        folder: the project, with its params.yaml.
        stage: a module of `pipeline`.
        arguments: of its command line.
        threads: of torch.
        disk: bytes beyond which a file cannot grow, as if the disk were full.
    """
    process = CONTEXT.Process(target=_run, args=(folder, stage, arguments, threads, disk))
    process.start()
    return process


def run(folder: Path, stage: str, *arguments: str, threads: int = 1, disk: int | None = None) -> int | None:
    """Run a stage to its end and return its exit code."""
    process = start(folder, stage, *arguments, threads=threads, disk=disk)
    process.join()
    return process.exitcode


def _run(folder: Path, stage: str, arguments: tuple[str, ...], threads: int, disk: int | None) -> None:
    os.chdir(folder)
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(threads)
    sys.argv = [f"{stage}.py", *arguments]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (disk or soft, hard))
    try:
        stage_main(import_module(f"pipeline.{stage}").main)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))  # the last words go to a file, too
