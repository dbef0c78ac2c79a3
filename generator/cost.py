"""What a run will cost, counted on a model without weights before anything is computed."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from generator.model import IMAGPoseDenoiser
from generator.settings import SampleSettings, TrainSettings

BACKWARD = 2  # FLOPs of a backward pass per FLOP of the forward pass


def forward_flops(
    denoiser: IMAGPoseDenoiser, view_size: tuple[int, int], tokens: int, vae_factor: int = 8
) -> int:
    """FLOPs of the denoiser for one joint image at one timestep; a multiply-add counts as two.

    The pose encoder and the two tokenizers, which sampling runs once per joint image, are not counted.

    Args:
        denoiser: only its configuration is read.
        view_size: (height, width) of a view, in pixels.
        tokens: of the image encoder.
        vae_factor: pixels per latent pixel.
    """
    height, width = 2 * view_size[0] // vae_factor, 2 * view_size[1] // vae_factor
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        shell = IMAGPoseDenoiser.from_config(denoiser.config)
        config = shell.unet.config
        if shell.config.flc_texture:
            tokens += height * width // 4 // shell.config.texture_patch**2
        shell(
            torch.empty(1, config.in_channels, height, width),
            torch.zeros(1, dtype=torch.int64),
            torch.empty(1, tokens, config.cross_attention_dim),
            torch.empty(1, config.block_out_channels[0], height, width),
            torch.empty(1, 1, height, width),
            torch.empty(1, config.in_channels, height, width),
        )
    return counter.get_total_flops()


def training_flops(forward: int, settings: TrainSettings) -> int:
    """FLOPs of a whole training run, of `forward` each for one joint image's forward pass."""
    return (1 + BACKWARD) * forward * settings.batch_size * settings.steps


def sampling_flops(forward: int, joint_images: int, settings: SampleSettings) -> int:
    """FLOPs of denoising so many joint images, with the null branch of guidance where there is one."""
    return forward * joint_images * settings.steps * (2 if settings.guidance_scale > 1 else 1)


def in_words(flops: float) -> str:
    """3.8e18 as "3.8 EFLOP"."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if flops < 1000:
            return f"{flops:.3g} {prefix}FLOP"
        flops /= 1000
    return f"{flops:.3g} EFLOP"
