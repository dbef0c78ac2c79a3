"""Which images of an identity are matches of a query: the rule of cameras, for every part that asks.

Market-1501's rule (Zheng et al., ICCV 2015): images of the query's own identity and camera leave its gallery.
Two cases that Market-1501 does not have follow from what the rule is for, to find people again elsewhere. An
image of which no camera is known (`NO_CAMERA`) shares it with no other image. And where query and gallery
together have a single camera, it tells nothing apart: any other image of the identity is a match.
"""

import numpy as np

NO_CAMERA = -1  # camid of an image of which nobody knows by which camera it was taken


def comparable_cameras(query_camids: np.ndarray, gallery_camids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cameras of a query and a gallery so that equal numbers, and they alone, are one camera.

    Args:
        query_camids: Cameras of the queries, int [Q], or `NO_CAMERA`.
        gallery_camids: Cameras of the gallery, int [G], or `NO_CAMERA`.

    Returns:
        int [Q] and int [G]. A gallery image of the query's identity leaves the gallery of that query if their
        numbers are equal.
    """
    query, gallery = np.asarray(query_camids), np.asarray(gallery_camids)
    if not cameras_separate(query, gallery):
        return np.full(len(query), -1), np.full(len(gallery), -2)
    return np.where(query == NO_CAMERA, -1, query), np.where(gallery == NO_CAMERA, -2, gallery)


def cameras_separate(query_camids: np.ndarray, gallery_camids: np.ndarray) -> bool:
    """Return whether query and gallery have cameras to tell apart: two at least."""
    return count_cameras(np.union1d(query_camids, gallery_camids)) > 1


def match_in_words(query_camids: np.ndarray, gallery_camids: np.ndarray) -> str:
    """Say what counts as a match of a query in this gallery."""
    if cameras_separate(query_camids, gallery_camids):
        return "an image of its identity from another camera"
    return "another image of its identity"


def count_cameras(camids: np.ndarray) -> int:
    """Count the cameras that are known."""
    return len(np.setdiff1d(camids, [NO_CAMERA]))
