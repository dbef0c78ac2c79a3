"""What the denoiser is trained to predict, and how far off it is (Eq. 4)."""

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from generator.data import JointBatch
from generator.grid import split
from generator.identity import IdentityNetwork
from generator.model import IMAGPoseDenoiser


def prediction_target(scheduler: DDIMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return what the denoiser is to predict, as the scheduler says: the noise, or v.

    v = sqrt(a) noise - sqrt(1 - a) latents (Salimans and Ho 2022), where a is the cumulative alpha.

    Args:
        scheduler: Noise schedule with its prediction type.
        latents: Clean joint latents, float [B, C, 2h, 2w].
        noise: Noise, float [B, C, 2h, 2w].
        timesteps: Timesteps, int64 [B].
    """
    if scheduler.config.prediction_type == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    return noise


def min_snr_weight(scheduler: DDIMScheduler, timesteps: Tensor, gamma: float) -> Tensor:
    """Return each sample's weight in the loss [B], so that easy timesteps do not dominate (Hang et al. 2023).

    With SNR = a / (1 - a): min(SNR, gamma) / SNR for epsilon, min(SNR, gamma) / (SNR + 1) for v.
    """
    alphas = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = alphas / (1 - alphas)
    divisor = snr + 1 if scheduler.config.prediction_type == "v_prediction" else snr
    return snr.clamp(max=gamma) / divisor


def predicted_latents(
    scheduler: DDIMScheduler, noisy: Tensor, prediction: Tensor, timesteps: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the clean latents that follow from a prediction, and how much its errors grow in them.

    Args:
        scheduler: Noise schedule with its prediction type.
        noisy: Joint latents with noise, float [B, C, 2h, 2w].
        prediction: What was predicted for them, float [B, C, 2h, 2w].
        timesteps: Timesteps, int64 [B].

    Returns:
        The latents, [B, C, 2h, 2w], and the factor by which an error of the prediction grows, [B]. It is
        sqrt(1 - a) for v, and sqrt((1 - a) / a) for epsilon, where `a` is the cumulative alpha.
    """
    alphas = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    signal, noise = alphas.sqrt(), (1 - alphas).sqrt()
    if scheduler.config.prediction_type == "v_prediction":
        return _scale(signal, noisy) - _scale(noise, prediction), noise
    return _scale(1 / signal, noisy) - _scale(noise / signal, prediction), noise / signal


def _scale(factors: Tensor, latents: Tensor) -> Tensor:
    """Multiply each of the latents [B, C, h, w] with its factor [B]."""
    return factors[:, None, None, None] * latents


class DenoisingLoss(nn.Module):
    """The way from a batch to its loss, in one module for distributed training to wrap.

    The squared error is counted over the whole joint latent, visible views included, as in Eq. 4: there it
    soon vanishes, because the clean latent is among the inputs.

    The paper has no other part. With an identity network, a part is added for the masked views: 1 minus the
    cosine of the network's features of the latents that follow from the prediction, and of the true ones. It
    is 0 for views of a person of whom nothing is seen, and less where the latents hardly follow from the
    prediction: for epsilon at much noise.

    Args:
        denoiser: Denoiser to train.
        scheduler: Noise schedule with its prediction type.
        min_snr_gamma: Gamma of `min_snr_weight`; None gives all timesteps the same weight.
        identity: Network that tells people apart, which is not trained; None counts the squared error alone.
        identity_weight: Weight of the network's part, where the squared error has 1.
    """

    def __init__(
        self,
        denoiser: IMAGPoseDenoiser,
        scheduler: DDIMScheduler,
        min_snr_gamma: float | None,
        identity: IdentityNetwork | None = None,
        identity_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.scheduler = scheduler
        self.min_snr_gamma = min_snr_gamma
        self.identity = identity.eval().requires_grad_(False) if identity else None
        self.identity_weight = identity_weight

    def forward(self, batch: JointBatch) -> Tensor:
        """Return the mean of the loss over the samples, a scalar."""
        # The forward diffusion: joint latents [B, C, 2h, 2w] at their timesteps
        noisy = self.scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)

        # The prediction [B, C, 2h, 2w] from the conditions
        conditions = batch.conditions
        features = self.denoiser.encode_features(
            conditions.source_latents, conditions.source_tokens, conditions.keep_features
        )
        pose = self.denoiser.encode_pose(conditions.skeletons)
        prediction = self.denoiser(
            noisy, batch.timesteps, features, pose, conditions.mask, conditions.visible
        )

        # Its error [B] in single precision, whatever the autocast
        target = prediction_target(self.scheduler, batch.latents, batch.noise, batch.timesteps)
        prediction = prediction.float()
        error = (prediction - target).square().mean(dim=(1, 2, 3))
        if self.min_snr_gamma is not None:
            error = error * min_snr_weight(self.scheduler, batch.timesteps, self.min_snr_gamma)
        if self.identity is None:
            return error.mean()
        latents, growth = predicted_latents(self.scheduler, noisy, prediction, batch.timesteps)
        unlike = self._unlike(latents, batch) / growth.clamp(min=1)
        return (error + self.identity_weight * unlike).mean()

    def _unlike(self, predicted: Tensor, batch: JointBatch) -> Tensor:
        """Return the mean distance of the identity network's features over the four views, [B]."""
        assert self.identity
        with torch.autocast(predicted.device.type, enabled=False):
            # Features of 4 B views: [B, C, 2h, 2w] -> [4 B, C, h, w] -> [B, 4, width]
            of_prediction, of_truth = (
                self.identity.features(split(latents.float()).flatten(0, 1)).unflatten(0, (len(batch), -1))
                for latents in (predicted, batch.latents)
            )
        # A view is masked if any of it is; F_C or a visible view says who the person is
        is_masked = split(batch.conditions.mask).amin(dim=(2, 3, 4)) == 0  # [B, 4]
        is_known = batch.conditions.keep_features | ~is_masked.all(dim=1)
        distance = 1 - (of_prediction * of_truth).sum(dim=2)
        return (distance * (is_masked & is_known[:, None])).mean(dim=1)
