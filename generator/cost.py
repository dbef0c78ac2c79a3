"""What a run will cost, counted on a model without weights before anything is computed."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from generator.encoders import vae_factor
from generator.model import IMAGPoseDenoiser
from generator.sample import IMAGPosePipeline
from generator.settings import SampleSettings, TrainSettings

BACKWARD = 2  # FLOPs of a backward pass per FLOP of the forward pass


def pipeline_flops(parts: IMAGPosePipeline) -> int:
    """`forward_flops` of a pipeline's denoiser at the pipeline's sizes."""
    patch = parts.image_encoder.config.patch_size
    tokens = 1 + (parts.token_size[0] // patch) * (parts.token_size[1] // patch)
    height, width = parts.view_size
    factor = vae_factor(parts.vae)
    return forward_flops(parts.denoiser, (height // factor, width // factor), tokens)


def forward_flops(denoiser: IMAGPoseDenoiser, latent_size: tuple[int, int], tokens: int) -> int:
    """FLOPs of the denoiser for one joint image at one timestep; a multiply-add counts as two.

    The pose encoder and the two tokenizers, which sampling runs once per joint image, are not counted.

    Args:
        denoiser: only its configuration is read.
        latent_size: (height, width) of a view's latent.
        tokens: of the image encoder.
    """
    height, width = 2 * latent_size[0], 2 * latent_size[1]
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
    """FLOPs of denoising so many joint images, with the null branch in the steps that are guided."""
    return forward * joint_images * (settings.steps + settings.guided_steps)


def in_words(flops: float) -> str:
    """3.8e18 as "3.8 EFLOP"."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if flops < 1000:
            return f"{flops:.3g} {prefix}FLOP"
        flops /= 1000
    return f"{flops:.3g} EFLOP"
