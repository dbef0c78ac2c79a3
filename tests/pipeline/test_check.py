"""What later stages will need is there, or is named in one sentence before any work starts."""

import json
import os
import re
import shutil
import sys
import sysconfig
import tarfile
import types
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from diffusers import PNDMScheduler
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from benchmarks.openpose import save_random_model
from generator.data import encode_views
from pipeline import check
from pipeline.datasets.images import read_image
from pipeline.params import ArmSettings, CrossSettings, ImportSettings, JudgeSettings, Params, load_params
from pipeline.runtime.outputs import write_csv
from pipeline.shared.imagpose import load_base_model
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
    return changed(
        SHIPPED,
        generator=generator,
        dataset={"root": market, "height": 32, "width": 16},
        poses={"path": market / "keypoints.csv"},
    )


def test_a_whole_set_of_files_has_no_problem(params: Params) -> None:
    assert check.problems(params) == []


def test_the_shipped_parameters_have_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert check.problems(SHIPPED) == []


def test_other_generators_alone_need_the_image_encoder_alone(params: Params, tmp_path: Path) -> None:
    others = changed(params, generator={"train_on": ()})
    shutil.rmtree(tmp_path / "models/base")
    assert check.problems(others) == []
    shutil.rmtree(tmp_path / "models/encoder")
    (sentence,) = check.problems(others)
    assert "generator.image_encoder is" in sentence


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "named"),
    [
        (
            "market/query",
            r"dataset.root is .*market \(dataset.format market1501\): .*query is missing; a data set",
        ),
        (
            "market/keypoints.csv",
            "poses.path is .*keypoints.csv, there is no such file; expected a table with",
        ),
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
            "generator.image_encoder is .*encoder; there is no such folder, expected an image encoder",
        ),
        ("models/encoder/model.safetensors", "encoder/model.safetensors does not exist"),
    ],
)
def test_what_is_missing_is_named_once(params: Params, tmp_path: Path, missing: str, named: str) -> None:
    path = tmp_path / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    (sentence,) = check.problems(params)
    assert re.search(named, sentence) and "\n" not in sentence


def test_everything_wrong_is_named_at_once(params: Params, tmp_path: Path) -> None:
    base = tmp_path / "models/base"
    shutil.rmtree(tmp_path / "market/query")
    shutil.rmtree(tmp_path / "models/encoder")
    (base / "scheduler/scheduler_config.json").write_text("{")
    edit(base / "unet/config.json", addition_embed_type="text_time")
    (base / "vae/diffusion_pytorch_model.safetensors").unlink()
    gone = tmp_path / "gone"
    changes = {
        "scores": {"lpips_weights": gone, "fid_weights": gone, "pairs": gone},
        "reid": {"backbone": "resnet50", "weights": str(gone)},
        "poses": {"source": "openpose", "path": gone},
        "dataset": {"height": 36},
    }
    imports = {name: ImportSettings(folder=gone) for name in ("pidm", "pcdm")}
    bad = changed(params, **changes).model_copy(
        update={
            "imports": imports,
            "arms": {name: ArmSettings(generator=name) for name in imports},
            "cross_datasets": {"other": CrossSettings(root=gone)},
        }
    )
    expected = [
        "dataset.root is",
        "cross_datasets.other.root is",
        "poses.path is",
        "generator.image_encoder is",
        f"{base}/vae/diffusion_pytorch_model.safetensors does not exist",
        f"{base}/scheduler/scheduler_config.json is no JSON file",
        f"{base}/unet holds a UNet with addition_embed_type",
        "dataset.height is 36; expected a multiple of 8",
        f"scores.lpips_weights: {gone}: No such file",
        f"scores.fid_weights: {gone}: No such file",
        "scores.pairs is",
        "reid.weights names",
        "imports.pidm.folder is",
        "imports.pcdm.folder is",
    ]
    sentences = check.problems(bad)
    assert len(sentences) == len(expected), sentences
    for sentence, start in zip(sentences, expected, strict=True):
        assert sentence.startswith(start) and "\n" not in sentence


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "sizes"),
    [
        ("dataset", {"height": 64, "width": 128}),
        ("reid", {"height": 64, "width": 128}),
        ("scores", {"height": 64, "width": 128}),
    ],
)
def test_height_and_width_that_are_exchanged_are_named(
    params: Params, section: str, sizes: dict[str, int]
) -> None:
    sentence = (
        f"{section}.height is 64 and {section}.width 128, but the images are higher than wide; "
        "exchange the two"
    )
    assert sentence in check.problems(changed(params, **{section: sizes}))
    square = {"height": 128, "width": 128}
    assert not [said for said in check.problems(changed(params, **{section: square})) if "exchange" in said]


def test_another_data_set_with_the_name_of_the_rendered_world_is_said(
    params: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, said in (("embedded world", True), ("my data", False)):
        monkeypatch.setattr(check, "load_params", lambda name=name: changed(params, dataset={"name": name}))
        check.main()
        assert ("dataset.name is 'embedded world', and dataset.root is" in capsys.readouterr().err) == said


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


UNET, VAE, ENCODER = "base/unet/config.json", "base/vae/config.json", "encoder/config.json"
SCHEDULER = "base/scheduler/scheduler_config.json"
OTHER = "holds no weights of the .* describes: "


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        (
            UNET,
            {"in_channels": 9},
            OTHER + r"it has conv_in.weight as \[8, 4, 3, 3\], where \[8, 9, 3, 3\] is",
        ),
        (UNET, {"_class_name": "UNet2DModel"}, "kind UNet2DModel; expected UNet2DConditionModel or IMAGPose"),
        (UNET, {"addition_embed_type": "text_time"}, "addition_embed_type 'text_time'"),
        (UNET, {"block_out_channels": [12, 16]}, OTHER + r".* where \[12"),
        (UNET, {"block_out_channels": 8}, OTHER),
        (UNET, {"block_out_channels": []}, OTHER),
        (UNET, {"block_out_channels": [8, "16"]}, OTHER),
        (UNET, {"down_block_types": ["DownBlock2D"]}, OTHER),
        (
            VAE,
            {"_class_name": "VQModel"},
            "holds a model of kind VQModel; expected AutoencoderKL or AutoencoderTiny",
        ),
        (VAE, {"in_channels": 1}, OTHER),
        (SCHEDULER, {"prediction_type": "sample"}, "'sample'; expected epsilon or v_prediction"),
        (SCHEDULER, {"rescale_betas_zero_snr": True}, "zero_terminal_snr is on .* expected v_prediction"),
        (ENCODER, {"model_type": "siglip"}, "kind siglip; expected dinov2 or clip or clip_vision_model"),
        (ENCODER, {"hidden_size": 24}, OTHER + r"it has .* where \[.*24.*\] is needed"),
        (ENCODER, {"hidden_size": "wide"}, OTHER),
        (ENCODER, {"patch_size": 0}, OTHER),
        (ENCODER, {"model_type": "clip", "vision_config": [1]}, OTHER),
    ],
)
def test_a_wrong_configuration_is_named(
    params: Params, tmp_path: Path, file: str, changes: dict, named: str
) -> None:
    path = tmp_path / "models" / file
    edit(path, **changes)
    (sentence,) = check.problems(params)
    assert sentence.startswith(f"{path.parent}") and re.search(named, sentence) and "\n" not in sentence


def test_a_malformed_saved_denoiser_is_named(params: Params, tmp_path: Path) -> None:
    path = tmp_path / "models/base/denoiser/config.json"
    tiny.denoiser().save_pretrained(path.parent)
    edit(path, unet_config=None)
    (sentence,) = check.problems(params)
    assert sentence.startswith(f"{path.parent}/diffusion_pytorch_model.safetensors holds no weights of the")


@pytest.mark.slow
def test_every_kind_of_image_encoder_passes(params: Params, tmp_path: Path) -> None:
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "patch_size": 4, "image_size": 16}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=small)).save_pretrained(tmp_path / "clip")
    clip = changed(params, generator={"image_encoder": tmp_path / "clip"})
    assert check.problems(clip) == []
    assert check.problems(changed(clip, generator={"token_width": 10})) == [
        "generator.token_width is 10; expected a multiple of 4, the patch of the image encoder"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "changes", "sentence"),
    [
        (
            "dataset",
            {"height": 40},
            "dataset.height is 40; expected a multiple of 16: the VAE shrinks it by 8, the UNet by 2",
        ),
        (
            "generator",
            {"texture_patch": 4},
            "generator.denoiser.texture_patch is 4; expected a divisor of 4 and 2, the sides of a view's "
            "latent",
        ),
        (
            "generator",
            {"cva_heads": 3},
            "generator.denoiser.cva_heads is 3; expected a divisor of the UNet's 8 channels",
        ),
        (
            "generator",
            {"cva_heads": 1000},
            "generator.denoiser.cva_heads is 1000; expected a divisor of the UNet's 8 channels",
        ),
        (
            "generator",
            {"pose_channels": (4, 8)},
            "generator.denoiser.pose_channels has 2 entries, which reach 1/2 of an image's size; expected 4, "
            "which reach 1/8 as latents do",
        ),
    ],
)
def test_settings_that_do_not_fit_the_models_are_named_by_check_and_by_the_stage(
    params: Params, section: str, changes: dict, sentence: str
) -> None:
    if section == "generator":
        changes = {"denoiser": params.generator.denoiser.model_copy(update=changes)}
    bad = changed(params, **{section: changes})
    assert check.problems(bad) == [sentence]
    with pytest.raises(ValueError) as caught:
        load_base_model(bad)
    assert str(caught.value) == sentence


def test_a_vae_of_another_model_is_named(params: Params, tmp_path: Path) -> None:
    vae = type(tiny.vae()).from_config({**tiny.vae().config, "latent_channels": 16})
    vae.save_pretrained(tmp_path / "models/base/vae")
    assert check.problems(params) == [
        "generator.base has a UNet with 4 input and 4 output channels; expected 16 of both, as its VAE's "
        "latents have"
    ]


def test_a_saved_denoiser_must_serve_the_settings(params: Params, tmp_path: Path) -> None:
    tiny.denoiser().save_pretrained(tmp_path / "models/base/denoiser")
    assert check.problems(params) == []
    other = {"denoiser": params.generator.denoiser.model_copy(update={"texture_patch": 1})}
    (sentence,) = check.problems(changed(params, generator=other))
    assert "was saved with texture_patch 2, where the settings say 1" in sentence
    shutil.rmtree(tmp_path / "models/encoder")  # the denoiser may still be right
    (sentence,) = check.problems(params)
    assert sentence.startswith("generator.image_encoder is")


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
    (sentence,) = check.problems(params)
    assert f"{shards[1]} is no safetensors file, or a damaged one" in sentence
    shards[1].unlink()
    (sentence,) = check.problems(params)
    assert f"{shards[1]} is missing" in sentence


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["base/unet", "base/vae", "encoder"])
def test_a_tensor_too_few_or_too_many_is_named(params: Params, tmp_path: Path, folder: str) -> None:
    (file,) = (tmp_path / "models" / folder).glob("*.safetensors")
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file(tensors | {"more.weight": torch.zeros(1)}, file)
    (sentence,) = check.problems(params)
    assert sentence.startswith(f"{file} holds no weights of") and sentence.endswith("it has more.weight too.")
    name = min(tensors)
    save_file({other: tensor for other, tensor in tensors.items() if other != name}, file)
    (sentence,) = check.problems(params)
    assert sentence.startswith(f"{file} holds no weights of") and sentence.endswith(f"it lacks {name}.")


def test_the_cache_of_a_hub_is_named_once(params: Params, tmp_path: Path) -> None:
    cache = tmp_path / "models--someone--sd"
    shutil.copytree(tmp_path / "models/base", cache / "snapshots/0a1b")
    (sentence,) = check.problems(changed(params, generator={"base": cache}))
    assert sentence.endswith(f"give the model in it, {cache}/snapshots/0a1b.")


def stand_in(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights of a network, made on the meta device; one number stands for a tensor, so files are small."""
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.slow
def test_resnet_file(params: Params, tmp_path: Path) -> None:
    """What training takes is what passes: BoT has a classifier of its own, and no use for the file's."""

    def sentences(file: Path) -> list[str]:
        settings = params.reid.model_copy(update={"backbone": "resnet50", "weights": str(file)})
        mistakes = check.Mistakes()
        mistakes.look(check.check_judge, "reid", settings)
        return mistakes

    with torch.device("meta"):
        networks = {
            "50": torchvision.models.resnet50(),
            "market": torchvision.models.resnet50(num_classes=751),
            "101": torchvision.models.resnet101(),
        }
    states = {name: stand_in(network) for name, network in networks.items()}
    states["headless"] = {name: part for name, part in states["50"].items() if not name.startswith("fc.")}
    for name, state in states.items():
        torch.save(state, tmp_path / f"{name}.pth")
    torch.save(states["50"], tmp_path / "old.pth", _use_new_zipfile_serialization=False)  # before torch 1.6
    for name in ("50", "market", "headless", "old"):
        assert sentences(tmp_path / f"{name}.pth") == [], name

    save_file({"layer4.2.conv3.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "pointer.pth").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    with tarfile.open(tmp_path / "resnet50-19c8e357.pth", "w") as archive:
        archive.add(tmp_path / "text.pth", "storages")
    for name, why in (
        ("101.pth", "which is not a state dict of torchvision's resnet50"),
        ("other.safetensors", "which is not a state dict of torchvision's resnet50"),
        ("text.pth", "which is not a state dict of torchvision's resnet50"),
        ("none.pth", "which does not exist"),
        ("pointer.pth", "a pointer of Git LFS; run `git lfs pull`"),
        (
            "resnet50-19c8e357.pth",
            "a file in torch's first format, .tar, which is not read; resnet50-0676ba61",
        ),
    ):
        (sentence,) = sentences(tmp_path / name)
        assert sentence.startswith(f"reid.weights names {tmp_path / name}, {why}") and "\n" not in sentence


def test_judges_are_made_before_any_work_starts(params: Params, tmp_path: Path) -> None:
    (tmp_path / "osnet.pth").write_text("no weights")
    judges = {
        "good": {"backbone": "timm:vit_tiny_patch16_224", "backbone_options": {"depth": 1}},
        "typo": {"backbone": "torchreid:osnet_1_0"},
        "size": {"backbone": "torchvision:vit_b_16"},
        "file": {"backbone": "torchreid:osnet_x0_25", "weights": str(tmp_path / "osnet.pth")},
    }
    entries = {name: JudgeSettings.model_validate(judge) for name, judge in judges.items()}
    sentences = check.problems(params.model_copy(update={"judges": entries}))
    starts = (
        "judges.typo.backbone is torchreid:osnet_1_0, but torchreid has no osnet_1_0; near are osnet_x1_0",
        "judges.size.backbone is torchvision:vit_b_16, which does not take images of height 96",
        f"judges.file.weights names {tmp_path / 'osnet.pth'}, which is not a state dict of torchreid's",
    )
    for sentence, start in zip(sentences, starts, strict=True):
        assert sentence.startswith(start) and "\n" not in sentence


@pytest.mark.slow
@pytest.mark.skipif(find_spec("controlnet_aux") is None, reason="controlnet-aux is not installed")
def test_openpose_file(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sentences(file: Path) -> list[str]:
        mistakes = check.Mistakes()
        mistakes.look(check.check_poses, changed(params, poses={"source": "openpose", "path": file}))
        return mistakes

    (tmp_path / "market/keypoints.csv").unlink()  # of no use now
    save_random_model(tmp_path / "body.pth")
    assert sentences(tmp_path / "body.pth") == []
    state = torch.load(tmp_path / "body.pth", weights_only=True)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)  # as before torch 1.6
    assert sentences(tmp_path / "old.pth") == []
    layer = "Mconv7_stage6_L2.weight"
    torch.save(state | {layer: torch.zeros(26, 128, 1, 1)}, tmp_path / "body_25.pth")
    (sentence,) = sentences(tmp_path / "body_25.pth")
    assert f"({layer} is [26, 128, 1, 1], where [19, 128, 1, 1] is needed)" in sentence
    assert sentences(tmp_path / "none.pth") == [
        f"poses.path is {tmp_path / 'none.pth'}, there is no such file; expected OpenPose's "
        "body_pose_model.pth, since poses.source is openpose"
    ]
    monkeypatch.setitem(sys.modules, "controlnet_aux.open_pose.model", None)
    (sentence,) = sentences(tmp_path / "body.pth")
    assert (
        sentence == "poses.source is openpose, which needs the package controlnet-aux; pip install '.[paper]'"
    )


@pytest.mark.slow
def test_the_source_of_keypoints_is_looked_at_by_its_own_reader(params: Params, tmp_path: Path) -> None:
    """Not before the stage `world` has made it; and the world's keypoints are those of no other data set."""
    world = Path("data/world/keypoints.csv")
    (sentence,) = check.problems(changed(params, poses={"path": world}))
    assert sentence == (
        f"poses.path is {world}, where the keypoints of the rendered world lie; expected those of "
        f"{params.dataset.root}, such as {params.dataset.root}/keypoints.csv, or a detector (poses.source)"
    )
    assert check.problems(changed(params, poses={"path": world}, dataset={"root": Path("data/world")})) == []
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for source, file, why in (
        ("vitpose", "folder", "folder/config.json does not exist"),
        ("openpose_json", "folder", "which holds no *_keypoints.json"),
        ("coco_json", "market/keypoints.csv", "keypoints.csv: it is no JSON"),
        ("pose_transfer", "market/keypoints.csv", "its first line is not name:keypoints_y:keypoints_x"),
    ):
        (sentence,) = check.problems(changed(params, poses={"source": source, "path": tmp_path / file}))
        assert why in sentence and "\n" not in sentence


@pytest.mark.slow
def test_deepfashion_is_asked_for_its_own_files(params: Params, tmp_path: Path) -> None:
    root = deepfashion_folder(tmp_path / "fashion")
    poses = {"source": "pose_transfer", "path": root}
    fashion = changed(params, dataset={"format": "deepfashion", "root": root}, poses=poses)
    assert check.problems(fashion) == []
    (root / "train_highres").rename(root / "train")
    for file in root.glob("fasion-resize-annotation-*.csv"):
        file.unlink()
    (sentence,) = check.problems(fashion)
    assert f"poses.path is {root}, which holds no *annotation*.csv; expected PATN's files" in sentence
    fashion = changed(fashion, poses={"source": "annotations", "path": tmp_path / "market/keypoints.csv"})
    assert check.problems(fashion) == []
    shutil.rmtree(root / "test_highres")
    (sentence,) = check.problems(fashion)
    assert re.search(
        r"fashion \(dataset.format deepfashion\): .*test_highres is missing; a DeepFashion", sentence
    )
    (root / "test").mkdir()
    assert f"{root / 'test'} holds no image for the split test" in check.problems(fashion)[0]


@pytest.mark.slow
def test_cross_data_sets_must_be_there(params: Params, market: Path, tmp_path: Path) -> None:
    def sentences(root: Path) -> list[str]:
        return check.problems(
            params.model_copy(update={"cross_datasets": {"other": CrossSettings(root=root)}})
        )

    assert sentences(market) == []
    assert sentences(check.WORLD) == [], "the stage world renders it"
    (sentence,) = sentences(tmp_path / "nothing")
    assert re.search(r"cross_datasets\.other\.root is .* is no folder; a data set in Market", sentence)


@pytest.mark.slow
def test_what_the_scores_compare_by(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sentences(**changes: object) -> list[str]:
        mistakes = check.Mistakes()
        check.check_scores(changed(params, scores=changes), mistakes)
        return mistakes

    with torch.device("meta"):
        networks = {
            "alex": torchvision.models.alexnet(),
            "vgg": torchvision.models.vgg16(),
            "inception": torchvision.models.inception_v3(init_weights=False),
            "other": torchvision.models.vgg19(),
        }
    files = {name: tmp_path / f"{name}.pth" for name in networks}
    for name, network in networks.items():
        torch.save(stand_in(network), files[name])
    assert sentences(fid_weights=files["inception"]) == []
    (sentence,) = sentences(fid_weights=files["alex"])
    assert sentence.startswith(f"scores.fid_weights: {files['alex']} holds no Inception v3")
    (sentence,) = sentences(fid_weights=tmp_path / "none.pth")
    assert sentence == (
        f"scores.fid_weights: {tmp_path / 'none.pth'}: No such file or directory (null leaves the score out)"
    )

    pairs = tmp_path / "pairs.csv"
    (sentence,) = sentences(pairs=pairs)
    assert sentence.startswith(f"scores.pairs is {pairs}; there is no such file")
    for text, right in (("from,to\n", True), ('"to","from"\n', True), ("from;to\n", False), ("", False)):
        pairs.write_text(text)
        assert bool(sentences(pairs=pairs)) != right, text
    assert "expected a table with the columns from and to" in sentences(pairs=pairs)[0]

    pytest.importorskip("lpips")
    for backbone in ("alex", "vgg"):
        assert sentences(lpips_backbone=backbone, lpips_weights=files[backbone]) == []
    (sentence,) = sentences(lpips_backbone="alex", lpips_weights=files["other"])
    assert sentence.startswith(f"scores.lpips_weights: {files['other']} does not hold torchvision's alex")
    monkeypatch.setitem(sys.modules, "lpips", None)  # the stage leaves the score out without the package
    assert sentences(lpips_backbone="alex", lpips_weights=files["other"]) == []
    assert sentences(pairs=files["other"]) == check.problems(
        changed(params, scores={"pairs": files["other"]})
    )


@pytest.mark.slow
def test_folders_of_other_generators(params: Params, tmp_path: Path) -> None:
    def sentences(folder: Path) -> list[str]:
        imports, arms = {"other": ImportSettings(folder=folder)}, {"other": ArmSettings(generator="other")}
        return check.problems(params.model_copy(update={"imports": imports, "arms": arms}))

    folder = tmp_path / "other"
    (sentence,) = sentences(folder)  # and not once for each percent
    assert sentence.startswith(f"imports.other.folder is {folder}: {folder} is missing")
    for percent in (20, 40, 60):
        save_image(folder / str(percent) / "0002_c1_fake.jpg")
    start = f"imports.other.folder is {folder}: "
    assert sentences(folder) == [
        f"{start}{folder / '80'} is missing; {folder} has folders of other percents only"
    ]
    save_image(folder / "80" / "fake.jpg")
    assert sentences(folder) == [
        f"{start}{folder / '80/fake.jpg'}: the name does not begin as in Market-1501 (0002_c1...); rename "
        f"it, or write {folder / '80/manifest.csv'} with the columns name and pid"
    ]
    write_csv(pd.DataFrame({"name": ["fake.jpg", "gone.jpg"], "pid": [2, 2]}), folder / "80/manifest.csv")
    assert sentences(folder) == [
        f"{start}{folder / '80/gone.jpg'} is listed in {folder / '80/manifest.csv'}; there is no such file "
        f"in {folder / '80'}"
    ]
    save_image(folder / "80" / "gone.jpg")
    assert sentences(folder) == []


@pytest.mark.slow
def test_the_disk_must_hold_the_checkpoints_of_every_training(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of each training stay in scratch when it is done, and the last one writes a third."""

    def free(size: float) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=size))

    imagpose = load_base_model(params)
    trained, vae, encoder = (
        sum(parameter.numel() for parameter in model.parameters())
        for model in (imagpose.denoiser, imagpose.vae, imagpose.image_encoder)
    )
    percents = len(params.subset.percents)
    for train_on, models in ((("all",), 1), (("subset",), percents), (("all", "subset"), 1 + percents)):
        # Weights, their average and two moments, 4 bytes each; a trained generator has its frozen models too.
        needed = 4 * (4 * (2 * models + 1) * trained + models * (trained + vae + encoder))
        several = changed(params, generator={"train_on": train_on})
        free(needed)
        assert check.problems(several) == []
        free(needed - 1)
        (sentence,) = check.problems(several)
        assert "0.0 GB of disk are free; expected about 0.0 GB for checkpoints" in sentence


@pytest.mark.slow
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
    (sentence,) = check.problems(compiled)
    assert "Python.h is missing, expected Python's headers" in sentence


@pytest.mark.slow
@pytest.mark.parametrize("has_gpu", [False, True])
@pytest.mark.parametrize("processes", [1, 4])
def test_the_memory_must_hold_what_the_processes_of_a_training_keep(
    params: Params, monkeypatch: pytest.MonkeyPatch, processes: int, has_gpu: bool
) -> None:
    """It is counted without weights: here by hand."""
    imagpose = load_base_model(params)
    root, images = params.dataset.root, sorted((params.dataset.root / "bounding_box_train").glob("*.jpg"))
    views = encode_views(
        (np.array(read_image(image)) for image in images),
        np.zeros((len(images), 18, 3)),
        np.zeros(len(images), int),
        imagpose.vae,
        imagpose.image_encoder,
        view_size=imagpose.view_size,
        token_size=imagpose.token_size,
        flip=True,
        batch_size=4,
    )
    encoded = sum(
        part.nbytes for part in (views.latent_mean, views.latent_std, views.tokens, views.skeletons)
    )
    # Weights, their average and two moments: in every process without a GPU, and once more in a checkpoint
    state = 4 * 4 * sum(parameter.numel() for parameter in imagpose.denoiser.parameters())
    needed = processes * (encoded + (0 if has_gpu else state)) + state
    assert params.generator.train.flip > 0
    monkeypatch.setattr(check, "count_processes", lambda: processes)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": needed}.get)
    assert check.problems(params) == []
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": needed - 1}.get)
    (sentence,) = check.problems(params)
    assert f"{root} has {len(images)} training images; expected 0.0 GB of memory" in sentence
    assert f"({processes} x 0.0 GB in processes, 0.0 GB for a checkpoint)" in sentence


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
    with pytest.raises(ValueError, match=r"generator\.image_encoder is .*\n.*generator\.base is"):
        check.main()
    assert check.CHECKED.read_bytes() == first


@pytest.mark.slow
@pytest.mark.parametrize("key", ["dataset.root", "generator.base"])
def test_a_linked_folder_is_named_and_a_link_to_the_whole_is_followed(
    key: str, params: Params, tmp_path: Path
) -> None:
    """DVC looks behind neither, so that an exchanged UNet or new images would change nothing."""
    section, name = key.split(".")
    folder = getattr(getattr(params, section), name)
    inner = folder / ("query" if section == "dataset" else "vae")
    inner.rename(tmp_path / "elsewhere")
    inner.symlink_to(tmp_path / "elsewhere")
    (sentence,) = [line for line in check.problems(params) if "link to a folder: changes behind" in line]
    assert sentence.startswith(f"{key} is {folder}, where {inner} is a link to a folder")
    inner.unlink()
    (tmp_path / "elsewhere").rename(inner)
    (tmp_path / "linked").symlink_to(folder)
    assert check.problems(changed(params, **{section: {name: tmp_path / "linked"}})) == []
