"""Train a small VAE from scratch: the embedded run's stand-in for Stable Diffusion's first stage."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import mse_loss, pixel_shuffle, pixel_unshuffle
from torch.nn.utils import get_total_norm
from tqdm import tqdm

from foundation.settings import VaeSettings
from generator.encoders import decode_latents, encode_latents, to_bytes, to_float

LOG_EVERY = 50  # steps
_OPPONENT = torch.tensor(  # rows: brightness, red - green, yellow - blue; orthonormal
    [[3**-0.5, 3**-0.5, 3**-0.5], [2**-0.5, -(2**-0.5), 0.0], [6**-0.5, 6**-0.5, -2 * 6**-0.5]]
)


def build_vae(settings: VaeSettings) -> AutoencoderKL:
    """Stock AutoencoderKL for images whose blocks of k x k pixels (k = `unshuffle`) have become channels."""
    levels = len(settings.channels)
    return AutoencoderKL(
        in_channels=3 * settings.unshuffle**2,
        out_channels=3 * settings.unshuffle**2,
        latent_channels=settings.latent_channels,
        block_out_channels=settings.channels,
        layers_per_block=settings.layers,
        norm_num_groups=settings.norm_groups,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )


def reconstruction_loss(reconstruction: Tensor, images: Tensor, chroma_weight: float) -> Tensor:
    """L1 of the pixels plus L1 of their horizontal and vertical differences, in opponent colours.

    The differences stand in for LPIPS, whose backbone cannot be had offline: without them, contours and
    patterns, which are a small share of the pixels, are blurred first. Brightness is most of what varies in
    an image, and a VAE that weighs red, green and blue alike leaves hue to small and crooked directions of
    its latents, where a denoiser does not find it: `chroma_weight` sets it against brightness.

    Args:
        reconstruction: [N, 3, H, W] in [-1, 1].
        images: the same shape and range.
        chroma_weight: weight of the errors of red - green and yellow - blue; that of brightness has 1.
    """
    weights = torch.tensor([[1.0], [chroma_weight], [chroma_weight]])
    error = torch.einsum("kc,nchw->nkhw", (weights * _OPPONENT).to(images), reconstruction - images)
    return error.abs().mean() + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def train_vae(
    images: np.ndarray,
    settings: VaeSettings,
    seed: int,
    checkpoints: Any,
    log: Callable[[int, dict[str, float]], None] = lambda step, values: None,
    start: AutoencoderKL | None = None,
) -> AutoencoderKL:
    """Train a VAE and whiten its latents (Rombach et al. 2022 set one scaling factor for all channels).

    Args:
        images: uint8 [N, H, W, 3]; a memory map will do.
        settings: architecture and schedule.
        seed: of the initial weights, the order of the images and the latent noise.
        checkpoints: where the run is saved to and resumed from.
        log: called with the step and its losses every 50 steps.
        start: a trained VAE whose weights this one begins with, as far as their shapes are the same.

    Returns:
        The trained VAE, float32, frozen, in evaluation mode.

    Raises:
        ValueError: the loss or a weight is not finite; no checkpoint has it.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae = build_vae(settings)
    if start:
        shapes = {name: tensor.shape for name, tensor in vae.state_dict().items()}
        fits = {
            name: tensor for name, tensor in start.state_dict().items() if tensor.shape == shapes.get(name)
        }
        vae.load_state_dict(fits, strict=False)
    vae.to(device).train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    first = checkpoints.load(vae=vae, optimizer=optimizer)

    bar = tqdm(range(first, settings.steps), "VAE", total=settings.steps, initial=first, unit="step")
    for step in bar:
        # --- batch and schedule -------------------------------------------------------------------
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randint(len(images), (settings.batch_size,), generator=generator)
        batch = to_float(torch.from_numpy(images[chosen.numpy()]).to(device))
        cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        rate = settings.learning_rate * cosine * min(1.0, (step + 1) / settings.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate

        # --- step ---------------------------------------------------------------------------------
        with torch.autocast(device.type, torch.bfloat16):
            posterior = vae.encode(pixel_unshuffle(batch, settings.unshuffle)).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            decoded = vae.decode(posterior.mean.float() + posterior.std.float() * noise).sample
        reconstruction = pixel_shuffle(decoded.float(), settings.unshuffle)
        error = reconstruction_loss(reconstruction, batch, settings.chroma_weight)
        kl = posterior.kl().float().mean() / noise[0].numel()
        loss = error + settings.kl_weight * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), settings.max_grad_norm)
        optimizer.step()

        # --- report, save -------------------------------------------------------------------------
        done = step + 1
        is_last = done == settings.steps
        saves = is_last or done % settings.checkpoint_every == 0
        if (saves or done % LOG_EVERY == 0) and not (loss + get_total_norm(vae.parameters())).isfinite():
            raise ValueError(
                f"the VAE's loss is {loss.item()}, or a weight is not finite, at step {done} with learning "
                f"rate {rate:.3g}; the last good state is {checkpoints}; lower vae.learning_rate"
            )
        if is_last or done % LOG_EVERY == 0:
            decibels = -10 * math.log10(mse_loss(reconstruction, batch).item() / 4)
            values = {"loss": error.item(), "kl": kl.item(), "psnr": decibels}
            bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()})
            log(done, values)
        if saves:
            checkpoints.save(done, vae=vae, optimizer=optimizer)

    vae.eval().requires_grad_(False)
    whiten(vae, images)
    return vae


@torch.no_grad()
def whiten(vae: AutoencoderKL, images: np.ndarray) -> None:
    """Give the latents of these images mean 0 and covariance 1, in place; reconstructions stay what they are.

    Diffusion adds noise of one size to every channel, and what has a small deviation is drowned first: a VAE
    from scratch had left hue in a direction of the latents with a deviation of 0.04. A linear map, of all
    those that whiten the one that changes the channels least (ZCA), is therefore folded into the 1x1
    convolutions on both sides of the latent, and the scaling factor becomes 1. The deviations of the
    posterior, which the map would correlate, become one constant per channel.

    Args:
        vae: is changed.
        images: uint8 [N, H, W, 3], of which about 512 are looked at.
    """
    means, deviations = _latents(vae, images)
    mean, (values, vectors) = means.mean(1), torch.linalg.eigh(means.cov())
    values = values.clamp(min=deviations.square().mean())  # what is smaller than the posterior says nothing
    forth = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    back = vectors @ torch.diag(values.sqrt()) @ vectors.T
    variance = forth.square() @ deviations.square().mean(1)

    scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
    channels = len(mean)
    inside, outside = vae.quant_conv, vae.post_quant_conv
    weight, bias = inside.weight[:channels, :, 0, 0].double(), inside.bias[:channels].double()
    inside.weight[:channels, :, 0, 0] = scale * forth @ weight
    inside.bias[:channels] = forth @ (scale * (bias - shift) - mean)
    inside.weight[channels:] = 0.0
    inside.bias[channels:] = variance.log()
    weight, bias = outside.weight[:, :, 0, 0].double(), outside.bias.double()
    outside.weight[:, :, 0, 0] = weight @ back / scale
    outside.bias[:] = bias + weight @ (mean / scale + shift)
    vae.register_to_config(scaling_factor=1.0, shift_factor=None)


@torch.no_grad()
def latent_map(source: AutoencoderKL, target: AutoencoderKL, images: np.ndarray) -> tuple[Tensor, Tensor]:
    """The linear map of one VAE's latents to another's, place by place, with the least squared error.

    Args:
        source: a VAE.
        target: a VAE of the same scale.
        images: uint8 [N, H, W, 3], of which about 512 are looked at.

    Returns:
        Matrix [C_target, C_source] and vector [C_target]: target's latent is matrix z + vector (both scaled).
    """
    values = [_latents(vae, images)[0].cpu() for vae in (source, target)]
    given = torch.cat([values[0], torch.ones_like(values[0][:1])])
    solution = torch.linalg.lstsq(given.T, values[1].T).solution.T.float()
    return solution[:, :-1], solution[:, -1]


def _latents(vae: AutoencoderKL, images: np.ndarray) -> tuple[Tensor, Tensor]:
    """Means and deviations of the scaled latents of about 512 images, float64 [C, places], on its device."""
    sample = torch.from_numpy(images[:: max(1, len(images) // 512)])
    parts = [encode_latents(vae, to_float(part)) for part in sample.split(64)]
    means, deviations = (
        torch.cat(kind).double().transpose(0, 1).flatten(1) for kind in zip(*parts, strict=True)
    )
    return means, deviations


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: np.ndarray) -> np.ndarray:
    """Images uint8 [N, H, W, 3] after encoding and decoding."""
    parts = [to_float(part).to(vae.device) for part in torch.from_numpy(images).split(64)]
    decoded = [to_bytes(decode_latents(vae, encode_latents(vae, part)[0])).cpu() for part in parts]
    return torch.cat(decoded).numpy()


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: np.ndarray) -> float:
    """Mean peak signal-to-noise ratio, dB, of images uint8 [N, H, W, 3] after encoding and decoding."""
    values = []
    for part in torch.from_numpy(images).split(64):
        pixels = to_float(part).to(vae.device)
        error = decode_latents(vae, encode_latents(vae, pixels)[0]).clamp(-1, 1) - pixels
        values.append(-10 * torch.log10(error.pow(2).mean(dim=(1, 2, 3)) / 4))
    return torch.cat(values).mean().item()
