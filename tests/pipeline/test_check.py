"""What later stages will need is there, or is named in one sentence before any work starts."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from diffusers import PNDMScheduler
from safetensors.torch import save_file

from generator.data import encode_views
from pipeline import check
from pipeline.datasets.images import read_image
from pipeline.params import FilterSettings, Params, load_params
from pipeline.runtime.checkpoints import KEEP
from pipeline.runtime.outputs import write_csv
from pipeline.shared.imagpose import load_parts
from tests import REPOSITORY
from tests.generator import tiny
from tests.pipeline.market import deepfashion_folder, save_image

SHIPPED = load_params(REPOSITORY / "profiles/embedded.yaml")


def changed(params: Params, **sections: dict) -> Params:
    """Parameters with some keys of some sections replaced."""
    return params.model_copy(
        update={name: getattr(params, name).model_copy(update=keys) for name, keys in sections.items()}
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion and a DINOv2 of the hubs' layout, in small."""
    folder = tmp_path_factory.mktemp("models")
    tiny.unet().save_pretrained(folder / "base/unet")
    tiny.vae().save_pretrained(folder / "base/vae")
    PNDMScheduler(beta_schedule="scaled_linear").save_pretrained(folder / "base/scheduler")
    tiny.image_encoder().save_pretrained(folder / "encoder")
    return folder


@pytest.fixture
def params(models: Path, market: Path, tmp_path: Path) -> Params:
    """Parameters that name copies of them, and a data set that this pipeline did not render."""
    shutil.copytree(models, tmp_path / "models")
    generator = {
        "base": tmp_path / "models/base",
        "image_encoder": tmp_path / "models/encoder",
        "token_height": 16,
        "token_width": 8,
        "denoiser": tiny.DENOISER,
    }
    return changed(SHIPPED, generator=generator, dataset={"root": market, "height": 32, "width": 16})


def test_a_whole_set_of_files_has_no_problem(params: Params) -> None:
    assert check.problems(params) == []


def test_the_shipped_parameters_have_no_problem_and_torch_is_not_imported() -> None:
    code = "import sys; from pipeline.check import *; found = problems(load_params()); "
    done = subprocess.run(
        [sys.executable, "-c", code + "sys.exit(str(found) if found else 'torch' in sys.modules)"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        (
            "market/query",
            "dataset.root is .*market, where query/ is missing; expected a folder in Market-1501",
        ),
        ("market/keypoints.csv", "keypoints.csv is missing; expected the keypoints of every image"),
        ("models/base", "generator.base is .*base; there is no such folder, expected Stable Diffusion"),
        ("models/base/unet/config.json", "unet/config.json does not exist"),
        ("models/base/vae", "vae/config.json does not exist"),
        ("models/base/scheduler", "scheduler_config.json does not exist"),
        (
            "models/base/unet/diffusion_pytorch_model.safetensors",
            "unet/diffusion_pytorch_model.safetensors does not exist",
        ),
        (
            "models/encoder",
            "generator.image_encoder is .*encoder; there is no such folder, expected a DINOv2",
        ),
        ("models/encoder/model.safetensors", "encoder/model.safetensors does not exist"),
    ],
)
def test_what_is_missing_is_named_once(params: Params, tmp_path: Path, missing: str, named: str) -> None:
    path = tmp_path / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    (found,) = check.problems(params)
    assert re.search(named, found) and "\n" not in found


def test_everything_wrong_is_named_at_once(params: Params, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "market/query")
    shutil.rmtree(tmp_path / "models/encoder")
    (tmp_path / "models/base/scheduler/scheduler_config.json").write_text("{")
    found = check.problems(params)
    assert len(found) == 3 and "query/" in found[0] and "no JSON file" in found[1] and "encoder" in found[2]


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_wrong_configurations_are_named(params: Params, tmp_path: Path) -> None:
    base, encoder = tmp_path / "models/base", tmp_path / "models/encoder"
    for file, changes, named in [
        (base / "unet/config.json", {"in_channels": 9}, "9 input and 4 output channels; expected 4 of both"),
        (base / "unet/config.json", {"_class_name": "UNet2DModel"}, "expected a diffusers UNet2DCondition"),
        (base / "unet/config.json", {"addition_embed_type": "text_time"}, "addition_embed_type 'text_time'"),
        (
            base / "unet/config.json",
            {"block_out_channels": [12, 16]},
            "no tensor conv_in.weight with 12 entr",
        ),
        (
            base / "vae/config.json",
            {"_class_name": "VQModel"},
            "holds a VQModel; expected a diffusers Autoen",
        ),
        (
            base / "scheduler/scheduler_config.json",
            {"prediction_type": "sample"},
            "expected epsilon or v_pre",
        ),
        (base / "scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "expected v_prediction"),
        (
            base / "vae/config.json",
            None,
            "vae/config.json has no in_channels; expected the file as its",
        ),
        (encoder / "config.json", {"model_type": "siglip"}, "'siglip'; expected one of dinov2, clip"),
        (encoder / "config.json", {"hidden_size": 24}, "no tensor embeddings.cls_token with 24 entries"),
        (encoder / "config.json", {"patch_size": 14}, "16 and 8; expected multiples of 14"),
    ]:
        before = file.read_text()
        file.write_text(before.replace("in_channels", "other")) if changes is None else edit(file, **changes)
        found = check.problems(params)
        assert found and re.search(named, found[0]), (changes, found)
        file.write_text(before)


SAVED = "; expected the file as its library saves it"
UNET, VAE, ENCODER = "base/unet/config.json", "base/vae/config.json", "encoder/config.json"


@pytest.mark.parametrize(
    ("file", "changes", "sentence"),
    [
        (UNET, {"block_out_channels": 8}, "has block_out_channels 8" + SAVED),
        (UNET, {"block_out_channels": []}, "has block_out_channels []" + SAVED),
        (UNET, {"block_out_channels": [8, "16"]}, "has block_out_channels.1 '16'" + SAVED),
        (UNET, {"in_channels": None}, "has in_channels None" + SAVED),
        (
            UNET,
            {"down_block_types": ["DownBlock2D"]},
            "has block_out_channels and down_block_types of other lengths" + SAVED,
        ),
        (VAE, {"in_channels": 1}, "has in_channels 1" + SAVED),
        (ENCODER, {"patch_size": 0}, "has patch_size 0" + SAVED),
        (ENCODER, {"hidden_size": "wide"}, "has hidden_size 'wide'" + SAVED),
        (
            ENCODER,
            {"model_type": "clip", "vision_config": [1]},
            "has vision_config [1]; expected a section of settings",
        ),
    ],
)
def test_malformed_configurations_are_named(
    params: Params, tmp_path: Path, file: str, changes: dict, sentence: str
) -> None:
    path = tmp_path / "models" / file
    edit(path, **changes)
    assert check.problems(params) == [f"{path} {sentence}"]


def test_a_malformed_saved_denoiser_is_named(params: Params, tmp_path: Path) -> None:
    path = tmp_path / "models/base/denoiser/config.json"
    tiny.denoiser().save_pretrained(path.parent)
    unet = json.loads(path.read_text())["unet_config"]
    del unet["in_channels"]
    edit(path, unet_config=unet)
    assert check.problems(params) == [f"{path} has no unet_config.in_channels{SAVED}"]


def test_malformed_weights_are_named(params: Params, tmp_path: Path) -> None:
    folder = tmp_path / "models/base/unet"
    file = folder / "diffusion_pytorch_model.safetensors"
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text('{"weight_map": [1]}')  # it goes before a single file, as where weights are loaded
    assert check.problems(params) == [f"{index} has no weight_map, which names the files of the weights."]
    index.unlink()
    save_file({"conv_in.weight": torch.zeros(8), "conv_in.bias": torch.zeros(())}, file)
    assert check.problems(params) == []
    save_file({"conv_in.weight": torch.zeros(())}, file)
    assert check.problems(params) == [
        f"{file} has no tensor conv_in.weight with 8 entries along axis 0; expected the weights of the model "
        f"that {folder / 'config.json'} describes"
    ]
    save_file({"conv_in.weight": torch.zeros(8)}, file)
    vae = tmp_path / "models/base/vae/diffusion_pytorch_model.safetensors"
    save_file({"encoder.conv_in.weight": torch.zeros(3)}, vae)
    (found,) = check.problems(params)
    assert found.startswith(f"{vae} has no tensor encoder.conv_in.weight with 3 entries along axis 1;")


@pytest.mark.parametrize(
    ("section", "changes", "named"),
    [
        ("dataset", {"height": 40}, "40 and 16; expected multiples of 16 .VAE 8 x UNet 2."),
        ("generator", {"texture_patch": 3}, "texture_patch is 3; expected a divisor of .* 4x2"),
        ("generator", {"cva_heads": 3}, "cva_heads is 3; expected a divisor of the UNet's 8 channels"),
        ("generator", {"pose_channels": (4, 8)}, "has 2 entries; expected 4, which reach 1/8"),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_named(
    params: Params, section: str, changes: dict, named: str
) -> None:
    if section == "generator":
        changes = {"denoiser": params.generator.denoiser.model_copy(update=changes)}
    (found,) = check.problems(changed(params, **{section: changes}))
    assert re.search(named, found)


def test_a_saved_denoiser_must_serve_the_settings(params: Params, tmp_path: Path) -> None:
    tiny.denoiser().save_pretrained(tmp_path / "models/base/denoiser")
    assert check.problems(params) == []
    other = {"denoiser": params.generator.denoiser.model_copy(update={"texture_patch": 1})}
    (found,) = check.problems(changed(params, generator=other))
    assert "was saved with texture_patch 2, where the settings say 1" in found


def test_weights_in_several_files_are_followed_and_files_that_are_cut_short_are_refused(
    params: Params, tmp_path: Path
) -> None:
    folder = tmp_path / "models/base/unet"
    shutil.rmtree(folder)
    tiny.unet().save_pretrained(folder, max_shard_size="10KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1 and check.problems(params) == []
    content = shards[1].read_bytes()
    shards[1].write_bytes(content[:-10])
    (found,) = check.problems(params)
    assert f"{shards[1]} is no whole safetensors file" in found
    shards[1].unlink()
    (found,) = check.problems(params)
    assert f"{shards[1]} is missing" in found


def test_weights_under_another_name_are_shown(params: Params, tmp_path: Path) -> None:
    folder = tmp_path / "models/base/unet"
    name = "diffusion_pytorch_model.fp16.safetensors"
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / name)
    (found,) = check.problems(params)
    assert found.endswith(f"nor safetensors of another name. It holds {name}.")


def test_resnet_file(params: Params, tmp_path: Path) -> None:
    def found(file: Path) -> list[str]:
        return check.problems(changed(params, reid={"weights": str(file)}))

    with torch.device("meta"):
        shapes = {
            depth: {name: tensor.shape for name, tensor in build().state_dict().items()}
            for depth, build in ((50, torchvision.models.resnet50), (101, torchvision.models.resnet101))
        }
    for depth, expected in shapes.items():
        # One number stands for a whole tensor, so that the file is small.
        state = {name: torch.zeros(()).expand(shape) for name, shape in expected.items()}
        torch.save(state, tmp_path / f"{depth}.pth")
    save_file({"layer4.2.conv3.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    assert found(tmp_path / "50.pth") == []
    assert (
        "101.pth, which is no state dict of a ResNet-50; expected torchvision"
        in found(tmp_path / "101.pth")[0]
    )
    assert "no state dict of a ResNet-50" in found(tmp_path / "other.safetensors")[0]
    assert "there is no such file; expected torchvision's resnet50" in found(tmp_path / "none.pth")[0]
    (tmp_path / "text.pth").write_text("no weights")
    assert "text.pth, which holds no state dict" in found(tmp_path / "text.pth")[0]


def test_openpose_file(params: Params, tmp_path: Path) -> None:
    def found(file: Path) -> list[str]:
        return check.problems(changed(params, poses={"source": "openpose", "openpose_model": file}))

    def save(file: Path, outputs: int) -> Path:
        layers = {"Mconv7_stage6_L1.weight": 38, "Mconv7_stage6_L2.weight": outputs}
        torch.save({name: torch.zeros(n, 2, 1, 1) for name, n in layers.items()}, file)
        return file

    (tmp_path / "market/keypoints.csv").unlink()  # of no use now
    assert found(save(tmp_path / "body.pth", 19)) == []
    state = torch.load(tmp_path / "body.pth", weights_only=True)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)  # as before torch 1.6
    assert found(tmp_path / "old.pth") == []
    assert "L2.weight with 19 outputs is missing" in found(save(tmp_path / "body_25.pth", 26))[0]
    assert "there is no such file; expected OpenPose's body_pose_model.pth" in found(tmp_path / "none.pth")[0]


def test_deepfashion_is_asked_for_its_own_files(params: Params, tmp_path: Path) -> None:
    root = deepfashion_folder(tmp_path / "fashion")
    fashion = changed(params, dataset={"format": "deepfashion", "root": root})
    assert check.problems(fashion) == []
    (root / "train_highres").rename(root / "train")
    (root / "fasion-resize-annotation-test.csv").unlink()
    (found,) = check.problems(fashion)
    assert "fasion-resize-annotation-test.csv is missing; expected the keypoints of every image" in found
    assert check.problems(changed(fashion, poses={"source": "openpose"})) == []
    shutil.rmtree(root / "test_highres")
    (found,) = check.problems(fashion)
    assert re.search(
        r"fashion, where test_highres/ or test/ is missing; expected .* DeepFashion format", found
    )
    (root / "test").mkdir()
    assert f"{root / 'test'} holds no .jpg file" in check.problems(fashion)[0]


def test_cross_data_sets_must_be_there(params: Params, market: Path, tmp_path: Path) -> None:
    def found(root: Path) -> list[str]:
        return check.problems(params.model_copy(update={"cross_datasets": {"other": root}}))

    assert found(market) == []
    assert found(check.WORLD) == [], "the stage world renders it"
    (sentence,) = found(tmp_path / "nothing")
    assert re.search(r"cross_datasets\.other is .*, where bounding_box_train/ is missing", sentence)


def test_what_the_scores_compare_by(params: Params, tmp_path: Path) -> None:
    def found(**changes: object) -> list[str]:
        return check.problems(changed(params, scores=changes))

    with torch.device("meta"):
        networks = {
            name: {key: tuple(value.shape) for key, value in build().state_dict().items()}
            for name, build in (
                ("alex", torchvision.models.alexnet),
                ("vgg", torchvision.models.vgg16),
                ("inception", lambda: torchvision.models.inception_v3(init_weights=False)),
                ("other", torchvision.models.vgg19),
            )
        }
    files = {}
    for name, shapes in networks.items():
        files[name] = tmp_path / f"{name}.pth"
        torch.save({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}, files[name])
    for backbone in ("alex", "vgg"):
        assert found(lpips_backbone=backbone, lpips_weights=files[backbone]) == []
        (sentence,) = found(lpips_backbone=backbone, lpips_weights=files["other"])
        assert "other.pth, which holds another network; expected torchvision's" in sentence
    assert found(fid_weights=files["inception"]) == []
    assert "expected pytorch-fid's or torchvision's Inception" in found(fid_weights=files["alex"])[0]
    (sentence,) = found(fid_weights=tmp_path / "none.pth")
    assert "none.pth, there is no such file" in sentence and "null leaves the score out" in sentence

    pairs = tmp_path / "pairs.csv"
    assert "scores.pairs is" in found(pairs=pairs)[0] and "there is no such file" in found(pairs=pairs)[0]
    for text, right in (("from,to\n", True), ('"to","from"\n', True), ("from;to\n", False), ("", False)):
        pairs.write_text(text)
        assert bool(found(pairs=pairs)) != right, text
    assert "expected a table with the columns from and to" in found(pairs=pairs)[0]


def test_folders_of_other_generators(params: Params, tmp_path: Path) -> None:
    def found(folder: Path) -> list[str]:
        arm = params.arms["augmented"].model_copy(update={"synthetic": folder})
        return check.problems(params.model_copy(update={"arms": {"other": arm}}))

    folder = tmp_path / "other"
    assert "arms.other.synthetic is" in found(folder)[0]
    for percent in (20, 40, 60):
        save_image(folder / str(percent) / "0002_c1_fake.jpg")
    told = f"arms.other.synthetic is {folder}: "
    assert found(folder) == [f"{told}{folder / '80'} is missing; {folder} has folders of other percents only"]
    save_image(folder / "80" / "fake.jpg")
    assert found(folder) == [
        f"{told}{folder / '80/fake.jpg'}: the name does not begin as in Market-1501 (0002_c1...); rename it, "
        f"or write {folder / '80/manifest.csv'} with the columns name and pid"
    ]
    write_csv(pd.DataFrame({"name": ["fake.jpg", "gone.jpg"], "pid": [2, 2]}), folder / "80/manifest.csv")
    assert found(folder) == [
        f"{told}{folder / '80/gone.jpg'} is listed in {folder / '80/manifest.csv'}; there is no such file in "
        f"{folder / '80'}"
    ]
    save_image(folder / "80" / "gone.jpg")
    assert found(folder) == []


def test_a_full_disk_is_named(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
    (found,) = check.problems(params)
    assert re.search(r"0.0 GB of disk are free; expected about 0.0 GB for checkpoints", found)


def test_the_disk_must_hold_the_checkpoints_of_every_training(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of each training stay in scratch when it is done, and the last one writes a third."""
    free = 0
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=free))
    monkeypatch.setattr(check, "_parameters", lambda folder, stem: 1e9 if folder.name != "vae" else 0.1e9)
    monkeypatch.setattr(check, "_CVA_SHARE", 0.5)
    assert check._KEPT == KEEP
    percents = len(params.subset.percents)
    for train_on, models in ((("all",), 1), (("subset",), percents), (("all", "subset"), 1 + percents)):
        needed = 4 * (4 * (2 * models + 1) * 1.5 + models * (1.5 + 1.1))
        (found,) = check.problems(changed(params, generator={"train_on": train_on}))
        assert f"expected about {needed:.1f} GB for checkpoints" in found


def test_compiling_needs_a_compiler(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = params.generator.train.model_copy(update={"compile": True})
    compiled = changed(params, generator={"train": train})
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("CC", "cc")
    assert check.problems(params) == []
    assert check.problems(compiled) == [
        "generator.train.compile is true; there is no C compiler, expected gcc or clang (false does without)"
    ]
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/cc" if name == "cc" else None)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert check.problems(compiled) == []
    (tmp_path / "Python.h").unlink()
    (found,) = check.problems(compiled)
    assert "Python.h is missing, expected Python's headers" in found


def test_too_little_memory_is_named(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process of the training keeps is known from the configurations: here by hand."""
    assert check.problems(params) == []
    settings = params.generator
    parts = load_parts(params)
    root, images = params.dataset.root, sorted((params.dataset.root / "bounding_box_train").glob("*.jpg"))
    views = encode_views(
        (np.array(read_image(image)) for image in images),
        np.zeros((len(images), 18, 3)),
        np.zeros(len(images), int),
        parts.vae,
        parts.image_encoder,
        view_size=parts.view_size,
        token_size=parts.token_size,
        flip=True,
        batch_size=4,
    )
    kept = (views.latent_mean, views.latent_std, views.tokens, views.skeletons)
    needed = sum(part.nbytes for part in kept)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": needed}.get)
    assert settings.train.flip > 0 and check.problems(params) == []
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": needed - 1}.get)
    (found,) = check.problems(params)
    assert f"{root} has {len(images)} training images; expected 0 GB of memory" in found


def test_images_that_a_filter_reads_are_looked_for(params: Params, tmp_path: Path) -> None:
    asked = FilterSettings(
        synthetic=tmp_path / "pidm", judge="image_encoder", min_agreement=0.5, min_diversity=0.0, seed=0
    )
    (found,) = check.problems(params.model_copy(update={"filters": {"sure": asked}}))
    assert found.startswith(f"filters.sure.synthetic is {tmp_path / 'pidm'}; there is no such folder")


def test_the_output_is_the_same_at_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: Params
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "load_params", lambda: params)
    monkeypatch.setattr(sys, "argv", ["check"])
    check.main()
    first = check.CHECKED.read_bytes()
    check.main()
    assert check.CHECKED.read_bytes() == first
    shutil.rmtree(tmp_path / "models")
    with pytest.raises(ValueError, match=r"generator\.base is .*\n.*generator\.image_encoder is"):
        check.main()
    assert check.CHECKED.read_bytes() == first
