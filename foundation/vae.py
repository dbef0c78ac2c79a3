"""Train a small VAE: the embedded run's stand-in for Stable Diffusion's first stage."""

import math
from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import mse_loss, pixel_shuffle, pixel_unshuffle
from torch.nn.utils import get_total_norm
from tqdm import tqdm

from common.precision import autocast
from common.seeding import make_rng
from foundation.perceptual import PerceptualDistance
from foundation.settings import VaeSettings
from generator.encoders import Vae, decode_latents, encode_latents, to_bytes, to_float
from generator.train import Checkpoints

LOG_EVERY = 50  # steps
_OPPONENT = torch.tensor(  # rows: brightness, red - green, yellow - blue; orthonormal
    [[3**-0.5, 3**-0.5, 3**-0.5], [2**-0.5, -(2**-0.5), 0.0], [6**-0.5, 6**-0.5, -2 * 6**-0.5]]
)


def reconstruction_loss(reconstruction: Tensor, images: Tensor, chroma_weight: float) -> Tensor:
    """L1 of the pixels plus L1 of their horizontal and vertical differences, in opponent colours.

    Without the differences, contours and patterns, which are few of the pixels, are blurred first. Most of
    the variance of an image is brightness, and a VAE that weighs red, green and blue equally leaves hue to
    small directions of its latents, where a denoiser does not find it. `chroma_weight` corrects that.

    Args:
        reconstruction: Decoded images, [N, 3, H, W] in [-1, 1].
        images: The images themselves, in the same shape and range.
        chroma_weight: Weight of the errors of red - green and yellow - blue; errors of brightness have 1.
    """
    weights = torch.tensor([[1.0], [chroma_weight], [chroma_weight]])
    error = torch.einsum("kc,nchw->nkhw", (weights * _OPPONENT).to(images), reconstruction - images)
    return error.abs().mean() + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def learning_rate(step: int, settings: VaeSettings) -> float:
    """Learning rate of step 0, 1, ...: linear warm-up times a cosine that falls to 0."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return settings.learning_rate * cosine * min(1.0, (step + 1) / settings.warmup_steps)


def train_vae(
    vae: AutoencoderKL,
    images: np.ndarray,
    settings: VaeSettings,
    seed: int,
    checkpoints: Checkpoints,
    log: Callable[[int, dict[str, float]], object] = lambda step, values: None,
    perceptual: PerceptualDistance | None = None,
) -> AutoencoderKL:
    """Train a VAE and whiten its latents (Rombach et al. 2022 set one scaling factor for all channels).

    Args:
        vae: The VAE, untrained or trained before; it is changed in place.
        images: Images to learn, uint8 [N, H, W, 3]; a memory map will do.
        settings: Schedule and weights of the losses.
        seed: Seed for the choice of images and the latent noise of every step.
        checkpoints: Checkpoints of exactly this run; it continues from the newest.
        log: Called with the number of steps done and the batch's measurements every 50 steps.
        perceptual: What measures `settings.perceptual`; it is moved to the device.

    Returns:
        The trained VAE, float32, frozen, in evaluation mode.

    Raises:
        ValueError: The settings ask for a perceptual distance and none is given, or the other way round. Or
            the loss or a weight is not finite; no checkpoint has it.
    """
    if (settings.perceptual is None) != (perceptual is None):
        raise ValueError("vae.perceptual of the settings and the distance that is given do not agree")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae.to(device).train().requires_grad_(True)
    if perceptual is not None:
        perceptual.to(device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    first = checkpoints.load(vae=vae, optimizer=optimizer)

    with tqdm(
        total=settings.steps * settings.batch_size,
        initial=first * settings.batch_size,
        unit=" images",
        desc="train the VAE",
        delay=2,
    ) as bar:
        for step in range(first, settings.steps):
            # --- batch: images [B, 3, H, W] in [-1, 1]; all draws belong to (seed, step) ----------------
            rng = make_rng(seed, "vae", step)
            index = rng.integers(len(images), size=settings.batch_size)
            batch = to_float(torch.from_numpy(images[index]).to(device))
            is_flipped = torch.from_numpy(rng.random(len(index)) < settings.flip_probability).to(device)
            batch = torch.where(is_flipped[:, None, None, None], batch.flip(-1), batch)
            rate = learning_rate(step, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate

            # --- forward: a sample of the posterior [B, C, h, w], decoded -------------------------------
            with autocast("auto", device):
                posterior = vae.encode(pixel_unshuffle(batch, settings.unshuffle)).latent_dist
                noise = torch.from_numpy(rng.standard_normal(posterior.mean.shape, np.float32)).to(device)
                decoded = vae.decode(posterior.mean.float() + posterior.std.float() * noise).sample
            reconstruction = pixel_shuffle(decoded.float(), settings.unshuffle)
            error = reconstruction_loss(reconstruction, batch, settings.chroma_weight)
            kl = posterior.kl().float().mean() / noise[0].numel()
            loss = error + settings.kl_weight * kl
            measurements = {"loss": error, "kl": kl}
            if settings.perceptual and perceptual is not None:
                measurements["perceptual"] = perceptual(reconstruction, batch)
                loss = loss + settings.perceptual.weight * measurements["perceptual"]

            # --- backward and step ----------------------------------------------------------------------
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), settings.max_grad_norm)
            optimizer.step()

            # --- report, save: a look at the loss makes a GPU wait, so there are few ---------------------
            done = step + 1
            bar.update(settings.batch_size)
            is_last = done == settings.steps
            reports = is_last or done % LOG_EVERY == 0
            saves = is_last or done % settings.checkpoint_every == 0
            if (saves or reports) and not (loss + get_total_norm(vae.parameters())).isfinite():
                raise ValueError(
                    f"the VAE's loss is {loss.item()}, or a weight is not finite, at step {done} with "
                    f"learning rate {rate:.3g}; the last good state is {checkpoints}; lower vae.learning_rate"
                )
            if reports:
                decibels = -10 * math.log10(mse_loss(reconstruction, batch).item() / 4)
                bar.set_postfix(
                    {"loss": f"{error.item():.3f}", "PSNR": f"{decibels:.1f}", "rate": f"{rate:.1e}"}
                )
                values = {name: value.item() for name, value in measurements.items()}
                log(done, values | {"psnr": decibels, "learning_rate": rate})
            if saves:
                checkpoints.save(done, vae=vae, optimizer=optimizer)

    vae.eval().requires_grad_(False)
    whiten(vae, images)
    return vae


@torch.no_grad()
def whiten(vae: AutoencoderKL, images: np.ndarray) -> None:
    """Give the latents of these images mean 0 and covariance 1, in place; reconstructions do not change.

    Diffusion adds noise of one size to every channel and drowns first what has a small deviation. A VAE from
    scratch left hue in a direction of the latents with a deviation of 0.04. So a linear map is folded into
    the 1x1 convolutions on both sides of the latent, and the scaling factor becomes 1. Of all maps that
    whiten, ZCA changes the channels least. It would correlate the deviations of the posterior, which become
    one constant per channel.

    Args:
        vae: The VAE to change.
        images: Images uint8 [N, H, W, 3], of which about 512 are used.
    """
    # The map z -> forth (z - mean) and its inverse, in float64; C = latent channels.
    means, deviations = _latents(vae, images)
    mean, (values, vectors) = means.mean(1), torch.linalg.eigh(means.cov())
    values = values.clamp(min=deviations.square().mean())  # what is smaller than the posterior says nothing
    forth = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    back = vectors @ torch.diag(values.sqrt()) @ vectors.T
    variance = forth.square() @ deviations.square().mean(1)

    # Encoder side: the first C outputs are the mean, the other C the log-variance.
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
    channels = len(mean)
    inside, outside = vae.quant_conv, vae.post_quant_conv
    weight, bias = inside.weight[:channels, :, 0, 0].double(), inside.bias[:channels].double()
    inside.weight[:channels, :, 0, 0] = scale * forth @ weight
    inside.bias[:channels] = forth @ (scale * (bias - shift) - mean)
    inside.weight[channels:] = 0.0
    inside.bias[channels:] = variance.log()

    # Decoder side: the inverse, with the former scaling factor and shift.
    weight, bias = outside.weight[:, :, 0, 0].double(), outside.bias.double()
    outside.weight[:, :, 0, 0] = weight @ back / scale
    outside.bias[:] = bias + weight @ (mean / scale + shift)
    vae.register_to_config(scaling_factor=1.0, shift_factor=None)


@torch.no_grad()
def map_latents(before: Vae, after: Vae, images: np.ndarray) -> tuple[Tensor, Tensor]:
    """Fit the linear maps between the latents of two VAEs of the same factor, by least squares.

    Args:
        before: A VAE with C latent channels.
        after: A VAE with D latent channels.
        images: Images uint8 [N, H, W, 3], of which about 512 are used.

    Returns:
        The map from latents of `after` to those of `before`, [C, D], and the one back, [D, C], float32.
    """
    # Means of the scaled latents at the same places, [C, places] and [D, places]
    old, new = (_latents(vae, images)[0] for vae in (before, after))
    to_old = torch.linalg.lstsq(new.T, old.T).solution.T
    to_new = torch.linalg.lstsq(old.T, new.T).solution.T
    return to_old.float(), to_new.float()


def _latents(vae: Vae, images: np.ndarray) -> tuple[Tensor, Tensor]:
    """Means and deviations of the scaled latents of about 512 images, float64 [C, places], on its device."""
    sample = torch.from_numpy(images[:: max(1, len(images) // 512)])
    batches = [encode_latents(vae, to_float(batch)) for batch in sample.split(64)]
    means, deviations = (
        torch.cat(kind).double().transpose(0, 1).flatten(1) for kind in zip(*batches, strict=True)
    )
    return means, deviations


@torch.no_grad()
def reconstruct(vae: Vae, images: np.ndarray) -> np.ndarray:
    """Encode and decode images, uint8 [N, H, W, 3]."""
    batches = [to_float(batch).to(vae.device) for batch in torch.from_numpy(images).split(64)]
    decoded = [to_bytes(decode_latents(vae, encode_latents(vae, batch)[0])).cpu() for batch in batches]
    return torch.cat(decoded).numpy()


@torch.no_grad()
def psnr(vae: Vae, images: np.ndarray) -> float:
    """Mean peak signal-to-noise ratio, dB, of images uint8 [N, H, W, 3] after encoding and decoding."""
    values = []
    for batch in torch.from_numpy(images).split(64):
        pixels = to_float(batch).to(vae.device)
        error = decode_latents(vae, encode_latents(vae, pixels)[0]).clamp(-1, 1) - pixels
        values.append(-10 * torch.log10(error.pow(2).mean(dim=(1, 2, 3)) / 4))
    return torch.cat(values).mean().item()
