"""What the denoiser is trained to predict, and how far off it is (Eq. 4)."""

from diffusers import DDIMScheduler
from torch import Tensor, nn

from generator.data import JointBatch
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


class DenoisingLoss(nn.Module):
    """The way from a batch to its loss, in one module for distributed training to wrap.

    The error is counted over the whole joint latent, visible views included, as in Eq. 4: there it soon
    vanishes, because the clean latent is among the inputs.

    Args:
        denoiser: Denoiser to train.
        scheduler: Noise schedule with its prediction type.
        min_snr_gamma: Gamma of `min_snr_weight`; None gives all timesteps the same weight.
    """

    def __init__(
        self, denoiser: IMAGPoseDenoiser, scheduler: DDIMScheduler, min_snr_gamma: float | None
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.scheduler = scheduler
        self.min_snr_gamma = min_snr_gamma

    def forward(self, batch: JointBatch) -> Tensor:
        """Return the mean squared error of the prediction, a scalar."""
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
        error = (prediction.float() - target).square().mean(dim=(1, 2, 3))
        if self.min_snr_gamma is not None:
            error = error * min_snr_weight(self.scheduler, batch.timesteps, self.min_snr_gamma)
        return error.mean()
