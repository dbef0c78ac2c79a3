"""Tests of the training of the network that tells people apart by their latents."""

import numpy as np
import pytest
import torch

from foundation.identity import nearest_is_right, train_identity
from foundation.settings import IdentitySettings
from generator.data import EncodedViews
from pipeline.runtime.checkpoints import Checkpoints

SETTINGS = IdentitySettings(
    weight=1.0,
    channels=(8, 8, 16),
    steps=40,
    identities_per_batch=4,
    images_per_identity=3,
    learning_rate=1e-2,
    warmup_steps=5,
    weight_decay=0.0,
    label_smoothing=0.1,
    triplet_margin=0.3,
    noise=0.3,
    erasing_probability=0.5,
    checkpoint_every=10,
)


def views(people, each):
    """Latents of people who differ in a mean of their own, beside noise."""
    rng = torch.Generator().manual_seed(0)
    pids = torch.arange(people).repeat_interleave(each)
    means = torch.randn(people, 4, 1, 1, generator=rng)[pids] + torch.randn(len(pids), 4, 8, 4, generator=rng)
    empty = torch.zeros(len(pids), 1, 1, 1)
    return EncodedViews(
        latent_mean=means[:, None].half(),
        latent_std=torch.full_like(means, 0.1)[:, None].half(),
        tokens=empty,
        skeletons=empty,
        pids=pids,
        black=torch.full((4, 8, 4), -1.0),
    )


def test_a_trained_network_tells_people_apart(tmp_path):
    data = views(people=8, each=6)
    latents, pids = data.latent_mean[:, 0].float(), data.pids.numpy()
    log = []
    network = train_identity(data, SETTINGS, 0, Checkpoints(tmp_path), lambda step, values: log.append(step))
    assert log == [10, 20, 30, 40]  # every 20 steps, and at checkpoints
    assert nearest_is_right(network, latents, pids) > 90
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_a_training_that_was_stopped_ends_in_the_same_weights(tmp_path):
    data = views(people=8, each=6)
    whole = train_identity(data, SETTINGS, 0, Checkpoints(tmp_path / "whole"))

    class Stop(Exception):
        pass

    class StopsOnce(Checkpoints):
        def save(self, done, **parts):
            super().save(done, **parts)
            if done == 20:
                raise Stop

    with pytest.raises(Stop):
        train_identity(data, SETTINGS, 0, StopsOnce(tmp_path / "stopped"))
    again = train_identity(data, SETTINGS, 0, Checkpoints(tmp_path / "stopped"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    wild = SETTINGS.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(ValueError, match=r"not finite, .* lower identity\.learning_rate"):
        train_identity(views(people=8, each=6), wild, 0, Checkpoints(tmp_path))


class Angle:
    """A network whose feature is the latent itself, as an angle."""

    def features(self, latents):
        angle = latents.flatten()
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_the_nearest_other_latent_counts():
    latents = torch.tensor([1.0, 1.1, -1.0, -1.2, 0.95]).view(5, 1, 1, 1)
    # 0 and 1 are one person, 2 and 3 another; 4 is a third who looks like the first
    assert nearest_is_right(Angle(), latents, np.array([0, 0, 1, 1, 2])) == pytest.approx(60)
