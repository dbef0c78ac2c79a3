"""Intervals over people; those over seeds are tested with Table 4."""

import numpy as np
import pandas as pd
import pytest

from pipeline.shared.statistics import interval_over_people


def test_images_of_one_person_stay_together() -> None:
    rng = np.random.default_rng(0)
    of_person = rng.random(60) < 0.5  # all ten images of a person are right or wrong together
    values, pids = pd.Series(np.repeat(100.0 * of_person, 10)), pd.Series(np.repeat(np.arange(60), 10))
    low, high = interval_over_people(values, pids, "test")
    share = of_person.mean()
    error = 196 * np.sqrt(share * (1 - share) / 60)  # of 60 people, not of 600 images
    assert high - 100 * share == pytest.approx(error, rel=0.2)
    assert 100 * share - low == pytest.approx(error, rel=0.2)
    assert (low, high) == interval_over_people(values, pids, "test")
    assert np.isnan(interval_over_people(values[:10], pids[:10], "test")).all()
