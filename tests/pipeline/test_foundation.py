import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors import safe_open

from generator.model import load_denoiser
from generator.sample import IMAGPosePipeline
from pipeline import foundation
from pipeline.params import load

REPOSITORY = Path(__file__).parents[2]
TINY = {
    "": {"start": None, "identities": 4, "held_out_identities": 2, "images_per_identity": 7, "cameras": 3},
    "vae": {"channels": [16, 16], "norm_groups": 8, "steps": 2, "batch_size": 2},
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
    assert {"vae_psnr", "judge_top1_1_source", "judge_top1_3_sources", "ssim_1_source"} <= set(scores)
    assert 0 <= scores["judge_top1_1_source"] <= 100
    assert (weights / "settings.yaml").read_text() == foundation.PARAMS.read_text()
    with Image.open(weights / "contact_sheet.png") as sheet:
        assert sheet.size == (2 * 7 * 64, 128)  # two halves of a row each: seven pictures of 64x128

    before = {file: file.read_bytes() for file in weights.rglob("*.safetensors")}
    foundation.main()  # every part is found finished
    assert {file: file.read_bytes() for file in weights.rglob("*.safetensors")} == before

    # Another run goes on from there, with attention at one more level.
    weights.rename(tmp_path / "start")
    more = {"start": "start"}, {"blocks": ["attention"] * 3, "heads": [1, 2, 2]}
    write_params(TINY | {"": TINY[""] | more[0], "unet": TINY["unet"] | more[1]})
    foundation.main()
    after = {file: file.read_bytes() for file in weights.rglob("*.safetensors")}
    assert [file for file in before if after[file] == before[file]] == [
        file for file in before if file.parent.name != "denoiser"
    ]
    assert (weights / "start.yaml").read_text() == (tmp_path / "start/settings.yaml").read_text()
    assert pd.read_csv(weights / "curve_denoiser.csv").step.tolist() == [1, 2, 3, 4]
    write_params(TINY | {"": TINY[""] | more[0], "vae": TINY["vae"] | {"steps": 3}})
    with pytest.raises(ValueError, match=r"vae is .*'steps': 3.* but .*'steps': 2.* in start/settings.yaml"):
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


@pytest.mark.parametrize("part", ["cva", "flc_texture", "ilc"])
def test_the_shipped_weights_serve_the_ablations(part):
    settings = load(REPOSITORY / foundation.PARAMS, foundation.FoundationSettings)
    wanted = settings.denoiser.model_copy(update={part: False})
    folder = REPOSITORY / foundation.WEIGHTS / "denoiser"
    smaller, whole = (load_denoiser(folder, each, 192, seed=0) for each in (wanted, settings.denoiser))
    assert sum(map(torch.numel, smaller.parameters())) < sum(map(torch.numel, whole.parameters()))
