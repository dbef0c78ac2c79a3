"""The hubs' models: small folders of their layout, written by their libraries, and full sizes by shape."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
)

from generator.data import encode_views
from generator.encoders import encode_tokens, load_image_encoder, load_vae
from generator.loss import prediction_target
from generator.model import IMAGPoseDenoiser
from generator.sample import IMAGPosePipeline, JointRequest
from generator.settings import SampleSettings
from generator.train import train
from pipeline import check
from pipeline.params import Params, load_params
from pipeline.runtime.checkpoints import Checkpoints
from pipeline.shared.imagpose import load_base_model
from tests.generator import tiny

PAPER = load_params(Path(__file__).parents[2] / "profiles/market1501.yaml")

# What tells the two apart in the unet/config.json and scheduler_config.json of the hubs' folders.
STABLE_DIFFUSION = {
    "1.5": ({"cross_attention_dim": 768, "attention_head_dim": 8}, {"steps_offset": 1}),
    "2.1": (
        {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
        {"steps_offset": 1, "prediction_type": "v_prediction"},
    ),
}
# Table 3: width, layers, heads; for CLIP also patch, hidden width and millions of parameters.
CLIP = {
    "CLIP-B": (768, 12, 12, 32, 3072, 87),
    "CLIP-H": (1280, 32, 16, 14, 5120, 631),
    "CLIP-bigG": (1664, 48, 16, 14, 8192, 1843),
}
DINOV2 = {"DINOv2-B": (768, 12, 12), "DINOv2-L": (1024, 24, 16), "DINOv2-G": (1536, 40, 24)}
DINOV2_PARAMETERS = {"DINOv2-B": 87, "DINOv2-L": 304, "DINOv2-G": 1136}  # millions
TABLE_3 = [(sd, encoder) for sd in STABLE_DIFFUSION for encoder in [*CLIP, *DINOV2]]


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def full_size_encoder(name: str) -> Dinov2Model | CLIPVisionModel:
    with torch.device("meta"):
        if name in DINOV2:
            width, layers, heads = DINOV2[name]
            return Dinov2Model(
                Dinov2Config(
                    hidden_size=width,
                    num_hidden_layers=layers,
                    num_attention_heads=heads,
                    patch_size=14,
                    image_size=518,
                    use_swiglu_ffn=name == "DINOv2-G",
                )
            )
        width, layers, heads, patch, hidden, _ = CLIP[name]
        return CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                patch_size=patch,
                intermediate_size=hidden,
            )
        )


@functools.cache
def full_size_denoiser(sd: str) -> IMAGPoseDenoiser:
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, **STABLE_DIFFUSION[sd][0])
        return IMAGPoseDenoiser.from_unet(unet, 1536, PAPER.generator.denoiser, seed=0)


def width_of(encoder: str) -> int:
    return DINOV2[encoder][0] if encoder in DINOV2 else CLIP[encoder][0]


def patch_of(encoder: str) -> int:
    return CLIP[encoder][3] if encoder in CLIP else 14


# ---- full sizes, on the meta device ----


@pytest.mark.parametrize(("sd", "stock_millions", "cva_millions"), [("1.5", 859.5, 273), ("2.1", 865.9, 273)])
def test_the_unet_and_cva_have_the_known_number_of_parameters(sd, stock_millions, cva_millions):
    denoiser = full_size_denoiser(sd)
    blocks = [module for module in denoiser.modules() if isinstance(module, AnimateDiffTransformer3D)]
    cva = sum(parameters(block) for block in blocks)
    new_inputs = 5 * 9 * 320  # mask and visible latents, 3 x 3
    assert len(blocks) == 16
    assert round((parameters(denoiser.unet) - cva - new_inputs) / 1e6, 1) == stock_millions
    assert round(cva / 1e6) == cva_millions


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CLIP, *DINOV2])
def test_image_encoders_have_their_size_and_number_of_tokens(name):
    encoder = full_size_encoder(name)
    millions = DINOV2_PARAMETERS[name] if name in DINOV2 else CLIP[name][5]
    assert parameters(encoder) / 1e6 == pytest.approx(millions, rel=0.01)
    patch = patch_of(name)
    assert encoder.config.patch_size == patch and encoder.config.hidden_size == width_of(name)
    size = (224, 112) if patch == 14 else (224, 128)  # 112 is no multiple of CLIP-B's 32
    options = {"interpolate_pos_encoding": True} if name in CLIP else {}
    tokens = encoder(torch.empty(1, 3, *size, device="meta"), **options).last_hidden_state
    assert tokens.shape == (1, 1 + (size[0] // patch) * (size[1] // patch), encoder.config.hidden_size)
    assert tokens.shape[1] == {14: 129, 32: 29}[patch]


def test_deepfashions_larger_views_split_at_every_level():
    def misfits(height, width):
        dataset = PAPER.dataset.model_copy(update={"height": height, "width": width})
        return PAPER.model_copy(update={"dataset": dataset}).misfits(
            unet=full_size_denoiser("1.5").unet.config
        )

    assert (PAPER.dataset.height, PAPER.dataset.width) == (128, 64)
    for size in ((128, 64), (256, 192), (512, 384)):
        assert misfits(*size) == []
    assert misfits(512, 352)[0].startswith("dataset.width is 352; expected a multiple of 64")


# ---- folders of the true layout, in small, through the real code ----


def hub_name(name: str) -> str:
    """The name of a VAE's tensor in the hubs' files, which call the layers of its attention as of old."""
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        name = name.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
    return name


def save_base(folder: Path, sd: str) -> None:
    """Write unet/, vae/ and scheduler/ as the hubs have them, with few channels."""
    torch.manual_seed(0)
    width, scheduler = STABLE_DIFFUSION[sd]
    heads = [1, 2, 2, 2] if sd == "2.1" else 2
    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(4, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        **width | {"attention_head_dim": heads},
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=64,
    ).save_pretrained(folder / "vae")
    weights = folder / "vae/diffusion_pytorch_model.safetensors"
    save_file({hub_name(name): tensor for name, tensor in load_file(weights).items()}, weights)
    kind = PNDMScheduler if sd == "1.5" else DDIMScheduler
    kind(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **scheduler).save_pretrained(
        folder / "scheduler"
    )


def save_encoder(folder: Path, name: str) -> None:
    """Write a transformers folder of one layer, as wide as the real one: a DINOv2, or a whole CLIP."""
    torch.manual_seed(1)
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": width_of(name)}
    if name in DINOV2:
        swiglu = {"use_swiglu_ffn": name == "DINOv2-G"}
        config = Dinov2Config(patch_size=14, image_size=28, mlp_ratio=1, **small, **swiglu)
        Dinov2Model(config).save_pretrained(folder)
    else:
        patch = patch_of(name)
        vision = {"patch_size": patch, "image_size": 2 * patch, "intermediate_size": 8}
        text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        config = CLIPConfig(vision_config=small | vision, text_config=text | {"vocab_size": 100})
        CLIPModel(config).save_pretrained(folder)
        CLIPImageProcessor().save_pretrained(folder)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    for sd in STABLE_DIFFUSION:
        save_base(folder / sd, sd)
    for name in [*CLIP, *DINOV2]:
        save_encoder(folder / name, name)
    return folder


def parameters_for(hub: Path, sd: str, encoder: str) -> Params:
    """The paper's parameters with one row of Table 3: two folders, and a size that the patch divides."""
    small = {"cva_heads": 2, "pose_channels": (4, 4, 4, 8)}  # as narrow as the UNet
    changes = {
        "base": hub / sd,
        "image_encoder": hub / encoder,
        "token_height": 224,
        "token_width": 128 if encoder == "CLIP-B" else 112,
        "denoiser": PAPER.generator.denoiser.model_copy(update=small),
    }
    return PAPER.model_copy(update={"generator": PAPER.generator.model_copy(update=changes)})


@pytest.mark.slow
@pytest.mark.parametrize(("sd", "encoder"), TABLE_3)
def test_the_twelve_rows_of_table_3_are_twelve_settings(hub, sd, encoder):
    """Two folders make a row; the projection is there exactly where the widths differ."""
    params = parameters_for(hub, sd, encoder)
    mistakes = check.Mistakes()
    assert check.load_models(params, mistakes) is not None and mistakes == []
    imagpose = load_base_model(params)
    width, unet_width = width_of(encoder), STABLE_DIFFUSION[sd][0]["cross_attention_dim"]
    assert isinstance(imagpose.denoiser.token_projection, torch.nn.Linear) == (width != unet_width)
    tokens = encode_tokens(imagpose.image_encoder, torch.zeros(1, 3, 128, 64), imagpose.token_size)
    features = imagpose.denoiser.encode_features(torch.zeros(1, 4, 16, 8), tokens)
    assert features.shape == (1, 8 + (29 if encoder == "CLIP-B" else 129), unet_width)  # F_L, then F_H
    kind = "v_prediction" if sd == "2.1" else "epsilon"
    assert isinstance(imagpose.scheduler, DDIMScheduler) and imagpose.scheduler.config.prediction_type == kind


@pytest.mark.slow
@pytest.mark.parametrize(("sd", "encoder"), [("1.5", "DINOv2-G"), ("2.1", "CLIP-B")])
def test_hub_folders_train_and_generate(hub, tmp_path, sd, encoder):
    """Images of a person through the encoders, a training step and the sampler, at Market-1501's size."""
    imagpose = load_base_model(parameters_for(hub, sd, encoder))
    noise, latents, steps = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.tensor([0])
    target = prediction_target(imagpose.scheduler, latents, noise, steps).item()
    alpha = imagpose.scheduler.alphas_cumprod[0].item()
    assert target == pytest.approx(alpha**0.5 if sd == "2.1" else 1.0)

    keypoints = np.concatenate([np.random.default_rng(0).uniform(0, 60, (2, 18, 2)), np.ones((2, 18, 1))], 2)
    images = np.random.default_rng(0).integers(0, 256, (2, 128, 64, 3), np.uint8)
    views = encode_views(
        images,
        keypoints,
        np.zeros(2, int),
        imagpose.vae,
        imagpose.image_encoder,
        view_size=imagpose.view_size,
        token_size=imagpose.token_size,
        flip=True,
        batch_size=4,
    )
    assert views.tokens.shape == (2, 2, 29 if encoder == "CLIP-B" else 129, width_of(encoder))
    settings = tiny.TRAIN.model_copy(update={"steps": 1, "batch_size": 1, "checkpoint_every": 1})
    imagpose.denoiser = train(
        imagpose.denoiser, views, imagpose.scheduler, settings, 0, Checkpoints(tmp_path / "checkpoints")
    )
    imagpose.save_pretrained(tmp_path / "saved", safe_serialization=True)
    loaded = IMAGPosePipeline.from_pretrained(tmp_path / "saved", local_files_only=True)
    sampling = SampleSettings(
        steps=1, guidance_scale=2.0, guidance_drop=("features", "image"), batch_size=1, mixed_precision="no"
    )
    request = JointRequest(sources=(0,), poses=keypoints[:1], seeds=(0,))
    (made,) = loaded.generate(views, [request], sampling)
    assert made.shape == (1, 128, 64, 3) and made.dtype == np.uint8


@pytest.mark.slow
def test_what_the_hubs_files_say_is_what_is_loaded(hub):
    """Weights to the bit, and CLIP's own normalisation from its preprocessor."""
    imagpose = load_base_model(parameters_for(hub, "2.1", "CLIP-H"))
    unet = UNet2DConditionModel.from_pretrained(hub / "2.1" / "unet")
    loaded = {
        name.replace(".transformer.", "."): t for name, t in imagpose.denoiser.unet.state_dict().items()
    }
    for name, tensor in unet.state_dict().items():
        if name.startswith("conv_in.weight"):
            torch.testing.assert_close(loaded["conv_in.conv.weight"][:, :4], tensor, rtol=0, atol=0)
            assert not loaded["conv_in.conv.weight"][:, 4:].any()
        elif not name.startswith("conv_in"):
            torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)
    saved = json.loads((hub / "CLIP-H/preprocessor_config.json").read_text())
    assert load_image_encoder(hub / "CLIP-H").config.image_mean == saved["image_mean"]
    vae, saved = load_vae(hub / "1.5/vae"), load_file(hub / "1.5/vae/diffusion_pytorch_model.safetensors")
    assert vae.config.scaling_factor == 0.18215
    assert {f"{half}coder.mid_block.attentions.0.query.weight" for half in ("en", "de")} < saved.keys()
    loaded = {hub_name(name): tensor for name, tensor in vae.state_dict().items()}
    torch.testing.assert_close(loaded, saved, rtol=0, atol=0)
