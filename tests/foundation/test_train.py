import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import load_file

from foundation import train as foundation
from foundation.models import first_models
from foundation.people import find_people
from foundation.settings import FoundationSettings
from generator.model import load_denoiser
from generator.sample import IMAGPosePipeline, load_pipeline
from pipeline.params import ParamsError, load, parse
from pipeline.runtime.checkpoints import Checkpoints
from pipeline.runtime.hashes import md5
from pipeline.train_generator import refuse_known_photographs
from tests import REPOSITORY
from tests.generator import tiny as tiny_models
from tests.pipeline.market import keypoints_frame, save_image

PROFILE = REPOSITORY / foundation.PROFILE
SHIPPED = REPOSITORY / "weights/embedded"
TINY = {
    "": {
        "output": "trained",
        "height": 64,
        "width": 32,
    },
    "rendered": {"identities": 4, "held_out_identities": 2, "images_per_identity": 9, "cameras": 3},
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
    "identity": {
        "channels": [4, 8, 8],
        "steps": 2,
        "identities_per_batch": 2,
        "images_per_identity": 2,
        "checkpoint_every": 1,
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
    measures = ("judge_top1", "ssim", "sharpness", "seconds_per_image")
    assert scores.keys() == {
        "vae_psnr",
        "judge_top1_photos",
        "judge_top1_vae",
        "sharpness_vae",
        "identity_rank1",
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
    assert {"loss", "accuracy"} <= set(pd.read_csv(folder / "curve_image_encoder.csv"))

    # A second run trains nothing again.
    before = bytes_of(folder)
    with monkeypatch.context() as patch:
        for name in ("train", "train_vae", "train_bot", "train_identity"):
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
    for _ in range(7):  # two of each model, but one of the image encoder
        with pytest.raises(KeyboardInterrupt):
            run()
        assert not (tmp_path / "trained").exists()
    run()
    assert stops == [1, 2, 2, 1, 2, 1, 2]
    assert bytes_of(tmp_path / "trained") == bytes_of(project / "trained")


@pytest.mark.slow
def test_a_training_goes_on_from_a_saved_pipeline_with_other_people(project, monkeypatch):
    monkeypatch.chdir(project)
    still = {f"{key}.learning_rate": 1e-30 for key in ("vae", "image_encoder_training", "train")}
    run({"start": "trained", "output": "adapted", "seed": 8, "rendered.camera_strength": 1.0} | still)
    before, after = tensors(project / "trained"), tensors(project / "adapted")
    assert before.keys() == after.keys()
    # A learning rate of almost 0 shows where each model began; the VAE's latents are whitened for its people,
    # and the denoiser follows them.
    latents = ("quant_conv", "unet.conv_in", "unet.conv_out", "texture_tokenizer.weight")
    moved = {name for name in before if any(part in name[1] for part in latents)}
    for name in before.keys() - moved:
        torch.testing.assert_close(after[name], before[name])
    assert {name[0] for name in moved if not torch.equal(after[name], before[name])} == {"vae", "denoiser"}


@pytest.mark.slow
def test_models_to_keep_stay_as_they_are(project, monkeypatch):
    monkeypatch.chdir(project)
    run({"start": "trained", "output": "longer", "keep": ["vae", "image_encoder"]})
    before, after = bytes_of(project / "trained"), bytes_of(project / "longer")
    assert {name for name in before if after[name] == before[name]} == {"vae", "image_encoder"}
    assert {file.name for file in (project / "longer").glob("*.csv")} == {
        "curve_identity.csv",
        "curve_denoiser.csv",
    }


@pytest.mark.slow
def test_a_training_without_the_network_leaves_none(project, monkeypatch):
    monkeypatch.chdir(project)
    run({"start": "trained", "output": "plain", "keep": ["vae", "image_encoder"], "identity": None})
    assert not (project / "plain/curve_identity.csv").exists()
    assert "identity_rank1" not in json.loads((project / "plain/quality.json").read_text())


@pytest.mark.slow
def test_a_vae_gains_channels_and_the_denoiser_goes_on(project, monkeypatch):
    monkeypatch.chdir(project)
    still = {"vae.learning_rate": 1e-30, "train.learning_rate": 1e-30}
    changes = {"start": "trained", "output": "finer", "keep": ["image_encoder"], "vae.latent_channels": 6}
    run(changes | still)
    before, after = tensors(project / "trained"), tensors(project / "finer")
    shapes = {name: after[name].shape for name in before if after[name].shape != before[name].shape}
    assert shapes["denoiser", "unet.conv_in.conv.weight"] == (16, 6 + 1 + 6, 3, 3)
    assert {name for model, name in shapes if model == "denoiser"} == {
        *("unet.conv_in.conv.weight", "unet.conv_out.weight", "unet.conv_out.bias"),
        "texture_tokenizer.weight",
    }
    for name in (("denoiser", "unet.mid_block.resnets.0.conv1.weight"), ("vae", "encoder.conv_in.weight")):
        torch.testing.assert_close(after[name], before[name])
    assert load_pipeline(project / "finer").vae.config.latent_channels == 6


@pytest.mark.slow
def test_a_tiny_autoencoder_is_kept_as_it_is(project, monkeypatch):
    monkeypatch.chdir(project)
    imagpose = load_pipeline(project / "trained")
    imagpose.register_modules(vae=tiny_models.tiny_autoencoder())
    imagpose.to(torch.float16).save_pretrained("with TAESD")
    with pytest.raises(ValueError, match=r"^with TAESD has an AutoencoderTiny as vae, .*; name vae in keep"):
        run({"start": "with TAESD", "output": "on"})
    run({"start": "with TAESD", "output": "on", "keep": ["vae", "image_encoder"]})
    before, after = bytes_of(project / "with TAESD"), bytes_of(project / "on")
    assert after["vae"] == before["vae"] and after["denoiser"] != before["denoiser"]


# ---- photographs ----


def photographs(folder, people, each):
    """A data set of noise: a table, keypoints, a distractor, and a file that is no image."""
    rows = [(f"{pid}/{n}.jpg", pid, n % 2 + 1, "train") for pid in people for n in range(each)]
    rows.append(("nobody.jpg", 0, 1, "gallery"))
    for seed, (image, *_) in enumerate(rows):
        save_image(folder / image, seed)
    keypoints = keypoints_frame([image for image, *_ in rows])
    keypoints.iloc[0, 1:] = 0.0  # nobody is seen in the first
    keypoints.to_csv(folder / "keypoints.csv", index=False)
    (folder / "broken.jpg").write_text("no image")
    rows.append(("broken.jpg", people[0], 1, "train"))
    table = pd.DataFrame(rows, columns=["image", "pid", "camid", "split"])
    table.to_csv(folder / "images.csv", index=False)
    return folder


def photographed(held_out):
    """Settings of a training on the folder `photographs`."""
    source = {"source": "annotations", "path": "photographs/keypoints.csv", "min_score": None}
    return {
        "rendered": None,
        "photographed": {
            "format": "table",
            "root": "photographs",
            "border": 0,
            "poses": source | {"allow_missing": False},
            "held_out_identities": held_out,
        },
    }


@pytest.mark.slow
def test_photographs_of_a_data_set_take_the_place_of_rendered_people(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = photographs(tmp_path / "photographs", people=range(11, 16), each=9)
    run(photographed(held_out=2))
    said = capsys.readouterr().out
    assert "photographs: 44 photographs of 5 people; 1 files are not used, and 1 photographs without" in said
    scores = json.loads((tmp_path / "trained/quality.json").read_text())
    assert 0 <= scores["judge_top1_2_sources"] <= 100 and scores["vae_psnr"] > 0
    listed = pd.read_csv(tmp_path / "trained/photographs.csv")
    assert sorted(listed.pid.unique()) == [11, 12, 13, 14, 15] and len(listed) == 44
    assert listed.md5.tolist() == [md5(folder / image) for image in listed.image]

    # Base weights are for other people than these.
    index = pd.DataFrame({"md5": ["another", listed.md5[3]]}, index=["a.jpg", "b.jpg"])
    with pytest.raises(
        ValueError, match=r"^trained: these base weights were made with 1 photographs of .* b\.jpg"
    ):
        refuse_known_photographs(Path("trained"), index)
    refuse_known_photographs(Path("trained"), index.head(1))
    refuse_known_photographs(SHIPPED, index)


def test_people_to_measure_on_have_enough_photographs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "photographs", people=(1, 2, 3), each=8)
    settings = parse(tiny(photographed(held_out=2)), FoundationSettings, "profile.yaml")
    with pytest.raises(ValueError) as caught:
        find_people(settings)
    assert str(caught.value) == (
        "photographed.held_out_identities is 2; expected at most 1: of 3 people in photographs, 2 have 8 "
        "photographs or more, and two must be left to train on"
    )


def test_a_data_set_without_a_photograph_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in photographs(tmp_path / "photographs", people=(1, 2), each=1).rglob("*.jpg"):
        file.write_bytes(file.read_bytes()[:200])
    settings = parse(tiny(photographed(held_out=2)), FoundationSettings, "profile.yaml")
    with pytest.raises(
        ValueError, match=r"^photographs holds no photograph of a person .*; 4 files are rejected$"
    ):
        find_people(settings)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The folder of an untrained pipeline."""
    folder = tmp_path_factory.mktemp("start")
    first_models(parse(tiny(), FoundationSettings, "profile.yaml"), Path("profile.yaml")).save_pretrained(
        folder
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value", "before"),
    [
        ("vae.unshuffle", 2, "4"),
        ("vae.channels", [16, 32], r"\[16, 16\]"),
        ("vae.latent_channels", 3, "4"),
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


def test_a_vae_that_is_kept_gains_no_channels(start):
    changes = {"start": str(start), "keep": ["vae"], "vae.latent_channels": 6}
    settings = parse(tiny(changes), FoundationSettings, "profile.yaml")
    with pytest.raises(ValueError, match=r"^vae\.latent_channels is 6 in profile\.yaml, but 4 in "):
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


@pytest.mark.slow
def test_a_vae_is_trained_with_a_network_that_knows_photographs(project, monkeypatch):
    """Its weights are part of what names the scratch folder: another file trains another VAE."""
    monkeypatch.chdir(project)
    perceptual = {"backbone": "torchvision:mobilenet_v2", "weights": "net.pth", "weight": 0.1}
    settings = parse(tiny({"vae.perceptual": perceptual}), FoundationSettings, "profile.yaml")
    people, folders = find_people(settings).train, []
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(torchvision.models.mobilenet_v2().state_dict(), "net.pth")
        network = foundation.make_perceptual(settings, Path("profile.yaml"))
        imagpose = first_models(settings, Path("profile.yaml"))
        folders.append(foundation.make_vae(imagpose, network, people, settings, {}))
    assert folders[0] != folders[1]
    assert "perceptual" in pd.read_csv(folders[0] / "curve.csv")


def test_a_vae_that_is_kept_needs_no_network():
    perceptual = {"backbone": "torchvision:mobilenet_v2", "weights": "absent.pth", "weight": 0.1}
    changes = {"start": "trained", "output": "on", "keep": ["vae"], "vae.perceptual": perceptual}
    settings = parse(tiny(changes), FoundationSettings, "profile.yaml")
    assert foundation.make_perceptual(settings, Path("profile.yaml")) is None


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (None, "weights names net.pth, which does not exist; give the path of a file of torchvision's"),
        (b"no weights", "weights names net.pth, "),
    ],
)
def test_perceptual_weights_that_cannot_be_read_are_named(tmp_path, monkeypatch, file, sentence):
    monkeypatch.chdir(tmp_path)
    if file:
        Path("net.pth").write_bytes(file)
    perceptual = {"backbone": "torchvision:mobilenet_v2", "weights": "net.pth", "weight": 0.1}
    settings = parse(tiny({"vae.perceptual": perceptual}), FoundationSettings, "profile.yaml")
    with pytest.raises((FileNotFoundError, ValueError), match=f"^profile.yaml: vae.perceptual: {sentence}"):
        foundation.make_perceptual(settings, Path("profile.yaml"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"keep": ["vae"]}, "keep is ['vae']; expected [], since start is null"),
        (
            {"rendered": None},
            "rendered and photographed: both are null; expected one of them, and null for the other",
        ),
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


@pytest.mark.slow
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
