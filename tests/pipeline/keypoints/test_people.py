"""Who counts in a crop, and what of them."""

import numpy as np

from pipeline.keypoints.people import NOBODY, keep_seen, largest_person
from tests.pipeline.keypoints.figure import FIGURE, SIZE

EDGES = np.array(SIZE)


def test_the_person_with_the_largest_box_counts() -> None:
    small, large = FIGURE * (0.5, 0.5, 1), FIGURE
    np.testing.assert_array_equal(largest_person(np.stack([small, large, small])), large)
    assert largest_person(NOBODY).shape == (18, 3) and not largest_person(NOBODY).any()


def test_what_is_not_seen_does_not_make_a_person_larger() -> None:
    far = FIGURE * np.float32([0.5, 0.5, 1])
    far[0] = 60, 120, 0
    near = FIGURE * np.float32([0.8, 0.8, 1])
    np.testing.assert_array_equal(largest_person(np.stack([far, near])), near)


def test_one_keypoint_is_a_person() -> None:
    person = np.zeros((1, 18, 3), np.float32)
    person[0, 3] = 5, 5, 0.2
    assert largest_person(keep_seen(person, EDGES, 0.0))[3].tolist() == [5, 5, np.float32(0.2)]


def test_low_scores_and_places_outside_do_not_count() -> None:
    person = FIGURE[None].copy()
    person[0, 0, 2], person[0, 1, 2], person[0, 2, 2] = 0.29, 0.3, 1.7
    person[0, 3, :2], person[0, 4, :2], person[0, 5, :2] = (63.6, 5), (63.5, -0.5), (5, -0.6)
    (kept,) = keep_seen(person, EDGES, 0.3)
    assert (kept[:, 2] > 0).tolist() == [False, True, True, False, True, False, *[True] * 12]
    assert kept[2, 2] == 1 and not kept[[0, 3, 5]].any()


def test_nobody_is_left_of_a_person_who_is_not_seen() -> None:
    assert len(keep_seen(np.stack([FIGURE, FIGURE * (1, 1, 0)]), EDGES, 0.0)) == 1
    assert len(keep_seen(FIGURE[None], EDGES, 0.95)) == 0
    assert keep_seen(NOBODY, EDGES, 0.5).shape == (0, 18, 3)
