"""The benchmarks run, at sizes of seconds; what they measure is not looked at here."""

import json
import sys

import numpy as np
import pytest
import torch

from benchmarks import data, generator, keypoints, reid, speed
from common.precision import resolve
from generator.cost import pipeline_flops, training_flops
from pipeline import index, poses
from pipeline.params import load_params
from tests import REPOSITORY, embedded, write_params
from tests.generator import tiny
from tests.generator.test_sample import pipeline
from tests.pipeline.keypoints.test_vitpose import save_vitpose
from tests.pipeline.market import make_market

pytestmark = pytest.mark.slow

PAPER = load_params(REPOSITORY / "profiles/market1501.yaml")
EMBEDDED = load_params(REPOSITORY / "profiles/embedded.yaml")
CPU = torch.device("cpu")


# ---- generator ----


@pytest.fixture
def tiny_networks(monkeypatch):
    """Networks of the tests in place of large ones."""
    monkeypatch.setattr(generator, "build", lambda device, view_size, params: pipeline())


def test_every_number_of_the_generator_is_measured(tiny_networks):
    result = generator.measure((32, 16), CPU, EMBEDDED, compiled=False)
    assert (result.size, result.batch, result.part, result.sample_part) == ("32x16", 4, 4, 4)
    numbers = (result.step, result.forward, result.memory, result.naive_joint)
    assert min(*numbers, result.sample_rate, result.naive_sample_rate) > 0


def test_what_is_compared_with_compiled_steps_is_not_compiled(tiny_networks, monkeypatch):
    """The order of the measurements, none of which is made."""
    calls = []

    def note(name, result):
        return lambda *arguments: calls.append(name) or result

    for name in ("sample", "encode_joint"):
        monkeypatch.setattr(generator, name, note(name, 1))
    monkeypatch.setattr(
        generator,
        "training_step",
        lambda imagpose, views, settings: calls.append("compiled" if settings.compile else "plain") or 1.0,
    )
    generator.measure((32, 16), CPU, EMBEDDED, compiled=True)
    assert calls[-1] == "compiled" and set(calls[:-1]) == {"plain", "sample", "encode_joint"}


def test_a_batch_that_was_taken_in_parts_says_so(tiny_networks, monkeypatch):
    monkeypatch.setattr(generator, "timed", lambda work, device: 1.0)
    tiny.run_out_of_memory(monkeypatch, largest=1)
    result = generator.measure((32, 16), CPU, EMBEDDED, compiled=False)
    assert (result.batch, result.part, result.sample_part) == (4, 1, 4)
    assert generator.in_parts(4, 1) == "4 in 1s" and generator.in_parts(4, 4) == "4"


def test_the_embedded_networks_are_those_of_the_run(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    denoiser = generator.build(CPU, (128, 64), EMBEDDED).denoiser
    assert denoiser.config == denoiser.load_config(EMBEDDED.generator.base / "denoiser")


def test_on_a_gpu_the_networks_have_the_true_sizes():
    imagpose = generator.build(torch.device("meta"), (128, 64), PAPER)
    millions = [
        sum(parameter.numel() for parameter in network.parameters()) / 1e6
        for network in (imagpose.vae, imagpose.image_encoder, imagpose.denoiser)
    ]
    assert millions == pytest.approx([84, 1136, 1135], rel=0.01)
    assert imagpose.view_size == (128, 64) and imagpose.token_size == (224, 112)
    flops = training_flops(pipeline_flops(imagpose), PAPER.generator.train)
    assert flops / 1e18 == pytest.approx(3.8, rel=0.05)  # as in test_cost


@pytest.mark.parametrize(
    ("arguments", "compiled"), [([], False), (["--compile"], True), (["--no-compile"], False)]
)
def test_steps_are_compiled_as_the_parameters_say_unless_it_is_asked_for(
    arguments, compiled, monkeypatch, capsys
):
    calls = []

    def measure(size, device, params, compiled):
        calls.append((size, compiled))
        return generator.Result("128x64", 4, 2, 1.0, 10**9, 2**30, 1.0, 1, 1.0, 1.0)

    monkeypatch.setattr(generator, "load_params", lambda file: EMBEDDED)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(generator, "measure", measure)
    monkeypatch.setattr(generator, "peak_flops", lambda device: (1e12, "test"))
    monkeypatch.setattr(sys, "argv", ["generator", "--sizes", "64x32", *arguments])
    generator.main()
    assert calls == [((64, 32), compiled)]
    head, _, row = capsys.readouterr().out.splitlines()[2:]
    assert head.count("|") == row.count("|") and row.startswith("| 128x64 | 4 in 2s | 1000 ms | 4 | 1% |")


# ---- reid ----


def test_a_training_of_the_re_id_model_is_timed_and_estimated(monkeypatch, capsys):
    small = {"channels": 8, "height": 32, "width": 16, "identities_per_batch": 2, "images_per_identity": 2}
    params = EMBEDDED.model_copy(update={"reid": EMBEDDED.reid.model_copy(update=small)})
    monkeypatch.setattr(reid, "IDENTITIES", 3)
    monkeypatch.setattr(reid, "load_params", lambda file: params)
    monkeypatch.setattr(sys, "argv", ["reid", "--rounds", "1"])
    reid.main()
    output = capsys.readouterr().out
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert f"resnet10, batch 4 of 32x16, precision {resolve('auto', device)}" in output
    assert "one model of 300 iterations: " in output and "an arm of 12 models: " in output
    monkeypatch.setattr(sys, "argv", ["reid", "--judge", "osnet"])
    with pytest.raises(ValueError, match="--judge is osnet; expected one of none"):
        reid.main()


# ---- keypoints ----


def test_a_detector_is_timed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(keypoints, "IMAGES", 2)
    monkeypatch.setattr(sys, "argv", ["keypoints", "vitpose", str(save_vitpose(tmp_path / "vitpose"))])
    keypoints.main()
    assert "images/s per core (median of 2); somebody is found in 100%" in capsys.readouterr().out


# ---- speed ----


def test_speed_measures_both_methods_and_draws_them(tmp_path, monkeypatch, capsys):
    market = make_market(tmp_path / "market")
    monkeypatch.chdir(tmp_path)
    changes = {
        "dataset.root": str(market),
        "poses.path": str(market / "keypoints.csv"),
        "index.validation_identities": 1,
        "generate.sample.steps": 1,
    }
    write_params(tmp_path, embedded(changes))
    index.main()
    poses.main()
    monkeypatch.setattr(speed, "load_model", lambda folder, params: (pipeline(), "tiny"))
    height, width = tiny.VIEW_SIZE
    to_view = speed.to_view
    sizes = EMBEDDED.dataset.model_copy(update={"height": height, "width": width})
    monkeypatch.setattr(speed, "to_view", lambda image, dataset: to_view(image, sizes))
    monkeypatch.setattr(sys, "argv", ["speed", "--people", "2", "--rounds", "1"])
    speed.main()
    report = json.loads(speed.REPORT.read_text())
    assert report["setting"]["images"] == 6 and report["setting"]["rounds"] == 1
    for method in ("T1", "IMAGPose*"):
        assert report[method]["seconds_per_image"] > 0 and -1 <= report[method]["ssim"] <= 1
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


# ---- data ----


def test_the_stages_that_read_a_data_set_are_timed(monkeypatch, capsys):
    people = {"bounding_box_train": (8, 160), "query": (8, 16), "bounding_box_test": (8, 32)}
    monkeypatch.setattr(data, "PEOPLE", people)
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "argv", ["data"])
    data.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("208 images, ")
    assert [line.split()[0] for line in lines[1:]] == ["index", "poses", "subset", "plan", "all"]
