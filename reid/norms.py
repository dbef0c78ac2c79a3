"""Batch norms of their own for synthetic images, while a model trains."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_FEWEST = 4  # images of a kind that have a mean and a deviation of their own


class SplitNorm(nn.Module):
    """A batch norm for real images beside one for synthetic images (Xie et al., AdvProp, CVPR 2020).

    Synthetic images have other means and deviations than real ones. One batch norm for both fits neither, and
    the test has real images alone. The two start alike; statistics, scale and shift are then each its own.

    Args:
        norm: The batch norm for real images; it is trained in place.

    Attributes:
        real: The norm for real images. It is the only one in evaluation mode.
        synthetic: The norm for synthetic images.
        n_real: Number of real images in the next batch, which come first in it. Where it has fewer than four
            of either kind, `real` takes all of them.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.real, self.synthetic = norm, copy.deepcopy(norm)
        self.n_real = 0

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Normalise features [B, D, ...]."""
        if not self.training or min(self.n_real, len(features) - self.n_real) < _FEWEST:
            return self.real(features)
        return torch.cat([self.real(features[: self.n_real]), self.synthetic(features[self.n_real :])])


def split_norms(module: nn.Module) -> list[SplitNorm]:
    """Put a `SplitNorm` in the place of every batch norm inside a module, and return them."""
    norms = []
    for name, child in list(module.named_children()):
        if isinstance(child, _BatchNorm):
            norms.append(SplitNorm(child))
            setattr(module, name, norms[-1])
        else:
            norms += split_norms(child)
    return norms


def join_norms(module: nn.Module) -> None:
    """Undo `split_norms`: keep the norms for real images."""
    for name, child in list(module.named_children()):
        if isinstance(child, SplitNorm):
            setattr(module, name, child.real)
        else:
            join_norms(child)
