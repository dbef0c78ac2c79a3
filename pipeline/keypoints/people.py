"""The person for whom a crop was made, among all whom a source finds in it."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from generator.keypoints import KEYPOINT_NAMES

People: TypeAlias = NDArray[np.float32]  # [P, 18, 3]: x, y in pixels of the image, score (0: not seen)

NOBODY: People = np.zeros((0, len(KEYPOINT_NAMES), 3), np.float32)  # people of an image that shows none


def keep_seen(people: NDArray[np.floating], size: NDArray[np.integer], min_score: float) -> People:
    """Set to 0 what does not count as seen, and leave out people of whom nothing is left.

    Args:
        people: Keypoints x, y in pixels of an image, and score, [P, 18, 3].
        size: Width and height of the image in pixels, [2].
        min_score: Keypoints with a lower score do not count, nor those outside the image.

    Returns:
        [P', 18, 3] with scores of 1 at most.
    """
    # Pixel centres lie at integers, so an image begins and ends half a pixel beyond them.
    inside = ((people[..., :2] >= -0.5) & (people[..., :2] <= size - 0.5)).all(-1)
    scores = people[..., 2]
    kept = np.where((inside & (scores > 0) & (scores >= min_score))[..., None], people, 0).astype(np.float32)
    kept[..., 2] = kept[..., 2].clip(0, 1)  # peaks of a heat map may exceed 1
    return kept[(kept[..., 2] > 0).any(-1)]


def largest_person(people: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the person [18, 3] with the largest box around the seen keypoints; zeros if there is nobody.

    Args:
        people: Keypoints x, y and score (0: not seen), [P, 18, 3].
    """
    largest, largest_area = np.zeros((len(KEYPOINT_NAMES), 3), np.float32), -1.0
    for person in people:
        places = person[person[:, 2] > 0, :2]
        area = float(np.prod(np.ptp(places, axis=0))) if len(places) else 0.0
        if area > largest_area:
            largest, largest_area = person.astype(np.float32), area
    return largest
