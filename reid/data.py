"""Images in memory: PK batches and BoT's augmentation, all without hidden state."""

import numpy as np
import torch

from common.seeding import make_rng
from reid.settings import Mix, ReidSettings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ERASING_ATTEMPTS = 100  # reid-strong-baseline's; beyond them an image stays whole


class IdentitySampler:
    """PK batches: P different identities, K images of each, as a pure function of seed and iteration.

    torchreid's RandomIdentitySampler draws from the global generators of `random` and `numpy` and lays out a
    whole epoch at once, so it can neither resume in the middle nor fill a batch with a given share of
    synthetic images. Two properties differ from it on purpose. Identities come round equally often instead of
    in proportion to their images, and which identities an iteration holds follows from the seed alone: arms
    of one seed that differ only in their images meet the same people in the same order, which makes their
    difference less noisy.

    Args:
        labels: int [N], class of each image, 0 ... number of identities - 1, each with at least one image.
        is_synthetic: bool [N].
        identities: P.
        images: K; identities with fewer are drawn from with replacement.
        seed: seed of all draws.
        mix: How often a synthetic image is drawn for a real one of its identity; not needed without any.

    Raises:
        ValueError: if there are fewer than P identities.
    """

    def __init__(
        self,
        labels: np.ndarray,
        is_synthetic: np.ndarray,
        identities: int,
        images: int,
        seed: int,
        mix: Mix | None = None,
    ) -> None:
        self.n_identities = int(labels.max()) + 1
        if self.n_identities < identities:
            raise ValueError(
                f"identities_per_batch is {identities}, but the training images show {self.n_identities} "
                f"identities; set it to at most {self.n_identities}."
            )
        self.identities, self.images, self.seed = identities, images, seed
        self.rate = mix.rate if mix else 1.0
        self.real = [np.flatnonzero((labels == label) & ~is_synthetic) for label in range(self.n_identities)]
        self.synthetic = [
            np.flatnonzero((labels == label) & is_synthetic) for label in range(self.n_identities)
        ]

    def batch(self, iteration: int) -> np.ndarray:
        """Image numbers int64 [P * K] of one iteration, the K images of an identity side by side."""
        # A round is one shuffle of all identities, cut into batches; what is left over sits the round out.
        round_, position = divmod(iteration, self.n_identities // self.identities)
        shuffled = make_rng(self.seed, "identities", round_).permutation(self.n_identities)
        chosen = shuffled[position * self.identities : (position + 1) * self.identities]
        rng = make_rng(self.seed, "images", iteration)
        return np.concatenate([self._images_of(label, rng) for label in chosen])

    def _images_of(self, label: int, rng: np.random.Generator) -> np.ndarray:
        real, synthetic = self.real[label], self.synthetic[label]
        weight = len(synthetic) * self.rate
        share = weight / (len(real) + weight)  # a fractional number of images is met on average
        n_synthetic = int(self.images * share + rng.random())
        drawn = _draw(real, self.images - n_synthetic, rng), _draw(synthetic, n_synthetic, rng)
        return np.concatenate(drawn)


def _draw(pool: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(pool, n, replace=len(pool) < n) if n else pool[:0]


def erasing_boxes(
    n: int, height: int, width: int, settings: ReidSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rectangles of random erasing (Zhong et al., AAAI 2020), drawn as BoT draws them.

    Returns:
        top, left, height, width, int [n] each, pixels; height 0 where nothing is erased.
    """
    low, high = settings.erasing_area
    shape = n, ERASING_ATTEMPTS
    area = rng.uniform(low, high, shape) * height * width
    ratio = rng.uniform(settings.erasing_ratio, 1 / settings.erasing_ratio, shape)
    box_height, box_width = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (box_height < height) & (box_width < width)
    first = np.arange(n), fits.argmax(axis=1)  # the first attempt that fits
    erase = fits.any(axis=1) & (rng.random(n) < settings.erasing_probability)
    box_height = np.where(erase, box_height[first], 0).astype(np.int64)
    box_width = np.where(erase, box_width[first], 0).astype(np.int64)
    top = rng.integers(0, height - box_height + 1)
    left = rng.integers(0, width - box_width + 1)
    return top, left, box_height, box_width


def augment(images: torch.Tensor, settings: ReidSettings, rng: np.random.Generator) -> torch.Tensor:
    """BoT's training transform for a whole batch: flip, black border and crop, normalisation, random erasing.

    Args:
        images: uint8 [B, H, W, 3], on any device.
        settings: probabilities and sizes.
        rng: where the draws come from.

    Returns:
        float32 [B, 3, H, W], normalised, in channels-last memory order.
    """
    n, height, width, _ = images.shape
    device = images.device

    # 1. Flip and crop are one gather: each output row and column names the row and column that it comes from.
    rows = rng.integers(0, 2 * settings.padding + 1, (n, 1)) + np.arange(height)
    columns = rng.integers(0, 2 * settings.padding + 1, (n, 1)) + np.arange(width)
    flip = rng.random((n, 1)) < settings.flip_probability
    columns = np.where(flip, width + 2 * settings.padding - 1 - columns, columns)
    border = (0, 0, settings.padding, settings.padding, settings.padding, settings.padding)
    padded = torch.nn.functional.pad(images, border)
    batch = torch.arange(n, device=device)[:, None, None]
    row_index = torch.from_numpy(rows).to(device)[:, :, None]
    column_index = torch.from_numpy(columns).to(device)[:, None, :]
    normalised = normalise(padded[batch, row_index, column_index])

    # 2. Erasing. BoT erases after normalisation, and fills with the mean of ImageNet's *unnormalised* values.
    top, left, box_height, box_width = (
        torch.from_numpy(side).to(device)[:, None, None]
        for side in erasing_boxes(n, height, width, settings, rng)
    )
    y = torch.arange(height, device=device)[None, :, None]
    x = torch.arange(width, device=device)[None, None, :]
    erased = (y >= top) & (y < top + box_height) & (x >= left) & (x < left + box_width)
    fill = torch.tensor(IMAGENET_MEAN, device=device)[None, :, None, None]
    return torch.where(erased[:, None], fill, normalised)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] by ImageNet's mean and deviation, channels last."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device) * 255
    std = torch.tensor(IMAGENET_STD, device=images.device) * 255
    return ((images - mean) / std).permute(0, 3, 1, 2)
