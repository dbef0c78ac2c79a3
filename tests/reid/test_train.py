from functools import partial

import numpy as np
import pytest
import torch

import reid.train
from pipeline.runtime.checkpoints import Checkpoints
from reid.evaluate import distances, evaluate, features
from reid.model import BoT
from reid.train import learning_rate, train

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
    assert learning_rate(bot(), iteration) == pytest.approx(3.5e-4 * factor)


def test_schedule_scales_with_the_iterations(bot):
    long, short = bot(), bot(iterations=240)
    for epoch in range(120):
        assert learning_rate(short, 2 * epoch) == learning_rate(long, 183 * epoch)
        assert learning_rate(short, 2 * epoch + 1) == learning_rate(long, 183 * epoch)


def test_schedule_without_warmup(bot):
    assert learning_rate(bot(warmup_epochs=0), 0) == 3.5e-4


# --- training -----------------------------------------------------------------------------------------------


def test_training_separates_people(small):
    settings = small(iterations=60, learning_rate=3e-3, milestones=(90,), padding=0, erasing_probability=0.0)
    untrained = train(IMAGES, PIDS, REAL, settings.model_copy(update={"iterations": 1}), 0)
    assert rank1(untrained) < 0.6
    assert rank1(train(IMAGES, PIDS, REAL, settings, 0)) > 0.9


def test_training_is_a_function_of_its_arguments(small):
    random_state = torch.get_rng_state()
    first = train(IMAGES, PIDS, HALF, small(), 0, synthetic_share=0.5)
    torch.manual_seed(123)
    second = train(IMAGES, PIDS, HALF, small(), 0, synthetic_share=0.5)
    torch.set_rng_state(random_state)
    assert_same(first, second)
    assert differ(first, train(IMAGES, PIDS, HALF, small(), 1, synthetic_share=0.5))


def test_loss_and_accuracy_are_logged_now_and_then(small):
    logged = {}
    train(IMAGES, PIDS, REAL, small(iterations=25), 0, log=logged.__setitem__)
    assert list(logged) == [20, 25]
    assert all(values["loss"] > 0 and 0 <= values["accuracy"] <= 1 for values in logged.values())


def test_training_leaves_the_global_generator_alone(small):
    before = torch.get_rng_state()
    train(IMAGES, PIDS, REAL, small(iterations=1), 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("killed_at", [3, 5, 8])
def test_a_killed_run_continues_to_the_same_weights(small, tmp_path, monkeypatch, killed_at):
    train = partial(reid.train.train, synthetic_smoothing=0.3, real_first=0.25, real_last=0.25)
    arguments = IMAGES, PIDS, HALF, small(), 0
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
    ],
)
def test_every_trick_is_in_the_loop(small, change):
    settings = small(iterations=4)
    changed = settings.model_copy(update=change)
    assert differ(train(IMAGES, PIDS, REAL, settings, 0), train(IMAGES, PIDS, REAL, changed, 0))


def test_weight_of_synthetic_images(small):
    plain = train(IMAGES, PIDS, REAL, small(), 0)
    assert_same(train(IMAGES, PIDS, REAL, small(), 0, synthetic_weight=0.1), plain)  # none are synthetic
    assert_same(train(IMAGES, PIDS, ~REAL, small(), 0, synthetic_weight=0.5), plain)  # only ratios count
    half = train(IMAGES, PIDS, HALF, small(), 0)
    assert differ(train(IMAGES, PIDS, HALF, small(), 0, synthetic_weight=0.1), half)


def test_label_smoothing_of_synthetic_images(small):
    plain = train(IMAGES, PIDS, HALF, small(), 0)
    assert_same(train(IMAGES, PIDS, HALF, small(), 0, synthetic_smoothing=0.1), plain)  # that of the settings
    assert_same(
        train(IMAGES, PIDS, REAL, small(), 0, synthetic_smoothing=0.5), train(IMAGES, PIDS, REAL, small(), 0)
    )
    assert differ(train(IMAGES, PIDS, HALF, small(), 0, synthetic_smoothing=0.5), plain)
    every = train(IMAGES, PIDS, ~REAL, small(), 0, synthetic_smoothing=0.3)
    assert_same(every, train(IMAGES, PIDS, ~REAL, small(label_smoothing=0.3), 0))


def test_the_first_step_of_two_is_training_on_real_images_alone(small, monkeypatch):
    """Up to its last iteration all is as if there were no synthetic images; from then on they take part."""
    pixels = []

    def augment(images, *inputs):
        pixels.append(images)
        return original(images, *inputs)

    original = reid.train.augment
    monkeypatch.setattr(reid.train, "augment", augment)
    real, synthetic = ~HALF, HALF
    order = np.argsort(synthetic, kind="stable")  # real images first, as the pipeline has them
    images, pids, synthetic = IMAGES[order], PIDS[order], synthetic[order]
    train(IMAGES[real], PIDS[real], REAL[real], small(), 0)
    alone = pixels.copy()
    pixels.clear()
    train(images, pids, synthetic, small(), 0, synthetic_share=0.5, real_first=0.5)
    assert len(pixels) == small().iterations
    same = [torch.equal(a, b) for a, b in zip(alone, pixels, strict=True)]
    assert same == [True] * 6 + [False] * 6
    pixels.clear()
    train(images, pids, synthetic, small(), 0, synthetic_share=0.5, real_first=0.25, real_last=0.5)
    same = [torch.equal(a, b) for a, b in zip(alone, pixels, strict=True)]
    assert same == [True] * 3 + [False] * 3 + [True] * 6
    pixels.clear()
    train(images, pids, synthetic, small(), 0, synthetic_share=0.5)
    assert not torch.equal(alone[0], pixels[0])


@pytest.mark.parametrize("step", ["real_first", "real_last"])
def test_steps_on_real_images_need_one_of_everybody(small, step):
    with pytest.raises(ValueError, match=rf"{step} is 0.5; it needs a real image of every identity"):
        train(IMAGES, PIDS, PIDS == 1, small(), 0, **{step: 0.5})


def test_the_model_comes_back_ready_for_evaluation(small):
    model = train(IMAGES, PIDS, REAL, small(iterations=1), 0)
    assert isinstance(model, BoT)
    assert not model.training


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


def test_synthetic_images_cannot_weigh_nothing(small):
    with pytest.raises(ValueError, match="synthetic_weight is 0"):
        train(IMAGES, PIDS, HALF, small(), 0, synthetic_weight=0.0)
