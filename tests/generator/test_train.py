import re
import signal
import socket
import types
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from tqdm import tqdm

from generator.data import JointSampler
from generator.loss import DenoisingLoss
from generator.train import average_decay, learning_rate, make_accelerator, train, update_average
from pipeline.runtime.checkpoints import Checkpoints
from tests import REPOSITORY, stages
from tests.generator import tiny


def run(folder, denoiser=None, log=lambda step, values: None, views=None, seed=1, **changes):
    settings = tiny.TRAIN.model_copy(update=changes)
    views = views or tiny.views([1] * 5 + [2])
    return train(
        denoiser or tiny.denoiser(levels=1),
        views,
        tiny.scheduler(),
        settings,
        seed,
        Checkpoints(folder),
        log=log,
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run(tmp_path_factory.mktemp("run")).state_dict()


def assert_same(a, b):
    torch.testing.assert_close(dict(a), dict(b), rtol=0, atol=0)


# ---- learning ----


@pytest.mark.slow
def test_a_training_on_four_images_learns_them(tmp_path):
    views, before = tiny.views([1] * 4), tiny.denoiser(levels=1)
    changes = {"flip": 0.0, "drop_features": 0.0, "drop_image": 0.0, "masked_views": (1, 3)}
    fixed = tiny.TRAIN.model_copy(update=changes | {"batch_size": 32})
    batch = JointSampler(views, fixed, 1000, seed=99).draw(0)  # samples that the training does not see

    def loss(denoiser):
        with torch.no_grad():
            return DenoisingLoss(denoiser, tiny.scheduler(), None)(batch).item()

    start = loss(before)
    after = run(
        tmp_path,
        before,
        views=views,
        steps=100,
        batch_size=8,
        learning_rate=1e-2,
        checkpoint_every=100,
        weight_decay=0.0,
        **changes,
    )
    assert loss(after) < 0.6 * start


@pytest.mark.slow
def test_training_changes_every_parameter_and_nothing_frozen(tmp_path):
    denoiser = tiny.denoiser(levels=1)
    before = {name: parameter.clone() for name, parameter in denoiser.named_parameters()}
    views = tiny.views([1] * 5)
    copies = [tensor.clone() for tensor in (views.latent_mean, views.tokens, views.black)]
    run(tmp_path, denoiser, views=views, weight_decay=0.0)
    assert [name for name, p in denoiser.named_parameters() if torch.equal(p, before[name])] == []
    for tensor, copy in zip((views.latent_mean, views.tokens, views.black), copies, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.slow
def test_the_result_is_the_average_and_the_log_tells_the_run(tmp_path):
    denoiser, lines = tiny.denoiser(levels=1), []
    first = next(denoiser.parameters())
    expected, steps = first.detach().clone(), []

    def log(step, values):
        steps.append(step)
        lines.append(values)
        expected.lerp_(first.detach(), 1 - min(0.9, step / (step + 9)))

    average = run(tmp_path, denoiser, log)
    torch.testing.assert_close(next(average.parameters()), expected)
    assert not torch.equal(next(average.parameters()), first)
    assert steps == list(range(1, 7))
    assert [line["learning_rate"] for line in lines] == [0.0005] + [0.001] * 5
    assert all(line["loss"] > 0 and line["grad_norm"] > 0 for line in lines)


def show_bar(monkeypatch):
    """Let the bar appear at once and at every step."""
    at_once = {"delay": 0, "mininterval": 0}
    monkeypatch.setattr("generator.train.tqdm", lambda **options: tqdm(**options | at_once))


@pytest.mark.slow
def test_the_bar_shows_loss_and_rate_and_no_share_of_an_unknown_peak(tmp_path, monkeypatch, capsys):
    show_bar(monkeypatch)
    losses = []
    run(tmp_path, log=lambda step, values: losses.append(values["loss"]))
    last = capsys.readouterr().err.split("\r")[-1]
    assert "24/24" in last and "joint images/s" in last
    assert f"loss {sum(losses) / len(losses):.4f}" in last and "peak" not in last


@pytest.mark.slow
def test_the_bar_shows_the_share_of_the_devices_peak(tmp_path, monkeypatch, capsys):
    show_bar(monkeypatch)
    monkeypatch.setattr("generator.train.peak_flops", lambda device: 1e6)  # fewer FLOP/s than any machine's
    run(tmp_path)
    percent = re.findall(r"(\d+)% of peak", capsys.readouterr().err)
    assert percent and int(percent[-1]) > 100


def test_learning_rate_and_average_decay():
    changes = {"learning_rate": 1.0, "steps": 8, "warmup_steps": 4, "decay_steps": 2}
    settings = tiny.TRAIN.model_copy(update=changes)
    assert [learning_rate(step, settings) for step in range(8)] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 0.5]
    constant = settings.model_copy(update={"warmup_steps": 0, "decay_steps": 0})
    assert {learning_rate(step, constant) for step in range(8)} == {1.0}
    assert average_decay(0, 0.999) == 0.1 and average_decay(10**6, 0.999) == 0.999
    a, b = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    expected = 0.75 * a.weight + 0.25 * b.weight
    update_average(a, b, decay=0.75)
    torch.testing.assert_close(a.weight, expected)


@pytest.mark.slow
def test_bf16_autocast_keeps_single_precision_weights(tmp_path):
    average = run(tmp_path, mixed_precision="bf16", steps=2)
    assert {parameter.dtype for parameter in average.parameters()} == {torch.float32}


@pytest.mark.parametrize(("is_able", "precision"), [(True, "bf16"), (False, "no")])
def test_the_precision_auto_asks_the_device(monkeypatch, is_able, precision):
    monkeypatch.setattr("common.precision.has_bf16", lambda device: is_able)
    accelerator = make_accelerator(tiny.TRAIN.model_copy(update={"mixed_precision": "auto"}))
    assert accelerator.mixed_precision == precision


@pytest.mark.slow
def test_gradient_checkpointing_trains_the_same_weights(tmp_path, uninterrupted):
    denoiser = tiny.denoiser(levels=1)
    average = run(tmp_path, denoiser, gradient_checkpointing=True)
    assert denoiser.is_gradient_checkpointing and not average.is_gradient_checkpointing
    torch.testing.assert_close(average.state_dict(), dict(uninterrupted))


@pytest.mark.slow
def test_a_compiled_step_is_the_same_step(tmp_path, monkeypatch):
    """With the backend that traces both passes as the default one does, which writes kernels for minutes."""
    eager = run(tmp_path / "eager", steps=1)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    counters.clear()
    compiled = run(tmp_path / "compiled", steps=1, compile=True)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict())


# ---- killing and resuming ----


class Stop(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 2, 3, 6])
def test_an_interrupted_run_ends_in_the_same_bits(tmp_path, uninterrupted, after):
    def stop(step, values):
        if step == after:
            raise Stop

    with pytest.raises(Stop):
        run(tmp_path, log=stop)
    steps = []
    assert_same(run(tmp_path, log=lambda step, values: steps.append(step)).state_dict(), uninterrupted)
    assert steps[0] == (after - 1) // 2 * 2 + 1  # from the last checkpoint, which are two steps apart


@pytest.mark.slow
def test_a_finished_run_is_only_read(tmp_path, uninterrupted):
    run(tmp_path)
    assert_same(run(tmp_path, log=lambda step, values: pytest.fail("it trained")).state_dict(), uninterrupted)


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_steps_but_no_bits(tmp_path, uninterrupted):
    run(tmp_path)
    (tmp_path / "step-00000006" / "tensors.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="set aside"):
        assert_same(run(tmp_path).state_dict(), uninterrupted)


def start(folder, out, kill_after=0, cores=stages.OWN_CORE, **environment):
    command = ["python", "-m", "tests.generator.killed", folder, str(kill_after), out]
    environment["ACCELERATE_USE_CPU"] = "1"
    return stages.start(REPOSITORY, *command, environment=environment, cores=cores)


@pytest.mark.slow
def test_a_killed_process_is_continued_to_the_bit(tmp_path, uninterrupted):
    stages.finish(start(tmp_path, tmp_path / "weights", kill_after=5), code=-signal.SIGKILL)
    steps = []
    assert_same(run(tmp_path, log=lambda step, values: steps.append(step)).state_dict(), uninterrupted)
    assert steps == [5, 6]  # from the last checkpoint, and not from the start


@pytest.mark.slow
def test_two_processes_train_as_one_even_if_one_of_them_runs_out_of_memory(tmp_path, uninterrupted):
    """Each draws its half of the same batches (test_data), gradients are averaged: only rounding differs.

    The second process can hold one sample of its two; the first must take one at a time, too.
    """
    weights = train_on_two_processes(tmp_path, {}, {"LARGEST": "1"})
    torch.testing.assert_close(weights, dict(uninterrupted), rtol=1e-3, atol=1e-4)


def train_on_two_processes(folder, *environments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    out = folder / "weights"
    processes = [
        start(folder, out, cores=stages.CORES, RANK=str(rank), LOCAL_RANK=str(rank), **world, **environment)
        for rank, environment in enumerate(environments)
    ]
    for process in processes:
        stages.finish(process)
    return load_file(out)


@pytest.mark.slow
def test_two_processes_train_the_same_compiled(tmp_path):
    one = run(tmp_path / "one").state_dict()
    two = train_on_two_processes(tmp_path, {"COMPILE": "eager"}, {"COMPILE": "eager"})
    torch.testing.assert_close(two, dict(one), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_run_that_is_short_of_memory_ends_in_the_same_weights_up_to_rounding(
    tmp_path, uninterrupted, monkeypatch
):
    sizes = tiny.run_out_of_memory(monkeypatch, largest=1)
    with pytest.warns(UserWarning, match="out of memory: each batch is taken in parts of 1 joint images"):
        denoiser = run(tmp_path)
    assert sizes == [4, 2] + [1] * 4 * tiny.TRAIN.steps
    torch.testing.assert_close(denoiser.state_dict(), uninterrupted, rtol=1e-3, atol=1e-4)


# ---- refusals ----


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_with_the_last_good_checkpoint(tmp_path):
    views = tiny.views([1] * 5)
    run(tmp_path, views=views, steps=2)
    bad = replace(views, latent_std=views.latent_std * float("inf"))
    message = r"The loss became (nan|inf), .* at step 2 with learning rate 0\.001; .*/step-00000002; "
    with pytest.raises(ValueError, match=message):
        run(tmp_path, views=bad)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002"]


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_ruins_the_weights(tmp_path):
    denoiser = tiny.denoiser(levels=1)
    first = next(denoiser.parameters())
    first.register_hook(lambda gradient: gradient * float("inf"))
    before = [parameter.detach().clone() for parameter in denoiser.parameters()]
    message = r"The loss became \d.*, with a gradient of norm (nan|inf), at step 0"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, denoiser)
    assert all(torch.equal(a, b) for a, b in zip(denoiser.parameters(), before, strict=True))
    assert not list(tmp_path.iterdir())


def test_a_weight_that_is_not_finite_after_the_last_step_is_in_no_checkpoint(tmp_path, monkeypatch):
    denoiser = tiny.denoiser(levels=1)

    def spoil(*_):
        next(denoiser.parameters()).data.fill_(float("inf"))

    monkeypatch.setattr("generator.train.update_average", spoil)
    with pytest.raises(ValueError, match="A weight is no longer finite after step 0 with learning rate"):
        run(tmp_path, denoiser, steps=1)
    assert not list(tmp_path.iterdir())


def test_a_batch_that_the_processes_cannot_share_is_refused(tmp_path):
    three = types.SimpleNamespace(process_index=0, num_processes=3)
    with pytest.raises(ValueError, match="batch_size is 4, which 3 processes cannot share evenly"):
        train(
            tiny.denoiser(levels=1), tiny.views([1]), tiny.scheduler(), tiny.TRAIN, 0, None, accelerator=three
        )
