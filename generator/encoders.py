"""The two frozen encoders: images to VAE latents and back, and images to the tokens of an image encoder.

Images are floats [N, 3, H, W] in [-1, 1] everywhere between these functions; bytes exist only at the edges
(`to_float`, `to_bytes`). The VAE is a diffusers `AutoencoderKL` or `AutoencoderTiny`, the image encoder a
transformers `Dinov2Model` or `CLIPVisionModel`.

A VAE whose `in_channels` is 3 k^2 with k > 1 works on pixel-unshuffled images: blocks of k x k pixels become
channels before its encoder and pixels again after its decoder, which saves the convolutions at full
resolution. For Stable Diffusion k = 1 and nothing happens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle
from transformers import CLIPVisionModel, Dinov2Model

from generator import fit
from generator.model_files import read_config, read_json
from generator.weights import load_model

# A tiny autoencoder, such as TAESD for the latents of Stable Diffusion, has no variance
Vae: TypeAlias = AutoencoderKL | AutoencoderTiny
ImageEncoder: TypeAlias = Dinov2Model | CLIPVisionModel
Channels: TypeAlias = tuple[float, float, float]  # of R, G and B in [0, 1]


@dataclass(frozen=True)
class _Kind:
    """A kind of image encoder.

    Attributes:
        model_class: Class of transformers that loads it.
        mean, std: Normalisation that it was trained with; a preprocessor_config.json beside the weights
            overrides it.
        unused: First parts of the names of tensors that its folders may hold beside the vision model's.
        options: Arguments of its forward pass that let it take images of any size.
    """

    model_class: Any
    mean: Channels
    std: Channels
    unused: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)


# DINOv2 uses ImageNet's normalisation, CLIP its own (openai/CLIP). DINOv2 interpolates its position encodings
# by itself, CLIP when it is told to.
_DINOV2 = _Kind(Dinov2Model, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), ("classifier.",))
_CLIP = _Kind(
    CLIPVisionModel,
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
    ("text_model.", "text_projection.", "visual_projection.", "logit_scale"),
    {"interpolate_pos_encoding": True},
)
_VAES = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderTiny)}
# All that must be said of a kind, by the model_type of its config.json: whole CLIPs and their vision half.
_KINDS = {"dinov2": _DINOV2, "clip": _CLIP, "clip_vision_model": _CLIP}


def to_float(images: Tensor) -> Tensor:
    """Turn bytes [N, H, W, 3] in 0..255 into floats [N, 3, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """Turn floats [N, 3, H, W] in [-1, 1] (clipped) into bytes [N, H, W, 3], rounded to the nearest."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images [N, 3, H, W] in [-1, 1] to `size` (h, w): bicubic, antialiased, without a crop."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


def load_vae(folder: Path, meta: bool = False) -> Vae:
    """Load the frozen VAE in a diffusers folder (config.json and safetensors weights).

    Args:
        folder: Folder of the VAE.
        meta: Read no weights, as in `load_model`.

    Raises:
        ValueError: The folder holds no VAE for RGB images, or `load_model` refuses its weights.
    """
    name, _ = read_config(folder, _VAES)
    vae: Vae = load_model(_VAES[name], folder, meta=meta)
    try:
        fit.block_size(vae.config)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return vae.eval().requires_grad_(False)


def load_image_encoder(folder: Path, meta: bool = False) -> ImageEncoder:
    """Load the frozen image encoder in a transformers folder: DINOv2, or the vision half of CLIP.

    The normalisation in the folder's preprocessor_config.json (else that of the model's kind) is written
    into the model's own config as `image_mean` and `image_std`, so that it is saved and loaded with the
    model.

    Args:
        folder: Folder of the image encoder.
        meta: Read no weights, as in `load_model`.

    Raises:
        ValueError: The folder holds another kind of model, or `load_model` refuses its weights.
    """
    name, config = read_config(folder, _KINDS)
    kind = _KINDS[name]
    encoder = load_model(kind.model_class, folder, kind.unused, meta)
    patch = encoder.config.patch_size
    if not isinstance(patch, int) or patch < 1:
        raise ValueError(f"{folder / 'config.json'} has patch_size {patch!r}; expected pixels of a side.")
    preprocessor = folder / "preprocessor_config.json"
    normalisation = read_json(preprocessor) if preprocessor.exists() else config
    encoder.config.image_mean = list(normalisation.get("image_mean", kind.mean))
    encoder.config.image_std = list(normalisation.get("image_std", kind.std))
    return encoder.eval().requires_grad_(False)


def vae_factor(vae: Vae) -> int:
    """Return the pixels of an image per pixel of its latent, along each side: 8 for Stable Diffusion."""
    return fit.vae_factor(vae.config)


@torch.no_grad()
def encode_latents(vae: Vae, images: Tensor) -> tuple[Tensor, Tensor]:
    """Encode images [N, 3, H, W] in [-1, 1] to the mean and standard deviation of their scaled latents.

    Returns:
        Two tensors [N, C, H / f, W / f] with f = `vae_factor(vae)`; mean + std * noise is a sample of the
        latent in the scale in which the denoiser works (variance about 1).
    """
    # [N, 3, H, W] -> [N, 3 k^2, H / k, W / k] -> a Gaussian over latents [N, C, H / f, W / f]
    pixels = pixel_unshuffle(images.to(vae.device, vae.dtype), fit.block_size(vae.config))
    encoding = vae.encode(pixels)
    if isinstance(vae, AutoencoderTiny):
        mean, std = encoding.latents, torch.zeros_like(encoding.latents)
    else:
        mean, std = encoding.latent_dist.mean, encoding.latent_dist.std
    # The VAE's latents in the denoiser's scale: z -> (z - shift) * scale
    shift = vae.config.shift_factor or 0.0
    scale = vae.config.scaling_factor
    return (mean - shift) * scale, std * scale


@torch.no_grad()
def decode_latents(vae: Vae, latents: Tensor) -> Tensor:
    """Decode scaled latents [N, C, H / f, W / f] to images [N, 3, H, W], about [-1, 1] but not clipped."""
    latents = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    return pixel_shuffle(vae.decode(latents).sample, fit.block_size(vae.config))


@torch.no_grad()
def encode_tokens(encoder: ImageEncoder, images: Tensor, size: tuple[int, int]) -> Tensor:
    """Encode images [N, 3, H, W] in [-1, 1] to the last hidden state of the image encoder.

    The whole image is resized to `size`: no crop, which would cut the head and legs of a person, and no
    square. The position encodings are interpolated to the grid of patches that results.

    Args:
        encoder: Image encoder from `load_image_encoder`.
        images: Images [N, 3, H, W] in [-1, 1].
        size: (h, w) in pixels, each a multiple of the encoder's patch.

    Returns:
        [N, 1 + (h / patch) (w / patch), width]: the class token, then the patches row by row.

    Raises:
        MisfitError: The encoder's patch does not divide `size`.
    """
    # transformers would leave out the rows and columns that fill no patch, without a word.
    design = fit.Design(
        token_height=size[0], token_width=size[1], image_encoder={"patch_size": encoder.config.patch_size}
    )
    fit.require_fit(design)
    # [N, 3, H, W] in [-1, 1] -> [N, 3, h, w] in [0, 1] -> normalised as in the encoder's own training
    mean = torch.tensor(encoder.config.image_mean).view(3, 1, 1)
    std = torch.tensor(encoder.config.image_std).view(3, 1, 1)
    pixels = resize(images, size) / 2 + 0.5
    pixels = ((pixels - mean.to(pixels)) / std.to(pixels)).to(encoder.device, encoder.dtype)
    # -> [N, 1 + patches, width]
    options = _KINDS[encoder.config.model_type].options
    with _single_precision_fast(encoder.device):
        return encoder(pixel_values=pixels, **options).last_hidden_state


@contextmanager
def _single_precision_fast(device: torch.device) -> Iterator[None]:
    """Let a GPU multiply matrices in TF32, as it does convolutions: the tokens are kept in half precision."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
