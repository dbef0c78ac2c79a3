import tracemalloc

import numpy as np
import pytest
from torchreid.reid.utils.rerank import re_ranking

from reid.evaluate import evaluate
from reid.rerank import rerank


def people(seed, n_people=12, n_query=15, n_gallery=90, dimension=16, noise=0.6):
    """Features of length 1 in clusters, with labels."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n_people, dimension))
    pids = rng.integers(0, n_people, n_query + n_gallery)
    features = centres[pids] + noise * rng.standard_normal((len(pids), dimension))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    return features[:n_query], features[n_query:], pids[:n_query], pids[n_query:]


def euclidean(a, b):
    return np.sqrt(np.square(a[:, None].astype(np.float64) - b[None]).sum(axis=2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("k1", "k2", "weight"), [(20, 6, 0.3), (5, 1, 0.0), (7, 3, 0.5), (1, 1, 0.3), (200, 6, 0.3)]
)
def test_the_distances_equal_torchreids(k1, k2, weight):
    query, gallery, *_ = people(k1)
    expected = re_ranking(
        euclidean(query, gallery), euclidean(query, query), euclidean(gallery, gallery), k1, k2, weight
    )
    ours = np.concatenate(list(rerank(query, gallery, k1, k2, weight, block=4)))
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_re_ranking_helps_where_people_form_clusters():
    query, gallery, query_pids, gallery_pids = people(0, noise=0.8)
    labels = query_pids, np.zeros(len(query)), gallery_pids, np.ones(len(gallery))
    before = evaluate([euclidean(query, gallery)], *labels)
    after = evaluate(rerank(query, gallery, k1=8, k2=3), *labels)
    assert after.mAP > before.mAP + 0.05


def test_images_that_are_all_the_same_are_no_error():
    """More copies of an image than k1: it may not even be among its own neighbours."""
    query, gallery = np.ones((2, 3), np.float32), np.ones((40, 3), np.float32)
    gallery[20:] = -1
    result = np.concatenate(list(rerank(query, gallery)))
    assert np.isfinite(result).all() and (result[:, :20] < result[:, 20:]).all()


def test_the_memory_does_not_grow_with_the_square_of_the_images():
    query, gallery, *_ = people(0, n_people=200, n_query=100, n_gallery=3900)
    tracemalloc.start()
    for _ in rerank(query, gallery, block=32):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4000**2 * 4  # one dense matrix of float32; torchreid's version holds several
