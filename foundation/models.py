"""The models that a training begins with: untrained ones, or those of a saved pipeline."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import Dinov2Config, Dinov2Model

from common.seeding import make_torch_seed
from foundation.settings import FoundationSettings, ImageEncoderSettings, UnetSettings, VaeSettings
from generator.encoders import ImageEncoder, Vae
from generator.fit import Design, block_size, misfits
from generator.model import IMAGPoseDenoiser
from generator.sample import IMAGPosePipeline, load_pipeline
from generator.settings import DenoiserSettings

_BLOCKS = {
    "conv": ("DownBlock2D", "UpBlock2D"),
    "attention": ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"),
}


@contextmanager
def _seeded_weights(seed: int, model: str) -> Iterator[None]:
    """Draw initial weights from (seed, the model's name), and leave torch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(make_torch_seed(seed, model))
        yield


def build_vae(settings: VaeSettings, seed: int) -> AutoencoderKL:
    """Untrained stock AutoencoderKL on images whose blocks of k x k pixels (k = `unshuffle`) are channels."""
    levels = len(settings.channels)
    with _seeded_weights(seed, "vae"):
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


def build_image_encoder(settings: ImageEncoderSettings, height: int, seed: int) -> Dinov2Model:
    """Untrained DINOv2 model with position encodings for squares of `height` pixels; others interpolate."""
    config = Dinov2Config(
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        patch_size=settings.patch_size,
        image_size=height,
    )
    with _seeded_weights(seed, "image encoder"):
        return Dinov2Model(config)


def build_denoiser(
    unet: UnetSettings, denoiser: DenoiserSettings, latent_channels: int, encoder_width: int, seed: int
) -> IMAGPoseDenoiser:
    """Untrained denoiser on an untrained stock UNet."""
    with _seeded_weights(seed, "unet"):
        stock = UNet2DConditionModel(
            in_channels=latent_channels,
            out_channels=latent_channels,
            block_out_channels=unet.channels,
            layers_per_block=unet.layers,
            down_block_types=tuple(_BLOCKS[block][0] for block in unet.blocks),
            up_block_types=tuple(_BLOCKS[block][1] for block in reversed(unet.blocks)),
            cross_attention_dim=unet.cross_attention_dim,
            attention_head_dim=unet.heads,  # diffusers' name for the number of heads
            norm_num_groups=unet.norm_groups,
        )
    return IMAGPoseDenoiser.from_unet(stock, encoder_width, denoiser, seed)


def build_scheduler(settings: UnetSettings) -> DDIMScheduler:
    """The one scheduler of training and sampling."""
    return DDIMScheduler(
        beta_schedule=settings.beta_schedule,
        beta_start=0.00085,  # Stable Diffusion's
        beta_end=0.012,
        prediction_type=settings.prediction_type,
        rescale_betas_zero_snr=settings.zero_terminal_snr,
        timestep_spacing="trailing" if settings.zero_terminal_snr else "leading",
        clip_sample=False,
        set_alpha_to_one=settings.zero_terminal_snr,
        steps_offset=0 if settings.zero_terminal_snr else 1,
    )


def assemble(
    vae: Vae,
    image_encoder: ImageEncoder,
    denoiser: IMAGPoseDenoiser,
    scheduler: DDIMScheduler,
    settings: FoundationSettings,
) -> IMAGPosePipeline:
    """Put models together as a pipeline for views of the settings' size."""
    return IMAGPosePipeline(
        vae,
        image_encoder,
        denoiser,
        scheduler,
        view_height=settings.height,
        view_width=settings.width,
        token_height=settings.height,
        token_width=settings.width,
    )


def first_models(settings: FoundationSettings, profile: Path) -> IMAGPosePipeline:
    """The pipeline that a training begins with: the one in `start`, or an untrained one.

    Where the settings give the latents more channels than `start` has, the VAE is widened. The denoiser is
    still that of `start`, for the latents there.

    Args:
        settings: Settings of the training.
        profile: File of the settings, for the sentences.

    Raises:
        ValueError: `start` holds no pipeline, or one of another architecture, or the size of the photos does
            not fit the models.
    """
    if settings.start:
        imagpose = load_pipeline(settings.start)
        _check_architecture(imagpose, settings, profile)
        if settings.vae.latent_channels > imagpose.vae.config.latent_channels:
            imagpose.register_modules(vae=widen_vae(imagpose.vae, settings.vae, settings.seed))
    else:
        shape, seed = settings.image_encoder, settings.seed
        denoiser = build_denoiser(
            settings.unet, settings.denoiser, settings.vae.latent_channels, shape.hidden_size, seed
        )
        encoder = build_image_encoder(shape, settings.height, seed)
        scheduler = build_scheduler(settings.unet)
        imagpose = assemble(build_vae(settings.vae, seed), encoder, denoiser, scheduler, settings)
    _check_sizes(imagpose, settings, profile)
    return imagpose


def widen_vae(vae: AutoencoderKL, settings: VaeSettings, seed: int) -> AutoencoderKL:
    """Give the latents of a trained VAE more channels; reconstructions do not change.

    The encoder fills the new channels at random and the decoder does not read them yet. So a training goes on
    from all that the VAE knows, and finds what the new channels are good for.

    Args:
        vae: A VAE with C latent channels.
        settings: The same architecture with D latent channels, D > C.
        seed: Seed of the new weights.

    Returns:
        A VAE with D latent channels, of which the first C are those of `vae`.
    """
    wide = build_vae(settings, seed)
    old, new = vae.state_dict(), wide.state_dict()
    few, many = vae.config.latent_channels, settings.latent_channels

    # The new channels: whatever the encoder's last convolution begins with, with a deviation of e^-3
    identity = torch.eye(2 * many)[..., None, None]
    new["quant_conv.weight"] = identity.clone()
    new["quant_conv.weight"][many:] = 0.0
    new["quant_conv.bias"] = torch.tensor([0.0, -6.0]).repeat_interleave(many)  # means, then log-variances
    new["post_quant_conv.weight"] = identity[:many, :many].clone()
    new["post_quant_conv.bias"] = torch.zeros(many)
    new["decoder.conv_in.weight"][:, few:] = 0.0

    # The old ones: the convolutions around the latent have fewer inputs or outputs, all others are as before
    latent = torch.arange(few)
    moments = torch.cat([latent, many + latent])
    everything = torch.arange(len(new["decoder.conv_in.weight"]))
    features = torch.arange(new["encoder.conv_out.weight"].shape[1])
    places = {
        "encoder.conv_out": (moments, features),
        "quant_conv": (moments, moments),
        "post_quant_conv": (latent, latent),
        "decoder.conv_in": (everything, latent),
    }
    for name, tensor in old.items():
        layer, _, kind = name.rpartition(".")
        outputs, inputs = places.get(layer, (None, None))
        if outputs is None:
            new[name] = tensor
        elif kind == "weight":
            new[name][outputs[:, None], inputs] = tensor
        else:
            new[name][outputs] = tensor
    wide.load_state_dict(new)
    wide.register_to_config(scaling_factor=vae.config.scaling_factor, shift_factor=vae.config.shift_factor)
    return wide


def follow_latents(
    denoiser: IMAGPoseDenoiser, to_old: torch.Tensor, to_new: torch.Tensor
) -> IMAGPoseDenoiser:
    """Make a denoiser of one VAE's latents into one of another VAE's, by linear maps between the two.

    The maps are folded into the convolutions that read and write latents, so that the denoiser goes on from
    what it knows. For latents that are mapped exactly, by a rotation, it predicts what it predicted before.

    Args:
        denoiser: Denoiser of latents with C channels.
        to_old: Map from the new latents to those that it knows, [C, D].
        to_new: Map from those that it knows to the new ones, [D, C].

    Returns:
        A denoiser of latents with D channels.
    """
    channels = len(to_new)
    unet = dict(denoiser.config.unet_config) | {"in_channels": channels, "out_channels": channels}
    settings = {name: denoiser.config[name] for name in DenoiserSettings.model_fields}
    moved = IMAGPoseDenoiser(unet_config=unet, encoder_width=denoiser.config.encoder_width, **settings)
    state = denoiser.state_dict()

    # What reads latents, [outputs, channels, k, k]: the noisy ones, the mask, and with ILC the visible ones
    def read(weight: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ochw,cd->odhw", weight, to_old.to(weight))

    name = "unet.conv_in.conv.weight"
    noisy, mask, visible = state[name].tensor_split((len(to_old), len(to_old) + 1), dim=1)
    state[name] = torch.cat([read(noisy), mask, read(visible) if denoiser.config.ilc else visible], dim=1)
    if denoiser.config.flc_texture:
        name = "texture_tokenizer.weight"
        state[name] = read(state[name])
    # What writes latents: [channels, inputs, k, k], and one bias per channel
    for name in ("unet.conv_out.weight", "unet.conv_out.bias"):
        state[name] = torch.einsum("dc,c...->d...", to_new.to(state[name]), state[name])
    moved.load_state_dict(state)
    return moved


def _check_sizes(imagpose: IMAGPosePipeline, settings: FoundationSettings, profile: Path) -> None:
    """Raise a ValueError unless the models fit together and take photos of the settings' size."""
    unet = dict(imagpose.denoiser.config.unet_config)
    if settings.start and "vae" not in settings.keep:  # the denoiser will follow the VAE's latents
        unet |= dict.fromkeys(("in_channels", "out_channels"), imagpose.vae.config.latent_channels)
    design = Design(
        view_height=settings.height,
        view_width=settings.width,
        token_height=settings.height,
        token_width=settings.width,
        denoiser=settings.denoiser,
        vae=imagpose.vae.config,
        unet=unet,
        image_encoder=imagpose.image_encoder.config.to_dict(),
    )
    for name, sentence in misfits(design):
        side = name.removeprefix("view_").removeprefix("token_")
        key = f"denoiser.{name}" if name in DenoiserSettings.model_fields else side
        raise ValueError(f"{profile}: {key} {sentence}.")


def _check_architecture(imagpose: IMAGPosePipeline, settings: FoundationSettings, profile: Path) -> None:
    """Raise a ValueError unless the settings describe the models of `start`."""
    if not isinstance(imagpose.image_encoder, Dinov2Model):
        kind = type(imagpose.image_encoder).__name__
        raise ValueError(f"{settings.start} has a {kind} as image_encoder; expected a Dinov2Model.")
    if not isinstance(imagpose.vae, AutoencoderKL) and "vae" not in settings.keep:
        raise ValueError(
            f"{settings.start} has an {type(imagpose.vae).__name__} as vae, which is not trained further; "
            "name vae in keep."
        )
    values = settings.model_dump(mode="json")
    for section, architecture in _architecture(imagpose).items():
        for name, theirs in architecture.items():
            ours, theirs = values[section][name], list(theirs) if isinstance(theirs, tuple) else theirs
            is_wider = name == "latent_channels" and "vae" not in settings.keep and ours > theirs
            if ours != theirs and not is_wider:
                raise ValueError(
                    f"{section}.{name} is {ours} in {profile}, but {theirs} in {settings.start}, where the "
                    "training begins; set it to that, or start to null."
                )


def _architecture(imagpose: IMAGPosePipeline) -> dict[str, dict[str, Any]]:
    """The settings of a pipeline's architecture, by section, as its models' own configurations have them."""
    encoder = imagpose.image_encoder.config
    denoiser, scheduler = imagpose.denoiser.config, imagpose.scheduler.config
    unet = denoiser.unet_config
    return _vae_architecture(imagpose.vae) | {
        "image_encoder": {
            "hidden_size": encoder.hidden_size,
            "layers": encoder.num_hidden_layers,
            "heads": encoder.num_attention_heads,
            "patch_size": encoder.patch_size,
        },
        "unet": {
            "channels": unet["block_out_channels"],
            "blocks": [
                "attention" if block.startswith("CrossAttn") else "conv" for block in unet["down_block_types"]
            ],
            "layers": unet["layers_per_block"],
            "heads": unet["attention_head_dim"],
            "cross_attention_dim": unet["cross_attention_dim"],
            "norm_groups": unet["norm_num_groups"],
            "beta_schedule": scheduler.beta_schedule,
            "prediction_type": scheduler.prediction_type,
            "zero_terminal_snr": scheduler.rescale_betas_zero_snr,
        },
        "denoiser": {name: denoiser[name] for name in DenoiserSettings.model_fields},
    }


def _vae_architecture(vae: Vae) -> dict[str, dict[str, Any]]:
    """The settings of a VAE; of one that is not trained here, the width of its latents alone."""
    config = vae.config
    if not isinstance(vae, AutoencoderKL):
        return {"vae": {"latent_channels": config.latent_channels}}
    return {
        "vae": {
            "unshuffle": block_size(config),
            "latent_channels": config.latent_channels,
            "channels": config.block_out_channels,
            "layers": config.layers_per_block,
            "norm_groups": config.norm_num_groups,
        }
    }
