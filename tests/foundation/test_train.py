import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors import safe_open

from foundation import train as foundation
from foundation.vae import build_vae, latent_map, whiten
from generator.encoders import decode_latents, encode_latents, to_float
from generator.model import load_denoiser
from generator.sample import IMAGPosePipeline
from pipeline.params import load
from tests import REPOSITORY

TINY = {
    "": {"start": None, "identities": 4, "held_out_identities": 2, "images_per_identity": 9, "cameras": 3},
    "vae": {"latent_channels": 4, "channels": [16, 16], "norm_groups": 8, "steps": 2, "batch_size": 2},
    "image_encoder": {"hidden_size": 24, "layers": 1},
    "image_encoder_training": {"iterations": 2, "identities_per_batch": 2, "images_per_identity": 2},
    "unet": {
        "channels": [16, 16, 16],
        "blocks": ["conv", "attention", "attention"],
        "norm_groups": 8,
        "heads": [2, 2, 2],
        "cross_attention_dim": 16,
    },
    "denoiser": {"cva_heads": 2, "pose_channels": [4, 4, 4, 8]},
    "train": {"steps": 2, "decay_steps": 1, "batch_size": 2, "compile": False},
    "judge": {"iterations": 2, "identities_per_batch": 2, "channels": 8},
    "sample": {"steps": 2, "batch_size": 4},
}


def write_params(changes):
    yaml = YAML()
    values = yaml.load((REPOSITORY / foundation.PARAMS).read_text())
    for section, keys in changes.items():
        (values[section] if section else values).update(keys)
    with foundation.PARAMS.open("w") as file:
        yaml.dump(values, file)


def tiny_denoiser(**unet):
    settings = load(REPOSITORY / foundation.PARAMS, foundation.FoundationSettings)
    parts = {
        name: type(part).model_validate(part.model_dump() | TINY[name] | extra)
        for name, extra in (("unet", unet), ("denoiser", {}), ("image_encoder", {}))
        for part in [getattr(settings, name)]
    }
    return foundation.build_denoiser(settings.model_copy(update=parts), 4)


@pytest.mark.slow
def test_the_stage_makes_a_pipeline_in_half_precision_with_its_settings_and_scores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(TINY)

    foundation.main()

    weights = tmp_path / foundation.WEIGHTS
    pipeline = IMAGPosePipeline.from_pretrained(weights)
    assert pipeline.view_size == (128, 64)
    for part in ("vae", "image_encoder", "denoiser"):
        (file,) = (weights / part).glob("*.safetensors")
        with safe_open(file, framework="pt") as tensors:
            assert {tensors.get_tensor(name).dtype for name in tensors.keys()} == {torch.float16}  # noqa: SIM118
    scores = json.loads((weights / "quality.json").read_text())
    assert {
        "vae_psnr",
        "judge_top1_1_source",
        "judge_top1_2_sources",
        "judge_top1_3_sources",
        "ssim_1_source",
    } <= set(scores)
    assert 0 <= scores["judge_top1_1_source"] <= 100
    assert (weights / "settings.yaml").read_text() == foundation.PARAMS.read_text()
    with Image.open(weights / "contact_sheet.jpg") as sheet:
        assert sheet.size == (2 * 7 * 64, 128)  # two halves of a row each: seven pictures of 64x128

    seconds = pd.read_csv(weights / "curve_denoiser.csv").seconds
    assert seconds.isna().tolist() == [True, False] and (seconds.dropna() > 0).all()

    before = {file: file.read_bytes() for file in weights.rglob("*.safetensors")}
    foundation.main()  # every part is found finished
    assert {file: file.read_bytes() for file in weights.rglob("*.safetensors")} == before

    # Another run goes on from there, with attention at one more level.
    weights.rename(tmp_path / "start")
    more = {"start": "start"}, {"blocks": ["attention"] * 3, "heads": [1, 2, 2]}
    write_params(TINY | {"": TINY[""] | more[0], "unet": TINY["unet"] | more[1]})
    foundation.main()
    after = {file: file.read_bytes() for file in weights.rglob("*.safetensors")}
    kept = {file.parent.name for file in before if after[file] == before[file]}
    assert kept == {"image_encoder", "vae"}
    assert (weights / "earlier/1.yaml").read_text() == (tmp_path / "start/settings.yaml").read_text()
    assert pd.read_csv(weights / "curve_denoiser.csv").step.tolist() == [1, 2, 3, 4]

    # And another, with a VAE of more channels.
    vae = TINY["vae"] | {"latent_channels": 6}
    write_params(TINY | {"": TINY[""] | more[0], "vae": vae})
    foundation.main()
    assert IMAGPosePipeline.from_pretrained(weights).denoiser.unet.config.out_channels == 6
    assert pd.read_csv(weights / "curve_vae.csv").step.tolist() == [2, 4]
    encoder = TINY["image_encoder"] | {"layers": 3}
    write_params(TINY | {"": TINY[""] | more[0], "image_encoder": encoder})
    with pytest.raises(ValueError, match=r"image_encoder is .*'layers': 3.* in start/settings.yaml"):
        foundation.main()


def test_a_grown_denoiser_starts_as_the_one_that_it_was_grown_from(tmp_path):
    small, large = tiny_denoiser(), tiny_denoiser(blocks=("attention",) * 3, heads=(1, 2, 2))
    with torch.no_grad():
        for weight in small.parameters():
            weight.normal_(std=0.1)
    small.save_pretrained(tmp_path)
    foundation.grow(large, tmp_path)
    assert len(large.state_dict()) > len(small.state_dict())
    noisy, features = torch.randn(2, 4, 32, 16), torch.randn(2, 5, 16)
    pose, mask = torch.randn(2, 16, 32, 16), torch.ones(2, 1, 32, 16)
    with torch.no_grad():
        outputs = [each.eval()(noisy, 500, features, pose, mask, noisy) for each in (small, large)]
    torch.testing.assert_close(*outputs)
    with pytest.raises(ValueError, match=r"attentions.*leaves out or has in another shape"):
        large.save_pretrained(tmp_path)
        foundation.grow(small, tmp_path)


def test_a_denoiser_moves_to_the_latents_of_another_vae():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 4, 2, 3), np.uint8).repeat(32, axis=1).repeat(32, axis=2)
    settings = load(REPOSITORY / foundation.PARAMS, foundation.FoundationSettings)
    torch.manual_seed(0)
    vae = build_vae(settings.vae.model_copy(update=TINY["vae"])).eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=0.5, shift_factor=0.25)
    vae.quant_conv.weight[4:] = 0.0
    vae.quant_conv.bias[4:] = -20.0  # log-variance: as a trained one's, whose latents say something
    white = copy.deepcopy(vae)
    whiten(white, images)
    denoiser = tiny_denoiser().requires_grad_(False)
    for weight in denoiser.parameters():
        weight.normal_(std=0.1)
    moved = foundation.move_latents(denoiser, vae, white, images).eval()

    before, after = (encode_latents(each, to_float(torch.from_numpy(images)))[0] for each in (vae, white))
    values = after.transpose(0, 1).flatten(1)
    torch.testing.assert_close(values.cov(), torch.eye(4), atol=0.05, rtol=0)
    torch.testing.assert_close(values.mean(1), torch.zeros(4), atol=0.01, rtol=0)
    decoded = [decode_latents(each, z) for each, z in ((vae, before), (white, after))]
    torch.testing.assert_close(*decoded, atol=1e-3, rtol=1e-3)
    tokens, pose, mask = torch.randn(64, 33, 24), torch.randn(64, 16, 16, 8), torch.ones(64, 1, 16, 8)
    features = [each.encode_features(z, tokens) for each, z in ((denoiser, before), (moved, after))]
    torch.testing.assert_close(*features, atol=1e-3, rtol=1e-3)
    back, _ = latent_map(white, vae, images)
    noise = torch.randn(64, 4, 16, 8)
    old_noise = torch.einsum("dc,nchw->ndhw", back, noise)
    hidden = [  # away from the border, whose zeros are not the mean of the old latents
        each.unet.conv_in(torch.cat([noisy, mask, z, pose], dim=1))[..., 1:-1, 1:-1]
        for each, noisy, z in ((denoiser, old_noise, before), (moved, noise, after))
    ]
    torch.testing.assert_close(*hidden, atol=1e-3, rtol=1e-3)
    inside = torch.randn(2, 16, 16, 8)
    predicted = [each.unet.conv_out(inside) for each in (denoiser, moved)]
    torch.testing.assert_close(
        predicted[0], torch.einsum("dc,nchw->ndhw", back, predicted[1]), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("part", ["cva", "flc_texture", "ilc"])
def test_the_shipped_weights_serve_the_ablations(part):
    settings = load(REPOSITORY / foundation.PARAMS, foundation.FoundationSettings)
    wanted = settings.denoiser.model_copy(update={part: False})
    folder = REPOSITORY / foundation.WEIGHTS / "denoiser"
    smaller, whole = (load_denoiser(folder, each, 192, seed=0) for each in (wanted, settings.denoiser))
    assert sum(map(torch.numel, smaller.parameters())) < sum(map(torch.numel, whole.parameters()))
