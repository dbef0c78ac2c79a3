"""BoT's network: ResNet with a fine last stage, global average pooling, BNNeck, classifier."""

import tarfile
from pathlib import Path

import safetensors.torch
import torch
import torchvision
from torch import nn
from transformers.models.resnet.modeling_resnet import ResNetConfig, ResNetModel

from reid.settings import ReidSettings


class BoT(nn.Module):
    """The strong baseline of Luo et al. (CVPRW 2019).

    Args:
        settings: Settings, of which backbone, width, neck and precision are used.
        classes: Number of training identities.
        backbone: Where settings.backbone is "given", a module that maps images [B, 3, H, W] to feature maps
            [B, D, h, w], and D.

    Raises:
        FileNotFoundError: The file that settings.weights names does not exist.
        ValueError: The file does not hold a ResNet-50.
    """

    def __init__(
        self, settings: ReidSettings, classes: int, backbone: tuple[nn.Module, int] | None = None
    ) -> None:
        super().__init__()
        self.bf16 = settings.mixed_precision == "bf16"
        self.backbone, self.dimension = backbone or _BACKBONES[settings.backbone](settings)
        self.classifier = nn.Linear(self.dimension, classes, bias=not settings.bnneck)
        self.neck: nn.Module = nn.Identity()
        if settings.bnneck:
            # Without shift and bias the classes lie around the origin, where the cosine distance of the test
            # compares.
            self.neck = nn.BatchNorm1d(self.dimension)
            self.neck.bias.requires_grad_(False)
            nn.init.normal_(self.classifier.weight, std=0.001)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute features before and after the neck.

        Args:
            images: Normalised images, float32 [B, 3, H, W].

        Returns:
            The pooled feature (triplet and center loss) and the feature after BNNeck (classifier, test),
            float32 [B, D] each.
        """
        # [B, 3, H, W] -> feature maps [B, D, h, w] -> their means [B, D], in float32: the losses compare
        # small differences of large sums.
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            maps = self.backbone(images)
        pooled = maps.float().mean(dim=(2, 3))
        return pooled, self.neck(pooled)


def save_model(model: BoT, path: Path) -> None:
    """Write the weights of a model as safetensors."""
    state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(state, path)


def load_model(path: Path, settings: ReidSettings, device: str = "cpu") -> BoT:
    """Read a model that `save_model` wrote; it is in evaluation mode.

    Raises:
        ValueError: The file does not hold a model of these settings.
    """
    try:
        state = safetensors.torch.load_file(path)
        model = BoT(settings.model_copy(update={"weights": None}), len(state["classifier.weight"]))
        model.load_state_dict(state)
    except (RuntimeError, KeyError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{path} holds no {settings.backbone} with {settings.channels} channels of the present settings; "
            "train it again."
        ) from error
    return model.to(device).eval()


def _resnet50(settings: ReidSettings) -> tuple[nn.Module, int]:
    """Make the backbone of torchvision's ResNet-50, and tell its number of channels."""
    net = torchvision.models.resnet50()
    if settings.weights is not None:
        _load_imagenet(net, Path(settings.weights))
    _set_last_stride(net.layer4, settings.last_stride)
    stem = [net.conv1, net.bn1, net.relu, net.maxpool]
    return nn.Sequential(*stem, net.layer1, net.layer2, net.layer3, net.layer4), net.fc.in_features


def _resnet10(settings: ReidSettings) -> tuple[nn.Module, int]:
    """Make the backbone of a ResNet with one block per stage, and tell its number of channels."""
    # torchvision's and torchreid's ResNets fix the number of channels; transformers' takes it from its
    # configuration.
    sizes = [settings.channels * factor for factor in (1, 2, 4, 8)]
    config = ResNetConfig(
        embedding_size=settings.channels, hidden_sizes=sizes, depths=[1, 1, 1, 1], layer_type="basic"
    )
    net = ResNetModel(config)
    _set_last_stride(net.encoder.stages[-1], settings.last_stride)
    return nn.Sequential(net.embedder, *net.encoder.stages), sizes[-1]


# What settings.backbone may name, but for "given"
_BACKBONES = {"resnet10": _resnet10, "resnet50": _resnet50}


def _set_last_stride(stage: nn.Module, stride: int) -> None:
    """Set the stride of the convolutions that halve the resolution in a stage."""
    for module in stage.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (stride, stride)


def _load_imagenet(net: nn.Module, path: Path) -> None:
    """Load a file of torchvision's ResNet-50, but for its classifier, which BoT replaces."""
    if not path.is_file():
        raise FileNotFoundError(
            f"reid.weights names {path}, which does not exist; give the path of torchvision's resnet50 file, "
            "or null."
        )
    # Two files that people have instead: torchvision's first, and what Git LFS leaves in a clone
    if tarfile.is_tarfile(path):
        raise ValueError(
            f"reid.weights names {path}, a file in torch's first format, .tar, which is not read; "
            "resnet50-0676ba61.pth has the same weights."
        )
    with path.open("rb") as content:
        if content.read(30).startswith(b"version https://git-lfs"):
            raise ValueError(
                f"reid.weights names {path}, a pointer of Git LFS; run `git lfs pull` where it was cloned."
            )
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
        net.load_state_dict(state | net.get_submodule("fc").state_dict(prefix="fc."))
    except Exception as error:  # a file that is something else fails in all kinds of ways
        raise ValueError(
            f"reid.weights names {path}, which is not a state dict of torchvision's resnet50; "
            "give such a file (.pth or .safetensors), or null."
        ) from error
    for name, tensor in state.items():
        counts = name.endswith("num_batches_tracked")
        if not tensor.is_floating_point() and not counts:  # loading would convert it without a word
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"reid.weights names {path}, which holds {name} as {kind}; weights are floats.")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"reid.weights names {path}, which holds NaN or infinite values in {name}.")
