"""How far an image is from another one, as a network that knows photographs sees them."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from reid.libraries import Backbone

_FACTORS = (2, 4, 8, 16)  # pixels of the image per pixel of a feature map, along each side


class PerceptualDistance(nn.Module):
    """Distance between the feature maps of two images in a frozen network.

    A decoder that learns from differences of pixels alone blurs what it is uncertain of, and a re-ID network
    does not recognise blurred people well. Features of a network that was trained on photographs notice blur
    (Johnson et al., ECCV 2016). This is LPIPS (Zhang et al., CVPR 2018) with all features weighing alike, of
    whichever network is at hand: at 1/2, 1/4, 1/8 and 1/16 of the resolution the last feature map, where the
    features of each pixel are divided by their L2 norm.

    Args:
        backbone: Network that makes feature maps on the way; it is frozen in place.
        height: Height of the images, pixels.
        width: Width of the images, pixels.

    Attributes:
        layers: Names of the modules of the network whose maps are compared.

    Raises:
        ValueError: The network makes no map at any of the resolutions.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, height: int, width: int) -> None:
        super().__init__()
        self.net = backbone.net.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(backbone.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std)[:, None, None], persistent=False)
        # Maps come in the order in which modules run; of those of one size, the last one counts.
        with torch.no_grad():
            maps = self._maps(
                torch.zeros(1, 3, height, width), [name for name, _ in self.net.named_modules()]
            )
        sizes = [(math.ceil(height / factor), math.ceil(width / factor)) for factor in _FACTORS]
        last = {tuple(features.shape[2:]): name for name, features in maps.items()}
        self.layers = [last[size] for size in sizes if size in last]
        if not self.layers:
            raise ValueError("makes no feature map at 1/2, 1/4, 1/8 or 1/16 of the image")

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Mean distance of images and others, float [N, 3, H, W] in [-1, 1]: 0 to 4 for each layer, added."""
        ours, theirs = self._maps(images, self.layers), self._maps(others, self.layers)
        distances = [(ours[name] - theirs[name]).square().sum(1).mean() for name in self.layers]
        return torch.stack(distances).sum()

    def _maps(self, images: Tensor, layers: list[str]) -> dict[str, Tensor]:
        """Feature maps [N, D, h, w] of some modules, of length 1 along D, in the order in which they run."""
        maps: dict[str, Tensor] = {}

        def keeper(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def keep(module: nn.Module, inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor) and output.ndim == 4:
                    maps.pop(name, None)  # a module may run twice
                    maps[name] = normalize(output, dim=1)

            return keep

        with ExitStack() as hooks:
            for name in layers:
                hooks.enter_context(self.net.get_submodule(name).register_forward_hook(keeper(name)))
            self.net((images * 0.5 + 0.5 - self.mean) / self.std)
        return maps
