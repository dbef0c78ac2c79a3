import numpy as np

from generator.keypoints import (
    FLIP_ORDER,
    KEYPOINT_NAMES,
    LIMBS,
    flip_keypoints,
    pose_distance,
    resize_keypoints,
)
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


def test_resizing_keeps_the_corners_of_the_image():
    scale = np.divide((50, 40), (20, 10))
    corner = np.ones((18, 3), np.float32)
    corner[:, :2] = -0.5  # the upper left corner, where pixel centres are at integers
    np.testing.assert_array_equal(resize_keypoints(corner, scale), corner)
    corner[:, :2] = 19.5, 9.5  # the lower right one
    np.testing.assert_allclose(resize_keypoints(corner, scale)[:, :2], [[49.5, 39.5]] * 18)


def test_resizing_to_the_same_size_changes_no_bit():
    points = tiny.keypoints(100)
    np.testing.assert_array_equal(resize_keypoints(points, np.ones(2)), points)


def test_every_image_is_resized_by_its_own_scale_and_what_is_invisible_stays_zero():
    points = tiny.keypoints(2)
    points[:, 3] = 0
    before = points.copy()
    scales = np.array([[2.0, 0.5], [3.0, 1.0]])
    resized = resize_keypoints(points, scales[:, None])
    for one, point, scale in zip(resized, points, scales, strict=True):
        np.testing.assert_array_equal(one, resize_keypoints(point, scale))
    assert not resized[:, 3].any() and resized[:, 4].all()
    assert resized.dtype == points.dtype and np.array_equal(points, before)


def test_pose_distance_is_the_mean_over_keypoints_that_either_pose_shows():
    points = tiny.keypoints(4)
    points[0, :6, 2] = points[1:, 3:9, 2] = 0
    for other, distance in zip(points[1:], pose_distance(points[0], points[1:], height=32), strict=True):
        parts = []
        for a, b in zip(points[0], other, strict=True):
            if a[2] and b[2]:
                parts.append(np.hypot(a[0] - b[0], a[1] - b[1]))
            elif a[2] or b[2]:
                parts.append(32 / 4)
        assert len(parts) == 15
        np.testing.assert_allclose(distance, np.mean(parts), rtol=1e-5)
    nobody = np.zeros((18, 3))
    assert pose_distance(nobody, nobody[None], 32).tolist() == [0]
