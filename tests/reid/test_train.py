from functools import partial

import numpy as np
import pytest
import torch
from tqdm import tqdm

import reid.train
from pipeline.runtime.checkpoints import Checkpoints
from reid.evaluate import distances, evaluate, features
from reid.model import BoT
from reid.settings import Mix
from reid.train import learning_rate, make_optimizer, train

N_IDENTITIES, N_IMAGES = 8, 10


def people(purpose):
    """Toy people: shirt and trousers of two colours in front of noise, lit by a random lamp.

    The colour of the lamp differs more than the clothes do, so that an untrained network cannot tell them
    apart.
    """
    rng = np.random.default_rng([0, purpose])
    clothes = np.random.default_rng(0).uniform(40, 215, (N_IDENTITIES, 2, 3))
    pids = np.repeat(np.arange(N_IDENTITIES) + 1, N_IMAGES)
    images = rng.uniform(0, 130, (len(pids), 64, 32, 3))
    for image, pid in zip(images, pids, strict=True):
        image[10:35, 8:24] = clothes[pid - 1, 0] + rng.normal(0, 10, (25, 16, 3))
        image[35:60, 8:24] = clothes[pid - 1, 1] + rng.normal(0, 10, (25, 16, 3))
    lamps = rng.uniform(0.6, 1.4, (len(pids), 1, 1, 3))
    return (images * lamps).clip(0, 255).astype(np.uint8), pids


IMAGES, PIDS = people(0)
REAL = np.zeros(len(PIDS), bool)
HALF = np.arange(len(PIDS)) % 2 == 0


def rank1(model):
    """Share of held-out images whose nearest other image shows the same person."""
    images, pids = people(1)
    feature = features(model, images, 40)
    query = np.arange(len(pids)) % 2 == 0
    cameras = query.astype(int)
    return evaluate(
        distances(feature[query], feature[~query]), pids[query], cameras[query], pids[~query], cameras[~query]
    ).rank(1)


def assert_same(model, other):
    for (name, ours), theirs in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def differ(model, other):
    return not torch.equal(model.classifier.weight, other.classifier.weight)


class Logged:
    """Checkpoints that only remember the model's weights."""

    def __init__(self):
        self.states = {}

    def load(self, **parts):
        return 0

    def save(self, done, **parts):
        self.states[done] = {
            name: tensor.detach().clone() for name, tensor in parts["model"].state_dict().items()
        }


# --- schedule -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("iteration", "factor"),
    [
        (0, 0.109),  # the first epoch: 3.82e-5, as reid-strong-baseline logs it
        (182, 0.109),
        (183, 0.208),
        (9 * 183 - 1, 0.901),
        (9 * 183, 1),  # the tenth epoch
        (39 * 183 - 1, 1),
        (39 * 183, 0.1),  # the fortieth
        (69 * 183 - 1, 0.1),
        (69 * 183, 0.01),
        (120 * 183 - 1, 0.01),
    ],
)
def test_published_schedule(bot, iteration, factor):
    assert learning_rate(iteration, bot()) == pytest.approx(3.5e-4 * factor)


def test_schedule_scales_with_the_iterations(bot):
    long, short = bot(), bot(iterations=240)
    for epoch in range(120):
        assert learning_rate(2 * epoch, short) == learning_rate(183 * epoch, long)
        assert learning_rate(2 * epoch + 1, short) == learning_rate(183 * epoch, long)


def test_schedule_without_warmup(bot):
    assert learning_rate(0, bot(warmup_epochs=0)) == 3.5e-4


@pytest.mark.parametrize("floor", [0.0, 0.002])
def test_the_cosine_is_torchs(bot, floor):
    settings = bot(
        iterations=240, schedule="cosine", cosine_floor=floor, warmup_epochs=0, milestones=(10,), epochs=120
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=settings.learning_rate)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 120, floor * settings.learning_rate)
    for epoch in range(120):
        assert learning_rate(2 * epoch, settings) == pytest.approx(theirs.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        theirs.step()


def test_the_steps_are_torchs(bot):
    settings = bot(iterations=120, warmup_epochs=0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=settings.learning_rate)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, settings.milestones, settings.gamma)
    for epoch in range(1, 120):  # torch counts epochs that are done, reid-strong-baseline that which begins
        optimizer.step()
        theirs.step()
        assert learning_rate(epoch - 1, settings) == pytest.approx(theirs.get_last_lr()[0])


def test_the_warm_up_scales_a_cosine_as_it_scales_steps(bot):
    cosine = bot(schedule="cosine", iterations=120)
    assert learning_rate(0, cosine) == pytest.approx(3.5e-4 * 0.109)
    without = bot(schedule="cosine", iterations=120, warmup_epochs=0)
    assert learning_rate(9, cosine) == learning_rate(9, without) > learning_rate(60, cosine)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("adam", lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1)),
        ("amsgrad", lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1, amsgrad=True)),
        ("adamw", lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1)),
        ("sgd", lambda p: torch.optim.SGD(p, 0.01, momentum=0.8, weight_decay=0.1)),
    ],
)
def test_optimizers_are_torchs(bot, name, theirs):
    settings = bot(optimizer=name, learning_rate=0.01, weight_decay=0.1, momentum=0.8)
    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2)]
    optimizers = make_optimizer(weights[:1], settings), theirs(weights[1:])
    for step in range(4):
        for weight, optimizer in zip(weights, optimizers, strict=True):
            optimizer.zero_grad()
            ((weight - step) ** 2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(*weights)


# --- training -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_separates_people(small):
    settings = small(iterations=60, learning_rate=3e-3, milestones=(90,), padding=0, erasing_probability=0.0)
    untrained = train(IMAGES, PIDS, REAL, settings.model_copy(update={"iterations": 1}), 0)
    assert rank1(untrained) < 0.6
    assert rank1(train(IMAGES, PIDS, REAL, settings, 0)) > 0.9


def test_training_is_a_function_of_its_arguments(small):
    random_state = torch.get_rng_state()
    first = train(IMAGES, PIDS, HALF, small(), 0)
    torch.manual_seed(123)
    second = train(IMAGES, PIDS, HALF, small(), 0)
    torch.set_rng_state(random_state)
    assert_same(first, second)
    assert differ(first, train(IMAGES, PIDS, HALF, small(), 1))


def test_loss_and_accuracy_are_logged_now_and_then(small):
    logged = {}
    train(IMAGES, PIDS, REAL, small(iterations=25), 0, log=logged.__setitem__)
    assert list(logged) == [20, 25]
    assert all(values["loss"] > 0 and 0 <= values["accuracy"] <= 1 for values in logged.values())


def test_the_bar_shows_loss_accuracy_and_images_per_second(small, monkeypatch, capsys):
    at_once = {"delay": 0, "mininterval": 0, "leave": True}
    monkeypatch.setattr("reid.train.tqdm", lambda **options: tqdm(**options | at_once))
    logged = {}
    train(IMAGES, PIDS, REAL, small(iterations=3), 0, title="arm", log=logged.__setitem__)
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("arm: 100%") and "48/48" in last and " images/s" in last  # batches of 4 x 4
    assert f"loss {logged[3]['loss']:.3f}, accuracy {logged[3]['accuracy']:.2f}" in last


def test_training_leaves_the_global_generator_alone(small):
    before = torch.get_rng_state()
    train(IMAGES, PIDS, REAL, small(iterations=1), 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize(("killed_at", "own_norms"), [(3, False), (5, False), (8, False), (8, True)])
def test_a_killed_run_continues_to_the_same_weights(small, tmp_path, monkeypatch, killed_at, own_norms):
    arguments = IMAGES, PIDS, HALF, small(), 0
    train = partial(reid.train.train, mix=Mix(own_norms=own_norms))
    done = []

    def augment(*inputs):
        if len(done) == killed_at:
            raise KeyboardInterrupt
        done.append(1)
        return original(*inputs)

    original = reid.train.augment
    with monkeypatch.context() as patch:
        patch.setattr(reid.train, "augment", augment)
        with pytest.raises(KeyboardInterrupt):
            train(*arguments, checkpoints=Checkpoints(tmp_path), checkpoint_every=5)
    assert (tmp_path / "step-00000005").is_dir() == (killed_at >= 5)
    resumed = train(*arguments, checkpoints=Checkpoints(tmp_path), checkpoint_every=5)
    assert_same(resumed, train(*arguments))
    assert_same(resumed, train(*arguments, checkpoints=Checkpoints(tmp_path)))


def test_neck_shift_stays_zero(small):
    neck = train(IMAGES, PIDS, REAL, small(), 0).neck
    assert (neck.bias == 0).all()
    assert (neck.weight != 1).any()


def test_centers_move_at_their_own_rate(small):
    """BoT's centers follow the features by center_learning_rate, whatever weight their loss has for the
    network."""

    class Last:
        def load(self, **parts):
            return 0

        def save(self, done, **parts):
            self.centers = parts["center"].centers.detach().clone()

    def centers(**changes):
        last = Last()
        train(IMAGES, PIDS, REAL, small(iterations=1, **changes), 0, checkpoints=last)
        return last.centers

    start = centers(center_weight=0.0)
    slow = centers(center_learning_rate=0.1) - start
    torch.testing.assert_close(centers(center_weight=0.1) - start, 5 * slow, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(centers(center_weight=5e-4) - start, 5 * slow, rtol=1e-3, atol=1e-5)
    assert (slow != 0).any(dim=1).sum() == 4  # one row for each identity of the batch


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"triplet_weight": 0.0},
        {"center_weight": 0.0},
        {"label_smoothing": 0.0},
        {"bnneck": False},
        {"last_stride": 2},
        {"weight_decay": 0.0},
        {"warmup_epochs": 0},
        {"mixed_precision": "no"},
        {"schedule": "cosine"},
        {"optimizer": "amsgrad"},
        {"optimizer": "adamw"},
        {"optimizer": "sgd"},
        {"triplet_margin": None},
    ],
)
def test_every_trick_is_in_the_loop(small, change):
    settings = small(iterations=4)
    changed = settings.model_copy(update=change)
    assert differ(train(IMAGES, PIDS, REAL, settings, 0), train(IMAGES, PIDS, REAL, changed, 0))


def test_the_rate_of_synthetic_images_is_the_mixs(small):
    settings = small(iterations=4)
    default = train(IMAGES, PIDS, HALF, settings, 0)
    assert_same(train(IMAGES, PIDS, HALF, settings, 0, mix=Mix()), default)
    assert differ(train(IMAGES, PIDS, HALF, settings, 0, mix=Mix(rate=2.0)), default)
    real = train(IMAGES, PIDS, REAL, settings, 0)
    assert_same(train(IMAGES, PIDS, REAL, settings, 0, mix=Mix(rate=2.0)), real)  # none are synthetic


def test_synthetic_images_can_have_batch_norms_of_their_own(small):
    dark = np.where(HALF[:, None, None, None], IMAGES // 8, IMAGES)  # the synthetic ones
    settings, mix = small(iterations=40), Mix(rate=1.0, own_norms=True)
    own, one = (
        train(dark, PIDS, HALF, settings, 0, mix=mix),
        train(dark, PIDS, HALF, settings, 0, mix=Mix(rate=1.0)),
    )
    real = train(dark, PIDS, REAL, settings, 0)

    # The model has the layers of any other, with the statistics of real images.
    assert own.state_dict().keys() == one.state_dict().keys()
    first = next(name for name in own.state_dict() if name.endswith("running_mean"))
    wanted = train(dark[~HALF], PIDS[~HALF], REAL[~HALF], settings, 0).state_dict()[first]
    error = {
        name: (model.state_dict()[first] - wanted).norm() for name, model in (("own", own), ("one", one))
    }
    assert error["own"] < error["one"] / 2

    # Without synthetic images nothing changes.
    assert_same(train(dark, PIDS, REAL, settings, 0, mix=mix), real)


def test_norms_of_their_own_need_a_batch_norm(small):
    backbone = torch.nn.Conv2d(3, 8, 4, 4), 8
    settings = small(backbone="given", bnneck=False)
    with pytest.raises(ValueError, match="own_norms is true, but given without bnneck has no batch norm"):
        train(IMAGES, PIDS, HALF, settings, 0, mix=Mix(own_norms=True), backbone=backbone)


def test_the_model_comes_back_ready_for_evaluation(small):
    model = train(IMAGES, PIDS, REAL, small(iterations=1), 0)
    assert isinstance(model, BoT)
    assert not model.training


def test_a_frozen_backbone_learns_nothing_until_its_epoch(small):
    """6 of 12 epochs are 3 of 6 iterations; a run of so many ends frozen."""
    settings = small(iterations=6, epochs=12, warmup_epochs=0, frozen_epochs=6)
    logged = Logged()
    trained = train(IMAGES, PIDS, REAL, settings, 0, checkpoints=logged, checkpoint_every=1)
    body = {done: state["backbone.0.embedder.convolution.weight"] for done, state in logged.states.items()}
    means = {
        done: state["backbone.0.embedder.normalization.running_mean"] for done, state in logged.states.items()
    }
    heads = {done: state["classifier.weight"] for done, state in logged.states.items()}
    assert torch.equal(body[1], body[3]) and torch.equal(means[1], means[3])
    assert not torch.equal(heads[1], heads[3])
    assert not torch.equal(body[3], body[4]) and not torch.equal(means[3], means[4])
    assert all(parameter.requires_grad for parameter in trained.backbone.parameters())


@pytest.mark.parametrize("frozen_epochs", [0, 6])
def test_what_a_backbone_keeps_fixed_stays_fixed(small, frozen_epochs):
    """Such as the position embeddings of some vision transformers."""
    made = BoT(small(), 1)
    fixed = made.backbone[0].embedder.convolution.weight
    before = fixed.requires_grad_(False).clone()
    settings = small(backbone="given", iterations=4, epochs=12, warmup_epochs=0, frozen_epochs=frozen_epochs)
    train(IMAGES, PIDS, REAL, settings, 0, backbone=(made.backbone, made.dimension))
    assert torch.equal(fixed, before) and not fixed.requires_grad


@pytest.mark.parametrize("killed_after", [2, 4])
def test_a_run_that_was_killed_continues_frozen_or_not(small, tmp_path, killed_after):
    settings = small(iterations=6, epochs=12, warmup_epochs=0, frozen_epochs=6)

    def kill(done, values):
        if done == killed_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            IMAGES, PIDS, REAL, settings, 0, checkpoints=Checkpoints(tmp_path), checkpoint_every=1, log=kill
        )
    resumed = train(IMAGES, PIDS, REAL, settings, 0, checkpoints=Checkpoints(tmp_path), checkpoint_every=1)
    assert_same(resumed, train(IMAGES, PIDS, REAL, settings, 0))


def test_divergence_stops_with_one_sentence(small):
    message = (
        r"the loss of broken is nan, .* at iteration 3 with learning rate .*e\+36; .* no checkpoint; lower"
    )
    with pytest.raises(ValueError, match=message):
        train(
            IMAGES,
            PIDS,
            REAL,
            small(iterations=3).model_copy(update={"learning_rate": 3e38}),
            0,
            title="broken",
        )


def test_a_ruined_model_is_no_checkpoint(small, tmp_path, monkeypatch):
    """The loss of an iteration is that before its step: weights that the step ruins must be seen, too."""
    settings, step, done = small(iterations=4), torch.optim.Adam.step, []

    def ruin(self, *arguments):
        step(self, *arguments)
        done.append(1)
        if len(done) == 3:
            self.param_groups[0]["params"][0].data.fill_(torch.nan)

    monkeypatch.setattr(torch.optim.Adam, "step", ruin)
    message = r"iteration 3 with learning rate .*; the last good state is checkpoint .*step-00000002;"
    with pytest.raises(ValueError, match=message):
        train(IMAGES, PIDS, REAL, settings, 0, checkpoints=Checkpoints(tmp_path), checkpoint_every=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_images_of_another_size_are_refused(small):
    with pytest.raises(ValueError, match="ask for height 96"):
        train(IMAGES, PIDS, REAL, small(height=96), 0)
