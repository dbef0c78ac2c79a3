import warnings

import numpy as np
import pytest

from reid.cameras import NO_CAMERA
from reid.evaluate import average_precision_by_camera, distances, evaluate, features
from reid.model import BoT

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Cython evaluation")
    from torchreid.reid.metrics.rank import evaluate_rank


def random_case(seed, n_query=40, n_gallery=150):
    """Few distinct distances (ties), junk, distractors, and queries whose identity the gallery lacks."""
    rng = np.random.default_rng(seed)
    distance = rng.integers(0, 12, (n_query, n_gallery)).astype(np.float32)
    query = rng.integers(1, 15, n_query), rng.integers(1, 4, n_query)
    gallery = rng.integers(-1, 12, n_gallery), rng.integers(1, 4, n_gallery)
    return distance, *query, *gallery


def slow_evaluation(distance, query_pids, query_camids, gallery_pids, gallery_camids):
    """The protocol word for word, one image at a time; None = the query does not count."""
    several = len({*query_camids, *gallery_camids} - {NO_CAMERA}) > 1
    results = []
    for q in range(len(query_pids)):
        order = sorted(range(len(gallery_pids)), key=lambda g: (distance[q, g], g))
        hits = []
        for g in order:
            junk = gallery_pids[g] == -1
            same_person = gallery_pids[g] == query_pids[q]
            same_camera = several and gallery_camids[g] == query_camids[q] != NO_CAMERA
            if not junk and not (same_person and same_camera):
                hits.append(same_person)
        if not any(hits):
            results.append(None)
            continue
        precisions, area, count, old_recall, old_precision = [], 0.0, 0, 0.0, 1.0
        for place, hit in enumerate(hits, start=1):
            count += hit
            recall, precision = count / sum(hits), count / place
            if hit:
                precisions.append(precision)
            area += (recall - old_recall) * (old_precision + precision) / 2  # compute_AP.m of Market-1501
            old_recall, old_precision = recall, precision
        last = max(i for i, hit in enumerate(hits, start=1) if hit)
        results.append(
            (sum(hits), hits.index(True) + 1, sum(precisions) / len(precisions), area, sum(hits) / last)
        )
    return results


def with_cameras(case, kind):
    """Change the cameras of a case: all known, some, none, or one camera alone."""
    distance, query_pids, query_camids, gallery_pids, gallery_camids = case
    if kind == "some":
        query_camids[::3], gallery_camids[::4] = NO_CAMERA, NO_CAMERA
    if kind in ("none", "one"):
        query_camids[:] = gallery_camids[:] = NO_CAMERA if kind == "none" else 4
    return distance, query_pids, query_camids, gallery_pids, gallery_camids


@pytest.mark.parametrize("kind", ["all", "some", "none", "one"])
@pytest.mark.parametrize("seed", range(3))
def test_every_query_equals_the_slow_evaluation(seed, kind):
    case = with_cameras(random_case(seed), kind)
    expected = slow_evaluation(*case)
    assert None in expected
    result = evaluate([case[0]], *case[1:])
    for q, row in enumerate(expected):
        matches, first, *rest = row or (0, 0, np.nan, np.nan, np.nan)
        assert (result.matches[q], result.first_rank[q]) == (matches, first)
        ours = result.average_precision[q], result.trapezoid[q], result.inverse_penalty[q]
        np.testing.assert_allclose(ours, rest, rtol=1e-12)

    counted = [row for row in expected if row]
    assert result.rank(1) == np.mean([row[1] <= 1 for row in counted])
    assert result.rank(5) == np.mean([row[1] <= 5 for row in counted])
    for ours, column in zip((result.mAP, result.mAP_trapezoid, result.mINP), (2, 3, 4), strict=True):
        assert ours == pytest.approx(np.mean([row[column] for row in counted]), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_summary_equals_torchreids(seed):
    distance, query_pids, query_camids, gallery_pids, gallery_camids = random_case(seed)
    # torchreid sorts with an unstable algorithm and drops junk when it reads the data: it gets the stable
    # places as distances and no junk.
    places = distance.argsort(axis=1, kind="stable").argsort(axis=1)
    keep = gallery_pids != -1
    cmc, mean_ap = evaluate_rank(
        places[:, keep], query_pids, gallery_pids[keep], query_camids, gallery_camids[keep], max_rank=50
    )
    result = evaluate([distance], query_pids, query_camids, gallery_pids, gallery_camids)
    assert result.mAP == pytest.approx(mean_ap, rel=1e-12)
    np.testing.assert_allclose([result.rank(k) for k in range(1, 51)], cmc, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("top", [1, 10, 200])
def test_the_best_images_are_those_of_a_stable_sort(seed, top):
    distance, query_pids, query_camids, gallery_pids, gallery_camids = case = random_case(seed)
    result = evaluate([distance], *case[1:], top=top)
    for q in range(len(distance)):
        own = (gallery_pids == query_pids[q]) & (gallery_camids == query_camids[q])
        order = [g for g in np.argsort(distance[q], kind="stable") if gallery_pids[g] != -1 and not own[g]]
        np.testing.assert_array_equal(result.top[q], (order + [-1] * top)[:top])
    plain = evaluate([distance], *case[1:])
    assert plain.top.shape == (len(distance), 0)
    np.testing.assert_array_equal(result.average_precision, plain.average_precision)


def test_camera_pairs_are_evaluations_with_one_camera_in_the_gallery():
    _, query_pids, query_camids, gallery_pids, gallery_camids = random_case(0)
    rng = np.random.default_rng(2)
    query, gallery = (rng.standard_normal((n, 8)).astype(np.float32) for n in (40, 150))
    gallery_camids[:5], gallery_pids[:5] = 9, 0  # a camera that saw distractors only
    precisions = average_precision_by_camera(
        query, gallery, query_pids, query_camids, gallery_pids, gallery_camids
    )
    assert sorted(precisions) == [1, 2, 3]
    matrix = ((query[:, None] - gallery[None]) ** 2).sum(axis=2)
    for camera, precision in precisions.items():
        elsewhere = np.where(gallery_camids == camera, gallery_pids, -1)  # other cameras' images as junk
        alone = evaluate([matrix], query_pids, query_camids, elsewhere, gallery_camids)
        np.testing.assert_allclose(precision, alone.average_precision)
        assert np.isnan(precision[query_camids == camera]).all()


def test_camera_pairs_without_cameras():
    """Images without a camera make no pair; a single camera makes one, with all images in it."""
    _, query_pids, _, gallery_pids, _ = random_case(0)
    features = [np.random.default_rng(2).standard_normal((n, 8)).astype(np.float32) for n in (40, 150)]
    query_camids, gallery_camids = np.full(40, NO_CAMERA), np.full(150, NO_CAMERA)
    labels = query_pids, query_camids, gallery_pids, gallery_camids
    assert average_precision_by_camera(*features, *labels) == {}
    whole = evaluate(distances(*features), *labels).average_precision
    query_camids[:] = gallery_camids[:] = 4
    (camera,) = (precisions := average_precision_by_camera(*features, *labels))
    np.testing.assert_array_equal(precisions[camera], whole)


def test_a_perfect_and_a_worst_ranking():
    pids, cameras = np.array([1, 1, 2, 2]), np.array([2, 3, 2, 3])
    best = evaluate([np.array([[0, 1, 2, 3]], np.float32)], np.array([1]), np.array([1]), pids, cameras)
    assert (best.rank(1), best.mAP, best.mAP_trapezoid, best.mINP) == (1, 1, 1, 1)
    worst = evaluate([np.array([[3, 2, 1, 0]], np.float32)], np.array([1]), np.array([1]), pids, cameras)
    assert (worst.rank(2), worst.rank(3), worst.mINP) == (0, 1, 0.5)
    assert worst.mAP == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert worst.mAP_trapezoid == pytest.approx(((0 + 1 / 3) / 2 + (1 / 3 + 2 / 4) / 2) / 2)


@pytest.mark.parametrize("block", [1, 7, 40, 1000])
def test_blocks_change_nothing(block):
    _, *labels = random_case(0)
    rng = np.random.default_rng(1)
    # Small whole numbers: their distances are exact in float32, whatever the block.
    query, gallery = (rng.integers(-3, 4, (n, 8)).astype(np.float32) for n in (40, 150))
    matrix = ((query[:, None] - gallery[None]) ** 2).sum(axis=2)
    blocks = list(distances(query, gallery, block))
    assert max(len(rows) for rows in blocks) <= block
    np.testing.assert_array_equal(np.concatenate(blocks), matrix)
    expected, result = evaluate([matrix], *labels), evaluate(blocks, *labels)
    np.testing.assert_array_equal(result.average_precision, expected.average_precision)


def test_distances_are_computed_block_by_block():
    features = np.zeros((10**5, 2), np.float32)  # their matrix takes 40 GB as a whole
    assert next(distances(features, features, 2)).shape == (2, 10**5)


def test_the_distances_stay_as_they_were():
    case = random_case(0)
    before = case[0].copy()
    evaluate([case[0]], *case[1:])
    np.testing.assert_array_equal(case[0], before)


def test_no_match_at_all_is_refused():
    with pytest.raises(ValueError, match="none of the 1 queries"):
        evaluate(
            [np.zeros((1, 2), np.float32)], np.array([1]), np.array([1]), np.array([1, 2]), np.array([1, 2])
        )
    with pytest.raises(ValueError, match="none of the 1 queries has another image of its identity"):
        evaluate(
            [np.zeros((1, 2), np.float32)], np.array([1]), np.array([1]), np.array([3, 2]), np.array([1, 1])
        )


def test_a_distance_matrix_of_other_queries_is_refused():
    distance, *labels = random_case(0)
    with pytest.raises(ValueError, match="longer"):
        evaluate([distance[:39]], *labels)
    with pytest.raises(ValueError, match="shorter"):
        evaluate([distance, distance], *labels)


def test_features_have_length_one_and_ignore_the_batch(small):
    model = BoT(small(mixed_precision="no"), 5).eval()
    images = np.random.default_rng(0).integers(0, 256, (10, 64, 32, 3), dtype=np.uint8)
    whole = features(model, images, 10)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(features(model, images, 3), whole, atol=1e-5)
    np.testing.assert_allclose(features(model, images[::-1].copy(), 4)[::-1], whole, atol=1e-5)
