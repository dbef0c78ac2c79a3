"""Market-1501 evaluation: features, distances in blocks, and ranks by counting instead of sorting.

Protocol (Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015): junk (pid -1) leaves the
gallery; for each query, gallery images of its own identity and camera leave too (`reid.cameras` has the rule,
also for data sets without cameras); a query without a remaining image of its identity does not count. Among
equal distances the gallery's order decides.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from reid.cameras import NO_CAMERA, comparable_cameras, match_in_words
from reid.model import BoT

QUERY_BLOCK = 256  # rows of the distance matrix in memory at once: 16 MB against Market-1501's gallery


@dataclass(frozen=True)
class Evaluation:
    """Results of Q queries, and the usual summaries, all as fractions in [0, 1].

    Attributes:
        matches: Number of gallery images that match each query, int64 [Q]; a query with 0 does not count.
        first_rank: Rank of the first match, from 1, int64 [Q]; 0 without a match.
        average_precision: Mean precision at each match, float64 [Q]; NaN without a match.
        trapezoid: Average precision by the trapezoids of Market-1501's own code, float64 [Q]; NaN without a
            match.
        inverse_penalty: Number of matches / rank of the last one (INP; Ye et al., TPAMI 2021), float64 [Q];
            NaN without a match.
        top: Places in the gallery of the best images, in order, int64 [Q, top]; -1 where there are fewer.
    """

    matches: np.ndarray
    first_rank: np.ndarray
    average_precision: np.ndarray
    trapezoid: np.ndarray
    inverse_penalty: np.ndarray
    top: np.ndarray

    def rank(self, k: int) -> float:
        """Return the share of the counting queries with a match among the first k (the CMC curve at k)."""
        return float((self.first_rank[self.matches > 0] <= k).mean())

    @property
    def mAP(self) -> float:
        """Mean average precision as torchreid, fast-reid and reid-strong-baseline report it."""
        return float(np.nanmean(self.average_precision))

    @property
    def mAP_trapezoid(self) -> float:
        """Mean average precision as Market-1501's own code reports it, 0.1 to 1.3 points lower."""
        return float(np.nanmean(self.trapezoid))

    @property
    def mINP(self) -> float:
        """Mean inverse negative penalty, as fast-reid reports it."""
        return float(np.nanmean(self.inverse_penalty))


@torch.inference_mode()
def features(model: BoT, images: np.ndarray, batch: int) -> np.ndarray:
    """Extract the features by which images are compared (`BoT.embed`), scaled to length 1.

    Args:
        model: Model in evaluation mode, on any device.
        images: Images at the training size, uint8 [N, H, W, 3].
        batch: Images per forward pass.

    Returns:
        Features, float32 [N, D].
    """
    device = next(model.parameters()).device
    batches = []
    for start in tqdm(range(0, len(images), batch), desc="features", unit="batch", delay=2, leave=False):
        pixels = torch.from_numpy(images[start : start + batch]).to(device)
        batches.append(model.embed(pixels).cpu())
    return torch.cat(batches).numpy()


def distances(query: np.ndarray, gallery: np.ndarray, block: int = QUERY_BLOCK) -> Iterator[np.ndarray]:
    """Compute squared Euclidean distances, a block of queries at a time.

    Args:
        query: Features of the queries, float32 [Q, D].
        gallery: Features of the gallery, float32 [G, D].
        block: Queries per block.

    Yields:
        Rows of the distance matrix, float32 [up to block, G].
    """
    # |q - g|^2 = |g|^2 - 2 qg + |q|^2, the first two in one matrix product
    columns = torch.from_numpy(gallery)
    gallery_squares = columns.square().sum(dim=1)
    for rows in torch.from_numpy(query).split(block):
        yield (
            torch.addmm(gallery_squares, rows, columns.T, alpha=-2)
            .add_(rows.square().sum(dim=1)[:, None])
            .numpy()
        )


def evaluate(
    blocks: Iterable[np.ndarray],
    query_pids: np.ndarray,
    query_camids: np.ndarray,
    gallery_pids: np.ndarray,
    gallery_camids: np.ndarray,
    top: int = 0,
) -> Evaluation:
    """Rank the gallery for every query.

    The rank of a match is 1 + the number of images that come before it. Counting them costs one pass per
    match, a fraction of a sort, and a query has few matches.

    Args:
        blocks: Rows of the distance matrix in the order of the queries, [., G] each: from `distances` or
            `rerank`, or a list with one whole matrix. They are not changed.
        query_pids: Identities of the queries, int [Q].
        query_camids: Cameras of the queries, int [Q], or `NO_CAMERA`.
        gallery_pids: Identities of the gallery, int [G]; -1 is junk, any identity without a query a
            distractor.
        gallery_camids: Cameras of the gallery, int [G], or `NO_CAMERA`.
        top: Number of the best gallery images to name for each query.

    Raises:
        ValueError: No query has a match, or the blocks do not have Q rows.
    """
    cameras = comparable_cameras(query_camids, gallery_camids)
    ranking = _rank_all(blocks, query_pids, cameras[0], gallery_pids, cameras[1], top)
    if not ranking.matches.any():
        match = match_in_words(query_camids, gallery_camids)
        raise ValueError(f"none of the {len(query_pids)} queries has {match} in the gallery.")
    return ranking


def _rank_all(
    blocks: Iterable[np.ndarray],
    query_pids: np.ndarray,
    query_cameras: np.ndarray,
    gallery_pids: np.ndarray,
    gallery_cameras: np.ndarray,
    top: int = 0,
) -> Evaluation:
    """Rank the gallery for every query, as `evaluate` does, by cameras that `comparable_cameras` returned."""
    of_pid = {pid: np.flatnonzero(gallery_pids == pid) for pid in np.unique(query_pids)}
    junk = np.flatnonzero(gallery_pids == -1)
    n = len(query_pids)
    matches, first_rank = np.zeros(n, np.int64), np.zeros(n, np.int64)
    average_precision, trapezoid, inverse_penalty = (np.full(n, np.nan) for _ in range(3))
    best = np.full((n, top), -1)

    rows = (row for block in blocks for row in block)
    for query, (row, pid, camera) in enumerate(zip(rows, query_pids, query_cameras, strict=True)):
        # 1. Its matches: images of its identity from other cameras
        same_pid = of_pid[pid]
        same_camera = gallery_cameras[same_pid] == camera
        positives = same_pid[~same_camera]
        if not len(positives) and not top:
            continue

        # 2. What leaves the gallery comes after everything else
        distance = row.copy()  # [G]
        distance[junk] = np.inf
        distance[same_pid[same_camera]] = np.inf
        if top:
            nearest = _nearest(distance, top)
            best[query, : len(nearest)] = nearest
        if not len(positives):
            continue

        # 3. Precision at each match, [matches], and one place before it (1 before the first place)
        ranks = np.sort([_rank(distance, positive) for positive in positives])
        counts = np.arange(1, len(ranks) + 1)  # matches up to each of them
        precision = counts / ranks
        before = np.divide(counts - 1, ranks - 1, out=np.ones(len(ranks)), where=ranks > 1)
        matches[query], first_rank[query] = len(ranks), ranks[0]
        average_precision[query] = precision.mean()
        trapezoid[query] = (before + precision).mean() / 2
        inverse_penalty[query] = precision[-1]
    return Evaluation(matches, first_rank, average_precision, trapezoid, inverse_penalty, best)


def _rank(row: np.ndarray, item: int) -> int:
    """Return the place of an item in the stable ascending order of a row, from 1."""
    distance = row[item]
    # An equal distance comes before the item only if its place in the gallery does.
    return 1 + int(np.count_nonzero(row[:item] <= distance) + np.count_nonzero(row[item + 1 :] < distance))


def _nearest(row: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the k least finite distances of a row, in stable ascending order."""
    k = min(k, len(row))
    near = np.flatnonzero(row <= np.partition(row, k - 1)[k - 1])
    near = near[np.argsort(row[near], kind="stable")][:k]
    return near[np.isfinite(row[near])]


def average_precision_by_camera(
    query: np.ndarray,
    gallery: np.ndarray,
    query_pids: np.ndarray,
    query_camids: np.ndarray,
    gallery_pids: np.ndarray,
    gallery_camids: np.ndarray,
) -> dict[int, np.ndarray]:
    """Compute the average precision of each query among the gallery images of one camera at a time.

    With the query's own camera this is the camera pair of Zheng et al. (ICCV 2015), who show their results
    pair by pair.

    Args:
        query: Features of the queries, float32 [Q, D].
        gallery: Features of the gallery, float32 [G, D].
        query_pids: Identities of the queries, int [Q].
        query_camids: Cameras of the queries, int [Q], or `NO_CAMERA`.
        gallery_pids: Identities of the gallery, int [G].
        gallery_camids: Cameras of the gallery, int [G], or `NO_CAMERA`.

    Returns:
        Average precisions, float64 [Q], of each known camera in which a query has a match; NaN where a query
        has none.
    """
    precisions = {}
    cameras = comparable_cameras(query_camids, gallery_camids)
    for camera in np.setdiff1d(gallery_camids, [NO_CAMERA]):
        own = gallery_camids == camera
        others = cameras[0] != cameras[1][own][0]  # queries by another camera than these images
        if np.isin(query_pids[others], gallery_pids[own]).any():
            labels = query_pids, cameras[0], gallery_pids[own], cameras[1][own]
            precisions[int(camera)] = _rank_all(distances(query, gallery[own]), *labels).average_precision
    return precisions
