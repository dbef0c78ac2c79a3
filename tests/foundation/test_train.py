import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import load_file

from foundation import train as foundation
from foundation.models import first_models
from foundation.settings import FoundationSettings
from generator.model import load_denoiser
from generator.sample import IMAGPosePipeline, load_pipeline
from pipeline.params import ParamsError, load, parse
from pipeline.runtime.checkpoints import Checkpoints
from tests import REPOSITORY

PROFILE = REPOSITORY / foundation.PROFILE
SHIPPED = REPOSITORY / "weights/embedded"
TINY = {
    "": {
        "output": "trained",
        "identities": 4,
        "held_out_identities": 2,
        "images_per_identity": 9,
        "cameras": 3,
        "height": 64,
        "width": 32,
    },
    "vae": {
        "latent_channels": 4,
        "channels": [16, 16],
        "norm_groups": 8,
        "steps": 2,
        "batch_size": 2,
        "checkpoint_every": 1,
    },
    "image_encoder": {"hidden_size": 24, "layers": 1},
    "image_encoder_training": {
        "iterations": 2,
        "identities_per_batch": 2,
        "images_per_identity": 2,
        "height": 64,
        "width": 32,
    },
    "unet": {
        "channels": [16, 16, 16],
        "blocks": ["conv", "attention", "attention"],
        "norm_groups": 8,
        "heads": [2, 2, 2],
        "cross_attention_dim": 16,
    },
    "denoiser": {"cva_heads": 2, "pose_channels": [4, 4, 4, 8]},
    "train": {"steps": 2, "decay_steps": 1, "batch_size": 2, "compile": False, "checkpoint_every": 1},
    "judge": {"iterations": 2, "identities_per_batch": 2, "channels": 8, "height": 64, "width": 32},
    "sample": {"steps": 2, "batch_size": 4},
}


def tiny(changes=None):
    """The values of the shipped profile with a tiny run's, and with other values of dotted keys."""
    values = YAML(typ="safe", pure=True).load(PROFILE)
    for section, keys in TINY.items():
        (values[section] if section else values).update(keys)
    for key, value in (changes or {}).items():
        section, _, name = key.rpartition(".")
        (values[section] if section else values)[name] = value
    return values


def run(changes=None):
    """Run the stage in the current folder with a profile of its own."""
    profile = Path("profile.yaml")
    with profile.open("w") as file:
        YAML().dump(tiny(changes), file)
    foundation.main(profile)


def tensors(folder):
    return {
        (file.parent.name, name): tensor
        for file in folder.rglob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def bytes_of(folder):
    return {file.parent.name: file.read_bytes() for file in folder.rglob("*.safetensors")}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder in which the stage ran from scratch, to `trained`."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run()
    return folder


@pytest.mark.slow
def test_the_stage_makes_a_pipeline_in_half_precision_with_its_settings_and_scores(project, monkeypatch):
    monkeypatch.chdir(project)
    folder = project / "trained"
    assert IMAGPosePipeline.from_pretrained(folder).view_size == (64, 32)
    assert {tensor.dtype for tensor in tensors(folder).values()} == {torch.float16}
    scores = json.loads((folder / "quality.json").read_text())
    sources = ("1_source", "2_sources", "3_sources")
    measures = ("judge_top1", "ssim", "seconds_per_image")
    assert scores.keys() == {
        "vae_psnr",
        "judge_top1_photos",
        "judge_top1_vae",
        *(f"{measure}_{count}" for measure in measures for count in sources),
    }
    assert all(0 <= scores[f"judge_top1_{count}"] <= 100 for count in sources)
    assert (folder / "settings.yaml").read_text() == (project / "profile.yaml").read_text()
    with Image.open(folder / "contact_sheet.jpg") as sheet:
        assert sheet.size == (2 * 7 * 32, 64)  # two people side by side: seven pictures of 64x32 each
    curve = pd.read_csv(folder / "curve_denoiser.csv")
    assert curve.step.tolist() == [1, 2]
    assert curve.seconds.isna().tolist() == [True, False] and (curve.seconds.dropna() > 0).all()
    assert {"loss", "psnr", "learning_rate"} <= set(pd.read_csv(folder / "curve_vae.csv"))

    # A second run trains nothing again.
    before = bytes_of(folder)
    with monkeypatch.context() as patch:
        for name in ("train", "train_vae", "train_bot"):
            patch.delattr(foundation, name)
        run()
    assert bytes_of(folder) == before


@pytest.mark.slow
def test_a_training_that_is_stopped_at_every_checkpoint_ends_in_the_same_bytes(
    project, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(project / ".scratch/people", tmp_path / ".scratch/people")
    save, stops = Checkpoints.save, []

    def save_and_stop(self, done, **parts):
        save(self, done, **parts)
        stops.append(done)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    for _ in range(5):  # two of the VAE, one of the image encoder, two of the denoiser
        with pytest.raises(KeyboardInterrupt):
            run()
        assert not (tmp_path / "trained").exists()
    run()
    assert stops == [1, 2, 2, 1, 2]
    assert bytes_of(tmp_path / "trained") == bytes_of(project / "trained")


@pytest.mark.slow
def test_a_training_goes_on_from_a_saved_pipeline_with_other_people(project, monkeypatch):
    monkeypatch.chdir(project)
    still = {f"{key}.learning_rate": 1e-30 for key in ("vae", "image_encoder_training", "train")}
    run({"start": "trained", "output": "adapted", "seed": 8, "camera_strength": 1.0} | still)
    before, after = tensors(project / "trained"), tensors(project / "adapted")
    assert before.keys() == after.keys()
    # A learning rate of almost 0 shows where each model began; the VAE's latents are whitened for its people.
    whitened = {("vae", name) for _, name in before if "quant_conv" in name}
    for name in before.keys() - whitened:
        torch.testing.assert_close(after[name], before[name])
    assert any(not torch.equal(after[name], before[name]) for name in whitened)


@pytest.mark.slow
def test_models_to_keep_stay_as_they_are(project, monkeypatch):
    monkeypatch.chdir(project)
    run({"start": "trained", "output": "longer", "keep": ["vae", "image_encoder"]})
    before, after = bytes_of(project / "trained"), bytes_of(project / "longer")
    assert {name for name in before if after[name] == before[name]} == {"vae", "image_encoder"}
    assert [file.name for file in (project / "longer").glob("*.csv")] == ["curve_denoiser.csv"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The folder of an untrained pipeline."""
    folder = tmp_path_factory.mktemp("start")
    first_models(parse(tiny(), FoundationSettings, "profile.yaml"), Path("profile.yaml")).save_pretrained(
        folder
    )
    return folder


@pytest.mark.parametrize(
    ("key", "value", "before"),
    [
        ("vae.unshuffle", 2, "4"),
        ("vae.channels", [16, 32], r"\[16, 16\]"),
        ("image_encoder.layers", 3, "1"),
        ("unet.blocks", ["attention"] * 3, r"\['conv', 'attention', 'attention'\]"),
        ("unet.heads", [1, 2, 2], r"\[2, 2, 2\]"),
        ("unet.beta_schedule", "linear", "scaled_linear"),
        ("denoiser.ilc", False, "True"),
    ],
)
def test_another_architecture_than_that_of_start_is_refused(start, key, value, before):
    settings = parse(tiny({"start": str(start), key: value}), FoundationSettings, "profile.yaml")
    with pytest.raises(ValueError, match=rf"^{key} is .* in profile.yaml, but {before} in {start}, where"):
        first_models(settings, Path("profile.yaml"))


def test_a_start_that_holds_no_pipeline_is_refused(tmp_path):
    settings = parse(tiny({"start": str(tmp_path)}), FoundationSettings, "profile.yaml")
    with pytest.raises(ValueError, match=r"model_index.json does not exist: .* is not the folder of a saved"):
        first_models(settings, Path("profile.yaml"))


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("width", 40, "width is 40; expected a multiple of "),
        ("denoiser.texture_patch", 3, "denoiser.texture_patch is 3; expected a divisor of 8 and 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_anything_is_trained(key, value, sentence):
    settings = parse(tiny({key: value}), FoundationSettings, "profile.yaml")
    with pytest.raises(ValueError, match=f"^profile.yaml: {sentence}"):
        first_models(settings, Path("profile.yaml"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"keep": ["vae"]}, "keep is ['vae']; expected [], since start is null"),
        ({"start": "trained"}, "output is trained, which is start too; expected another folder"),
    ],
)
def test_keys_that_contradict_each_other_are_named(changes, sentence):
    with pytest.raises(ParamsError) as caught:
        parse(tiny(changes), FoundationSettings, "profile.yaml")
    assert str(caught.value) == f"profile.yaml: {sentence}"


def test_a_folder_that_holds_something_else_is_not_replaced(tmp_path):
    foundation.check_output(tmp_path / "new")
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ValueError, match=r"output is .*, which is there and holds no saved pipeline"):
        foundation.check_output(tmp_path)


def test_the_profile_has_the_architecture_of_the_shipped_weights():
    settings = load(PROFILE, FoundationSettings)
    assert settings.start is None and REPOSITORY / settings.output == SHIPPED
    imagpose = first_models(settings.model_copy(update={"start": SHIPPED}), PROFILE)
    assert imagpose.view_size == (settings.height, settings.width)
    untrained = first_models(settings, PROFILE)
    for name in ("vae", "image_encoder", "denoiser"):
        shapes, shipped = (
            {key: tensor.shape for key, tensor in getattr(each, name).state_dict().items()}
            for each in (untrained, imagpose)
        )
        assert shapes == shipped


@pytest.mark.slow
@pytest.mark.parametrize("part", ["cva", "flc_texture", "ilc"])
def test_the_shipped_weights_serve_the_ablations(part):
    whole = load_pipeline(SHIPPED).denoiser
    settings = load(PROFILE, FoundationSettings).denoiser.model_copy(update={part: False})
    smaller = load_denoiser(SHIPPED / "denoiser", settings, 192, seed=0)
    assert sum(map(torch.numel, smaller.parameters())) < sum(map(torch.numel, whole.parameters()))
