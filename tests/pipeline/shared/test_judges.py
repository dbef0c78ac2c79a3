"""Agreement is a rank among identities, the same measure for every judge."""

import numpy as np
import pytest

from pipeline.shared.judges import agreement


def unit(rows: list[list[float]]) -> np.ndarray:
    features = np.array(rows)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_agreement_is_the_share_of_identities_that_are_less_alike() -> None:
    rng = np.random.default_rng(0)
    real, fake = unit(rng.normal(size=(30, 8)).tolist()), unit(rng.normal(size=(40, 8)).tolist())
    real_pids, pids = np.arange(30) % 6 * 10, rng.integers(6, size=40) * 10
    for image, pid, score in zip(fake, pids, agreement(fake, pids, real, real_pids), strict=True):
        alike = {}
        for other in set(real_pids.tolist()):
            centre = real[real_pids == other].mean(axis=0)
            alike[other] = image @ centre / np.linalg.norm(centre)
        assert score == pytest.approx(np.mean([alike[pid] > alike[other] for other in alike if other != pid]))


def test_an_image_like_its_identity_agrees_and_one_like_another_does_not() -> None:
    real = unit([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    fake = unit([[1, 0.1, 0.2], [0, 1, 0.1], [0.5, 0, 1]])
    assert agreement(fake, np.array([1, 1, 1]), real, np.array([1, 2, 3])).tolist() == [1, 0, 0.5]
