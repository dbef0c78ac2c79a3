import numpy as np

from generator.keypoints import KEYPOINT_NAMES, flip_keypoints
from generator.pose import COLOURS, draw_silhouette, draw_skeleton

NECK, WRIST = KEYPOINT_NAMES.index("neck"), KEYPOINT_NAMES.index("l_wrist")


def person(**visible):
    points = np.zeros((18, 3), np.float32)
    for name, (x, y) in visible.items():
        points[KEYPOINT_NAMES.index(name)] = (x, y, 1)
    return points


def test_a_keypoint_is_drawn_at_its_place_in_its_colour():
    image = draw_skeleton(person(l_wrist=(10, 20)), 64, 32)
    assert image.shape == (64, 32, 3) and image.dtype == np.uint8
    assert image[20, 10].tolist() == list(COLOURS[WRIST])
    rows, columns = np.nonzero(image.any(axis=2))
    assert rows.mean() == 20 and columns.mean() == 10  # centred on the pixel, to the sub-pixel
    assert np.ptp(rows) <= 4 and np.ptp(columns) <= 4  # and no blob


def test_invisible_keypoints_and_their_limbs_are_left_out():
    points = person(neck=(16, 10), r_shoulder=(8, 12), l_shoulder=(24, 12))
    both = draw_skeleton(points, 64, 32)
    points[KEYPOINT_NAMES.index("l_shoulder"), 2] = 0
    one = draw_skeleton(points, 64, 32)
    assert both[:, 20:].any() and not one[:, 20:].any()
    assert not draw_skeleton(person(), 64, 32).any()


def test_a_limb_runs_from_keypoint_to_keypoint():
    image = draw_skeleton(person(neck=(16, 10), r_hip=(16, 50)), 64, 32)
    assert image[14:47, 16].any(axis=1).all()
    assert not image[:, :12].any() and not image[:, 21:].any()


def test_the_flipped_skeleton_has_the_mirrored_shape_and_swapped_colours():
    points = person(neck=(12, 10), r_shoulder=(4, 12), r_elbow=(3, 30))
    plain, flipped = draw_skeleton(points, 64, 32), draw_skeleton(flip_keypoints(points, 32), 64, 32)
    np.testing.assert_array_equal(plain.any(axis=2)[:, ::-1], flipped.any(axis=2))
    left_elbow = COLOURS[KEYPOINT_NAMES.index("l_elbow")]
    assert flipped[30, 28].tolist() == list(left_elbow) != plain[30, 3].tolist()


def test_a_silhouette_holds_the_person_with_a_margin_and_leaves_the_rest():
    points = person(neck=(16, 12), r_hip=(12, 40), l_hip=(20, 40))
    mask = draw_silhouette(points, 64, 32, 0.1)  # 2.8 pixels around
    assert mask.shape == (64, 32) and set(np.unique(mask)) == {0, 1}
    assert mask[10:43, 16].all() and mask[40, 10:23].all()
    assert not mask[:8].any() and not mask[45:].any() and not mask[:, :8].any() and not mask[:, 25:].any()
    wide = draw_silhouette(points, 64, 32, 0.3)
    assert (wide >= mask).all() and wide.sum() > mask.sum()


def test_where_less_than_two_keypoints_are_visible_a_person_may_be_everywhere():
    assert draw_silhouette(person(), 8, 4, 0.1).all()
    assert draw_silhouette(person(neck=(2, 2)), 8, 4, 0.1).all()
