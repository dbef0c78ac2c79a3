"""A person cut out of one photo and pasted into another one: a generator that learns nothing.

Every paper compares trained generators with each other. This is what they have to beat: the person of the
source, pose and all, in the surroundings of another camera.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from generator.pose import draw_silhouette

_MARGIN = 0.08  # around the keypoints, as a share of their height: clothes, hair and feet are outside of them
_HIDE = 1.5  # factor on the margin around the person who has to vanish
_SOFT = 0.012  # blur of the edges, as a share of the image's height


def paste_person(
    source: NDArray[np.uint8],
    source_keypoints: NDArray[np.floating],
    target: NDArray[np.uint8],
    target_keypoints: NDArray[np.floating],
) -> NDArray[np.uint8]:
    """Put the person of one photo in the place of the person of another one.

    The person is what lies in the convex hull of the keypoints, and near it. The other one is painted over
    from what is around (Telea 2004). The person is scaled and moved so that the keypoints of both fill the
    same box.

    Args:
        source: Photo of the person, uint8 [H, W, 3].
        source_keypoints: Keypoints of that person, [18, 3]; two or more are visible.
        target: Photo of somebody else, of the same size.
        target_keypoints: Keypoints of that one, [18, 3]; two or more are visible.
    """
    height, width = source.shape[:2]
    (our_top, our_bottom, our_middle), (their_top, their_bottom, their_middle) = (
        _box(keypoints) for keypoints in (source_keypoints, target_keypoints)
    )
    scale = (their_bottom - their_top) / max(1.0, our_bottom - our_top)

    hidden = draw_silhouette(target_keypoints, height, width, _HIDE * _MARGIN)
    surroundings = cv2.inpaint(target, hidden, 3, cv2.INPAINT_TELEA).astype(np.float32)
    move = np.array(
        [[scale, 0, their_middle - scale * our_middle], [0, scale, their_top - scale * our_top]], np.float32
    )
    mask = draw_silhouette(source_keypoints, height, width, _MARGIN).astype(np.float32)
    person, opacity = (
        cv2.warpAffine(picture, move, (width, height), flags=cv2.INTER_LINEAR)
        for picture in (source.astype(np.float32), mask)
    )
    opacity = cv2.GaussianBlur(opacity, (0, 0), max(0.5, _SOFT * height))[..., None]
    return (opacity * person + (1 - opacity) * surroundings).round().clip(0, 255).astype(np.uint8)


def _box(keypoints: NDArray[np.floating]) -> tuple[float, float, float]:
    """Return top, bottom and horizontal middle of the visible keypoints, in pixels."""
    visible = keypoints[keypoints[:, 2] > 0]
    (left, top), (right, bottom) = visible[:, :2].min(0), visible[:, :2].max(0)
    return float(top), float(bottom), float(left + right) / 2
