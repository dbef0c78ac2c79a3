"""The stages that take long: killed, run twice at once, out of disk, and on two processes.

Random weights and random images; what the stages make of them is the same bytes whatever happens to them.
"""

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pipeline import index, plan, poses, subset
from pipeline.runtime.hashes import md5
from tests import REPOSITORY, embedded, read_yaml, stages, write_params
from tests.generator import tiny
from tests.pipeline.market import make_market
from tools import verify

pytestmark = pytest.mark.slow

SMALL = {
    "index.validation_identities": 0,
    "subset.percents": [50],
    "plan.min_keypoints": 1,
    "generator.train.steps": 8,
    "generator.train.checkpoint_every": 1,
    "generate.sample.steps": 2,
    "generate.sample.batch_size": 1,
    "reid.seeds": [0],
    "reid.channels": 8,
    "reid.height": 64,
    "reid.width": 32,
    "reid.identities_per_batch": 2,
    "reid.images_per_identity": 2,
    "reid.iterations": 24,  # a learning curve has a point at 20 and at the end
    "reid.checkpoint_every": 1,
    "reid.mixed_precision": "no",
}
# Command, what it writes, and the files of its scratch folder that must be the same, too.
LONG = {
    "train_generator": (["python", "-m", "pipeline.train_generator", "all"], "models/generator", "step-*/*"),
    "generate": (["python", "-m", "pipeline.generate", "all", "50"], "data/synthetic", "*.jpg"),
    "train_reid": (["python", "-m", "pipeline.train_reid", "standard"], "data/reid", "step-*/*"),
}
KILLS = 3  # of each stage


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, random base weights, and the output of every stage."""
    folder = tmp_path_factory.mktemp("project")
    make_market(folder / "data/world")
    write_params(folder, embedded(tiny.save_base(folder / "base") | SMALL))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["stage"])
        for stage in (index, poses, subset, plan):
            stage.main()
    for command, _, _ in LONG.values():
        stages.run(folder, *command)
    return folder


def checksums(folder: Path, pattern: str = "*") -> dict[str, str]:
    return {str(file.relative_to(folder)): md5(file) for file in folder.rglob(pattern) if file.is_file()}


def results(project: Path, stage: str) -> dict[str, str]:
    """Return the checksums of what a stage leaves: its output, and its last checkpoints or images."""
    _, output, pattern = LONG[stage]
    return checksums(project / output) | checksums(project / ".scratch" / stage, pattern)


@pytest.mark.parametrize("stage", LONG)
def test_kills_at_random_moments_change_no_byte(project: Path, stage: str) -> None:
    command, output, _ = LONG[stage]
    scratch = project / ".scratch" / stage
    before, output_before = results(project, stage), checksums(project / output)
    shutil.rmtree(scratch)
    start = time.monotonic()
    stages.run(project, *command)
    duration = time.monotonic() - start
    assert results(project, stage) == before

    shutil.rmtree(scratch)
    kills = continued = 0
    rng = np.random.default_rng(0)
    while kills < KILLS or (not continued and kills < 10 * KILLS):  # a small stage is hard to hit
        continued += bool(list(scratch.glob("*/step-*")) + list(scratch.glob("*/batch-*")))
        process = stages.start(project, *command)
        try:
            errors = process.communicate(timeout=rng.uniform(0, duration))[1]
        except subprocess.TimeoutExpired:
            stages.kill(process)
        if process.returncode == -signal.SIGKILL:
            kills += 1
            left = {name: value for name, value in checksums(project / output).items() if "@" not in name}
            assert left.items() <= output_before.items(), "the old output stays until the stage is done"
        else:  # it had come to its end before
            assert process.returncode == 0, errors
            assert results(project, stage) == before
            shutil.rmtree(scratch)
    assert continued, "no kill left anything to continue from"
    stages.run(project, *command)
    assert results(project, stage) == before


def test_a_kill_of_a_stage_with_workers_changes_no_byte(project: Path) -> None:
    """On several cores, re-ID models are trained in processes of their own."""
    command, scratch = LONG["train_reid"][0], project / ".scratch/train_reid"
    before = results(project, "train_reid")
    shutil.rmtree(scratch)
    process = stages.start(project, *command, cores=stages.CORES)
    while len({step.parent for step in scratch.glob("*/step-*")}) < min(2, len(stages.CORES)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    stages.kill(process)
    stages.run(project, *command)
    assert results(project, "train_reid") == before


@pytest.mark.parametrize("stage", LONG)
def test_two_processes_at_once_do_the_work_once(project: Path, stage: str) -> None:
    before = results(project, stage)
    shutil.rmtree(project / ".scratch" / stage)
    both = [stages.start(project, *LONG[stage][0]) for _ in range(2)]
    errors = "".join(stages.finish(process).stderr for process in both)
    assert "waiting for process" in errors and "which is at work in .scratch" in errors
    assert results(project, stage) == before


@pytest.mark.parametrize("stage", LONG)
def test_a_full_disk_costs_one_sentence_and_the_next_run_goes_on(project: Path, stage: str) -> None:
    command, output, _ = LONG[stage]
    before = results(project, stage)
    shutil.rmtree(project / ".scratch" / stage)
    done = stages.run(project, *command, disk=500, code=1)
    sentence = r"cannot be written \(File too large\); it was not changed\n"
    assert re.search(rf"^{stage}: \.scratch/{stage}/\S+: {sentence}\Z", done.stderr, re.MULTILINE), (
        done.stderr
    )
    assert "Traceback" not in done.stderr
    assert checksums(project / output).items() <= before.items()
    stages.run(project, *command)
    assert results(project, stage) == before


def test_a_launcher_trains_on_two_processes_the_weights_of_one(project: Path, tmp_path: Path) -> None:
    """As `dvc repro` does with LAUNCH; gradients are averaged, so that only rounding differs."""
    shutil.copytree(project, tmp_path / "two", ignore=shutil.ignore_patterns(".scratch", "models", "reports"))
    stage = read_yaml(REPOSITORY / "dvc.yaml")["stages"]["train_generator"]
    command = stage["cmd"].replace("\\$", "$").replace("${item.train_on}", "all")
    done = stages.run(tmp_path / "two", "sh", "-c", command, environment=stages.TWO_PROCESSES)
    assert done.stdout.count("joint images to train on") == 1, "the main process alone speaks"
    model = "models/generator/all/100"
    assert sorted(checksums(tmp_path / "two" / model)) == sorted(checksums(project / model))
    file = f"{model}/denoiser/diffusion_pytorch_model.safetensors"
    two, one = load_file(tmp_path / "two" / file), load_file(project / file)
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)
    assert any(not torch.equal(two[name], one[name]) for name in one), "one process did all"


def test_a_damaged_image_is_made_again(project: Path) -> None:
    before = checksums(project / "data/synthetic")
    damaged = sorted((project / ".scratch/generate").rglob("*.jpg"))[3]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    done = stages.run(project, *LONG["generate"][0])
    assert f"{damaged.name} is not as it was written" in done.stderr
    assert checksums(project / "data/synthetic") == before


def test_generated_images_bear_the_marks_that_the_manifest_lists(project: Path) -> None:
    folder = project / "data/synthetic/all/50"
    manifest = verify.read_manifest(folder / "manifest.csv", folder)
    planned = pd.read_csv(project / "data/plans/all/50.csv")
    assert sorted(file.name for file in manifest) == sorted(planned.name)
    assert all(set(verify.MARKS) <= set(row) for row in manifest.values())
    assert verify.compare(folder, manifest) == []
