"""What a match is, with cameras, with some, with one and with none."""

import numpy as np
import pytest

from reid.cameras import NO_CAMERA, comparable_cameras, count_cameras, match_in_words

CASES = {  # cameras of queries and gallery -> which pairs (query, gallery) are one camera
    "Market-1501's rule": ([1, 2], [1, 2, 3], {(0, 0), (1, 1)}),
    "a query without a camera": ([1, NO_CAMERA], [1, 2, NO_CAMERA], {(0, 0)}),
    "a gallery without cameras": ([1, 2], [NO_CAMERA] * 3, set()),
    "no camera": ([NO_CAMERA] * 2, [NO_CAMERA] * 3, set()),
    "one camera": ([4, 4], [4, 4, 4], set()),
    "one known camera": ([4, NO_CAMERA], [4, NO_CAMERA, 4], set()),
    "camera 0": ([0, 1], [0, 1, 1], {(0, 0), (1, 1), (1, 2)}),
}


@pytest.mark.parametrize("case", CASES)
def test_images_that_leave_the_gallery(case: str) -> None:
    query, gallery, pairs = CASES[case]
    one, other = comparable_cameras(np.array(query), np.array(gallery))
    assert {(int(q), int(g)) for q, g in np.argwhere(one[:, None] == other[None])} == pairs
    separate = len({*query, *gallery} - {NO_CAMERA}) > 1
    assert ("from another camera" in match_in_words(np.array(query), np.array(gallery))) == separate


def test_unknown_cameras_are_not_counted() -> None:
    assert count_cameras(np.array([3, NO_CAMERA, 12, 3])) == 2
    assert count_cameras(np.array([NO_CAMERA])) == 0
