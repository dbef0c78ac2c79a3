import math
import random

import numpy as np
import pytest
import torch

from common.seeding import make_rng
from reid.data import IMAGENET_MEAN, IMAGENET_STD, IdentitySampler, augment, erasing_boxes, normalise
from reid.settings import Mix

# 7 identities: two images, then 3, 4, ... 8 images; every identity but the last also has 5 synthetic ones.
REAL = [2, 3, 4, 5, 6, 7, 8]
LABELS = np.array(
    [label for label, n in enumerate(REAL) for _ in range(n)] + [i for i in range(6) for _ in range(5)]
)
SYNTHETIC = np.arange(len(LABELS)) >= sum(REAL)


def sampler(rate=1.0, labels=LABELS, synthetic=SYNTHETIC, seed=0):
    return IdentitySampler(labels, synthetic, 3, 4, seed, Mix(rate=rate))


# --- sampler ------------------------------------------------------------------------------------------------


def test_batch_has_p_identities_of_k_images():
    batches = sampler()
    for iteration in range(50):
        labels = LABELS[batches.batch(iteration)].reshape(3, 4)
        assert (labels == labels[:, :1]).all()
        assert len(set(labels[:, 0])) == 3


def test_batch_depends_on_seed_and_iteration_only():
    forward, backward = sampler(), sampler()
    first = [forward.batch(i) for i in range(10)]
    last = [backward.batch(i) for i in reversed(range(10))][::-1]
    np.testing.assert_array_equal(first, last)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], sampler(seed=1).batch(0))


def test_a_round_meets_each_identity_at_most_once_and_all_equally_often_in_the_long_run():
    batches = sampler()
    labels = np.array([LABELS[batches.batch(i)].reshape(3, 4)[:, 0] for i in range(1000)])
    # 7 identities: a round is 2 batches of 3
    assert all(len(set(labels[i : i + 2].ravel())) == 6 for i in range(0, 1000, 2))
    np.testing.assert_allclose(np.bincount(labels.ravel()) / labels.size, 1 / 7, atol=0.02)


def test_images_repeat_only_where_an_identity_has_too_few():
    labels, real_only = LABELS[~SYNTHETIC], np.zeros(sum(REAL), bool)
    batches = sampler(labels=labels, synthetic=real_only)
    for iteration in range(50):
        for images in batches.batch(iteration).reshape(3, 4):
            assert len(set(images)) == 4 or REAL[labels[images[0]]] < 4


def test_every_image_is_drawn():
    batches = sampler()
    assert set(np.concatenate([batches.batch(i) for i in range(300)])) == set(range(len(LABELS)))


@pytest.mark.parametrize("rate", [0.2, 1.0, 2.0])
def test_a_synthetic_image_is_drawn_at_its_rate(rate):
    batches = sampler(rate)
    times = np.bincount(np.concatenate([batches.batch(i) for i in range(600)]))
    for label, real in enumerate(REAL[:6]):
        own = label == LABELS
        each = times[own & SYNTHETIC].mean() / times[own & ~SYNTHETIC].mean()
        assert each == pytest.approx(rate, rel=0.1), f"{real} real and 5 synthetic images"


def test_the_number_of_synthetic_images_is_the_share_rounded_up_or_down():
    batches = sampler(rate=0.4)
    images = np.concatenate([batches.batch(i) for i in range(600)]).reshape(-1, 4)
    for label, real in enumerate(REAL[:6]):
        counts = SYNTHETIC[images[LABELS[images[:, 0]] == label]].sum(axis=1)
        share = 4 * 0.4 * 5 / (real + 0.4 * 5)
        assert set(counts) <= {math.floor(share), math.ceil(share)}


def test_an_identity_with_one_kind_of_images_is_drawn_from_it_alone():
    batches = sampler(synthetic=SYNTHETIC | (LABELS == 0))
    images = np.concatenate([batches.batch(i) for i in range(50)])
    assert SYNTHETIC[images[LABELS[images] == 0]].any()  # it has synthetic images only
    assert not SYNTHETIC[images[LABELS[images] == 6]].any()  # and the last one has real images only


def test_arms_of_one_seed_meet_the_same_identities():
    mixed, real = sampler(), sampler(labels=LABELS[~SYNTHETIC], synthetic=np.zeros(sum(REAL), bool))
    for iteration in range(20):
        np.testing.assert_array_equal(LABELS[mixed.batch(iteration)], LABELS[real.batch(iteration)])


def test_too_few_identities_are_named():
    with pytest.raises(ValueError, match=r"identities_per_batch is 8, but .* 7 identities"):
        IdentitySampler(LABELS, SYNTHETIC, 8, 4, 0, Mix())


# --- augmentation -------------------------------------------------------------------------------------------

OFF = {"flip_probability": 0.0, "padding": 0, "erasing_probability": 0.0}


def noise(n=32, height=64, width=32):
    return torch.from_numpy(make_rng(0, "noise").integers(0, 256, (n, height, width, 3), dtype=np.uint8))


def test_normalise_matches_the_definition():
    images = noise(2)
    expected = (images.numpy() / 255 - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(normalise(images).numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)
    assert normalise(images).is_contiguous(memory_format=torch.channels_last)


def test_everything_off_is_normalisation(small):
    images = noise()
    assert torch.equal(augment(images, small(**OFF), make_rng(0, "a")), normalise(images))


def test_certain_flip_mirrors(small):
    images = noise()
    flipped = augment(images, small(**OFF | {"flip_probability": 1.0}), make_rng(0, "a"))
    assert torch.equal(flipped, normalise(images).flip(3))


def test_each_image_is_flipped_for_itself(small):
    images = noise(400)
    flipped = augment(images, small(**OFF | {"flip_probability": 0.5}), make_rng(0, "a"))
    share = (flipped == normalise(images).flip(3)).all(dim=3).all(dim=2).all(dim=1).float().mean()
    assert 0.4 < share < 0.6


def test_crops_are_windows_of_the_black_bordered_image(small):
    images = noise(200)
    crops = augment(images, small(**OFF | {"padding": 2}), make_rng(0, "a"))
    bordered = normalise(torch.nn.functional.pad(images, (0, 0, 2, 2, 2, 2)))
    windows = {(y, x): bordered[:, :, y : y + 64, x : x + 32] for y in range(5) for x in range(5)}
    shifts = [{at for at, window in windows.items() if torch.equal(window[i], crops[i])} for i in range(200)]
    assert all(shifts)
    assert set.union(*shifts) == set(windows)  # every shift from -2 to 2 occurs, in both directions


def test_augmentation_depends_on_its_random_numbers_only(small):
    images = noise()
    first, second, other = (augment(images, small(), make_rng(0, "a", i)) for i in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_erased_pixels_hold_the_imagenet_mean_and_nothing_else_changes(small):
    images = noise(64)
    settings = small(**OFF | {"erasing_probability": 1.0})
    erased = augment(images, settings, make_rng(0, "a")).permute(0, 2, 3, 1)
    plain = normalise(images).permute(0, 2, 3, 1)
    changed = (erased != plain).any(dim=3)
    assert changed.flatten(1).any(dim=1).all()
    assert torch.equal(erased[changed], torch.tensor(IMAGENET_MEAN).expand(int(changed.sum()), 3))


def bot_erasing(height, width, rng):
    """reid-strong-baseline's rule, one image at a time; None = not erased."""
    if rng.uniform(0, 1) >= 0.5:
        return None
    for _ in range(100):
        area = rng.uniform(0.02, 0.4) * height * width
        ratio = rng.uniform(0.3, 1 / 0.3)
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w < width and h < height:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    return None


def test_erasing_has_the_distribution_of_bot(bot):
    boxes = np.array(erasing_boxes(20000, 256, 128, bot(), make_rng(0, "a")))
    boxes = boxes[:, boxes[2] > 0]
    rng = random.Random(0)
    oracle = [box for _ in range(20000) if (box := bot_erasing(256, 128, rng))]
    assert abs(boxes.shape[1] / 20000 - len(oracle) / 20000) < 0.015
    for ours, theirs in zip(boxes, np.array(oracle).T, strict=True):
        quantiles = np.linspace(0.05, 0.95, 7)
        np.testing.assert_allclose(np.quantile(ours, quantiles), np.quantile(theirs, quantiles), atol=5)


def test_erased_boxes_lie_inside_and_reach_both_edges(small):
    top, left, height, width = erasing_boxes(5000, 64, 32, small(), make_rng(0, "a"))
    assert top.min() == left.min() == 0
    assert (top + height).max() == 64
    assert (left + width).max() == 32
