"""The stages that take long: killed, run twice at once, out of disk, and once more elsewhere.

Random weights and random images; what the stages make of them is the same bytes whatever happens to them.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from pipeline import index, plan, poses, subset
from pipeline.runtime.scratch import md5
from tests import REPOSITORY, stages
from tests.generator import tiny
from tests.pipeline.market import make_market
from tools import verify

pytestmark = pytest.mark.slow

SMALL = {
    "dataset": {"height": 64, "width": 32},
    "index": {"validation_identities": 0},
    "subset": {"percents": [50]},
    "plan": {"min_keypoints": 1},
    "generator": {
        "base": "base",
        "image_encoder": "base/image_encoder",
        "token_height": 32,
        "token_width": 16,
        "denoiser": tiny.DENOISER.model_dump(mode="json"),
        "train": {**tiny.TRAIN.model_dump(mode="json"), "steps": 12, "checkpoint_every": 1},
    },
    "generate": {"sample": {"steps": 2, "batch_size": 1}},
    "reid": {
        "seeds": [0],
        "channels": 8,
        "height": 64,
        "width": 32,
        "identities_per_batch": 2,
        "images_per_identity": 2,
        "iterations": 24,  # a learning curve has a point at 20 and at the end
        "checkpoint_every": 1,
        "mixed_precision": "no",
    },
}
# stage, its argument or arguments, what it writes, and what of its scratch must be the same, too
LONG = [
    ("train_generator", ["all"], "models/generator", "step-*/*"),
    ("generate", ["all", "50"], "data/synthetic", "*.jpg"),
    ("train_reid", ["standard"], "data/reid", "step-*/*"),
]
STAGES = pytest.mark.parametrize(("stage", "arguments", "output", "kept"), LONG, ids=[row[0] for row in LONG])
KILLS = 8  # of each stage


def merge(values, changes):
    for key, change in changes.items():
        assert key in values, key
        if isinstance(change, dict):
            merge(values[key], change)
        else:
            values[key] = change


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A data set, random base weights, and the output of every stage."""
    folder = tmp_path_factory.mktemp("project")
    make_market(folder / "data/world")
    tiny.unet().save_pretrained(folder / "base/unet")
    tiny.vae().save_pretrained(folder / "base/vae")
    tiny.image_encoder().save_pretrained(folder / "base/image_encoder")
    tiny.scheduler().save_pretrained(folder / "base/scheduler")
    yaml = YAML()
    values = yaml.load((REPOSITORY / "profiles/embedded.yaml").read_text())
    merge(values, SMALL)
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(values, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["stage"])
        for stage in (index, poses, subset, plan):
            stage.main()
    for stage, arguments, _, _ in LONG:
        assert stages.run(folder, stage, *arguments) == 0, (folder / stages.LOG).read_text()
    return folder


def checksums(folder, pattern="*"):
    return {str(file.relative_to(folder)): md5(file) for file in folder.rglob(pattern) if file.is_file()}


def results(project, stage, output, kept):
    """What a stage leaves: its output, and its last checkpoints or images, wherever their folder is."""
    return checksums(project / output) | checksums(project / ".scratch" / stage, kept)


@STAGES
def test_kills_at_random_moments_change_no_byte(project, stage, arguments, output, kept):
    scratch = project / ".scratch" / stage
    before = results(project, stage, output, kept)
    shutil.rmtree(scratch)
    start = time.monotonic()
    assert stages.run(project, stage, *arguments) == 0
    duration = time.monotonic() - start
    assert results(project, stage, output, kept) == before

    shutil.rmtree(scratch)
    kills = continued = 0
    random = np.random.default_rng(0)
    while kills < KILLS or (not continued and kills < 10 * KILLS):  # a small stage is hard to hit
        continued += bool(list(scratch.glob("*/step-*")) + list(scratch.glob("*/batch-*")))
        process = stages.start(project, stage, *arguments)
        process.join(random.uniform(0, duration))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            kills += 1
        else:  # it had come to its end before
            assert process.exitcode == 0, (project / stages.LOG).read_text()
            assert results(project, stage, output, kept) == before
            shutil.rmtree(scratch)
    assert continued, "no kill left anything to continue from"
    assert stages.run(project, stage, *arguments) == 0
    assert results(project, stage, output, kept) == before


@STAGES
def test_two_processes_at_once_do_the_work_once(project, stage, arguments, output, kept):
    before = results(project, stage, output, kept)
    shutil.rmtree(project / ".scratch" / stage)
    (project / stages.LOG).unlink()
    both = [stages.start(project, stage, *arguments) for _ in range(2)]
    for process in both:
        process.join()
    said = (project / stages.LOG).read_text()
    assert [process.exitcode for process in both] == [0, 0], said
    assert "waiting for process" in said and "which is at work in .scratch" in said
    assert results(project, stage, output, kept) == before


@STAGES
def test_a_full_disk_costs_one_sentence_and_the_next_run_goes_on(project, stage, arguments, output, kept):
    before = results(project, stage, output, kept)
    shutil.rmtree(project / ".scratch" / stage)
    (project / stages.LOG).unlink()
    assert stages.run(project, stage, *arguments, disk=500) == 1
    said = (project / stages.LOG).read_text()
    sentence = r"cannot be written \(File too large\); it was not changed\n"
    assert re.search(rf"^{stage}: \.scratch/{stage}/\S+: {sentence}\Z", said, re.MULTILINE), said
    assert "Traceback" not in said
    assert checksums(project / output).items() <= before.items()
    assert stages.run(project, stage, *arguments) == 0
    assert results(project, stage, output, kept) == before


def test_another_folder_gives_the_same_bytes(project, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    for name in ("data/world", "base"):
        shutil.copytree(project / name, elsewhere / name)
    shutil.copy(project / "params.yaml", elsewhere)
    for stage, arguments in [("index", []), ("poses", []), ("subset", []), ("plan", [])]:
        assert stages.run(elsewhere, stage, *arguments, threads=2) == 0, (elsewhere / stages.LOG).read_text()
    for stage, arguments, _, _ in LONG:
        assert stages.run(elsewhere, stage, *arguments) == 0, (elsewhere / stages.LOG).read_text()
    for folder in ("data", "models", "reports"):
        assert checksums(elsewhere / folder) == checksums(project / folder)


def test_a_launcher_trains_on_two_processes_the_weights_of_one(project, tmp_path):
    """As `dvc repro` does with LAUNCH; gradients are averaged, so that only rounding differs."""
    shutil.copytree(project, tmp_path / "two", ignore=shutil.ignore_patterns(".scratch", "models", "reports"))
    stage = YAML().load((REPOSITORY / "dvc.yaml").read_text())["stages"]["train_generator"]
    command = stage["cmd"].replace("\\$", "$").replace("${item.train_on}", "all")
    environment = stages.TWO_PROCESSES | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path / "two",
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("joint images to train on") == 1, "the main process alone speaks"
    model = "models/generator/all/100"
    assert sorted(checksums(tmp_path / "two" / model)) == sorted(checksums(project / model))
    file = f"{model}/denoiser/diffusion_pytorch_model.safetensors"
    two, one = load_file(tmp_path / "two" / file), load_file(project / file)
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)
    assert any(not torch.equal(two[name], one[name]) for name in one), "one process did all"


def test_a_damaged_image_is_made_again(project):
    before = checksums(project / "data/synthetic")
    damaged = sorted((project / ".scratch/generate").rglob("*.jpg"))[3]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    (project / stages.LOG).unlink()
    assert stages.run(project, "generate", "all", "50") == 0
    assert f"{damaged.name} is not as it was written" in (project / stages.LOG).read_text()
    assert checksums(project / "data/synthetic") == before


def test_generated_images_bear_the_marks_that_the_manifest_lists(project):
    folder = project / "data/synthetic/all/50"
    listed = verify.read_manifest(folder / "manifest.csv", folder)
    planned = pd.read_csv(project / "data/plans/50.csv")
    assert sorted(file.name for file in listed) == sorted(planned.name)
    assert all(set(verify.MARKS) <= set(row) for row in listed.values())
    assert verify.compare(folder, listed) == []
