"""What the denoiser is trained to predict, and how far off it is (Eq. 4)."""

from diffusers import DDIMScheduler
from torch import Tensor, nn

from generator.data import JointBatch
from generator.model import IMAGPoseDenoiser


def prediction_target(scheduler: DDIMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The noise, or v = sqrt(a) noise - sqrt(1 - a) latents (Salimans and Ho 2022), as the scheduler says."""
    if scheduler.config.prediction_type == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    return noise


def min_snr_weight(scheduler: DDIMScheduler, timesteps: Tensor, gamma: float) -> Tensor:
    """Each sample's weight in the loss, so that easy timesteps do not dominate (Hang et al. 2023).

    With SNR = a / (1 - a): min(SNR, gamma) / SNR for epsilon, min(SNR, gamma) / (SNR + 1) for v.
    """
    alphas = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = alphas / (1 - alphas)
    divisor = snr + 1 if scheduler.config.prediction_type == "v_prediction" else snr
    return snr.clamp(max=gamma) / divisor


class DenoisingLoss(nn.Module):
    """A training step from a batch to its loss, in one module for distributed training to wrap.

    The error is counted over the whole joint latent, visible views included, as in Eq. 4: there it soon
    vanishes, because the clean latent is among the inputs.

    Args:
        denoiser: is trained.
        scheduler: the noise schedule and the prediction target.
        min_snr_gamma: None weighs all timesteps alike.
    """

    def __init__(
        self, denoiser: IMAGPoseDenoiser, scheduler: DDIMScheduler, min_snr_gamma: float | None
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.scheduler = scheduler
        self.min_snr_gamma = min_snr_gamma

    def forward(self, batch: JointBatch) -> Tensor:
        """The mean squared error of the prediction, a scalar."""
        given = batch.conditions
        noisy = self.scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        features = self.denoiser.encode_features(
            given.source_latents, given.source_tokens, given.keep_features
        )
        pose = self.denoiser.encode_pose(given.skeletons)
        predicted = self.denoiser(noisy, batch.timesteps, features, pose, given.mask, given.visible)
        target = prediction_target(self.scheduler, batch.latents, batch.noise, batch.timesteps)
        error = (predicted.float() - target).square().mean(dim=(1, 2, 3))
        if self.min_snr_gamma is not None:
            error = error * min_snr_weight(self.scheduler, batch.timesteps, self.min_snr_gamma)
        return error.mean()
