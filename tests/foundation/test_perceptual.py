"""The distance of images in the feature maps of a network."""

import pytest
import torch
import torchvision
from torch import nn

from foundation.perceptual import PerceptualDistance
from reid.libraries import Backbone
from reid.model import make_backbone
from reid.settings import BackboneSettings


def backbone(name: str, height: int = 64, width: int = 32) -> Backbone:
    """An untrained network."""
    torch.manual_seed(0)
    return make_backbone(
        BackboneSettings(backbone=name, channels=64, weights=None, last_stride=2, height=height, width=width)
    )


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Two images of blocks of colours, in [-1, 1]."""
    colours = torch.rand(2, 3, 8, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return nn.functional.interpolate(colours, scale_factor=8)


@pytest.fixture(scope="module")
def distance() -> PerceptualDistance:
    """The distance in an untrained ResNet-18."""
    return PerceptualDistance(backbone("torchvision:resnet18"), 64, 32)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("torchvision:resnet18", ["relu", "layer1", "layer2", "layer3"]),
        (
            "torchvision:mobilenet_v2",
            [f"features.{place}.conv.0" for place in (2, 4, 7, 14)],
        ),
        ("timm:resnet10t", ["net.act1", "net.layer1", "net.layer2", "net.layer3"]),
    ],
)
def test_the_last_map_of_each_resolution_is_compared(name: str, layers: list[str]) -> None:
    assert PerceptualDistance(backbone(name), 64, 32).layers == layers


def test_sides_need_not_be_powers_of_two() -> None:
    odd = PerceptualDistance(backbone("torchvision:resnet18", 50, 27), 50, 27)
    assert odd.layers == ["relu", "layer1", "layer2", "layer3"]


def test_a_network_without_feature_maps_is_refused() -> None:
    flat = Backbone(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 32, 4)), 4)
    with pytest.raises(ValueError, match=r"^makes no feature map at 1/2"):
        PerceptualDistance(flat, 64, 32)


def test_it_is_the_distance_of_features_of_length_one(images, distance) -> None:
    """Against torchvision's own way to take features out of a network."""
    net = torchvision.models.feature_extraction.create_feature_extractor(distance.net, distance.layers)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def features(pixels: torch.Tensor) -> list[torch.Tensor]:
        zero_to_one = (pixels.permute(0, 2, 3, 1) + 1) / 2
        maps = net.eval()(((zero_to_one - mean) / std).permute(0, 3, 1, 2))
        return [values / values.square().sum(1, keepdim=True).sqrt() for values in maps.values()]

    others = images.flip(-1)
    expected = 0.0
    for ours, theirs in zip(features(images), features(others), strict=True):
        expected += (ours - theirs).square().sum(1).mean().item()
    assert distance(images, others).item() == pytest.approx(expected, rel=1e-4)
    assert distance(images, images).item() == 0


def test_images_get_gradients_and_the_network_keeps_still(images, distance) -> None:
    before = {name: value.clone() for name, value in distance.state_dict().items()}
    moved = (images + 0.1).requires_grad_()
    distance(moved, images).backward()
    assert moved.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in distance.parameters())
    assert all(torch.equal(value, before[name]) for name, value in distance.state_dict().items())
