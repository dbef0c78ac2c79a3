"""The IMAGPose denoiser (Shen and Tang, NeurIPS 2024): a stock diffusers UNet and what the paper adds to it.

The UNet denoises a joint image, a 2 x 2 grid of four views of one person. Added are

- FLC: the source view's VAE latents as texture tokens F_L, concatenated with the image encoder's tokens F_H
  to F_C = [F_L, F_H], which takes the place of the text in the cross-attention (Eq. 3),
- ILC: a binary mask (1 visible, 0 masked) and the latents of the visible views, as input channels 5 to 9,
- CVA: after every cross-attention, self-attention between the four views at each place,
- the pose encoder of ControlNet, whose feature of the joint skeleton is added after the first convolution.

Every added path starts at zero, so that the denoiser starts as the UNet that it was made from.

Shapes: B joint images of [H, W] pixels; a view's latent is [h, w], so that joint latents are [B, C, 2h, 2w].
`generator.fit` says whether settings and models fit together.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.seeding import make_torch_seed
from generator.fit import Design, require_fit
from generator.grid import VIEWS, join, split
from generator.model_files import read_config
from generator.settings import DenoiserSettings, check_stock_unet
from generator.weights import load_model

# CUDA's grid dimensions bound the batch of scaled_dot_product_attention.
_MAX_ATTENTION_BATCH = 65_535


class IMAGPoseDenoiser(ModelMixin, ConfigMixin):
    """A stock `UNet2DConditionModel` (`.unet`) with FLC, ILC, CVA and the pose encoder.

    Use `from_unet` or `load_denoiser` to start from weights, and `save_pretrained` / `from_pretrained`
    (safetensors) to keep them.

    Args:
        unet_config: Configuration of the stock UNet (4 input channels).
        encoder_width: Width of the image encoder's tokens; where it is not the UNet's cross-attention width,
            a linear layer projects them.
        cva, flc_texture, ilc, texture_patch, cva_heads, cva_layers, pose_channels, stack_views: Settings of
            the same names in `DenoiserSettings`.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        unet_config: dict[str, Any],
        encoder_width: int,
        cva: bool = True,
        flc_texture: bool = True,
        ilc: bool = True,
        texture_patch: int = 16,
        cva_heads: int = 8,
        cva_layers: int = 1,
        pose_channels: tuple[int, ...] = (16, 32, 96, 256),
        stack_views: bool = False,
    ) -> None:
        super().__init__()
        self._assemble(UNet2DConditionModel.from_config(unet_config))

    def _assemble(self, unet: UNet2DConditionModel) -> None:
        """Add IMAGPose's parts to a UNet, in place, and hold it."""
        config = self.config
        width = unet.config.cross_attention_dim
        latent_channels = unet.config.in_channels
        # FLC: latents [B, C, h, w] -> F_L [B, h w / patch^2, width], and tokens -> F_H [B, T, width]
        self.texture_tokenizer = (
            nn.Conv2d(latent_channels, width, config.texture_patch, config.texture_patch)
            if config.flc_texture
            else None
        )
        self.token_projection = (
            nn.Identity() if config.encoder_width == width else nn.Linear(config.encoder_width, width)
        )
        # Skeletons [B, 3, H, W] -> a feature [B, channels of the first level, 2h, 2w]
        self.pose_encoder = ControlNetConditioningEmbedding(
            unet.config.block_out_channels[0], block_out_channels=tuple(config.pose_channels)
        )
        # ILC: the mask, and the latents of the visible views, beside the noisy latents
        unet.conv_in = _ConditionedInput(unet.conv_in, 1 + latent_channels if config.ilc else 1)
        # CVA: after every transformer of the UNet, which holds a cross-attention
        if config.cva:
            for block in [*unet.down_blocks, unet.mid_block, *unet.up_blocks]:
                for i, transformer in enumerate(getattr(block, "attentions", [])):
                    block.attentions[i] = _CrossViewTransformer(
                        transformer, config.cva_heads, config.cva_layers, config.stack_views
                    )
        self.unet = unet

    @classmethod
    def from_unet(
        cls, unet: UNet2DConditionModel, encoder_width: int, settings: DenoiserSettings, seed: int
    ) -> Self:
        """Make a denoiser of a stock UNet, which it takes over (`unet` is changed in place).

        Args:
            unet: Latent UNet such as Stable Diffusion's; on the meta device, so is the denoiser.
            encoder_width: Width of the image encoder's tokens.
            settings: Parts to add.
            seed: Seed of the initial weights of what is added.

        Raises:
            MisfitError: The settings and the UNet do not fit together.
        """
        require_fit(Design(denoiser=settings, unet=unet.config))
        # A shell without weights; its parts are then replaced by those made of `unet`. Keys with an
        # underscore say where the UNet was loaded from.
        config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
        with torch.device("meta"):
            denoiser = cls(unet_config=config, encoder_width=encoder_width, **settings.model_dump())
        with torch.random.fork_rng(devices=[]), unet.device:
            torch.manual_seed(make_torch_seed(seed, "denoiser"))
            denoiser._assemble(unet)
        return denoiser

    def encode_features(self, latents: Tensor, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode the source view to F_C = [F_L, F_H], the condition that cross-attention reads (Eq. 3).

        Args:
            latents: Scaled VAE latents of the source view, [B, C, h, w].
            tokens: Image encoder's tokens of the source view, [B, T, encoder_width].
            keep: Which samples keep their tokens, bool [B]; the others get null tokens: zeros.

        Returns:
            [B, h w / patch^2 + T, cross_attention_dim].
        """
        # F_H [B, T, width]; before it F_L: patches [B, width, h / patch, w / patch] row by row
        features = self.token_projection(tokens.to(self.dtype))
        if self.texture_tokenizer is not None:
            texture = self.texture_tokenizer(latents.to(self.dtype)).flatten(2).transpose(1, 2)
            features = torch.cat([texture, features.to(texture.dtype)], dim=1)
        return features if keep is None else features * keep[:, None, None]

    def encode_pose(self, skeletons: Tensor) -> Tensor:
        """Encode joint skeletons, uint8 [B, 3, H, W], to the pose feature [B, block_out_channels[0], 2h, 2w].

        It does not depend on the timestep: sampling computes it once per joint image.
        """
        skeletons = skeletons.to(self.dtype) / 255
        if not self.config.stack_views:
            return self.pose_encoder(skeletons)
        # [B, 3, H, W] -> views [4 B, 3, H / 2, W / 2], so that none sees its neighbour's skeleton, and back
        return join(self.pose_encoder(split(skeletons).flatten(0, 1)).unflatten(0, (-1, VIEWS)))

    def forward(
        self, noisy: Tensor, timesteps: Tensor, features: Tensor, pose: Tensor, mask: Tensor, visible: Tensor
    ) -> Tensor:
        """Predict the noise (or v) in joint latents.

        Args:
            noisy: Joint latents with noise, [B, C, 2h, 2w].
            timesteps: Timesteps, int [B] or a scalar.
            features: Condition from `encode_features`, [B, T, cross_attention_dim].
            pose: Pose feature from `encode_pose`, [B, block_out_channels[0], 2h, 2w].
            mask: 1 where a view is visible and 0 where it is masked, [B, 1, 2h, 2w].
            visible: Joint latents of the visible views, black where masked, [B, C, 2h, 2w]; unused without
                ILC.

        Returns:
            [B, C, 2h, 2w].
        """
        # The joint image as one sample of the UNet: [B, C + 1 (+ C) + channels of the pose feature, 2h, 2w]
        inputs = [noisy, mask, visible, pose] if self.config.ilc else [noisy, mask, pose]
        sample = torch.cat([part.to(self.dtype) for part in inputs], dim=1)
        if not self.config.stack_views:
            return self.unet(sample, timesteps, encoder_hidden_states=features, return_dict=False)[0]
        # M1: the four views one after the other along the batch, [4 B, ..., h, w], with the same condition
        timesteps = torch.as_tensor(timesteps, device=sample.device).expand(len(sample))
        predicted = self.unet(
            split(sample).flatten(0, 1),
            timesteps.repeat_interleave(VIEWS),
            encoder_hidden_states=features.repeat_interleave(VIEWS, dim=0),
            return_dict=False,
        )[0]
        return join(predicted.unflatten(0, (-1, VIEWS)))

    def suit_device(self, device: torch.device) -> None:
        """Use what is fastest on the device.

        On an accelerator: fused attention, and convolutions with the channels last in memory. On a CPU:
        attention by plain matrix products; at 512 latent tokens in bf16, one core takes 1.5 times as long
        with the fused kernel, forward and backward.
        """
        if device.type == "cpu":
            self.unet.set_attn_processor(AttnProcessor())
        else:
            self.unet.set_attn_processor(AttnProcessor2_0())
            self.to(memory_format=torch.channels_last)


class _ConditionedInput(nn.Module):
    """The UNet's first convolution with channels for the conditions, to whose output a feature is added.

    Its input is [noisy latents, conditions, pose feature] along the channels. The weights of the new channels
    are zero.
    """

    def __init__(self, conv: nn.Conv2d, extra_channels: int) -> None:
        super().__init__()
        weight = conv.weight.detach()
        extra = weight.new_zeros(conv.out_channels, extra_channels, *conv.kernel_size)
        conv.weight = nn.Parameter(torch.cat([weight, extra], dim=1))
        conv.in_channels += extra_channels
        self.conv = conv

    def forward(self, sample: Tensor) -> Tensor:
        # [B, C + conditions + D, h, w] -> the convolution's own channels, and the pose feature [B, D, h, w]
        latents, feature = sample.split(
            [self.conv.in_channels, sample.shape[1] - self.conv.in_channels], dim=1
        )
        hidden = self.conv(latents)
        return hidden + feature.to(hidden.dtype)


class _CrossViewTransformer(nn.Module):
    """A UNet's transformer followed by CVA: AnimateDiff's motion block with the views as its frames.

    The four views are a joint image, or lie one after the other in the batch (`stack_views`).
    """

    def __init__(self, transformer: Transformer2DModel, heads: int, layers: int, stack_views: bool) -> None:
        super().__init__()
        channels = transformer.config.in_channels
        self.transformer = transformer
        self.stack_views = stack_views
        self.cross_view = AnimateDiffTransformer3D(
            num_attention_heads=heads,
            attention_head_dim=channels // heads,
            in_channels=channels,
            num_layers=layers,
            norm_num_groups=transformer.config.norm_num_groups,
            positional_embeddings="sinusoidal",
            num_positional_embeddings=VIEWS,
        )
        # The last layer starts at zero, so that the block starts as the transformer alone.
        nn.init.zeros_(self.cross_view.proj_out.weight)
        nn.init.zeros_(self.cross_view.proj_out.bias)
        self.gradient_checkpointing = False  # switched, with the function, by enable_gradient_checkpointing
        self._gradient_checkpointing_func: Callable[..., Tensor] = checkpoint

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        hidden = self.transformer(hidden_states, *args, **kwargs)[0]
        # [B, D, 2h, 2w] or [4 B, D, h, w] -> views [B, 4, D, h, w] -> mixed -> back
        views = hidden.unflatten(0, (-1, VIEWS)) if self.stack_views else split(hidden)
        mixed = torch.cat([self._mix(part) for part in self._parts(views)])
        return (mixed.flatten(0, 1) if self.stack_views else join(mixed),)

    def _mix(self, views: Tensor) -> Tensor:
        """Attend between the views [B, 4, D, h, w] at each place."""
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            mixed = self._gradient_checkpointing_func(
                self.cross_view, views.flatten(0, 1), None, None, None, VIEWS
            )
        else:
            mixed = self.cross_view(views.flatten(0, 1), num_frames=VIEWS)
        return mixed.view(views.shape)

    @staticmethod
    def _parts(views: Tensor) -> tuple[Tensor, ...]:
        """Split joint images into chunks: each place of a view is an item in the batch of the attention."""
        places = views.shape[-2] * views.shape[-1]
        return views.split(max(1, _MAX_ATTENTION_BATCH // places))


def load_denoiser(
    folder: Path, settings: DenoiserSettings, encoder_width: int, seed: int, meta: bool = False
) -> IMAGPoseDenoiser:
    """Load the denoiser to train: a saved `IMAGPoseDenoiser`, or one made of the stock UNet in the folder.

    A saved denoiser loses the parts that the settings switch off; all that stays keeps its weights.

    Args:
        folder: Folder saved by `IMAGPoseDenoiser.save_pretrained`, or a diffusers UNet folder.
        settings: Parts of the denoiser; a saved one must have them, in the same shapes.
        encoder_width: Width of the image encoder's tokens.
        seed: Seed of the initial weights of what is added to a stock UNet.
        meta: Read no weights, as in `load_model`.

    Raises:
        MisfitError: The settings and the stock UNet do not fit together.
        ValueError: The folder holds another model, a denoiser that lacks a part or has it in another shape,
            or `load_model` refuses its weights.
    """
    kind, config = read_config(folder, [UNet2DConditionModel.__name__, IMAGPoseDenoiser.__name__])
    if kind == UNet2DConditionModel.__name__:
        check_stock_unet(folder, config)
        unet = load_model(UNet2DConditionModel, folder, meta=meta)
        return IMAGPoseDenoiser.from_unet(unet, encoder_width, settings, seed)
    settings.check_saved(folder, config, encoder_width)
    return _without_parts(load_model(IMAGPoseDenoiser, folder, meta=meta), settings)


def _without_parts(denoiser: IMAGPoseDenoiser, settings: DenoiserSettings) -> IMAGPoseDenoiser:
    """Take off the parts that the settings switch off, and keep the weights of all that stays."""
    switches = settings.model_dump(include={"cva", "flc_texture", "ilc", "stack_views"})
    if all(denoiser.config[name] == value for name, value in switches.items()):
        return denoiser
    # Keys with an underscore would set what the file does not name back to its default.
    config = {key: value for key, value in denoiser.config.items() if not key.startswith("_")}
    with denoiser.device:
        smaller = IMAGPoseDenoiser.from_config(config | switches)
    # The weights of what stays, under the names that they have in the smaller denoiser
    weights = denoiser.state_dict()
    if denoiser.config.cva and not settings.cva:  # attentions.0.transformer.X becomes attentions.0.X again
        weights = {
            re.sub(r"(\.attentions\.\d+)\.transformer\.", r"\1.", name): tensor
            for name, tensor in weights.items()
            if ".cross_view." not in name
        }
    if not settings.flc_texture:
        weights = {name: tensor for name, tensor in weights.items() if "texture_tokenizer." not in name}
    if not settings.ilc:  # the latents of the visible views are the last input channels
        channels = smaller.unet.conv_in.conv.in_channels
        weights["unet.conv_in.conv.weight"] = weights["unet.conv_in.conv.weight"][:, :channels]
    smaller.load_state_dict(weights)
    return smaller
