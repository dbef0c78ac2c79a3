"""The benchmarks run, at sizes of seconds; what they measure is not looked at here."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import generator, reid, speed
from generator.cost import pipeline_flops, training_flops
from pipeline import index, poses
from pipeline.params import load_params
from tests import REPOSITORY
from tests.generator import tiny
from tests.generator.test_sample import pipeline
from tests.pipeline.market import make_market

PAPER = load_params(REPOSITORY / "profiles/market1501.yaml")
EMBEDDED = load_params(REPOSITORY / "profiles/embedded.yaml")
CPU = torch.device("cpu")


# ---- generator ----


def test_every_number_of_the_generator_is_measured(monkeypatch):
    monkeypatch.setattr(generator, "build", lambda device, view_size, params: pipeline())
    found = generator.measure((32, 16), CPU, EMBEDDED, compiled=False)
    assert (found.size, found.batch, found.part, found.sample_part) == ("32x16", 4, 4, 4)
    numbers = (found.step, found.flops, found.memory, found.naive_joint, found.sampled, found.naive_sampled)
    assert min(numbers) > 0


def test_what_is_compared_with_compiled_steps_is_not_compiled(monkeypatch):
    done = []

    def note(name):
        work = getattr(generator, name)

        def noted(*arguments):
            done.append(name)
            return work(*arguments)

        return noted

    monkeypatch.setattr(generator, "build", lambda device, view_size, params: pipeline())
    for name in ("training_step", "sample", "encode_joint"):
        monkeypatch.setattr(generator, name, note(name))
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: done.append("compile"))
    generator.measure((32, 16), CPU, EMBEDDED, compiled=True)
    assert done[-2:] == ["training_step", "compile"] and done.count("compile") == 1
    assert {"training_step", "sample", "encode_joint"} == set(done[:-2])


def test_a_batch_that_was_taken_in_parts_says_so(monkeypatch):
    monkeypatch.setattr(generator, "build", lambda device, view_size, params: pipeline())
    tiny.run_out_of_memory(monkeypatch, largest=1)
    found = generator.measure((32, 16), CPU, EMBEDDED, compiled=False)
    assert (found.batch, found.part, found.sample_part) == (4, 1, 4)
    assert generator.in_parts(4, 1) == "4 in 1s" and generator.in_parts(4, 4) == "4"


def test_the_embedded_parts_are_those_of_the_run(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    parts = generator.build(CPU, (128, 64), EMBEDDED)
    assert parts.denoiser.config == parts.denoiser.load_config(EMBEDDED.generator.base / "denoiser")


def test_on_a_gpu_the_parts_have_the_true_sizes():
    parts = generator.build(torch.device("meta"), (128, 64), PAPER)
    millions = [
        sum(parameter.numel() for parameter in part.parameters()) / 1e6
        for part in (parts.vae, parts.image_encoder, parts.denoiser)
    ]
    assert millions == pytest.approx([84, 1136, 1135], rel=0.01)
    assert parts.view_size == (128, 64) and parts.token_size == (224, 112)
    flops = training_flops(pipeline_flops(parts), PAPER.generator.train)
    assert flops / 1e18 == pytest.approx(3.8, rel=0.05)  # as in test_cost


@pytest.mark.parametrize(
    ("arguments", "compiled"), [([], False), (["--compile"], True), (["--no-compile"], False)]
)
def test_steps_are_compiled_as_the_parameters_say_unless_it_is_asked_for(
    arguments, compiled, monkeypatch, capsys
):
    asked = []

    def measure(size, device, params, compiled):
        asked.append((size, compiled))
        return generator.Result("128x64", 4, 2, 1.0, 1e9, 2**30, 1.0, 1, 1.0, 1.0)

    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(generator, "measure", measure)
    monkeypatch.setattr(generator, "peak_flops", lambda device: (1e12, "test"))
    monkeypatch.setattr(sys, "argv", ["generator", "--sizes", "64x32", *arguments])
    generator.main()
    assert asked == [((64, 32), compiled)]
    head, _, row = capsys.readouterr().out.splitlines()[2:]
    assert head.count("|") == row.count("|") and row.startswith("| 128x64 | 4 in 2s | 1000 ms | 4 |")


# ---- reid ----


def test_a_training_of_the_re_id_model_is_timed_and_estimated(monkeypatch, capsys):
    small = {"channels": 8, "height": 32, "width": 16, "identities_per_batch": 2, "images_per_identity": 2}
    params = EMBEDDED.model_copy(update={"reid": EMBEDDED.reid.model_copy(update=small)})
    monkeypatch.setattr(reid, "IDENTITIES", 3)
    monkeypatch.setattr(reid, "load_params", lambda file: params)
    monkeypatch.setattr(sys, "argv", ["reid", "--rounds", "1"])
    reid.main()
    said = capsys.readouterr().out
    assert "resnet10, batch 4 of 32x16, bf16" in said
    assert "one model of 300 iterations: " in said and "an arm of 12 models: " in said


# ---- speed ----


def test_speed_measures_both_methods_and_draws_them(tmp_path, monkeypatch, capsys):
    market = make_market(tmp_path / "market")
    monkeypatch.chdir(tmp_path)
    text = (REPOSITORY / "profiles/embedded.yaml").read_text().replace("root: data/world", f"root: {market}")
    text = text.replace("validation_identities: 20", "validation_identities: 1")
    Path("params.yaml").write_text(text.replace("steps: 10 # of DDIM", "steps: 1 #"))
    index.main()
    poses.main()
    monkeypatch.setattr(speed, "load_model", lambda folder, params: (pipeline(), "tiny"))
    height, width = tiny.VIEW_SIZE
    to_view = speed.to_view
    sizes = EMBEDDED.dataset.model_copy(update={"height": height, "width": width})
    monkeypatch.setattr(speed, "to_view", lambda image, dataset: to_view(image, sizes))
    monkeypatch.setattr(sys, "argv", ["speed", "--people", "2", "--rounds", "1"])
    speed.main()
    found = json.loads(speed.REPORT.read_text())
    assert found["setting"]["images"] == 6 and found["setting"]["rounds"] == 1
    for method in ("T1", "IMAGPose*"):
        assert found[method]["seconds_per_image"] > 0 and -1 <= found[method]["ssim"] <= 1
    assert speed.REPORT.with_suffix(".png").is_file()
    assert "figure: reports/speed.png" in capsys.readouterr().out

    monkeypatch.setattr(sys, "argv", ["speed", "--people", "100"])
    with pytest.raises(ValueError, match="--people is 100; only 3 test identities have 4 images with a pose"):
        speed.main()


def test_t1_and_imagpose_make_the_same_images_from_the_same_noise():
    targets = np.stack([tiny.keypoints(3, seed) for seed in range(2)])
    one, three = (speed.requests(method, 2, targets) for method in ("T1", "IMAGPose*"))
    assert [seed for request in one for seed in request.seeds] == list(range(6))
    assert [seed for request in three for seed in request.seeds] == list(range(6))
    np.testing.assert_array_equal(*(np.concatenate([r.poses for r in each]) for each in (one, three)))
