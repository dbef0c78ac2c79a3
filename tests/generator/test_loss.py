import math

import pytest
import torch

from generator.data import JointSampler
from generator.loss import DenoisingLoss, min_snr_weight, prediction_target
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


def test_every_parameter_gets_a_gradient():
    denoiser = tiny.denoiser(trained=True)  # at its start, the zeros at the ends of the new paths block them
    DenoisingLoss(denoiser, V, None)(batch()).backward()
    without = [n for n, p in denoiser.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
