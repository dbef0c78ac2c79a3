"""A judge of identity: the frozen image encoder, and how surely an image shows its person."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from generator.encoders import encode_tokens, load_image_encoder, to_float
from pipeline.datasets.images import load_images
from pipeline.params import Params
from pipeline.runtime.stage import progress

# Maps image files to features float32 [N, D] of unit length.
Judge = Callable[[list[Path]], np.ndarray]


def agreement(synthetic: np.ndarray, pids: np.ndarray, real: np.ndarray, real_pids: np.ndarray) -> np.ndarray:
    """Measure how surely each image shows its own identity: 1 is top-1, 0.5 is chance.

    It is the share of the other identities that an image resembles less than its own; an identity is the mean
    of its real images. A rank and no distance, so that one threshold means the same for every judge.

    Args:
        synthetic: Features of the images, float [N, D] of unit length.
        pids: Their identities, int [N], each among `real_pids`.
        real: Features of the real images, float [M, D] of unit length.
        real_pids: Their identities, int [M], at least two different ones.

    Returns:
        float [N] in [0, 1].
    """
    # The mean direction of each identity's real images, [identities, D].
    identities, label = np.unique(real_pids, return_inverse=True)
    centers = np.zeros((len(identities), real.shape[1]))
    np.add.at(centers, label, real)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True).clip(1e-12)

    # How many identities does an image [N] resemble less than its own?
    similarity = synthetic @ centers.T
    own = similarity[np.arange(len(pids)), np.searchsorted(identities, pids)]
    return (similarity < own[:, None]).sum(axis=1) / (len(identities) - 1)


def encoder_judge(real: pd.DataFrame, params: Params, folder: Path) -> tuple[Judge, np.ndarray]:
    """Make a judge of the image encoder: its class token and the mean of its patch tokens, side by side.

    The mean of the real images says nothing about a person, and is subtracted.

    Args:
        real: Real images, column image (relative to the data set).
        params: Sizes, batch size and the root of the data set.
        folder: The saved image encoder.

    Returns:
        The judge, and the features of the real images.
    """
    section = params.generator
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = load_image_encoder(folder).to(device)

    def tokens(files: list[Path]) -> np.ndarray:
        parts = []
        starts = range(0, len(files), section.encode_batch)
        for start in progress(starts, len(starts), "encoding"):
            batch = files[start : start + section.encode_batch]
            images = load_images(batch, params.dataset.height, params.dataset.width)
            encoded = encode_tokens(
                encoder,
                to_float(torch.from_numpy(images).to(device)),
                (section.token_height, section.token_width),
            )  # [batch, 1 + patches, D]
            both = torch.cat([encoded[:, 0], encoded[:, 1:].mean(dim=1)], dim=1)
            parts.append(both.float().cpu().numpy())
        return np.concatenate(parts)

    real_tokens = tokens([params.dataset.root / image for image in real.image])
    center = real_tokens.mean(axis=0)

    def directions(tokens: np.ndarray) -> np.ndarray:
        centred = tokens - center
        return centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-12)

    return lambda files: directions(tokens(files)), directions(real_tokens)
