"""Market-1501 evaluation: features, distances in blocks, and ranks by counting instead of sorting.

Protocol (Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015): junk (pid -1) leaves the
gallery; for each query, gallery images of its own identity and camera leave too; a query without a remaining
image of its identity does not count. Among equal distances the gallery's order decides.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from reid.data import normalise
from reid.model import BoT

QUERY_BLOCK = 256  # rows of the distance matrix in memory at once: 16 MB against Market-1501's gallery


@dataclass(frozen=True)
class Evaluation:
    """What each query found, and the usual summaries, all as fractions in [0, 1].

    Attributes:
        matches: int64 [Q], images of the query's identity that could be found; 0 = the query does not count.
        first_rank: int64 [Q], rank of the first match, from 1; 0 where there is none.
        average_precision: float64 [Q], mean precision at each match; NaN where there is none.
        trapezoid: float64 [Q], average precision by the trapezoids of Market-1501's own code; NaN likewise.
        inverse_penalty: float64 [Q], matches / rank of the last match (INP; Ye et al., TPAMI 2021); NaN
            likewise.
        top: int64 [Q, top], places in the gallery of the best images in order; -1 where there are fewer.
    """

    matches: np.ndarray
    first_rank: np.ndarray
    average_precision: np.ndarray
    trapezoid: np.ndarray
    inverse_penalty: np.ndarray
    top: np.ndarray

    def rank(self, k: int) -> float:
        """Share of the counting queries with a match among the first k (the CMC curve at k)."""
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
    """Test features: after BNNeck, of length 1.

    Args:
        model: in evaluation mode, on any device.
        images: uint8 [N, H, W, 3] at the training size.
        batch: images per forward pass.

    Returns:
        float32 [N, D].
    """
    device = next(model.parameters()).device
    parts = []
    for start in tqdm(range(0, len(images), batch), desc="features", unit="batch", delay=2, leave=False):
        pixels = torch.from_numpy(images[start : start + batch]).to(device)
        _, feature = model(normalise(pixels))
        parts.append(torch.nn.functional.normalize(feature).cpu())
    return torch.cat(parts).numpy()


def distances(query: np.ndarray, gallery: np.ndarray, block: int = QUERY_BLOCK) -> Iterator[np.ndarray]:
    """Squared Euclidean distances, a block of queries at a time.

    Args:
        query: float32 [Q, D].
        gallery: float32 [G, D].
        block: queries per block.

    Yields:
        float32 [up to block, G].
    """
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
    """Ranks the gallery for every query.

    The rank of a match is 1 + the number of kept images that come before it: counting them costs one pass per
    match, a fraction of a sort, and a query has few matches.

    Args:
        blocks: rows of the distance matrix in the order of the queries, [., G] each: `distances`, or a list
            with one whole matrix (after re-ranking, say). They are not changed.
        query_pids: int [Q].
        query_camids: int [Q].
        gallery_pids: int [G]; -1 is junk, any identity without a query a distractor.
        gallery_camids: int [G].
        top: how many of the best gallery images to name for each query.

    Raises:
        ValueError: if no query has a match, or the blocks do not have Q rows.
    """
    of_pid = {pid: np.flatnonzero(gallery_pids == pid) for pid in np.unique(query_pids)}
    junk = np.flatnonzero(gallery_pids == -1)
    n = len(query_pids)
    matches, first_rank = np.zeros(n, np.int64), np.zeros(n, np.int64)
    average_precision, trapezoid, inverse_penalty = (np.full(n, np.nan) for _ in range(3))
    best = np.full((n, top), -1)

    rows = (row for block in blocks for row in block)
    for query, (row, pid, camid) in enumerate(zip(rows, query_pids, query_camids, strict=True)):
        same_pid = of_pid[pid]
        same_camera = gallery_camids[same_pid] == camid
        positives = same_pid[~same_camera]
        if not len(positives) and not top:
            continue
        kept = row.copy()
        kept[junk] = np.inf  # dropped: never before a match
        kept[same_pid[same_camera]] = np.inf
        if top:
            nearest = _nearest(kept, top)
            best[query, : len(nearest)] = nearest
        if not len(positives):
            continue
        ranks = np.sort([_rank(kept, positive) for positive in positives])
        found = np.arange(1, len(ranks) + 1)
        precision = found / ranks
        # Precision one place before each match; before the first place of all it counts as 1.
        before = np.divide(found - 1, ranks - 1, out=np.ones(len(ranks)), where=ranks > 1)
        matches[query], first_rank[query] = len(ranks), ranks[0]
        average_precision[query] = precision.mean()
        trapezoid[query] = (before + precision).mean() / 2
        inverse_penalty[query] = precision[-1]
    if not matches.any():
        raise ValueError(
            f"none of the {n} queries has an image of its identity from another camera in the gallery."
        )
    return Evaluation(matches, first_rank, average_precision, trapezoid, inverse_penalty, best)


def _rank(row: np.ndarray, item: int) -> int:
    """Place of an item in the stable ascending order of a row, from 1."""
    distance = row[item]
    # An equal distance comes before the item only if its place in the gallery does.
    return 1 + int(np.count_nonzero(row[:item] <= distance) + np.count_nonzero(row[item + 1 :] < distance))


def _nearest(row: np.ndarray, k: int) -> np.ndarray:
    """Places of the k least finite distances of a row, in stable ascending order."""
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
    """Average precision of each query in the gallery images of one camera alone.

    With the query's own camera this is the camera pair of Zheng et al. (ICCV 2015), who show their results
    pair by pair. Features are as for `distances`, labels as for `evaluate`.

    Returns:
        For each camera in which a query can be found, float64 [Q]; NaN where a query cannot.
    """
    found = {}
    for camera in np.unique(gallery_camids):
        seen = gallery_camids == camera
        if np.isin(query_pids[query_camids != camera], gallery_pids[seen]).any():
            labels = query_pids, query_camids, gallery_pids[seen], gallery_camids[seen]
            found[int(camera)] = evaluate(distances(query, gallery[seen]), *labels).average_precision
    return found
