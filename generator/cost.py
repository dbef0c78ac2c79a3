"""What a run costs, counted on a model without weights, and the share of a device's speed that it uses."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from generator.encoders import vae_factor
from generator.model import IMAGPoseDenoiser
from generator.sample import IMAGPosePipeline
from generator.settings import SampleSettings, TrainSettings

BACKWARD = 2  # FLOPs of a backward pass per FLOP of the forward pass

# Dense FLOP/s in bf16 (V100: fp16) by NVIDIA's data sheets. The key is a part of the device's name; the first
# that fits counts.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "V100": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


# --- how much there is to compute ---------------------------------------------------------------------------


def pipeline_flops(imagpose: IMAGPosePipeline) -> int:
    """Count `forward_flops` of a pipeline's denoiser at the pipeline's sizes."""
    patch = imagpose.image_encoder.config.patch_size
    tokens = 1 + (imagpose.token_size[0] // patch) * (imagpose.token_size[1] // patch)
    height, width = imagpose.view_size
    factor = vae_factor(imagpose.vae)
    return forward_flops(imagpose.denoiser, (height // factor, width // factor), tokens)


def forward_flops(denoiser: IMAGPoseDenoiser, latent_size: tuple[int, int], tokens: int) -> int:
    """Count the denoiser's FLOPs for one joint image at one timestep; a multiply-add counts as two.

    The pose encoder and the two tokenizers, which sampling runs once per joint image, are not counted.

    Args:
        denoiser: A denoiser, of which only the configuration is read.
        latent_size: (height, width) of a view's latent.
        tokens: Number of the image encoder's tokens.
    """
    height, width = 2 * latent_size[0], 2 * latent_size[1]
    # The same network on the meta device: it knows the shapes of all tensors and computes none.
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


def step_flops(forward: int, batch_size: int) -> int:
    """FLOPs of one training step, where a joint image's forward pass takes `forward`."""
    return (1 + BACKWARD) * forward * batch_size


def training_flops(forward: int, settings: TrainSettings) -> int:
    """FLOPs of a whole training run, where a joint image's forward pass takes `forward`."""
    return step_flops(forward, settings.batch_size) * settings.steps


def sampling_flops(forward: int, joint_images: int, settings: SampleSettings) -> int:
    """FLOPs of denoising so many joint images, with the null branch in the guided steps."""
    return forward * joint_images * (settings.steps + settings.guided_steps)


def in_words(flops: float) -> str:
    """Write 3.8e18 as "3.8 EFLOP"."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if flops < 1000:
            return f"{flops:.3g} {prefix}FLOP"
        flops /= 1000
    return f"{flops:.3g} EFLOP"


# --- how fast a device could be -----------------------------------------------------------------------------


def peak_flops(device: torch.device) -> float | None:
    """Return the FLOP/s that a device reaches at most, or None where that is not known, as for a CPU."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def peak_share(forward: int, joint_images_per_second: float, peak: float) -> float:
    """Share of the device's peak that a training uses, in [0, 1]: its model FLOPs utilization (MFU).

    Only the FLOPs that the model asks for count, not those that gradient checkpointing computes again
    (Chowdhery et al. 2022, PaLM, Appendix B).

    Args:
        forward: FLOPs of a joint image's forward pass, from `forward_flops`.
        joint_images_per_second: Measured speed of the training.
        peak: FLOP/s of the device, or of all devices together.
    """
    return step_flops(forward, batch_size=1) * joint_images_per_second / peak
