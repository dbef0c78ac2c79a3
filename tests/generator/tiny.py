"""The smallest models and data that the real code accepts: views of 32x16 pixels, latents of 4x2."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from transformers import Dinov2Config, Dinov2Model

from generator.data import EncodedViews, JointBatch
from generator.identity import IdentityNetwork
from generator.loss import DenoisingLoss
from generator.model import IMAGPoseDenoiser
from generator.settings import DenoiserSettings, TrainSettings

VIEW_SIZE = (32, 16)
TOKEN_SIZE = (16, 8)
LATENT = (4, 4, 2)
TOKENS, WIDTH = 9, 12

DENOISER = DenoiserSettings(
    cva=True,
    flc_texture=True,
    ilc=True,
    texture_patch=2,
    cva_heads=2,
    cva_layers=1,
    pose_channels=(4, 4, 4, 8),
    stack_views=False,
)
TRAIN = TrainSettings(
    steps=6,
    batch_size=4,
    learning_rate=1e-3,
    weight_decay=0.01,
    warmup_steps=2,
    decay_steps=0,
    max_grad_norm=1.0,
    ema_decay=0.9,
    mixed_precision="no",
    compile=False,
    gradient_checkpointing=False,
    masked_views=(1, 4),
    drop_features=0.2,
    drop_image=0.2,
    flip=0.5,
    min_snr_gamma=None,
    noise_offset=0.0,
    checkpoint_every=2,
)


def unet(seed: int = 0, levels: int = 2) -> UNet2DConditionModel:
    """A UNet of two levels and a middle, or of one level alone."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16)[:levels],
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        mid_block_type="UNetMidBlock2DCrossAttn" if levels > 1 else None,
    )


def save_base(folder: Path) -> dict[str, Any]:
    """Save base weights with an image encoder; returns the changes of params.yaml for 64x32 pixels."""
    unet().save_pretrained(folder / "unet")
    vae().save_pretrained(folder / "vae")
    image_encoder().save_pretrained(folder / "image_encoder")
    scheduler().save_pretrained(folder / "scheduler")
    return {
        "dataset.height": 64,
        "dataset.width": 32,
        "generator.base": str(folder),
        "generator.image_encoder": str(folder / "image_encoder"),
        "generator.token_height": 32,
        "generator.token_width": 16,
        "generator.denoiser": DENOISER.model_dump(mode="json"),
        "generator.train": TRAIN.model_dump(mode="json"),
    }


def denoiser(trained: bool = False, levels: int = 2, **changes: object) -> IMAGPoseDenoiser:
    """A denoiser; `trained` makes its zero-initialised parts random, so that everything has an effect."""
    settings = DENOISER.model_copy(update=changes)
    model = IMAGPoseDenoiser.from_unet(unet(levels=levels), WIDTH, settings, seed=0).eval()
    if trained:
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def identity() -> IdentityNetwork:
    """An identity network for the latents of `vae`."""
    torch.manual_seed(5)
    return IdentityNetwork(4, (4, 4, 8)).eval()


def scheduler(**changes: object) -> DDIMScheduler:
    v_prediction = {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    return DDIMScheduler(
        **({"beta_schedule": "scaled_linear", "clip_sample": False} | v_prediction | changes)
    )


def vae(blocks: int = 1) -> AutoencoderKL:
    """A VAE of factor 8 on pixel-unshuffled images, blocks of `blocks` x `blocks` pixels."""
    torch.manual_seed(2)
    levels = {1: 4, 2: 3}[blocks]
    return (
        AutoencoderKL(
            in_channels=3 * blocks**2,
            out_channels=3 * blocks**2,
            block_out_channels=(4,) * levels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            norm_num_groups=2,
            latent_channels=4,
        )
        .eval()
        .requires_grad_(False)
    )


def tiny_autoencoder() -> AutoencoderTiny:
    """A TAESD of factor 8 with one block and four channels per level."""
    torch.manual_seed(2)
    levels: dict[str, Any] = {
        "encoder_block_out_channels": (4,) * 4,
        "decoder_block_out_channels": (4,) * 4,
        "num_encoder_blocks": (1,) * 4,
        "num_decoder_blocks": (1,) * 4,
    }
    return AutoencoderTiny(**levels).eval().requires_grad_(False)


def image_encoder() -> Dinov2Model:
    torch.manual_seed(3)
    config = Dinov2Config(
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        patch_size=4,
        image_size=16,
        mlp_ratio=1,
    )
    config.image_mean, config.image_std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    return Dinov2Model(config).eval().requires_grad_(False)


def views(pids: list[int], mirrored: bool = True, seed: int = 0) -> EncodedViews:
    """Random encoded views of these identities."""
    torch.manual_seed(seed)
    shape = (len(pids), 2 if mirrored else 1)
    return EncodedViews(
        latent_mean=torch.randn(*shape, *LATENT).half(),
        latent_std=torch.rand(*shape, *LATENT).half() * 0.1,
        tokens=torch.randn(*shape, TOKENS, WIDTH).half(),
        skeletons=torch.randint(0, 256, (*shape, 3, *VIEW_SIZE), dtype=torch.uint8),
        pids=torch.tensor(pids),
        black=torch.randn(LATENT),
    )


def run_out_of_memory(monkeypatch: pytest.MonkeyPatch, largest: int) -> list[int]:
    """Let the loss of more than `largest` samples fail as a GPU does; returns the sizes that were tried."""
    forward, sizes = DenoisingLoss.forward, []

    def limited(self: DenoisingLoss, batch: JointBatch) -> torch.Tensor:
        sizes.append(len(batch))
        loss = forward(self, batch)
        if len(batch) > largest:  # late: half of the gradients may be there
            loss.register_hook(_fail)
        return loss

    monkeypatch.setattr(DenoisingLoss, "forward", limited)
    return sizes


def _fail(gradient: torch.Tensor) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB.")


def keypoints(count: int, seed: int = 0) -> np.ndarray:
    """Random keypoints [count, 18, 3] inside a view, all visible."""
    points = np.random.default_rng(seed).random((count, 18, 3)).astype(np.float32)
    points[..., 0] *= VIEW_SIZE[1] - 1
    points[..., 1] *= VIEW_SIZE[0] - 1
    points[..., 2] = 1
    return points


def inputs(batch: int = 2, seed: int = 0, width: int = 8) -> dict[str, torch.Tensor]:
    """Random arguments of the denoiser's forward pass."""
    torch.manual_seed(seed)
    return {
        "noisy": torch.randn(batch, 4, 8, 4),
        "timesteps": torch.arange(batch) * 300 + 5,
        "features": torch.randn(batch, 7, width),
        "pose": torch.randn(batch, 8, 8, 4),
        "mask": torch.randint(0, 2, (batch, 1, 8, 4)).float(),
        "visible": torch.randn(batch, 4, 8, 4),
    }
