"""Judges that say whom an image shows."""

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
    """How surely each image shows its own identity: the share of the other identities that it resembles less.

    An identity is the mean of its real images. A rank and no distance, so that one threshold means the same
    for every judge: 1 is top-1, 0.5 is chance.

    Args:
        synthetic: features float [N, D] of unit length.
        pids: int [N], each among `real_pids`.
        real: features float [M, D] of unit length.
        real_pids: int [M], at least two different ones.

    Returns:
        float [N] in [0, 1].
    """
    identities, label = np.unique(real_pids, return_inverse=True)
    centers = np.zeros((len(identities), real.shape[1]))
    np.add.at(centers, label, real)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True).clip(1e-12)
    similarity = synthetic @ centers.T
    own = similarity[np.arange(len(pids)), np.searchsorted(identities, pids)]
    return (similarity < own[:, None]).sum(axis=1) / (len(identities) - 1)


def encoder_judge(real: pd.DataFrame, params: Params, folder: Path) -> tuple[Judge, np.ndarray]:
    """Take the frozen image encoder: its class token beside the mean of its patches.

    What all real images of the subset (column image) share says nothing of a person, and is taken off.

    Returns:
        The judge, and what it says of the real images.
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
            found = encode_tokens(
                encoder,
                to_float(torch.from_numpy(images).to(device)),
                (section.token_height, section.token_width),
            )
            parts.append(torch.cat([found[:, 0], found[:, 1:].mean(dim=1)], dim=1).float().cpu().numpy())
        return np.concatenate(parts)

    known = tokens([params.dataset.root / image for image in real.image])
    center = known.mean(axis=0)

    def directions(found: np.ndarray) -> np.ndarray:
        centred = found - center
        return centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-12)

    return lambda files: directions(tokens(files)), directions(known)
