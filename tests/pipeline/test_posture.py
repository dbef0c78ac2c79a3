"""Heading and gait from keypoints agree with how the people of the world really stand."""

import numpy as np
import pytest

from generator.keypoints import KEYPOINT_NAMES, flip_keypoints
from pipeline.posture import CELLS, SECTORS, WIDE, cells, heading, stride
from pipeline.world.body import L_THIGH, R_THIGH
from pipeline.world.shots import shots

HEIGHT, WIDTH = 128, 64


@pytest.fixture(scope="module")
def people() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """300 people as cameras see them: keypoints, true heading and angle between the thighs, degrees."""
    taken = [
        shot
        for pid in range(25)
        for shot in shots(5, "posture test", pid, 12, 6, HEIGHT, WIDTH, strength=0.3)
    ]
    thighs = np.rad2deg([shot.stance.angles[[L_THIGH, R_THIGH], 0] for shot in taken])
    return (
        np.stack([shot.keypoints for shot in taken]),
        np.array([shot.stance.heading for shot in taken]),
        np.abs(thighs[:, 0] - thighs[:, 1]),
    )


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angle between two headings, degrees."""
    return np.abs((a - b + 180) % 360 - 180)


def test_headings_are_those_of_the_world(people: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    keypoints, true, _ = people
    found = heading(keypoints)
    known = np.isfinite(found)
    error = apart(found, true)[known]
    assert known.mean() > 0.97
    assert np.median(error) < 9 and np.percentile(error, 90) < 28 and (error > 90).mean() < 0.01
    assert ((found[known] >= 0) & (found[known] < 360)).all()


def test_gait_is_that_of_the_world(people: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Somebody with the thighs 25 degrees or more apart (the median) strides."""
    keypoints, _, thighs = people
    found = stride(keypoints)
    known = np.isfinite(found)
    assert known.mean() > 0.6
    assert ((found >= WIDE) == (thighs > 25))[known].mean() > 0.75


def test_a_mirrored_person_faces_the_mirrored_way(people: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    keypoints = people[0]
    mirrored = flip_keypoints(keypoints, WIDTH)
    known = np.isfinite(heading(keypoints))
    assert apart(heading(mirrored), -heading(keypoints))[known].max() < 1e-3
    np.testing.assert_allclose(stride(mirrored), stride(keypoints), rtol=1e-5)


def test_size_and_place_in_the_image_do_not_matter(
    people: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    keypoints = people[0]
    moved = keypoints.astype(float)
    moved[..., :2] = 3 * moved[..., :2] + 40
    np.testing.assert_array_equal(cells(moved), cells(keypoints))


def test_people_of_whom_too_little_is_seen_have_no_cell(
    people: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    seen = people[0][cells(people[0]) >= 0][:1]

    def without(*names: str) -> np.ndarray:
        hidden = seen.copy()
        hidden[:, [KEYPOINT_NAMES.index(name) for name in names]] = 0
        return hidden

    assert cells(np.zeros((2, 18, 3), np.float32)).tolist() == [-1, -1]
    assert cells(without("l_ankle"))[0] == -1 and np.isfinite(heading(without("l_ankle")))[0]
    assert np.isnan(heading(without("neck", "r_shoulder", "l_shoulder")))[0]
    assert np.isnan(
        heading(without(*(name for name in KEYPOINT_NAMES if name[2:] in ("hip", "knee", "ankle"))))
    )
    assert len(cells(np.zeros((0, 18, 3), np.float32))) == 0


def test_every_cell_occurs_and_a_sector_spans_its_heading(
    people: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    keypoints = people[0]
    found = cells(keypoints)
    assert set(found) == set(range(-1, CELLS))
    known = found >= 0
    centre = (found[known] // 2) * 360 / SECTORS
    assert apart(heading(keypoints[known]), centre).max() <= 180 / SECTORS
