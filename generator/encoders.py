"""The two frozen encoders: images to VAE latents and back, and images to the tokens of an image encoder.

Images are floats [N, 3, H, W] in [-1, 1] everywhere between these functions; bytes exist only at the edges
(`to_float`, `to_bytes`). The VAE is a diffusers `AutoencoderKL`, the image encoder a transformers
`Dinov2Model` or `CLIPVisionModel`.

A VAE whose `in_channels` is 3 k^2 with k > 1 works on pixel-unshuffled images: blocks of k x k pixels become
channels before its encoder and pixels again after its decoder, which saves the convolutions at full
resolution. For Stable Diffusion k = 1 and nothing happens.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle
from transformers import CLIPVisionModel, Dinov2Model

from generator.model_files import read_json
from generator.weights import load_model

ImageEncoder: TypeAlias = Dinov2Model | CLIPVisionModel

# config.json's model_type -> the class to load and the normalisation it was trained with, which a
# preprocessor_config.json beside the weights overrides. DINOv2 uses ImageNet's, CLIP its own (openai/CLIP).
_ENCODERS = {
    "dinov2": (Dinov2Model, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": (CLIPVisionModel, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
_ENCODERS["clip_vision_model"] = _ENCODERS["clip"]
# Of a whole CLIP, and of a DINOv2 that was saved with a classifier.
_OTHER_HALF = ("text_model.", "text_projection.", "visual_projection.", "logit_scale", "classifier.")


def to_float(images: Tensor) -> Tensor:
    """Bytes [N, H, W, 3] in 0..255 to floats [N, 3, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """Floats [N, 3, H, W] in [-1, 1] (clipped) to bytes [N, H, W, 3] in 0..255, rounded to the nearest."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [N, 3, H, W] in [-1, 1] at another `size` (h, w): bicubic, antialiased, without a crop."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


def load_vae(folder: Path) -> AutoencoderKL:
    """The frozen VAE in a diffusers folder (config.json and safetensors weights).

    Raises:
        ValueError: the folder holds no AutoencoderKL for RGB images, or `load_model` refuses its weights.
    """
    config = read_json(folder / "config.json")
    if config.get("_class_name") != "AutoencoderKL":
        raise ValueError(
            f"{folder} holds a {config.get('_class_name')}, where a diffusers AutoencoderKL is needed."
        )
    vae = load_model(AutoencoderKL, folder)
    try:
        _unshuffle(vae)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return vae.eval().requires_grad_(False)


def load_image_encoder(folder: Path) -> ImageEncoder:
    """The frozen image encoder in a transformers folder: DINOv2, or the vision half of CLIP.

    The normalisation in the folder's preprocessor_config.json (else that of the model's class) is written
    into the model's own config as `image_mean` and `image_std`, so that it is saved and loaded with the
    model.

    Raises:
        ValueError: the folder holds another kind of model, or `load_model` refuses its weights.
    """
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in _ENCODERS:
        raise ValueError(
            f"{folder} holds a model of type {kind!r}, where one of {sorted(_ENCODERS)} is needed."
        )
    model_class, mean, std = _ENCODERS[kind]
    encoder = load_model(model_class, folder, unused=_OTHER_HALF)
    preprocessor = folder / "preprocessor_config.json"
    saved = read_json(preprocessor) if preprocessor.exists() else config
    encoder.config.image_mean = list(saved.get("image_mean", mean))
    encoder.config.image_std = list(saved.get("image_std", std))
    return encoder.eval().requires_grad_(False)


def vae_factor(vae: AutoencoderKL) -> int:
    """Pixels of the image per pixel of the latent, along each side: 8 for Stable Diffusion."""
    return _unshuffle(vae) * 2 ** (len(vae.config.block_out_channels) - 1)


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the scaled latents of images [N, 3, H, W] in [-1, 1].

    Returns:
        Two tensors [N, C, H / f, W / f] with f = `vae_factor(vae)`; mean + std * noise is a sample of the
        latent in the scale in which the denoiser works (variance about 1).
    """
    pixels = pixel_unshuffle(images.to(vae.device, vae.dtype), _unshuffle(vae))
    posterior = vae.encode(pixels).latent_dist
    shift = vae.config.shift_factor or 0.0
    scale = vae.config.scaling_factor
    return (posterior.mean - shift) * scale, posterior.std * scale


@torch.no_grad()
def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Images [N, 3, H, W], about [-1, 1] but not clipped, of scaled latents [N, C, H / f, W / f]."""
    latents = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    return pixel_shuffle(vae.decode(latents).sample, _unshuffle(vae))


@torch.no_grad()
def encode_tokens(encoder: ImageEncoder, images: Tensor, size: tuple[int, int]) -> Tensor:
    """Last hidden state of the image encoder for images [N, 3, H, W] in [-1, 1].

    The whole image is resized to `size`: no crop, which would cut the head and legs of a person, and no
    square. The position encodings are interpolated to the grid of patches that results.

    Args:
        encoder: from `load_image_encoder`.
        images: [N, 3, H, W] in [-1, 1].
        size: (h, w) in pixels, each a multiple of the encoder's patch.

    Returns:
        [N, 1 + (h / patch) (w / patch), width]: the class token, then the patches row by row.

    Raises:
        ValueError: the encoder's patch does not divide `size`.
    """
    patch = encoder.config.patch_size
    if size[0] % patch or size[1] % patch:
        raise ValueError(
            f"The image encoder's input is {size[0]}x{size[1]}, which its patch of {patch} does not divide."
        )
    mean = torch.tensor(encoder.config.image_mean).view(3, 1, 1)
    std = torch.tensor(encoder.config.image_std).view(3, 1, 1)
    pixels = resize(images, size) / 2 + 0.5
    pixels = ((pixels - mean.to(pixels)) / std.to(pixels)).to(encoder.device, encoder.dtype)
    # DINOv2 interpolates its position encodings by itself, CLIP when it is told to.
    options = {"interpolate_pos_encoding": True} if isinstance(encoder, CLIPVisionModel) else {}
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


def _unshuffle(vae: AutoencoderKL) -> int:
    """The k of a VAE that works on images whose k x k blocks of pixels have become channels."""
    channels = vae.config.in_channels
    k = math.isqrt(channels // 3)
    if channels != 3 * k * k or vae.config.out_channels != channels:
        sides = f"{channels} input and {vae.config.out_channels} output channels"
        raise ValueError(
            f"The VAE has {sides}, where both must be 3 k^2 for RGB images in blocks of k x k pixels."
        )
    return k
