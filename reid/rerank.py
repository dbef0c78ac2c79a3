"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) without a matrix of all images against all."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array

from reid.evaluate import QUERY_BLOCK, distances

_PAIRS = 8192  # pairs of features in memory at once: 2 x 64 MB with ResNet-50's


def rerank(
    query: np.ndarray,
    gallery: np.ndarray,
    k1: int = 20,
    k2: int = 6,
    original_weight: float = 0.3,
    block: int = QUERY_BLOCK,
) -> Iterator[np.ndarray]:
    """Distances that also compare the neighbourhoods of two images, a block of queries at a time.

    An image is described by its k-reciprocal neighbours and those of its neighbours that share two thirds of
    them (section 3.2 of the paper), weighted by exp(-distance) (3.3) and averaged over its k2 nearest images
    (3.4). Two images are compared by the Jaccard distance of their descriptions (3.3), which is mixed with
    the original distance (3.5): the squared Euclidean one as a share of the query's largest, as in the
    authors' code. A description is a sparse row, so that N images need about N (D + k1^2) numbers;
    torchreid's version holds several dense matrices N x N, 1.5 GB each on Market-1501.

    Args:
        query: float32 [Q, D].
        gallery: float32 [G, D], without junk: re-ranking would count it among the neighbours.
        k1: neighbours that describe an image.
        k2: nearest images over which the descriptions are averaged, itself among them; 1 = no average.
        original_weight: share of the original distance, the paper's lambda.
        block: rows of the distance matrix at once.

    Yields:
        float32 [up to block, G], for `reid.evaluate.evaluate`.
    """
    everything = np.concatenate([query, gallery])
    n, n_query, n_gallery = len(everything), len(query), len(gallery)
    nearest = np.empty((n, min(k1 + 1, n)), np.int64)
    farthest = np.empty(n, np.float32)
    start = 0
    for rows in distances(everything, everything, block):
        part = slice(start, start + len(rows))
        nearest[part] = torch.from_numpy(rows).topk(nearest.shape[1], largest=False).indices.numpy()
        farthest[part] = rows.max(axis=1)
        start = part.stop

    described = _neighbourhoods(nearest, k1)
    i, j = described.nonzero()
    apart = np.empty(len(i), np.float32)
    for start in range(0, len(i), _PAIRS):
        part = slice(start, start + _PAIRS)
        apart[part] = np.square(everything[i[part]] - everything[j[part]]).sum(axis=1)
    described.data = np.exp(-apart / farthest[i])
    described.data /= described.sum(axis=1)[i]
    if k2 > 1:
        averaged = _indicator(nearest[:, :k2])
        described = averaged @ described / min(k2, n)

    by_member = described[n_query:].tocsc()
    place = 0
    for rows in distances(query, gallery, block):
        for row in rows:
            own = slice(described.indptr[place], described.indptr[place + 1])
            shared = by_member[:, described.indices[own]]
            least = np.minimum(shared.data, np.repeat(described.data[own], np.diff(shared.indptr)))
            overlap = np.bincount(shared.indices, weights=least, minlength=n_gallery)
            jaccard = 1 - overlap / (2 - overlap)
            row *= original_weight / farthest[place]
            row += (1 - original_weight) * jaccard
            place += 1
        yield rows


def _neighbourhoods(nearest: np.ndarray, k1: int) -> csr_array:
    """k-reciprocal neighbours of each image and those of its neighbours that fit in; entries not zero."""
    near, half = _reciprocal(nearest), _reciprocal(nearest[:, : round(k1 / 2) + 1])
    shared = coo_array(near * (near @ half))  # members that i and its neighbour j have in common
    fits = shared.data > 2 / 3 * half.sum(axis=1)[shared.col]
    joins = csr_array((shared.data[fits], (shared.row[fits], shared.col[fits])), shape=near.shape)
    expanded = near + joins @ half
    expanded.sort_indices()
    return expanded


def _reciprocal(nearest: np.ndarray) -> csr_array:
    """Images i and j that are among each other's nearest; symmetric, entries are 1."""
    forward = _indicator(nearest)
    return csr_array(forward * forward.T)


def _indicator(nearest: np.ndarray) -> csr_array:
    n, k = nearest.shape
    ones = np.ones(n * k, np.float32)
    return csr_array((ones, nearest.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
