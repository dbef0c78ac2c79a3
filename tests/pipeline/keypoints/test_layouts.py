"""A drawn figure goes through every layout and comes out as the same 18 points and the same skeleton."""

import numpy as np
import pytest

from generator.keypoints import KEYPOINT_NAMES
from generator.pose import draw_skeleton
from pipeline.keypoints.layouts import BLAZEPOSE, BODY_25, COCO, LAYOUTS, OPENPOSE, to_openpose
from tests.pipeline.keypoints.figure import COUNTS, FIGURE, SIZE, in_layout

NECK, RIGHT, LEFT = (KEYPOINT_NAMES.index(name) for name in ("neck", "r_shoulder", "l_shoulder"))


@pytest.mark.parametrize("count", COUNTS)
def test_the_figure_is_the_same_from_every_layout(count: int) -> None:
    points = to_openpose(in_layout(count))
    np.testing.assert_allclose(points, FIGURE)
    width, height = SIZE
    np.testing.assert_array_equal(draw_skeleton(points, height, width), draw_skeleton(FIGURE, height, width))


# The places of some keypoints as the sources' own documents number them, from 0
@pytest.mark.parametrize(
    ("count", "places"),
    [
        (
            OPENPOSE,
            {"nose": 0, "neck": 1, "r_wrist": 4, "l_wrist": 7, "l_ankle": 13, "r_eye": 14, "l_ear": 17},
        ),
        (BODY_25, {"nose": 0, "neck": 1, "r_hip": 9, "l_hip": 12, "l_ankle": 14, "r_eye": 15, "l_ear": 18}),
        (
            COCO,
            {"nose": 0, "l_eye": 1, "r_ear": 4, "l_shoulder": 5, "r_wrist": 10, "l_hip": 11, "r_ankle": 16},
        ),
        (
            BLAZEPOSE,
            {"nose": 0, "l_eye": 2, "r_eye": 5, "r_ear": 8, "l_wrist": 15, "r_hip": 24, "r_ankle": 28},
        ),
    ],
)
def test_the_places_are_those_of_the_sources_documents(count: int, places: dict[str, int]) -> None:
    for name, place in places.items():
        points = np.zeros((count, 3), np.float32)
        points[place] = 5, 7, 0.5
        assert np.flatnonzero(to_openpose(points)[:, 2]).tolist() == [KEYPOINT_NAMES.index(name)]


@pytest.mark.parametrize("count", [COCO, BLAZEPOSE])
def test_there_is_a_neck_where_both_shoulders_are(count: int) -> None:
    points = in_layout(count)
    points[LAYOUTS[count].index("l_shoulder"), 2] = 0.4
    assert to_openpose(points)[NECK].tolist() == pytest.approx([32, 27, 0.4])
    points[LAYOUTS[count].index("l_shoulder"), 2] = 0
    assert not to_openpose(points)[[NECK, LEFT]].any() and to_openpose(points)[RIGHT].all()


def test_many_people_at_once() -> None:
    people = np.stack([in_layout(COCO), in_layout(COCO) * 0])
    assert to_openpose(people).shape == (2, 18, 3) and not to_openpose(people)[1].any()
    assert to_openpose(np.zeros((0, 33, 3))).shape == (0, 18, 3)
