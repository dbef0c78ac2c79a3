"""Time the Market-1501 evaluation against the distance matrix alone and against torchreid's ranking.

    python -m benchmarks.evaluate            3,368 queries x 15,913 gallery images x 2048, Market-1501's size
    python -m benchmarks.evaluate --small    a tenth of the images, in seconds
    python -m benchmarks.evaluate --rerank   re-ranking too, once: a minute or two
    python -m benchmarks.evaluate --msmt17 --rounds 1 --rerank
                                             11,659 queries x 82,161 gallery images: up to an hour

All three are timed in turn in each round, so that a busy machine disturbs all of them; medians are reported.
torchreid ranks a part of the queries only, because it takes minutes for all; its time is scaled up, and the
output says so. Peaks of memory are those of the whole process, with the features.
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
SIZES = {"market1501": (3368, 15913, 750, 6), "msmt17": (11_659, 82_161, 3_060, 15)}


def seconds(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak() -> float:
    """Return the most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Print the times."""
    parser = command_line("evaluate", __doc__, "benchmarks")
    parser.add_argument("--msmt17", action="store_true", help="MSMT17's size instead of Market-1501's")
    parser.add_argument("--small", action="store_true", help="a tenth of the images")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is timed")
    parser.add_argument("--rerank", action="store_true", help="time k-reciprocal re-ranking and its ranking")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        raise ValueError(f"--rounds is {arguments.rounds}; expected at least 1")
    *counts, cameras = SIZES["msmt17" if arguments.msmt17 else "market1501"]
    n_query, n_gallery, identities = (count // (10 if arguments.small else 1) for count in counts)
    n_torchreid = n_query // 20

    # As in Market-1501, a sixth of the gallery are distractors (pid 0), and an identity has some 17 images.
    rng = np.random.default_rng(0)
    query_pids, gallery_pids = (rng.integers(1, identities + 1, n) for n in (n_query, n_gallery))
    query_camids, gallery_camids = (rng.integers(1, cameras + 1, n) for n in (n_query, n_gallery))
    gallery_pids[: n_gallery // 6] = 0
    # Random features, around a centre for each person: the time of no ranking depends on how good they are,
    # and re-ranking finds neighbourhoods as crowded as those of a good model.
    centres = rng.standard_normal((identities + 1, DIMENSION), dtype=np.float32)
    query, gallery = (
        centres[pids] + rng.standard_normal((len(pids), DIMENSION), dtype=np.float32)
        for pids in (query_pids, gallery_pids)
    )
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
    print(f"so far                     {peak():8.2f} GiB at the peak")
    if arguments.rerank:
        duration = seconds(lambda: evaluate(rerank(query, gallery), *labels))
        print(f"re-ranking and its ranking {duration:8.2f} s, {peak():.2f} GiB at the peak")


if __name__ == "__main__":
    stage_main(main)
