import numpy as np

from generator.keypoints import FLIP_ORDER, KEYPOINT_NAMES, LIMBS, flip_keypoints
from tests.generator import tiny


def test_flip_is_its_own_inverse():
    points = tiny.keypoints(5)
    np.testing.assert_allclose(flip_keypoints(flip_keypoints(points, 16), 16), points, atol=1e-5)


def test_flip_reflects_x_and_swaps_the_sides():
    points = tiny.keypoints(1)[0]
    flipped = flip_keypoints(points, 64)
    nose, right, left = (KEYPOINT_NAMES.index(name) for name in ("nose", "r_wrist", "l_wrist"))
    np.testing.assert_allclose(flipped[nose], [63 - points[nose, 0], *points[nose, 1:]])
    np.testing.assert_allclose(flipped[right], [63 - points[left, 0], *points[left, 1:]])


def test_the_sides_are_paired_and_the_limbs_are_symmetric():
    assert [FLIP_ORDER[i] for i in FLIP_ORDER] == list(range(18))
    assert {i for i in range(18) if FLIP_ORDER[i] == i} == {0, 1}  # nose and neck
    assert {(FLIP_ORDER[a], FLIP_ORDER[b]) for a, b in LIMBS} == set(LIMBS)
