"""Drawings of a person's keypoints: the skeleton that the pose encoder sees, and where the person is."""

import cv2
import numpy as np
from numpy.typing import NDArray

from generator.keypoints import LIMBS

# OpenPose's palette: limb i and keypoint i have colour i, limbs at 60 % of its brightness.
COLOURS = (
    (255, 0, 0),
    (255, 85, 0),
    (255, 170, 0),
    (255, 255, 0),
    (170, 255, 0),
    (85, 255, 0),
    (0, 255, 0),
    (0, 255, 85),
    (0, 255, 170),
    (0, 255, 255),
    (0, 170, 255),
    (0, 85, 255),
    (0, 0, 255),
    (85, 0, 255),
    (170, 0, 255),
    (255, 0, 255),
    (255, 0, 170),
    (255, 0, 85),
)

# Drawn at four times the size with OpenPose's strokes of 4 pixels and then averaged, a skeleton keeps strokes
# of one pixel; drawn at 128x64 directly it is a blob.
_SCALE = 4
_STROKE = 4
# cv2 draws at fractions of a pixel when coordinates are given in units of 2^-_SHIFT pixels.
_SHIFT = 4


def draw_skeleton(keypoints: NDArray[np.floating], height: int, width: int) -> NDArray[np.uint8]:
    """Draw the visible keypoints of a person and the limbs between them, as OpenPose does, on black.

    Args:
        keypoints: Keypoints in pixels of an image of this size, [18, 3]. What lies outside the image is cut
            off.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        The drawing, uint8 [height, width, 3] RGB. It is black where nothing is visible.
    """
    canvas = np.zeros((height * _SCALE, width * _SCALE, 3), np.uint8)
    # The centre of pixel x covers the canvas pixels _SCALE x ... _SCALE x + _SCALE - 1.
    points = (np.asarray(keypoints, np.float64)[:, :2] + 0.5) * _SCALE - 0.5
    visible = np.asarray(keypoints)[:, 2] > 0

    # 1. Limbs, darker, below the keypoints
    for (start, end), colour in zip(LIMBS, COLOURS, strict=False):
        if visible[start] and visible[end]:
            dark = tuple(int(0.6 * c) for c in colour)
            cv2.fillConvexPoly(canvas, _limb(points[start], points[end]), dark, cv2.LINE_8, _SHIFT)

    # 2. Keypoints as discs
    for point, colour in zip(points[visible], np.array(COLOURS)[visible].tolist(), strict=True):
        centre = tuple(int(c) for c in np.round(point * 2**_SHIFT))
        cv2.circle(canvas, centre, _STROKE << _SHIFT, colour, cv2.FILLED, cv2.LINE_8, _SHIFT)

    # 3. Every pixel is the mean of _SCALE x _SCALE pixels of the canvas
    return np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _limb(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.int32]:
    """Outline OpenPose's limb, an ellipse between two keypoints: [24, 2] in units of 2^-_SHIFT pixels."""
    # Half of the long axis, and across it half of the short one, _STROKE pixels
    half = (end - start) / 2
    length = np.hypot(*half)
    across = np.array([-half[1], half[0]]) * (_STROKE / length) if length > 0 else np.zeros(2)
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)[:, None]
    outline = (start + end) / 2 + np.cos(angle) * half + np.sin(angle) * across
    return np.round(outline * 2**_SHIFT).astype(np.int32)


def draw_silhouette(
    keypoints: NDArray[np.floating], height: int, width: int, margin: float
) -> NDArray[np.uint8]:
    """Draw where a person is at most: the convex hull of the visible keypoints, and what is near it.

    Args:
        keypoints: Keypoints in pixels of an image of this size, [18, 3].
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        margin: Width of what is near, as a share of the hull's height: clothes, hair and feet are outside.

    Returns:
        1 where the person may be and 0 elsewhere, uint8 [height, width]; 1 everywhere if fewer than two
        keypoints are visible.
    """
    visible = np.asarray(keypoints)[np.asarray(keypoints)[:, 2] > 0, :2]
    if len(visible) < 2:
        return np.ones((height, width), np.uint8)
    hull = cv2.convexHull(visible.round().astype(np.int32))
    stroke = max(1, round(2 * margin * float(np.ptp(visible[:, 1]))))
    mask = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(mask, hull, 1)
    cv2.polylines(mask, [hull], isClosed=True, color=1, thickness=stroke)
    return mask
