"""BoT's three losses, one value per image."""

import torch
from torch import nn
from torch.nn import functional


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Cross-entropy with targets (1 - smoothing) * one-hot + smoothing / C (Szegedy et al., CVPR 2016).

    Args:
        logits: Logits of C identities, float [B, C].
        labels: Identities, int64 [B].
        smoothing: Label smoothing in [0, 1); 0 is plain cross-entropy.

    Returns:
        The loss of each image, float [B].
    """
    return functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")


def batch_hard_triplet(features: torch.Tensor, labels: torch.Tensor, margin: float | None) -> torch.Tensor:
    """Triplet loss with the hardest positive and negative in the batch (Hermans et al., 2017, Eq. 5).

    The same function as torchreid's TripletLoss before its mean, without a Python loop over the anchors
    (which costs a tenth of an iteration of the small backbone).

    Args:
        features: Features, not normalised, float [B, D]; their distance is Euclidean.
        labels: Identities, int64 [B], at least two different ones.
        margin: Margin in units of that distance; None is the soft margin, ln(1 + e^x) in place of max(0, x).

    Returns:
        The loss of each anchor, float [B].
    """
    # Distances of all pairs, [B, B]: |a - b|^2 = |a|^2 + |b|^2 - 2 ab
    squares = features.square().sum(dim=1)
    distance = torch.addmm(squares[:, None] + squares[None, :], features, features.T, alpha=-2)
    distance = distance.clamp(min=1e-12).sqrt()  # the root's gradient is infinite at 0

    # Of each anchor the farthest image of its identity and the nearest of another one, [B]
    same = labels[:, None] == labels[None, :]
    positive = distance.masked_fill(~same, -torch.inf).max(dim=1).values
    negative = distance.masked_fill(same, torch.inf).min(dim=1).values
    if margin is None:
        return functional.softplus(positive - negative)
    return functional.relu(positive - negative + margin)


class CenterLoss(nn.Module):
    """Squared distance of a feature to the learnt center of its class (Wen et al., ECCV 2016), as in BoT.

    Args:
        classes: Number of identities.
        dimension: Length of a feature.
    """

    def __init__(self, classes: int, dimension: int) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(classes, dimension))

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Map features, float [B, D], and identities, int64 [B], to the loss of each image, float [B]."""
        distance = (features - self.centers[labels]).square().sum(dim=1)
        return distance.clamp(min=1e-12, max=1e12)  # BoT's bounds
