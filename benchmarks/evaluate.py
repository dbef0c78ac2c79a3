"""Time the Market-1501 evaluation against the distance matrix alone and against torchreid's ranking.

    python -m benchmarks.evaluate            3,368 queries x 15,913 gallery images x 2048, Market-1501's size
    python -m benchmarks.evaluate --small    a tenth of the images, in seconds
    python -m benchmarks.evaluate --rerank   re-ranking too, once: a minute or two

All three are timed in turn in each round, so that a busy machine disturbs all of them; medians are reported.
torchreid ranks a part of the queries only, because it takes minutes for all; its time is scaled up, and the
output says so.
"""

import resource
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

from pipeline.runtime.stage import command_line, stage_main
from reid.evaluate import distances, evaluate
from reid.rerank import rerank

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Cython evaluation")  # its compiled ranking is not in the wheel
    from torchreid.reid.metrics.rank import evaluate_rank

DIMENSION = 2048  # ResNet-50's feature


def seconds(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Print the times."""
    parser = command_line("evaluate", __doc__, "benchmarks")
    parser.add_argument("--small", action="store_true", help="a tenth of Market-1501")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is timed")
    parser.add_argument("--rerank", action="store_true", help="time k-reciprocal re-ranking and its ranking")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        raise ValueError(f"--rounds is {arguments.rounds}; expected at least 1")
    scale = 10 if arguments.small else 1
    n_query, n_gallery, identities = 3368 // scale, 15913 // scale, 750 // scale
    n_torchreid = n_query // 20

    # Random features of random people: the time of no method depends on how good the features are.
    rng = np.random.default_rng(0)
    query, gallery = (rng.standard_normal((n, DIMENSION), dtype=np.float32) for n in (n_query, n_gallery))
    query_pids, query_camids = rng.integers(1, identities + 1, n_query), rng.integers(1, 7, n_query)
    # As in Market-1501, a sixth of the gallery are distractors (pid 0) and the rest is ~17 images per
    # identity.
    gallery_pids, gallery_camids = rng.integers(1, identities + 1, n_gallery), rng.integers(1, 7, n_gallery)
    gallery_pids[: n_gallery // 6] = 0
    labels = query_pids, query_camids, gallery_pids, gallery_camids
    matrix = np.concatenate(list(distances(query[:n_torchreid], gallery)))

    def distance_alone() -> None:
        for _ in distances(query, gallery):
            pass

    def ours() -> None:
        evaluate(distances(query, gallery), *labels)

    def torchreid_ranking() -> None:
        part = slice(n_torchreid)
        evaluate_rank(
            matrix, query_pids[part], gallery_pids, query_camids[part], gallery_camids, use_cython=False
        )

    times = [[seconds(f) for f in (distance_alone, ours, torchreid_ranking)] for _ in range(arguments.rounds)]
    alone, whole, ranking = (statistics.median(column) for column in zip(*times, strict=True))
    ranking *= n_query / n_torchreid
    threads = torch.get_num_threads()
    print(f"{n_query} x {n_gallery} x {DIMENSION}, {threads} threads, median of {arguments.rounds}")
    print(f"distance matrix alone      {alone:8.2f} s")
    print(f"distance and ranking, ours {whole:8.2f} s = {whole / alone:.2f} x the distance alone")
    print(f"ranking alone, torchreid   {ranking:8.2f} s, scaled up from {n_torchreid} queries")
    if arguments.rerank:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        duration = seconds(lambda: evaluate(rerank(query, gallery), *labels))
        growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 2**20
        print(f"re-ranking and its ranking {duration:8.2f} s, {growth:.2f} GiB more memory at its peak")


if __name__ == "__main__":
    stage_main(main)
