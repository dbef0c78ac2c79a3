"""A figure with known joints, in the layout of every source."""

import numpy as np

from generator.keypoints import KEYPOINT_NAMES
from pipeline.keypoints.layouts import LAYOUTS

# x and y in pixels of an image of 64 x 128. The person looks at us: their right is on our left.
JOINTS = {
    "nose": (32, 14), "neck": (32, 27), "r_shoulder": (22, 26), "r_elbow": (17, 42), "r_wrist": (13, 57),
    "l_shoulder": (42, 28), "l_elbow": (48, 43), "l_wrist": (55, 55), "r_hip": (26, 62), "r_knee": (24, 86),
    "r_ankle": (21, 112), "l_hip": (38, 62), "l_knee": (41, 87), "l_ankle": (45, 114), "r_eye": (29, 11),
    "l_eye": (35, 11), "r_ear": (26, 13), "l_ear": (38, 12),
}  # fmt: skip
SIZE = (64, 128)  # of its image: width, height
FIGURE = np.array([(*JOINTS[name], 0.9) for name in KEYPOINT_NAMES], np.float32)  # [18, 3]
COUNTS = sorted(LAYOUTS)


def in_layout(count: int, points: np.ndarray = FIGURE) -> np.ndarray:
    """Return a person [18, 3] as a source of `count` keypoints gives it; its others lie elsewhere."""
    rng = np.random.default_rng(count)
    return np.array(
        [
            points[KEYPOINT_NAMES.index(name)] if name in JOINTS else (*rng.uniform(0, 60, 2), 0.8)
            for name in LAYOUTS[count]
        ],
        np.float32,
    )
