"""The 18 OpenPose keypoints of a person: their names and order, the limbs between them, their mirror image.

A person's keypoints are a float array [18, 3]: x and y in pixels (x right, y down, pixel centres at integers)
and a score, which is 0 for a keypoint that is not visible and in (0, 1] for one that is. "Right" and "left"
are the person's own, as in OpenPose.
"""

import numpy as np
from numpy.typing import NDArray

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
    """Keypoints of the horizontally mirrored image: x is reflected, and left and right change places.

    Args:
        keypoints: [..., 18, 3] x, y (pixels), score.
        width: width of the image in pixels.

    Returns:
        A new array of the same shape and dtype. Flipping twice gives the input back.
    """
    flipped = keypoints[..., list(FLIP_ORDER), :]
    flipped[..., 0] = width - 1 - flipped[..., 0]
    return flipped


def pose_distance(
    pose: NDArray[np.floating], others: NDArray[np.floating], height: int
) -> NDArray[np.float64]:
    """Mean distance in pixels between the keypoints of one pose [18, 3] and of each of others [N, 18, 3].

    A keypoint that only one of them shows counts as a quarter of the image's height; one that neither shows
    does not count at all.
    """
    one, other = pose[None, :, 2] > 0, others[..., 2] > 0
    apart = np.linalg.norm(others[..., :2] - pose[None, :, :2], axis=-1)
    apart = np.where(one & other, apart, height / 4)
    shown = one | other
    return (apart * shown).sum(-1) / np.maximum(shown.sum(-1), 1)
