"""Models of the libraries are backbones: with the features and the files that their libraries give them."""

import warnings

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from reid.data import IMAGENET_MEAN, augment, normalise
from reid.evaluate import features
from reid.model import BoT, load_model, save_model
from reid.settings import Mix
from reid.train import train

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Cython evaluation")
    from torchreid.reid.models import build_model

VIT = {"patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
MODELS = {
    "torchvision:shufflenet_v2_x0_5": {},
    "torchreid:osnet_x0_25": {},
    "timm:vit_tiny_patch16_224": VIT,
    "timm:test_convnext": {},
}
PIXELS = torch.randint(0, 256, (4, 64, 32, 3), dtype=torch.uint8, generator=torch.manual_seed(0))


@pytest.fixture
def library(small):
    """Settings of a small model of a library, with changes."""
    return lambda backbone, **changes: small(
        **{"mixed_precision": "no", "backbone": backbone, "backbone_options": MODELS.get(backbone, {})}
        | changes
    )


def published(backbone, size=(64, 32)):
    """A network as its library makes it, with its classifier of 1,000 classes."""
    library, name = backbone.split(":")
    torch.manual_seed(1)
    if library == "torchvision":
        net = torchvision.models.get_model(name)
    elif library == "torchreid":
        net = build_model(name, 1000, pretrained=False, use_gpu=False)
    elif backbone == "timm:vit_tiny_patch16_224":
        net = timm.create_model(name, img_size=size, **VIT)
    else:
        net = timm.create_model(name)
    for module in net.modules():  # else the means that a file has would equal those of a new network
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval()


def own_features(net, images):
    """Features of a network of a library, by its own means."""
    if hasattr(net, "forward_head"):
        return net.forward_head(net.forward_features(images), pre_logits=True)
    if hasattr(net, "fc") and isinstance(net.fc, torch.nn.Linear):
        net.fc = torch.nn.Identity()
    return net(images)


# --- features, and files as they are published --------------------------------------------------------------


def write_plain(state, file):
    torch.save(state, file)


def write_safetensors(state, file):
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)


def write_checkpoint(state, file):
    """What torchreid's engine writes: the state of a parallel network, and a rank-1 of numpy."""
    state = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": state, "epoch": 60, "rank1": np.float32(0.94), "optimizer": {"lr": 0.1}}, file)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", MODELS)
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.pth", write_plain),
        ("model.safetensors", write_safetensors),
        ("model.pth.tar-60", write_checkpoint),
    ],
)
@torch.inference_mode()
def test_a_published_file_gives_the_library_s_features(library, tmp_path, backbone, name, write):
    net = published(backbone)
    write(net.state_dict(), tmp_path / name)
    model = BoT(library(backbone, weights=str(tmp_path / name), last_stride=2), 5).eval()
    images = normalise(PIXELS, model.mean, model.std)
    expected = own_features(net, images)
    assert model.dimension == expected.shape[1]
    torch.testing.assert_close(model(images)[0], expected, rtol=1e-4, atol=1e-5)


def test_position_embeddings_are_interpolated_as_timm_does(library, tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(published("timm:vit_tiny_patch16_224", size=(32, 32)).state_dict(), file)
    model = BoT(library("timm:vit_tiny_patch16_224", weights=str(file)), 5)
    theirs = timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(file)},
        img_size=(64, 32),
        **VIT,
    )
    assert model.backbone.net.pos_embed.shape[1] == 1 + 8 * 4
    torch.testing.assert_close(model.backbone.net.pos_embed, theirs.pos_embed)


@pytest.mark.slow
def test_a_resnets_last_stage_is_fine(library):
    """The stride is that of all three libraries' ResNets; networks without such a stage stay as they are."""
    maps = {}
    for backbone in ("torchvision:resnet18", "torchreid:resnet18", "timm:resnet18", "timm:resnet18d"):
        for stride in (1, 2):
            with torch.device("meta"):
                model = BoT(library(backbone, backbone_options={}, last_stride=stride), 5)
                net = getattr(model.backbone, "net", model.backbone)
                net.layer4.register_forward_hook(
                    lambda _, __, out, key=(backbone, stride): maps.update({key: out.shape[2:]})
                )
                model.backbone(torch.empty(2, 3, 64, 32))
    assert {tuple(size) for (_, stride), size in maps.items() if stride == 1} == {(4, 2)}
    assert {tuple(size) for (_, stride), size in maps.items() if stride == 2} == {(2, 1)}


def test_the_normalisation_is_the_models(library):
    with torch.device("meta"):
        augreg = BoT(library("timm:vit_tiny_patch16_224"), 5)
        dino = BoT(library("timm:vit_small_patch16_224.dino", backbone_options={"depth": 1}), 5)
        osnet = BoT(library("torchreid:osnet_x0_25"), 5)
    assert augreg.mean == augreg.std == (0.5, 0.5, 0.5)
    assert dino.mean == osnet.mean == IMAGENET_MEAN


def test_images_are_augmented_with_the_models_normalisation(small):
    settings = small(flip_probability=0.0, padding=0, erasing_probability=0.0)
    rng = np.random.default_rng(0)
    half = augment(PIXELS, settings, rng, (0.5,) * 3, (0.5,) * 3)
    torch.testing.assert_close(half, (PIXELS / 127.5 - 1).permute(0, 3, 1, 2), atol=1e-5, rtol=1e-5)


# --- training and saving ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("backbone", MODELS)
def test_a_model_trains_is_saved_and_loads(library, tmp_path, backbone):
    rng = np.random.default_rng(0)
    images, pids = rng.integers(0, 256, (16, 64, 32, 3), np.uint8), np.repeat(np.arange(4), 4)
    options = {"drop_path_rate": 0.2} if backbone.startswith("timm") else {}
    settings = library(
        backbone,
        iterations=3,
        optimizer="adamw",
        schedule="cosine",
        backbone_options=MODELS[backbone] | options,
    )
    arguments = images, pids, np.arange(16) % 2 == 0, settings, 0
    mix = Mix(rate=1.0, own_norms=True)  # must leave no trace in what is saved
    model = train(*arguments, mix=mix)
    torch.rand(7)  # what torch drew before must not matter, stochastic depth or not
    again = train(*arguments, mix=mix)
    for (name, ours), theirs in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    np.testing.assert_allclose(features(loaded, images, 8), features(model, images, 8), atol=1e-6)


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "changes", "sentence"),
    [
        ("torchvision:resnet5O", {}, "torchvision has no resnet5O; near are resnet50"),
        ("torchreid:osnet_1_0", {}, "torchreid has no osnet_1_0; near are osnet"),
        ("timm:vit_base_patch16_224.orig", {}, "timm has no .*; near are vit_base_patch16_224"),
        ("timm:zzzzzzzzzz", {}, "timm has no zzzzzzzzzz; it has "),
        ("torchvision:squeezenet1_0", {}, "which has no linear classifier to take away"),
        ("torchvision:vit_b_16", {}, "does not take images of height 64 and width 32 \\(Wrong image height"),
        ("torchvision:googlenet", {}, "does not return one feature per image"),
        ("timm:vit_tiny_patch16_224", {"height": 72}, "does not take images of height 72 and width 32 "),
        ("timm:vit_tiny_patch16_224", {"backbone_options": {"depht": 2}}, "backbone_options is .*depht"),
        ("torchvision:resnet18", {"backbone_options": {"depth": 2}}, "backbone_options is .*depth"),
        ("torchreid:osnet_x0_25", {"backbone_options": {"depth": 2}}, "torchreid's models take none"),
    ],
)
def test_what_no_library_can_make_is_refused(library, backbone, changes, sentence):
    with pytest.raises(ValueError, match=sentence) as error, torch.device("meta"):
        BoT(library(backbone, **{"backbone_options": {}} | changes), 5)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("backbone", "other"),
    [
        ("torchreid:osnet_x0_25", "torchvision:shufflenet_v2_x0_5"),
        ("torchvision:shufflenet_v2_x0_5", "torchreid:osnet_x0_25"),
        ("timm:test_convnext", "timm:vit_tiny_patch16_224"),
        ("timm:vit_tiny_patch16_224", "timm:test_convnext"),
    ],
)
def test_another_models_file_is_refused(library, tmp_path, backbone, other, device):
    file = tmp_path / "other.pth"
    torch.save(published(other).state_dict(), file)
    library_name, name = backbone.split(":")
    sentence = f"other.pth, which is not a state dict of {library_name}'s {name} "
    with pytest.raises(ValueError, match=sentence) as error, torch.device(device):
        BoT(library(backbone, weights=str(file)), 5)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.pop("conv1.bn.weight"), r"\(it lacks conv1.bn.weight\)"),
        (lambda state: state.update(extra=torch.zeros(1)), r"\(it has extra\)"),
        (
            lambda state: state.update({"conv1.bn.bias": torch.zeros(3)}),
            r"\(another shape has conv1.bn.bias\)",
        ),
        (
            lambda state: state["conv1.bn.bias"].fill_(torch.nan),
            "holds NaN or infinite values in conv1.bn.bias",
        ),
    ],
)
def test_a_file_that_lacks_or_adds_something_is_refused(library, tmp_path, change, reason):
    state, file = published("torchreid:osnet_x0_25").state_dict(), tmp_path / "osnet.pth"
    change(state)
    torch.save(state, file)
    with pytest.raises(ValueError, match=f"osnet.pth, which .*{reason}"), torch.device("meta"):
        BoT(library("torchreid:osnet_x0_25", weights=str(file)), 5)


def test_objects_are_not_unpickled(library, tmp_path):
    file = tmp_path / "osnet.pth"
    torch.save(
        {"state_dict": published("torchreid:osnet_x0_25").state_dict(), "model": torch.nn.ReLU()}, file
    )
    with pytest.raises(ValueError, match="is not a state dict of torchreid's osnet_x0_25"):
        BoT(library("torchreid:osnet_x0_25", weights=str(file)), 5)
