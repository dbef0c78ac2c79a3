"""Backbones of torchvision, torchreid and timm, by their names there, without their classifiers."""

import copy
import difflib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import nn

from reid.data import IMAGENET_MEAN, IMAGENET_STD
from reid.settings import BackboneSettings
from reid.weights import fill, not_of, read_weights


class Backbone(NamedTuple):
    """A network without its classifier.

    Attributes:
        net: Maps normalised images, float [B, 3, H, W], to feature maps [B, D, h, w] or to features [B, D].
        dimension: D.
        mean: Mean of each channel that the images are normalised by, of values in [0, 1].
        std: Deviation of each channel, likewise.
    """

    net: nn.Module
    dimension: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def make_torchvision(settings: BackboneSettings) -> Backbone:
    """Make a classification model of torchvision without its last linear layer.

    Raises:
        FileNotFoundError: The file that settings.weights names does not exist.
        ValueError: The name, an option, the size or the file does not fit.
    """
    name = _name(settings)
    _check_name(settings, name, torchvision.models.list_models(module=torchvision.models))
    with _one_sentence(settings, "backbone_options"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about a default of GoogLeNet's and Inception's
        net = _make(torchvision.models.get_model, name, weights=None, **settings.backbone_options)
    linear = [part for part, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"backbone is {settings.backbone}, which has no linear classifier to take away")
    net.set_submodule(linear[-1], nn.Identity())
    _load(net, settings, heads=(linear[-1],))
    _pool_in_float32(net, "avgpool")
    return Backbone(net, _adapt(net, settings))


def make_torchreid(settings: BackboneSettings) -> Backbone:
    """Make a model of torchreid's zoo without its classifier; raises as `make_torchvision` does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Cython evaluation")  # not in the wheel, and not used
        from torchreid.reid import models
    name = _name(settings)
    _check_name(settings, name, vars(models)["__model_factory"])
    if settings.backbone_options:
        raise ValueError("backbone_options are given, but torchreid's models take none; set them to {}")
    with _one_sentence(settings, "backbone"):
        net = _make(models.build_model, name, 1, loss="softmax", pretrained=False, use_gpu=False)
    # In training its models return what the classifier makes of the features, and without one the features.
    net.classifier = nn.Identity()
    # fc is a layer of features in OSNet, and elsewhere the name of the classifier in ImageNet's files.
    is_layer = isinstance(getattr(net, "fc", None), nn.Module)
    _load(net, settings, heads=("classifier",) if is_layer else ("classifier", "fc"))
    _pool_in_float32(net, "global_avgpool")
    return Backbone(net, _adapt(net, settings))


class _TimmNet(nn.Module):
    """A model of timm whose pooling and what follows it run in float32."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net: Any = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, 3, H, W] to features [B, D]."""
        maps = self.net.forward_features(images)
        device = "cpu" if images.is_meta else images.device.type  # the meta device has no autocast
        with torch.autocast(device, enabled=False):
            return self.net.forward_head(maps.float(), pre_logits=True)


def make_timm(settings: BackboneSettings) -> Backbone:
    """Make a model of timm without its classifier; raises as `make_torchvision` does.

    Position embeddings, and whatever else depends on the input's size, are made for the size of the settings.
    Those of a file are interpolated to it as timm does for its own files (bicubic for a ViT).
    """
    import timm  # takes seconds, which the other backbones do not need

    name = _name(settings)
    _check_name(settings, name, [*timm.list_models(), *timm.list_models(pretrained=True)])
    options: dict[str, Any] = {"num_classes": 0, **settings.backbone_options}
    with _one_sentence(settings, "backbone_options"):
        try:
            size = {"img_size": (settings.height, settings.width)}
            net = _make(timm.create_model, name, pretrained=False, **size, **options)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            net = _make(timm.create_model, name, pretrained=False, **options)  # any size is right for a CNN
    config = timm.data.resolve_model_data_config(net)
    heads = net.pretrained_cfg.get("classifier") or ()
    # timm keeps the conversion of a file, such as the interpolation, beside the model's class.
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    _load(net, settings, (heads,) if isinstance(heads, str) else tuple(heads), convert)
    _check_patches(net, settings)
    wrapped = _TimmNet(net)
    dimension = _adapt(wrapped, settings)
    return Backbone(wrapped, dimension, tuple(config["mean"]), tuple(config["std"]))


def set_last_stride(stage: nn.Module, stride: int) -> None:
    """Set the stride of the layers that halve the resolution in a stage."""
    for module in stage.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (stride, stride)
        elif isinstance(module, nn.AvgPool2d) and module.stride == 2:
            module.stride = stride
            if module.kernel_size == 2:  # of a shortcut, which has nothing to average at stride 1
                module.kernel_size = stride


def _name(settings: BackboneSettings) -> str:
    return settings.backbone.partition(":")[2]


def _check_name(settings: BackboneSettings, name: str, names: Iterable[str]) -> None:
    """Raise a ValueError unless a library has a model of that name."""
    library, known = settings.backbone.partition(":")[0], list(names)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        mend = f"near are {', '.join(near)}" if near else f"it has {', '.join(sorted(known)[:5])}, ..."
        raise ValueError(f"backbone is {settings.backbone}, but {library} has no {name}; {mend}")


def _make(function: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> Any:
    """Make a network. On the meta device, those that compute their sizes with tensors are made on the CPU."""
    try:
        return function(*args, **kwargs)
    except NotImplementedError:
        with torch.device("cpu"):
            return function(*args, **kwargs)


@contextmanager
def _one_sentence(settings: BackboneSettings, key: str) -> Iterator[None]:
    """Turn whatever a library raises when it makes a model into a ValueError that names a key."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{key} is {getattr(settings, key)}, of which {settings.backbone} cannot be made ({_line(error)})"
        ) from error


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _load(
    net: nn.Module,
    settings: BackboneSettings,
    heads: tuple[str, ...],
    convert: Callable[..., dict[str, torch.Tensor]] | None = None,
) -> None:
    """Load the file that settings.weights names, but for the classifiers `heads`."""
    if settings.weights is None:
        return
    library, _, name = settings.backbone.partition(":")
    path, network = Path(settings.weights), f"{library}'s {name}"
    state = read_weights(path, network)
    if convert is not None:
        try:
            state = convert(state, net)
        except Exception as error:  # the conversion expects its own model's file
            raise ValueError(not_of(path, network, f" ({_line(error)})")) from error
    prefixes = tuple(f"{head}." for head in heads)
    fill(net, {key: value for key, value in state.items() if not key.startswith(prefixes)}, path, network)


class _InFloat32(nn.Module):
    """A pooling layer that sums in float32, whatever the precision of the maps."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.pool(maps.float())


def _pool_in_float32(net: nn.Module, name: str) -> None:
    pool = getattr(net, name, None)
    if isinstance(pool, nn.Module):
        setattr(net, name, _InFloat32(pool))


def _check_patches(net: nn.Module, settings: BackboneSettings) -> None:
    """Raise a ValueError if patches do not cover the images: timm would leave out the rest without a word."""
    embed = getattr(net, "patch_embed", None)
    cut = getattr(embed, "proj", None)
    pads = getattr(embed, "dynamic_img_pad", False)
    if not isinstance(cut, nn.Conv2d) or cut.kernel_size != cut.stride or pads:
        return
    if settings.height % cut.stride[0] or settings.width % cut.stride[1]:
        raise ValueError(
            f"backbone is {settings.backbone}, which does not take images of height {settings.height} and "
            f"width {settings.width} (they are not whole patches of {cut.stride[0]} x {cut.stride[1]} pixels)"
        )


def _adapt(net: nn.Module, settings: BackboneSettings) -> int:
    """Set the stride of the last stage where there is one, and return the number of features, D.

    It comes from sending images through a copy on the meta device, which costs no arithmetic.
    """
    # ResNets and what is built like them call their last stage so, in all three libraries.
    stage = getattr(net.net if isinstance(net, _TimmNet) else net, "layer4", None)
    if isinstance(stage, nn.Module):
        set_last_stride(stage, settings.last_stride)
    trial = copy.deepcopy(net).to("meta")
    images = torch.empty(2, 3, settings.height, settings.width, device="meta")
    try:
        with torch.no_grad():
            features = [trial.train(mode)(images) for mode in (True, False)]
    except Exception as error:
        raise ValueError(
            f"backbone is {settings.backbone}, which does not take images of height {settings.height} and "
            f"width {settings.width} ({_line(error)})"
        ) from error
    for feature in features:
        if not isinstance(feature, torch.Tensor) or feature.ndim != 2 or feature.shape != features[1].shape:
            raise ValueError(
                f"backbone is {settings.backbone}, which does not return one feature per image; choose "
                "another model"
            )
    return int(features[0].shape[1])
