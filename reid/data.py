"""Images in memory: PK batches and BoT's augmentation, all without hidden state."""

from collections.abc import Sequence

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
    whole epoch at once, so it can neither resume in the middle nor draw synthetic images at a rate of their
    own. Two properties differ from it on purpose. Identities come round equally often instead of in
    proportion to their images. Which identities an iteration holds follows from the seed alone: arms of one
    seed that differ only in their images meet the same people in the same order, which makes their difference
    less noisy.

    Args:
        labels: Class of each image, int [N] in 0 ... number of identities - 1; each has at least one image.
        is_synthetic: Which images are generated, bool [N].
        identities: Number of identities in a batch, P.
        images: Number of images of each, K; identities with fewer are drawn from with replacement.
        seed: Seed of all draws.
        mix: How real and synthetic images of an identity are mixed.

    Raises:
        ValueError: There are fewer than P identities.
    """

    def __init__(
        self,
        labels: np.ndarray,
        is_synthetic: np.ndarray,
        identities: int,
        images: int,
        seed: int,
        mix: Mix,
    ) -> None:
        self.n_identities = int(labels.max()) + 1
        if self.n_identities < identities:
            raise ValueError(
                f"identities_per_batch is {identities}, but the training images show {self.n_identities} "
                f"identities; set it to at most {self.n_identities}."
            )
        self.identities, self.images, self.seed, self.mix = identities, images, seed, mix
        of_label = [labels == label for label in range(self.n_identities)]
        self.real = [np.flatnonzero(own & ~is_synthetic) for own in of_label]
        self.synthetic = [np.flatnonzero(own & is_synthetic) for own in of_label]

    def batch(self, iteration: int) -> np.ndarray:
        """Draw the images of one iteration, int64 [P * K] places, the K of an identity side by side."""
        # A round is one permutation of all identities, cut into batches; what is left over sits it out.
        round_, position = divmod(iteration, self.n_identities // self.identities)
        order = make_rng(self.seed, "identities", round_).permutation(self.n_identities)
        batch = order[position * self.identities : (position + 1) * self.identities]
        rng = make_rng(self.seed, "images", iteration)
        return np.concatenate([self._images_of(label, rng) for label in batch])

    def _images_of(self, label: int, rng: np.random.Generator) -> np.ndarray:
        """Draw the K images of one identity, real ones first."""
        # A synthetic image counts as `rate` of a real one. Their share of K is a fraction in general; the
        # random number rounds it up or down, so that it holds on average.
        real, synthetic = self.real[label], self.synthetic[label]
        weight = len(synthetic) * self.mix.rate
        share = weight / (len(real) + weight)
        n_synthetic = int(self.images * share + rng.random())
        return np.concatenate(
            [_draw(real, self.images - n_synthetic, rng), _draw(synthetic, n_synthetic, rng)]
        )


def _draw(pool: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw n images of a pool, without repeats where it has enough."""
    return rng.choice(pool, n, replace=len(pool) < n) if n else pool[:0]


def erasing_boxes(
    n: int, height: int, width: int, settings: ReidSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw rectangles of random erasing (Zhong et al., AAAI 2020) as BoT draws them.

    Args:
        n: Number of images.
        height: Height of the images, pixels.
        width: Width of the images, pixels.
        settings: Probability, areas and ratios.
        rng: Random number generator of the draws.

    Returns:
        Top, left, height and width of a rectangle per image, int [n] each, pixels; the height is 0 where
        nothing is erased.
    """
    # 1. All attempts for all images at once, [n, ERASING_ATTEMPTS]: area and ratio, then sides
    low, high = settings.erasing_area
    shape = n, ERASING_ATTEMPTS
    area = rng.uniform(low, high, shape) * height * width
    ratio = rng.uniform(settings.erasing_ratio, 1 / settings.erasing_ratio, shape)
    box_height, box_width = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))

    # 2. Of each image the first attempt that fits, [n]
    fits = (box_height < height) & (box_width < width)
    first = np.arange(n), fits.argmax(axis=1)
    erase = fits.any(axis=1) & (rng.random(n) < settings.erasing_probability)
    box_height = np.where(erase, box_height[first], 0).astype(np.int64)
    box_width = np.where(erase, box_width[first], 0).astype(np.int64)

    # 3. Its place
    top = rng.integers(0, height - box_height + 1)
    left = rng.integers(0, width - box_width + 1)
    return top, left, box_height, box_width


def augment(
    images: torch.Tensor,
    settings: ReidSettings,
    rng: np.random.Generator,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> torch.Tensor:
    """Apply BoT's training transform to a batch: flip, black border and crop, normalisation, random erasing.

    Args:
        images: Batch of images, uint8 [B, H, W, 3], on any device.
        settings: Probabilities and sizes.
        rng: Random number generator of the draws.
        mean: Mean of each channel, as in `normalise`.
        std: Deviation of each channel.

    Returns:
        The batch, normalised, float32 [B, 3, H, W] in channels-last memory order.
    """
    n, height, width, _ = images.shape
    device = images.device

    # 1. Flip and crop are one gather: each output row and column, [B, H] and [B, W], names the row and column
    # of the bordered image that it comes from.
    rows = rng.integers(0, 2 * settings.padding + 1, (n, 1)) + np.arange(height)
    columns = rng.integers(0, 2 * settings.padding + 1, (n, 1)) + np.arange(width)
    flip = rng.random((n, 1)) < settings.flip_probability
    columns = np.where(flip, width + 2 * settings.padding - 1 - columns, columns)
    border = (0, 0, settings.padding, settings.padding, settings.padding, settings.padding)
    bordered = torch.nn.functional.pad(images, border)  # [B, H + 2 padding, W + 2 padding, 3]
    batch = torch.arange(n, device=device)[:, None, None]
    row_index = torch.from_numpy(rows).to(device)[:, :, None]
    column_index = torch.from_numpy(columns).to(device)[:, None, :]
    pixels = normalise(bordered[batch, row_index, column_index], mean, std)  # [B, 3, H, W]

    # 2. Erase the pixels in a rectangle, bool [B, H, W]. BoT erases after normalisation and fills with the
    # mean of ImageNet's *unnormalised* values.
    top, left, box_height, box_width = (
        torch.from_numpy(side).to(device)[:, None, None]
        for side in erasing_boxes(n, height, width, settings, rng)
    )
    y = torch.arange(height, device=device)[None, :, None]
    x = torch.arange(width, device=device)[None, None, :]
    in_box = (y >= top) & (y < top + box_height) & (x >= left) & (x < left + box_width)
    fill = torch.tensor(IMAGENET_MEAN, device=device)[None, :, None, None]
    return torch.where(in_box[:, None], fill, pixels)


def normalise(
    images: torch.Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> torch.Tensor:
    """Turn uint8 [B, H, W, 3] into float32 [B, 3, H, W], channels last.

    Args:
        images: Batch of images.
        mean: What is subtracted from each channel, of values in [0, 1].
        std: What each channel is divided by.
    """
    means = torch.tensor(mean, device=images.device) * 255
    stds = torch.tensor(std, device=images.device) * 255
    return ((images - means) / stds).permute(0, 3, 1, 2)
