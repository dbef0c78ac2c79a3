"""How the keypoints of every source become the 18 OpenPose keypoints.

A layout is the order in which a source lists its keypoints. Those with a name of `KEYPOINT_NAMES` are taken
as they are, and the others are left out. COCO and BlazePose know no neck: it is the middle of the shoulders,
and it is seen where both are. "Right" and "left" are the person's own in all of them.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from generator.keypoints import KEYPOINT_NAMES

# OpenPose's models COCO and BODY_25 (openpose/doc/02_output.md)
_OPENPOSE_18 = KEYPOINT_NAMES
_BODY_25 = (
    "nose", "neck", "r_shoulder", "r_elbow", "r_wrist", "l_shoulder", "l_elbow", "l_wrist", "mid_hip",
    "r_hip", "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle", "r_eye", "l_eye", "r_ear", "l_ear",
    "l_big_toe", "l_small_toe", "l_heel", "r_big_toe", "r_small_toe", "r_heel",
)  # fmt: skip
# COCO's person keypoints, which ViTPose, HRNet, RTMPose and AlphaPose find as well
_COCO_17 = (
    "nose", "l_eye", "r_eye", "l_ear", "r_ear", "l_shoulder", "r_shoulder", "l_elbow", "r_elbow", "l_wrist",
    "r_wrist", "l_hip", "r_hip", "l_knee", "r_knee", "l_ankle", "r_ankle",
)  # fmt: skip
# BlazePose's landmarks (mediapipe's enum PoseLandmark). The middle of an eye has the eye's name.
_BLAZEPOSE_33 = (
    "nose", "l_eye_inner", "l_eye", "l_eye_outer", "r_eye_inner", "r_eye", "r_eye_outer", "l_ear", "r_ear",
    "l_mouth", "r_mouth", "l_shoulder", "r_shoulder", "l_elbow", "r_elbow", "l_wrist", "r_wrist", "l_pinky",
    "r_pinky", "l_index", "r_index", "l_thumb", "r_thumb", "l_hip", "r_hip", "l_knee", "r_knee", "l_ankle",
    "r_ankle", "l_heel", "r_heel", "l_foot_index", "r_foot_index",
)  # fmt: skip

# By the number of keypoints: no two layouts have the same
LAYOUTS: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {len(names): names for names in (_OPENPOSE_18, _BODY_25, _COCO_17, _BLAZEPOSE_33)}
)
OPENPOSE, BODY_25, COCO, BLAZEPOSE = 18, 25, 17, 33


def to_openpose(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Take the 18 OpenPose keypoints from people in another layout.

    Args:
        points: x, y and score (0: not seen) of people, [..., K, 3]. `LAYOUTS` has K and the order.

    Returns:
        [..., 18, 3]; all three are 0 for a keypoint that is not seen.
    """
    names = LAYOUTS[points.shape[-2]]
    result = np.zeros((*points.shape[:-2], len(KEYPOINT_NAMES), 3), np.float32)
    for target, name in enumerate(KEYPOINT_NAMES):
        if name in names:
            result[..., target, :] = points[..., names.index(name), :]
        else:  # the neck
            shoulders = [points[..., names.index(side), :] for side in ("r_shoulder", "l_shoulder")]
            result[..., target, :] = np.mean(shoulders, axis=0)
            result[..., target, 2] = np.min(shoulders, axis=0)[..., 2]
    result[result[..., 2] <= 0] = 0
    return result
