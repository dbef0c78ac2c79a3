import math
import warnings

import pytest
import torch

from reid.losses import CenterLoss, batch_hard_triplet, cross_entropy

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Cython evaluation")
    from torchreid.reid.losses import CrossEntropyLoss, TripletLoss


@pytest.fixture
def batch():
    """Features of 5 identities, 4 images each in mixed order, and their labels."""
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(20, 16, generator=rng, requires_grad=True)
    labels = torch.arange(5).repeat(4)
    return features, labels


def gradient(loss, features):
    return torch.autograd.grad(loss, features)[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchreids(batch, smoothing):
    logits, labels = batch
    ours = cross_entropy(logits, labels, smoothing)
    theirs = CrossEntropyLoss(16, eps=smoothing, use_gpu=False)(logits, labels)
    assert ours.shape == (20,)
    torch.testing.assert_close(ours.mean(), theirs)
    torch.testing.assert_close(gradient(ours.mean(), logits), gradient(theirs, logits))


@pytest.mark.parametrize("margin", [0.0, 0.3, 3.0])
def test_triplet_is_torchreids(batch, margin):
    features, labels = batch
    ours, theirs = batch_hard_triplet(features, labels, margin).mean(), TripletLoss(margin)(features, labels)
    assert ours > 0
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, features), gradient(theirs, features))


def test_the_soft_margin_is_torchs(batch):
    """TransReID's triplet loss without a margin is SoftMarginLoss of the difference of the distances."""
    features, labels = batch
    margin = 100.0  # no triplet is satisfied: its loss is the difference itself
    difference = batch_hard_triplet(features, labels, margin) - margin
    theirs = torch.nn.SoftMarginLoss(reduction="none")(-difference, torch.ones(20))
    torch.testing.assert_close(batch_hard_triplet(features, labels, None), theirs, atol=1e-4, rtol=1e-4)


def test_triplet_is_the_definition(batch):
    features, labels = batch
    losses = batch_hard_triplet(features, labels, 0.3)
    points = features.tolist()
    for anchor in range(20):
        distance = [math.dist(points[anchor], other) for other in points]
        hardest_positive = max(
            d for d, label in zip(distance, labels, strict=True) if label == labels[anchor]
        )
        hardest_negative = min(
            d for d, label in zip(distance, labels, strict=True) if label != labels[anchor]
        )
        expected = max(0, hardest_positive - hardest_negative + 0.3)
        assert losses[anchor].item() == pytest.approx(expected, abs=1e-4)


def test_triplet_of_identical_images_has_a_finite_gradient():
    features = torch.ones(8, 4, requires_grad=True)
    loss = batch_hard_triplet(features, torch.arange(4).repeat(2), 0.3).mean()
    assert loss.item() == pytest.approx(0.3)
    assert gradient(loss, features).isfinite().all()


def test_center_loss_is_the_definition(batch):
    features, labels = batch
    center = CenterLoss(5, 16)
    for i, loss in enumerate(center(features, labels)):
        expected = sum((f - c) ** 2 for f, c in zip(features[i], center.centers[labels[i]], strict=True))
        torch.testing.assert_close(loss, expected)


def test_only_centers_of_seen_classes_move(batch):
    features, labels = batch
    center = CenterLoss(7, 16)
    center(features, labels).mean().backward()
    assert center.centers.grad[:5].abs().sum(dim=1).min() > 0
    assert (center.centers.grad[5:] == 0).all()
