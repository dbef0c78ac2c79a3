import math
from dataclasses import replace

import pytest
import torch

from generator.data import JointSampler
from generator.grid import join, split
from generator.loss import DenoisingLoss, min_snr_weight, predicted_latents, prediction_target
from tests.generator import tiny

V = tiny.scheduler()
EPSILON = tiny.scheduler(prediction_type="epsilon", rescale_betas_zero_snr=False)


def batch():
    return JointSampler(tiny.views([1] * 5), tiny.TRAIN, 1000, seed=0).draw(0)


def test_targets():
    sample = batch()
    a = V.alphas_cumprod[sample.timesteps].view(-1, 1, 1, 1)
    inputs = sample.latents, sample.noise, sample.timesteps
    velocity = a.sqrt() * sample.noise - (1 - a).sqrt() * sample.latents
    torch.testing.assert_close(prediction_target(V, *inputs), velocity)
    assert prediction_target(EPSILON, *inputs) is sample.noise


@pytest.mark.parametrize("scheduler", [V, EPSILON])
def test_min_snr_weights(scheduler):
    timesteps = torch.tensor([0, 10, 300, 700, 998])
    weights = min_snr_weight(scheduler, timesteps, gamma=5.0).tolist()
    for timestep, weight in zip(timesteps, weights, strict=True):
        a = float(scheduler.alphas_cumprod[timestep])
        snr = a / (1 - a)
        expected = min(snr, 5) / (snr + 1) if scheduler is V else min(snr, 5) / snr
        assert math.isclose(weight, expected, rel_tol=1e-4)


class KnowsTheAnswer(torch.nn.Module):
    """Predicts the target plus an error that it was told."""

    def __init__(self, target, error):
        super().__init__()
        self.answer = target + error

    def encode_features(self, latents, tokens, keep):
        return tokens

    def encode_pose(self, skeletons):
        return skeletons

    def forward(self, noisy, *conditions):
        return self.answer


@pytest.mark.parametrize("scheduler", [V, EPSILON])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_the_loss_is_the_weighted_mean_squared_error(scheduler, gamma):
    sample = batch()
    target = prediction_target(scheduler, sample.latents, sample.noise, sample.timesteps)
    error = torch.tensor([0.0, 1.0, 2.0, 3.0]).view(-1, 1, 1, 1)
    weight = torch.ones(4) if gamma is None else min_snr_weight(scheduler, sample.timesteps, gamma)
    loss = DenoisingLoss(KnowsTheAnswer(target, error), scheduler, gamma)(sample)
    torch.testing.assert_close(loss, (error.flatten() ** 2 * weight).mean())


@pytest.mark.parametrize("scheduler", [V, EPSILON])
def test_clean_latents_follow_from_a_perfect_prediction(scheduler):
    sample = batch()
    timesteps = torch.tensor([0, 100, 500, 900])
    noisy = scheduler.add_noise(sample.latents, sample.noise, timesteps)
    target = prediction_target(scheduler, sample.latents, sample.noise, timesteps)
    latents, growth = predicted_latents(scheduler, noisy, target, timesteps)
    torch.testing.assert_close(latents, sample.latents, rtol=1e-3, atol=1e-3)
    off, _ = predicted_latents(scheduler, noisy, target + 1, timesteps)
    torch.testing.assert_close((latents - off).mean(dim=(1, 2, 3)), growth, rtol=1e-3, atol=1e-3)


def with_views(masked, keep):
    """A batch whose samples have these views masked, and F_C or not."""
    sample = batch()
    mask = join((~torch.tensor(masked))[:, :, None, None, None].float().expand(-1, -1, 1, 4, 2))
    conditions = replace(sample.conditions, mask=mask, keep_features=torch.tensor(keep))
    return replace(sample, conditions=conditions, timesteps=torch.tensor([0, 300, 600, 998]))


def test_the_identity_part_counts_masked_views_of_people_of_whom_something_is_known():
    network = tiny.identity()
    sample = with_views(
        [[False, False, True, True], [True] * 4, [True] * 4, [False] * 4], [True, False, True, True]
    )
    noisy = V.add_noise(sample.latents, sample.noise, sample.timesteps)
    target = prediction_target(V, sample.latents, sample.noise, sample.timesteps)
    error = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    predicted, _ = predicted_latents(V, noisy, target + error, sample.timesteps)
    # The slow way: view by view
    expected = 0.0
    for one, views in ((0, (2, 3)), (2, (0, 1, 2, 3))):  # nothing is known of 1, nothing is masked in 3
        for view in views:
            pair = [split(latents)[one, view][None] for latents in (predicted, sample.latents)]
            expected += 1 - torch.cosine_similarity(*map(network.features, pair)).item()
    plain = DenoisingLoss(KnowsTheAnswer(target, error), V, None)(sample)
    with_part = DenoisingLoss(KnowsTheAnswer(target, error), V, None, network, 3.0)(sample)
    assert (with_part - plain).item() == pytest.approx(3.0 * expected / (4 * 4), rel=1e-4)


def test_a_perfect_prediction_has_no_identity_part_and_the_network_is_not_trained():
    network = tiny.identity()
    sample = with_views([[True] * 4] * 4, [True] * 4)
    target = prediction_target(V, sample.latents, sample.noise, sample.timesteps)
    loss = DenoisingLoss(KnowsTheAnswer(target, torch.zeros_like(target)), V, None, network, 1.0)
    assert loss(sample).item() == pytest.approx(0, abs=1e-4)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_every_parameter_gets_a_gradient():
    denoiser = tiny.denoiser(trained=True)  # at its start, the zeros at the ends of the new paths block them
    DenoisingLoss(denoiser, V, None)(batch()).backward()
    without = [n for n, p in denoiser.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
