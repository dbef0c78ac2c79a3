"""Which way a person faces and how wide they stride, from the 18 keypoints of one image alone.

All functions take keypoints [N, 18, 3] (x, y in pixels, score; 0 is not visible) of people who stand upright
in the image, and measure in lengths of the torso, so that the size of the image does not matter.
"""

import warnings

import numpy as np
from numpy.typing import NDArray

from generator.keypoints import KEYPOINT_NAMES

# Proportions of an adult in torso lengths (neck to hips), as they appear in the people of `pipeline.world`.
_SHOULDER, _HIPS, _NOSE = (
    0.35,
    0.365,
    0.275,
)  # neck to a shoulder, hip to hip, and how far the nose stands out
_TORSO_PER_THIGH, _TORSO_PER_LEG = 0.56, 0.39  # torso over neck-to-knees and over neck-to-ankles
_LEG = 1.5  # hips to ankles
_DEPTH = 2.0  # an ankle that is lower in the image is nearer: rows say as much of depth as two columns do
_SIDES = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "ear")

SECTORS = 8  # of heading, each centred on a multiple of 45 degrees
WIDE = 0.45  # stride from which on a person counts as walking with the legs apart
CELLS = 2 * SECTORS


def _named(keypoints: NDArray[np.floating]) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """Columns and rows by keypoint, NaN where not visible; a hidden neck lies between the shoulders."""
    shown = np.where(keypoints[..., 2:] > 0, keypoints[..., :2], np.nan).astype(float)
    x = dict(zip(KEYPOINT_NAMES, shown[..., 0].T, strict=True))
    y = dict(zip(KEYPOINT_NAMES, shown[..., 1].T, strict=True))
    for place in (x, y):
        between = _mean(place["r_shoulder"], place["l_shoulder"])
        place["neck"] = np.where(np.isnan(place["neck"]), between, place["neck"])
    return x, y


def _mean(*values: NDArray) -> NDArray:
    """Mean of what is known, NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy warns of means of nothing
        return np.nanmean(np.stack(values), axis=0)


def _torso(y: dict[str, NDArray]) -> NDArray:
    """Length of the torso in pixels, from the lowest joints that are needed; NaN where it cannot be told."""
    below = [_mean(y[f"r_{joint}"], y[f"l_{joint}"]) - y["neck"] for joint in ("hip", "knee", "ankle")]
    torso = np.where(np.isnan(below[0]), _TORSO_PER_THIGH * below[1], below[0])
    torso = np.where(np.isnan(torso), _TORSO_PER_LEG * below[2], torso)
    return np.where(torso > 0, torso, np.nan)


def heading(keypoints: NDArray[np.floating]) -> NDArray[np.float64]:
    """Estimate which way people face.

    The person's left and right change places in the image as they turn round, and their distance is the
    cosine of the heading; how far the nose lies beside the neck is its sine. Of a person whose nose is hidden
    the turned-away side is the one whose joints are hidden too.

    Returns:
        [N] degrees in [0, 360): 0 faces the camera, 90 the right edge of the image; NaN where neck and
        shoulders or all joints below are hidden.
    """
    x, y = _named(keypoints)
    torso = _torso(y)
    cosine = _mean(
        (x["l_shoulder"] - x["neck"]) / _SHOULDER,
        (x["neck"] - x["r_shoulder"]) / _SHOULDER,
        (x["l_hip"] - x["r_hip"]) / _HIPS,
    )
    sine = (x["nose"] - x["neck"]) / _NOSE / torso
    hidden_left = np.mean(
        [np.isnan(x[f"l_{joint}"]) * 1.0 - np.isnan(x[f"r_{joint}"]) for joint in _SIDES], axis=0
    )
    sine = np.where(np.isnan(sine), hidden_left, sine)
    # In profile both shoulders and hips may be hidden on one side: then nothing speaks for front or back.
    cosine = np.where(np.isnan(cosine), 0, cosine / torso)
    degrees = np.rad2deg(np.arctan2(sine, cosine)) % 360
    return np.where(np.isnan(torso) | np.isnan(x["neck"]), np.nan, degrees)


def stride(keypoints: NDArray[np.floating]) -> NDArray[np.float64]:
    """Estimate how far apart people's feet are, in lengths of a leg.

    Returns:
        [N], about 0.3 for somebody who stands and 0.6 for a step; NaN where an ankle or the torso is hidden.
    """
    x, y = _named(keypoints)
    apart = np.hypot(x["l_ankle"] - x["r_ankle"], _DEPTH * (y["l_ankle"] - y["r_ankle"]))
    return apart / (_LEG * _torso(y))


def cells(keypoints: NDArray[np.floating]) -> NDArray[np.int64]:
    """Sort people by heading and gait.

    Returns:
        [N] number of the cell in 0..`CELLS` - 1: 2 x sector of the heading + (1 if the legs are apart); -1
        where either cannot be told.
    """
    facing, apart = heading(keypoints), stride(keypoints)
    sector = np.floor(np.nan_to_num(facing) * SECTORS / 360 + 0.5).astype(np.int64) % SECTORS
    return np.where(np.isnan(facing) | np.isnan(apart), -1, 2 * sector + (apart >= WIDE))
