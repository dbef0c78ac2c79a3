"""The 18 OpenPose keypoints of a person: names, order and limbs, and the geometry of poses.

A person's keypoints are a float array [18, 3]: x and y in pixels (x right, y down, pixel centres at integers)
and a score, which is 0 for a keypoint that is not visible and in (0, 1] for one that is. "Right" and "left"
are the person's own, as in OpenPose.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

FloatType = TypeVar("FloatType", bound=np.floating)

KEYPOINT_NAMES = (
    "nose",
    "neck",
    "r_shoulder",
    "r_elbow",
    "r_wrist",
    "l_shoulder",
    "l_elbow",
    "l_wrist",
    "r_hip",
    "r_knee",
    "r_ankle",
    "l_hip",
    "l_knee",
    "l_ankle",
    "r_eye",
    "l_eye",
    "r_ear",
    "l_ear",
)

# The 17 limbs that OpenPose draws, in its drawing order (limb i has colour i of its palette).
LIMBS = tuple(
    (KEYPOINT_NAMES.index(start), KEYPOINT_NAMES.index(end))
    for start, end in (
        ("neck", "r_shoulder"),
        ("neck", "l_shoulder"),
        ("r_shoulder", "r_elbow"),
        ("r_elbow", "r_wrist"),
        ("l_shoulder", "l_elbow"),
        ("l_elbow", "l_wrist"),
        ("neck", "r_hip"),
        ("r_hip", "r_knee"),
        ("r_knee", "r_ankle"),
        ("neck", "l_hip"),
        ("l_hip", "l_knee"),
        ("l_knee", "l_ankle"),
        ("neck", "nose"),
        ("nose", "r_eye"),
        ("r_eye", "r_ear"),
        ("nose", "l_eye"),
        ("l_eye", "l_ear"),
    )
)


def _other_side(name: str) -> str:
    return {"r_": "l_", "l_": "r_"}.get(name[:2], name[:2]) + name[2:]


# FLIP_ORDER[i] is the keypoint that takes the place of keypoint i in a mirrored image.
FLIP_ORDER = tuple(KEYPOINT_NAMES.index(_other_side(name)) for name in KEYPOINT_NAMES)


def flip_keypoints(keypoints: NDArray[np.floating], width: int) -> NDArray[np.floating]:
    """Mirror keypoints with their image: x is reflected, and left and right change places.

    Args:
        keypoints: Keypoints of one or more people, [..., 18, 3].
        width: Width of the image in pixels.

    Returns:
        A new array of the same shape and dtype. Flipping twice gives the input back.
    """
    flipped = keypoints[..., list(FLIP_ORDER), :]
    flipped[..., 0] = width - 1 - flipped[..., 0]
    return flipped


def resize_keypoints(keypoints: NDArray[FloatType], scale: NDArray[np.floating]) -> NDArray[FloatType]:
    """Move keypoints with an image that is resized.

    Args:
        keypoints: Keypoints of one or more people, [..., 18, 3].
        scale: New size / old size in x and in y: [2], or [..., 1, 2] where images are resized differently.

    Returns:
        A new array of the same shape and dtype. A scale of 1 gives visible keypoints back exactly; those that
        are not visible are at (0, 0).
    """
    # A pixel's centre is at an integer, so the image begins at -0.5, and that corner stays where it is. In
    # double precision, to which the half adds no rounding.
    places = (keypoints[..., :2].astype(np.float64) + 0.5) * scale - 0.5  # [..., 18, 2]
    visible = keypoints[..., 2:] > 0
    resized = keypoints.copy()
    resized[..., :2] = np.where(visible, places, 0)
    return resized


def pose_distance(
    pose: NDArray[np.floating], others: NDArray[np.floating], height: int
) -> NDArray[np.float64]:
    """Mean distance between the keypoints of one pose and those of each of N others.

    A keypoint that is visible in one of the two poses only counts as a quarter of the image's height. One
    that is visible in neither does not count.

    Args:
        pose: Keypoints of one person, [18, 3].
        others: Keypoints of other people, [N, 18, 3].
        height: Height of the image in pixels.

    Returns:
        Distances in pixels, [N]; 0 where neither pose has a visible keypoint.
    """
    # 1. Euclidean distance of every pair of keypoints, [N, 18].
    distance = np.linalg.norm(others[..., :2] - pose[None, :, :2], axis=-1)

    # 2. The penalty where a keypoint is visible on one side only.
    in_pose, in_other = pose[None, :, 2] > 0, others[..., 2] > 0
    distance = np.where(in_pose & in_other, distance, height / 4)

    # 3. The mean over keypoints that are visible on either side.
    counts = in_pose | in_other
    return (distance * counts).sum(-1) / np.maximum(counts.sum(-1), 1)
