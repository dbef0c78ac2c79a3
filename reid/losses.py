"""BoT's three losses, one value per image, so that images can weigh differently."""

import torch
from torch import nn
from torch.nn import functional


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Cross-entropy with targets (1 - smoothing) * one-hot + smoothing / C (Szegedy et al., CVPR 2016).

    Args:
        logits: float [B, C].
        labels: int64 [B].
        smoothing: 0 is plain cross-entropy.

    Returns:
        float [B].
    """
    return functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")


def batch_hard_triplet(features: torch.Tensor, labels: torch.Tensor, margin: float) -> torch.Tensor:
    """Triplet loss with the hardest positive and negative in the batch (Hermans et al., 2017, Eq. 5).

    The same function as torchreid's TripletLoss before its mean, without a Python loop over the anchors
    (which costs a tenth of an iteration of the small backbone).

    Args:
        features: float [B, D], not normalised; the distance is Euclidean.
        labels: int64 [B], at least two different ones.
        margin: in units of that distance.

    Returns:
        float [B], one value per anchor.
    """
    squares = features.square().sum(dim=1)
    distance = torch.addmm(squares[:, None] + squares[None, :], features, features.T, alpha=-2)
    distance = distance.clamp(min=1e-12).sqrt()  # the root's gradient is infinite at 0
    same = labels[:, None] == labels[None, :]
    positive = distance.masked_fill(~same, -torch.inf).max(dim=1).values
    negative = distance.masked_fill(same, torch.inf).min(dim=1).values
    return functional.relu(positive - negative + margin)


class CenterLoss(nn.Module):
    """Squared distance of a feature to the learnt center of its class (Wen et al., ECCV 2016), as in BoT.

    Args:
        classes: number of identities.
        dimension: length of a feature.
    """

    def __init__(self, classes: int, dimension: int) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(classes, dimension))

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Features float [B, D] and labels int64 [B] to float [B]."""
        distance = (features - self.centers[labels]).square().sum(dim=1)
        return distance.clamp(min=1e-12, max=1e12)  # BoT's bounds
