"""Whether sizes, settings and models fit together: said once, and without a tensor library.

Models are known by their configuration: the content of a config.json, or `model.config`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from generator.settings import DenoiserSettings

Config = Mapping[str, Any]
Misfit = tuple[str, str]  # the name of a setting, and the sentence that follows it


@dataclass(frozen=True)
class Design:
    """What a generator is to be put together from; None stands for what is not known.

    Attributes:
        view_height, view_width: Size of a view, in pixels.
        token_height, token_width: Size of the image encoder's input, in pixels.
        denoiser: What IMAGPose adds to the UNet.
        vae: Configuration of the VAE.
        unet: Configuration of the stock UNet.
        image_encoder: Configuration of the image encoder.
    """

    view_height: int | None = None
    view_width: int | None = None
    token_height: int | None = None
    token_width: int | None = None
    denoiser: DenoiserSettings | None = None
    vae: Config | None = None
    unet: Config | None = None
    image_encoder: Config | None = None


class MisfitError(ValueError):
    """Sizes, settings and models do not fit together; `misfits` says what, as the function does."""

    def __init__(self, misfits: list[Misfit]) -> None:
        super().__init__("\n".join(f"{name} {sentence}." for name, sentence in misfits))
        self.misfits = misfits


def misfits(design: Design) -> list[Misfit]:
    """List what does not fit together, as far as the design is known.

    Returns:
        For each mistake the name of a setting, and the sentence that follows it ("is 40; expected ...").
        The names are those of `DenoiserSettings`, the sizes of `Design`, and `base` for the VAE with its
        UNet.
    """
    return [*_tokens(design), *_latents(design), *_views(design), *_heads(design)]


def require_fit(design: Design) -> None:
    """Raise a `MisfitError` if there are `misfits`."""
    if mistakes := misfits(design):
        raise MisfitError(mistakes)


def block_size(vae: Config) -> int:
    """Return the k of a VAE that works on images whose k x k blocks of pixels have become channels.

    Raises:
        ValueError: The VAE is not for RGB images.
    """
    channels = vae["in_channels"]
    k = math.isqrt(channels // 3)
    if channels != 3 * k * k or vae["out_channels"] != channels:
        raise ValueError(
            f"The VAE has {channels} input and {vae['out_channels']} output channels, where both must be "
            "3 k^2 for RGB images in blocks of k x k pixels."
        )
    return k


def vae_factor(vae: Config) -> int:
    """Return the pixels of an image per pixel of its latent, along each side: 8 for Stable Diffusion."""
    return block_size(vae) * 2 ** (len(vae["block_out_channels"]) - 1)


def _tokens(design: Design) -> Iterator[Misfit]:
    """Yield sides of the image encoder's input that are not whole patches."""
    if design.image_encoder is None:
        return
    patch = design.image_encoder["patch_size"]
    for name, side in (("token_height", design.token_height), ("token_width", design.token_width)):
        if side is not None and side % patch:
            yield name, f"is {side}; expected a multiple of {patch}, the patch of the image encoder"


def _latents(design: Design) -> Iterator[Misfit]:
    """Yield differences between the latents of the VAE, the UNet and the pose encoder."""
    if design.unet is not None:
        inputs, outputs = design.unet["in_channels"], design.unet["out_channels"]
        channels = design.vae["latent_channels"] if design.vae else outputs
        if not inputs == outputs == channels:
            yield (
                "base",
                f"has a UNet with {inputs} input and {outputs} output channels; expected {channels} of both"
                + (", as its VAE's latents have" if design.vae else ""),
            )
    if design.vae is not None and design.denoiser is not None:
        # The pose encoder halves the resolution from one entry to the next and must end at the latent's.
        factor, entries = vae_factor(design.vae), len(design.denoiser.pose_channels)
        if 2 ** (entries - 1) != factor:
            yield (
                "pose_channels",
                f"has {entries} entries, which reach 1/{2 ** (entries - 1)} of an image's size; expected "
                f"{1 + math.log2(factor):g}, which reach 1/{factor} as latents do",
            )


def _views(design: Design) -> Iterator[Misfit]:
    """Yield sides of a view that the grid cannot split at every level of the UNet, and a wrong patch."""
    if design.vae is not None:
        factor = vae_factor(design.vae)
    elif design.denoiser is not None:
        factor = 2 ** (len(design.denoiser.pose_channels) - 1)
    else:
        return
    halvings = 2 ** (len(design.unet["block_out_channels"]) - 1) if design.unet else 1
    shrunk = f"the VAE shrinks it by {factor}"
    if design.vae is None and design.denoiser is not None:
        shrunk += f", as pose_channels with {len(design.denoiser.pose_channels)} entries says"
    if design.unet is not None:
        shrunk += f", the UNet by {halvings}"
    latent = []
    for name, side in (("view_height", design.view_height), ("view_width", design.view_width)):
        if side is not None and side % (factor * halvings):
            yield name, f"is {side}; expected a multiple of {factor * halvings}: {shrunk}"
        elif side is not None:
            latent.append(side // factor)
    # Texture tokens: the latent of a view [C, h, w] in whole patches
    patch = design.denoiser.texture_patch if design.denoiser and design.denoiser.flc_texture else 1
    if any(side % patch for side in latent):
        sizes = " and ".join(map(str, latent))
        yield "texture_patch", f"is {patch}; expected a divisor of {sizes}, the sides of a view's latent"


def _heads(design: Design) -> Iterator[Misfit]:
    """Yield attention heads of CVA that cannot share the channels of a level of the UNet."""
    if design.unet is None or design.denoiser is None or not design.denoiser.cva:
        return
    unet, heads = design.unet, design.denoiser.cva_heads
    levels = unet["block_out_channels"]
    # CVA follows every cross-attention: in the blocks on the way down and up, and in the middle.
    blocks = [*zip(unet["down_block_types"], levels, strict=True)]
    blocks += zip(unet["up_block_types"], reversed(levels), strict=True)
    blocks += [(unet["mid_block_type"] or "", levels[-1])]
    attending = sorted({channels for kind, channels in blocks if "CrossAttn" in kind})
    for channels in attending:
        if channels % heads:
            yield "cva_heads", f"is {heads}; expected a divisor of the UNet's {channels} channels"
            return
