"""BoT's network around any backbone: pooled features, BNNeck, classifier; and how it is saved and loaded."""

import json
from pathlib import Path

import safetensors.torch
import torch
import torchvision
from torch import nn
from transformers.models.resnet.modeling_resnet import ResNetConfig, ResNetModel

from common.precision import autocast
from reid.data import normalise
from reid.libraries import Backbone, make_timm, make_torchreid, make_torchvision, set_last_stride
from reid.settings import BackboneSettings, ReidSettings
from reid.weights import fill, read_weights


class BoT(nn.Module):
    """The strong baseline of Luo et al. (CVPRW 2019).

    Args:
        settings: Settings, of which backbone, sizes, neck and precision are used.
        classes: Number of training identities.
        backbone: Where settings.backbone is "given", a module that maps images [B, 3, H, W] to feature maps
            [B, D, h, w] or features [B, D], and D.

    Attributes:
        dimension: Length of a feature, D.
        mean: Mean of each channel that images are normalised by, of values in [0, 1].
        std: Deviation of each channel, likewise.

    Raises:
        FileNotFoundError: The file that settings.weights names does not exist.
        ValueError: The library has no such model, or it does not fit the size, the options or the file.
    """

    def __init__(
        self, settings: ReidSettings, classes: int, backbone: tuple[nn.Module, int] | None = None
    ) -> None:
        super().__init__()
        self.settings = settings
        made = Backbone(*backbone) if backbone else make_backbone(settings)
        self.backbone, self.dimension, self.mean, self.std = made
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
            The pooled feature (triplet and center loss) and the feature after BNNeck (classifier),
            float32 [B, D] each.
        """
        # [B, 3, H, W] -> feature maps [B, D, h, w] -> their means [B, D], in float32: the losses compare
        # small differences of large sums. Networks that do not pool by a mean return [B, D] themselves.
        with autocast(self.settings.mixed_precision, images.device):
            pooled = self.backbone(images)
        pooled = pooled.float()
        if pooled.ndim == 4:
            pooled = pooled.mean(dim=(2, 3))
        return pooled, self.neck(pooled)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the features by which images are compared.

        Args:
            images: Images at the size of the settings, uint8 [B, H, W, 3].

        Returns:
            Features of length 1, float32 [B, D].
        """
        before, after = self(normalise(images, self.mean, self.std))
        return nn.functional.normalize(after if self.settings.test_feature == "after" else before)


# --- saved models -------------------------------------------------------------------------------------------


def settings_file(weights: Path) -> Path:
    """Return the file of settings that belongs beside a file of weights."""
    return weights.with_suffix(".json")


def save_model(model: BoT, weights: Path, settings: Path | None = None) -> None:
    """Write a model: its weights as safetensors, and all that is needed to load them as JSON.

    Args:
        model: The model.
        weights: File of the weights.
        settings: File of the settings; None puts it where `load_model` looks for it.
    """
    state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(state, weights)
    description = {
        "settings": model.settings.model_dump(mode="json", include=set(ReidSettings.model_fields)),
        "classes": model.classifier.out_features,
        "dimension": model.dimension,
        "mean": model.mean,
        "std": model.std,
    }
    text = json.dumps(description, indent=2) + "\n"
    (settings or settings_file(weights)).write_text(text, encoding="utf-8")


def load_model(weights: Path, device: str = "cpu", backbone: tuple[nn.Module, int] | None = None) -> BoT:
    """Read a model that `save_model` wrote; it is in evaluation mode.

    Args:
        weights: File of the weights, with that of the settings beside it.
        device: Torch's name of the device.
        backbone: As in `BoT`, where the settings say "given".

    Raises:
        FileNotFoundError: One of the two files is missing.
        ValueError: They do not hold one model.
    """
    for file in (weights, settings_file(weights)):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing; a saved re-ID model has two files, {weights.name} "
                f"and {settings_file(weights).name}"
            )
    try:
        description = json.loads(settings_file(weights).read_text(encoding="utf-8"))
        settings = ReidSettings.model_validate(description["settings"] | {"weights": None})
        model = BoT(settings, description["classes"], backbone)
        model.load_state_dict(safetensors.torch.load_file(weights))
    except (ValueError, RuntimeError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{weights} and {settings_file(weights).name} do not hold one re-ID model; train it again."
        ) from error
    return model.to(device).eval()


# --- backbones ----------------------------------------------------------------------------------------------


def _resnet50(settings: BackboneSettings) -> Backbone:
    """Make torchvision's ResNet-50 up to its feature maps."""
    net = torchvision.models.resnet50()
    dimension = net.fc.in_features
    net.fc = nn.Identity()  # BoT has its own classifier
    if settings.weights is not None:
        path, network = Path(settings.weights), "torchvision's resnet50"
        state = read_weights(path, network)
        fill(net, {name: value for name, value in state.items() if not name.startswith("fc.")}, path, network)
    set_last_stride(net.layer4, settings.last_stride)
    stem = [net.conv1, net.bn1, net.relu, net.maxpool]
    return Backbone(nn.Sequential(*stem, net.layer1, net.layer2, net.layer3, net.layer4), dimension)


def _resnet10(settings: BackboneSettings) -> Backbone:
    """Make a ResNet with one block per stage up to its feature maps."""
    # torchvision's and torchreid's ResNets fix the number of channels; transformers' takes it from its
    # configuration.
    sizes = [settings.channels * factor for factor in (1, 2, 4, 8)]
    config = ResNetConfig(
        embedding_size=settings.channels, hidden_sizes=sizes, depths=[1, 1, 1, 1], layer_type="basic"
    )
    net = ResNetModel(config)
    set_last_stride(net.encoder.stages[-1], settings.last_stride)
    return Backbone(nn.Sequential(net.embedder, *net.encoder.stages), sizes[-1])


# What settings.backbone may name, or name before a colon, but for "given"
_BACKBONES = {
    "resnet10": _resnet10,
    "resnet50": _resnet50,
    "torchvision": make_torchvision,
    "torchreid": make_torchreid,
    "timm": make_timm,
}


def make_backbone(settings: BackboneSettings) -> Backbone:
    """Make the network that the settings name, without its classifier; it may not be "given".

    Raises:
        FileNotFoundError: The file that settings.weights names does not exist.
        ValueError: The library has no such model, or it does not fit the size, the options or the file.
    """
    return _BACKBONES[settings.backbone.split(":")[0]](settings)
