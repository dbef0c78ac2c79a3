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
    """Compute distances that also compare the neighbourhoods of two images, a block of queries at a time.

    An image is described by its k-reciprocal neighbours and those of its neighbours that share two thirds of
    them (section 3.2 of the paper), weighted by exp(-distance) (3.3) and averaged over its k2 nearest images
    (3.4). Two images are compared by the Jaccard distance of their descriptions (3.3), which is mixed with
    the original distance (3.5): the squared Euclidean one as a share of the query's largest, as in the
    authors' code. A description is a sparse row, so that N images need about N (D + k1^2) numbers;
    torchreid's version holds several dense matrices N x N, 1.5 GB each on Market-1501.

    Args:
        query: Features of the queries, float32 [Q, D].
        gallery: Features of the gallery, float32 [G, D], without junk, which would count among neighbours.
        k1: Number of neighbours that describe an image.
        k2: Number of nearest images over which descriptions are averaged, the image among them; 1 is no
            average.
        original_weight: Share of the original distance, the paper's lambda.
        block: Rows of the distance matrix at once.

    Yields:
        Rows of the new distance matrix, float32 [up to block, G], for `reid.evaluate.evaluate`.
    """
    # 1. The k1 + 1 nearest of all N = Q + G images, [N, k1 + 1], and the distance to the farthest, [N]
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

    # 2. A description of each image, a sparse row of [N, N]: its neighbourhood (3.2) with weights
    # exp(-distance) that sum to 1 (3.3), averaged over its k2 nearest images (3.4)
    descriptions = _neighbourhoods(nearest, k1)
    i, j = descriptions.nonzero()
    distance = np.empty(len(i), np.float32)  # of each pair (i, j)
    for start in range(0, len(i), _PAIRS):
        part = slice(start, start + _PAIRS)
        distance[part] = np.square(everything[i[part]] - everything[j[part]]).sum(axis=1)
    descriptions.data = np.exp(-distance / farthest[i])
    descriptions.data /= descriptions.sum(axis=1)[i]
    if k2 > 1:
        descriptions = _indicator(nearest[:, :k2]) @ descriptions / min(k2, n)

    # 3. Jaccard distance: 1 - sum of minima / sum of maxima of two descriptions. Only members that they share
    # have a minimum above 0, so the gallery's descriptions are read by column; each description sums to 1, so
    # the maxima sum to 2 - overlap.
    by_member = descriptions[n_query:].tocsc()  # [G, N]
    place = 0
    for rows in distances(query, gallery, block):
        for row in rows:
            own = slice(descriptions.indptr[place], descriptions.indptr[place + 1])
            columns = by_member[:, descriptions.indices[own]]
            minima = np.minimum(columns.data, np.repeat(descriptions.data[own], np.diff(columns.indptr)))
            overlap = np.bincount(columns.indices, weights=minima, minlength=n_gallery)  # [G]
            jaccard = 1 - overlap / (2 - overlap)
            # 4. The mean with the original distance, as a share of the query's largest (3.5)
            row *= original_weight / farthest[place]
            row += (1 - original_weight) * jaccard
            place += 1
        yield rows


def _neighbourhoods(nearest: np.ndarray, k1: int) -> csr_array:
    """Find each image's k-reciprocal neighbours, and those of its neighbours that fit in (section 3.2).

    Args:
        nearest: Places of the nearest images of each, int [N, k1 + 1].
        k1: Number of neighbours; a neighbour brings its own k1 / 2.

    Returns:
        A sparse matrix [N, N] with an entry above 0 for each neighbour of a row.
    """
    near, half = _reciprocal(nearest), _reciprocal(nearest[:, : round(k1 / 2) + 1])
    # Entry (i, j), where j is a neighbour of i: how many of j's half-size neighbourhood are neighbours of i.
    # Where they are more than two thirds of it, the rest joins.
    common = coo_array(near * (near @ half))
    fits = common.data > 2 / 3 * half.sum(axis=1)[common.col]
    joins = csr_array((common.data[fits], (common.row[fits], common.col[fits])), shape=near.shape)
    neighbourhoods = near + joins @ half
    neighbourhoods.sort_indices()
    return neighbourhoods


def _reciprocal(nearest: np.ndarray) -> csr_array:
    """Mark images i and j that are among each other's nearest: sparse [N, N], symmetric, entries are 1."""
    forward = _indicator(nearest)
    return csr_array(forward * forward.T)


def _indicator(nearest: np.ndarray) -> csr_array:
    """Mark the images j that are among the nearest [N, k] of image i: sparse [N, N], entries are 1."""
    n, k = nearest.shape
    ones = np.ones(n * k, np.float32)
    return csr_array((ones, nearest.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
