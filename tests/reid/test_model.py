import copy
import tarfile

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from reid.data import normalise
from reid.model import BoT, load_model, save_model


@pytest.fixture(scope="module")
def imagenet():
    """A network in the place of torchvision's ImageNet one."""
    torch.manual_seed(0)
    return torchvision.models.resnet50().eval()


@pytest.mark.parametrize(("stride", "size"), [(1, (4, 2)), (2, (2, 1))])
@pytest.mark.parametrize(("backbone", "channels", "dimension"), [("resnet10", 8, 64), ("resnet50", 64, 2048)])
def test_last_stage_and_dimension(small, backbone, channels, dimension, stride, size):
    model = BoT(small(backbone=backbone, channels=channels, last_stride=stride), 5).eval()
    maps = model.backbone(torch.zeros(1, 3, 64, 32))
    assert maps.shape == (1, dimension, *size)
    assert model.dimension == dimension


def test_bnneck(small):
    model = BoT(small(), 5).train()
    assert model.classifier.bias is None
    assert not model.neck.bias.requires_grad
    assert model.neck.weight.requires_grad
    pooled, feature = model(torch.randn(16, 3, 64, 32))
    expected = (pooled - pooled.mean(0)) / (pooled.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(feature, expected, atol=1e-4, rtol=1e-4)


def test_classifier_starts_near_zero(small):
    weights = BoT(small(channels=64), 200).classifier.weight
    assert weights.mean().abs() < 1e-5
    assert weights.std().item() == pytest.approx(0.001, rel=0.02)


def test_without_bnneck_the_feature_is_the_pooled_one(small):
    model = BoT(small(bnneck=False), 5)
    pooled, feature = model(torch.randn(4, 3, 64, 32))
    assert feature is pooled
    assert model.classifier.bias is not None


def test_features_are_float32_under_mixed_precision(small):
    images = torch.randn(4, 3, 64, 32)
    torch.manual_seed(0)
    mixed = BoT(small(mixed_precision="bf16"), 5).eval()
    full = BoT(small(mixed_precision="no"), 5).eval()
    full.load_state_dict(mixed.state_dict())
    assert mixed(images)[1].dtype == torch.float32
    torch.testing.assert_close(mixed(images)[1], full(images)[1], rtol=0.05, atol=0.05)
    assert not torch.equal(mixed(images)[1], full(images)[1])


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "save"), [(".pth", torch.save), (".safetensors", save_file)])
def test_imagenet_weights_give_torchvisions_features(bot, imagenet, tmp_path, suffix, save):
    path = tmp_path / f"resnet50{suffix}"
    save(imagenet.state_dict(), path)
    model = BoT(bot(weights=str(path), last_stride=2, mixed_precision="no"), 5).eval()
    images = torch.randn(2, 3, 64, 32)
    headless = copy.deepcopy(imagenet)
    headless.fc = torch.nn.Identity()
    with torch.inference_mode():
        torch.testing.assert_close(model(images)[0], headless(images), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_classifier_of_the_file_does_not_count(bot, imagenet, tmp_path):
    state = imagenet.state_dict()
    body = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    save_file(state, tmp_path / "whole.safetensors")
    save_file(body, tmp_path / "body.safetensors")
    save_file(body | {"fc.weight": torch.zeros(7, 2048)}, tmp_path / "seven.safetensors")
    whole, *others = (
        BoT(bot(weights=str(tmp_path / f"{name}.safetensors")), 5).backbone.state_dict()
        for name in ("whole", "body", "seven")
    )
    for other in others:
        torch.testing.assert_close(other, whole, rtol=0, atol=0)


def write_other_network(path):
    torch.save(torchvision.models.resnet18().state_dict(), path)


def write_whole_module(path):
    torch.save(torch.nn.Linear(1, 1), path)  # a pickled object: not to be trusted, so not to be loaded


def write_text(path):
    path.write_text("no weights")


def write_list(path):
    torch.save([torch.zeros(1)], path)


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_other_network, write_whole_module, write_text, write_list])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_wrong_weights_are_named(bot, tmp_path, write, suffix):
    path = tmp_path / f"weights{suffix}"
    write(path)
    with pytest.raises(ValueError, match=f"{path.name}, which is not a state dict of torchvision's resnet50"):
        BoT(bot(weights=str(path)), 5)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("layer1.0.conv1.weight", float("nan"), "holds NaN or infinite values in layer1.0.conv1.weight"),
        ("bn1.running_var", float("inf"), "holds NaN or infinite values in bn1.running_var"),
        ("bn1.bias", torch.int8, "holds bn1.bias as int8; weights are floats"),
        ("bn1.bias", None, "is not a state dict of torchvision's resnet50"),
    ],
)
def test_damaged_weights_are_named(bot, imagenet, tmp_path, name, value, why):
    path = tmp_path / "resnet50.pth"
    # Zeros that take no room in the file.
    state = {key: tensor.new_zeros(()).expand(tensor.shape) for key, tensor in imagenet.state_dict().items()}
    if value is None:
        del state[name]
    elif isinstance(value, torch.dtype):
        state[name] = state[name].to(value)
    else:
        state[name] = state[name].clone().fill_(value)
    torch.save(state, path)
    with pytest.raises(ValueError, match=f"{path.name}, which {why}"):
        BoT(bot(weights=str(path)), 5)


def test_files_that_people_have_instead_are_named_with_their_mend(bot, tmp_path):
    path = tmp_path / "resnet50.pth"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="a pointer of Git LFS; run `git lfs pull`"):
        BoT(bot(weights=str(path)), 5)
    path.unlink()
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "storages")
    with pytest.raises(ValueError, match=r"torch's first format, \.tar, which .*; resnet50-0676ba61"):
        BoT(bot(weights=str(path)), 5)


def test_missing_weights_are_named(bot, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth, which does not exist"):
        BoT(bot(weights=str(tmp_path / "nowhere.pth")), 5)


@pytest.mark.parametrize("neck", [True, False])
def test_a_model_is_read_as_it_was_written(small, tmp_path, neck):
    model = BoT(small(mixed_precision="no", bnneck=neck), 7).train()
    images = torch.randn(8, 3, 64, 32)
    model(images)  # moves the running means
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert not again.training and again.settings == model.settings
    torch.testing.assert_close(again(images), model.eval()(images), atol=1e-6, rtol=1e-6)


def test_a_saved_model_needs_no_pretrained_weights(bot, imagenet, tmp_path):
    pretrained = tmp_path / "resnet50.safetensors"
    save_file(imagenet.state_dict(), pretrained)
    save_model(BoT(bot(weights=str(pretrained)), 7), tmp_path / "model.safetensors")
    pretrained.unlink()
    assert load_model(tmp_path / "model.safetensors").classifier.out_features == 7


def test_the_test_feature_is_that_of_the_settings(small):
    images = torch.randint(0, 256, (4, 64, 32, 3), dtype=torch.uint8)
    torch.manual_seed(0)
    model = BoT(small(mixed_precision="no"), 5).train()
    model(torch.randn(8, 3, 64, 32))
    model.eval()
    before, after = (torch.nn.functional.normalize(feature) for feature in model(normalise(images)))
    assert torch.equal(model.embed(images), after) and not torch.equal(before, after)
    model.settings = small(mixed_precision="no", test_feature="before")
    assert torch.equal(model.embed(images), before)


def test_files_that_hold_no_model_are_refused(small, tmp_path):
    weights, settings = tmp_path / "model.safetensors", tmp_path / "model.json"
    save_model(BoT(small(), 7), weights)
    settings.write_text(settings.read_text().replace('"channels": 8', '"channels": 16'))
    with pytest.raises(ValueError, match=r"model.safetensors and model.json do not hold one re-ID model"):
        load_model(weights)
    save_model(BoT(small(), 7), weights)
    weights.write_bytes(b"torn")
    with pytest.raises(ValueError, match="train it again"):
        load_model(weights)
    settings.unlink()
    with pytest.raises(FileNotFoundError, match=r"model.json is missing; a saved re-ID model has two files"):
        load_model(weights)
