"""Architectures and schedules of the small base models, which stand in for Stable Diffusion and DINOv2."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Channels = Annotated[
    tuple[Annotated[int, Field(ge=8)], ...],
    Field(strict=False, min_length=1, description="channels of each level, from high to low resolution"),
]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class VaeSettings(_Settings):
    """A diffusers AutoencoderKL and its training."""

    unshuffle: int = Field(ge=1, le=8, description="k: blocks of k x k pixels become channels before the VAE")
    latent_channels: int = Field(ge=1, description="channels of the latent (Stable Diffusion: 4)")
    channels: Channels
    layers: int = Field(ge=1, description="residual blocks per level")
    norm_groups: int = Field(ge=1, description="groups of the group normalisation")
    steps: int = Field(ge=1, description="optimiser steps")
    batch_size: int = Field(ge=1, description="images per step")
    learning_rate: float = Field(gt=0, description="of AdamW, cosine decay to 0")
    warmup_steps: int = Field(ge=1, description="steps over which the learning rate rises linearly from 0")
    max_grad_norm: float = Field(gt=0, description="gradients are clipped to this L2 norm")
    chroma_weight: float = Field(
        ge=0, description="weight of a colour's two differences beside its brightness"
    )
    kl_weight: float = Field(ge=0, description="weight of the KL divergence per latent value")
    checkpoint_every: int = Field(ge=1, description="steps between checkpoints")


class ImageEncoderSettings(_Settings):
    """A transformers Dinov2Model; it is trained to tell identities apart, as a backbone of BoT."""

    hidden_size: int = Field(ge=16, description="width of a token")
    layers: int = Field(ge=1, description="transformer layers")
    heads: int = Field(ge=1, description="attention heads")
    patch_size: int = Field(ge=2, description="pixels per side of a patch (DINOv2: 14)")


class UnetSettings(_Settings):
    """A diffusers UNet2DConditionModel."""

    channels: Channels
    blocks: tuple[Literal["conv", "attention"], ...] = Field(
        strict=False, description="for each level, residual blocks alone or with cross-attention after each"
    )
    layers: int = Field(ge=1, description="residual blocks per level")
    heads: tuple[int, ...] = Field(strict=False, description="attention heads at each level")
    cross_attention_dim: int = Field(ge=16, description="width of the condition tokens (SD 1.5: 768)")
    norm_groups: int = Field(ge=1, description="groups of the group normalisation")
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = Field(
        description="noise schedule over 1000 steps"
    )
    prediction_type: Literal["epsilon", "v_prediction"] = Field(description="what the denoiser predicts")
    zero_terminal_snr: bool = Field(description="pure noise at the last step; needs v_prediction")
