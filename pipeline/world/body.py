"""A human skeleton, its forward kinematics, and the lofted surfaces that hang on it.

Metres; y up; at rest the person stands upright, arms down, facing +z, so that the person's left is +x.
A surface is a *loft*: a row of elliptic rings, each bound to one or two bones (linear blend skinning).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BONES = (
    "pelvis", "chest", "head",
    "r_upper_arm", "r_forearm", "l_upper_arm", "l_forearm",
    "r_thigh", "r_shank", "r_foot", "l_thigh", "l_shank", "l_foot",
)  # fmt: skip
PARENTS = (-1, 0, 1, 1, 3, 1, 5, 0, 7, 8, 0, 10, 11)
(
    PELVIS,
    CHEST,
    HEAD,
    R_ARM,
    R_FOREARM,
    L_ARM,
    L_FOREARM,
    R_THIGH,
    R_SHANK,
    R_FOOT,
    L_THIGH,
    L_SHANK,
    L_FOOT,
) = range(13)
# Two more for things that are held in the hand: they move with the wrist but stay upright.
R_HAND, L_HAND = 13, 14
# Which bone carries each of the 18 OpenPose keypoints, in the order of generator.keypoints.KEYPOINT_NAMES.
KEYPOINT_BONES = (
    HEAD, CHEST, R_ARM, R_FOREARM, R_FOREARM, L_ARM, L_FOREARM, L_FOREARM,
    R_THIGH, R_SHANK, R_SHANK, L_THIGH, L_SHANK, L_SHANK, HEAD, HEAD, HEAD, HEAD,
)  # fmt: skip

RINGS = 12  # rings of a loft
SEGMENTS = 16  # corners of a ring; the first is repeated at the end, where the texture's seam is

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Build:
    """The proportions of one body, in metres."""

    height: float
    shoulder: float  # half the distance between the shoulder joints
    hip: float  # half the width of the pelvis
    waist: float  # half the width of the waist
    chest: float  # half the width of the chest
    depth: float  # half the depth of the chest
    bust: float  # how far the chest stands out to the front
    limb: float  # factor on the radii of arms and legs
    head: float  # factor on the size of the head


def rest_joints(build: Build) -> np.ndarray:
    """Return where each bone begins at rest.

    Returns:
        Float array [13, 3], metres, in the order of ``BONES``.
    """
    h, shoulder, hip = build.height, build.shoulder, 0.56 * build.hip
    side: list[Vector] = [(0, 0.53 * h, 0), (0, 0.60 * h, 0), (0, 0.845 * h, -0.005)]
    for x in (-shoulder, shoulder):
        side += [(x, 0.805 * h, -0.005), (x, 0.625 * h, -0.005)]
    for x in (-hip, hip):
        side += [(x, 0.52 * h, 0), (x, 0.285 * h, 0.005), (x, 0.045 * h, -0.01)]
    return np.array(side)


def rest_keypoints(build: Build) -> np.ndarray:
    """Return the 18 OpenPose keypoints at rest, float array [18, 3] in metres."""
    h, joints, k = build.height, rest_joints(build), build.head
    wrist = np.array([0, -0.148 * h, 0])
    skull = np.array([0, 0.928 * h, 0.012])
    return np.stack(
        [
            skull + k * np.array([0, -0.018, 0.105]),
            np.array([0, 0.825 * h, -0.005]),
            joints[R_ARM], joints[R_FOREARM], joints[R_FOREARM] + wrist,
            joints[L_ARM], joints[L_FOREARM], joints[L_FOREARM] + wrist,
            joints[R_THIGH], joints[R_SHANK], joints[R_FOOT],
            joints[L_THIGH], joints[L_SHANK], joints[L_FOOT],
            skull + k * np.array([-0.033, 0.014, 0.086]),
            skull + k * np.array([0.033, 0.014, 0.086]),
            skull + k * np.array([-0.080, 0.0, -0.01]),
            skull + k * np.array([0.080, 0.0, -0.01]),
        ]
    )  # fmt: skip


class Loft(NamedTuple):
    """Elliptic rings at rest: ``centre + side sin(t) + front cos(t)``; t = 0 is the texture's middle."""

    rings: np.ndarray  # [RINGS, 3 (centre, side, front), 3], metres
    bones: np.ndarray  # [RINGS, 2] int
    weight: np.ndarray  # [RINGS], of the second bone
    square: float = 1.0  # exponent of the superellipse: 1 is an ellipse, 0.4 nearly a rectangle
    flare: float = 0.0  # > 0 for a skirt or a coat: its clearance around the legs in metres, see `drape`


def loft(
    knots: Sequence[Sequence[float]],
    bones: tuple[int, int],
    joint: tuple[float, float] = (2.0, 3.0),
    along: str = "y",
    square: float = 1.0,
    flare: float = 0.0,
) -> Loft:
    """Interpolate a loft through knots.

    Args:
        knots: Rows (position along the axis, half width, half depth, two coordinates of the centre), in the
            order of the texture's rows. ``along="y"``: the axis is vertical, they are x and z, the front is
            +z. ``along="z"``: the axis points forward, they are x and y, the front is +y.
        bones: The bones that carry the first and the last ring.
        joint: Where between the knots (0 first, 1 last) the first bone hands over to the second.
        along: ``"y"`` or ``"z"``.
        square: Exponent of the superellipse.
        flare: See `Loft`.
    """
    table = np.array(knots, float)
    at = np.linspace(0, 1, RINGS)
    position, half_width, half_depth, x, other = (
        np.interp(at, np.linspace(0, 1, len(table)), column) for column in table.T
    )
    zero = np.zeros(RINGS)
    side = np.stack([half_width, zero, zero], -1)
    if along == "y":
        centre, front = np.stack([x, position, other], -1), np.stack([zero, zero, half_depth], -1)
    else:
        centre, front = np.stack([x, other, position], -1), np.stack([zero, half_depth, zero], -1)
    weight = np.clip((at - joint[0]) / (joint[1] - joint[0]), 0, 1)
    return Loft(np.stack([centre, side, front], 1), np.tile(bones, (RINGS, 1)), weight, square, flare)


def ball(centre: Vector, radii: Vector, bone: int, square: float = 1.0, stretch: float = 0.0) -> Loft:
    """Return an ellipsoid from bottom to top; ``stretch`` > 0 narrows its lower half towards a chin."""
    angle = np.linspace(-0.5 * np.pi, 0.5 * np.pi, RINGS)
    # Not quite closed at the poles: the normals there stay defined.
    ring = np.maximum(np.cos(angle), 0.06) ** square * (1 - stretch * np.clip(-np.sin(angle), 0, 1))
    knots = [
        (
            centre[1] + radii[1] * np.sign(s) * abs(s) ** square,
            radii[0] * r,
            radii[2] * r,
            centre[0],
            centre[2],
        )
        for s, r in zip(np.sin(angle), ring, strict=True)
    ]
    return loft(knots, (bone, bone), square=square)


@dataclass(frozen=True)
class Stance:
    """A pose: what the joints do, whoever strikes it and whoever looks.

    ``angles`` [13, 3] in radians per bone: flexion (limb swings forward, trunk bows), inward twist about the
    bone's own axis, and abduction (away from the body's middle). The trunk's twist turns to the left.
    """

    heading: float  # degrees; 0 faces the camera, 90 walks towards the right edge of the image
    angles: np.ndarray


# Right limbs hang at negative x: their inward twist turns towards +x; left limbs mirror that.
_MIRROR = np.array([-1.0 if name.startswith("l_") else 1.0 for name in BONES])
_TRUNK = np.arange(len(BONES)) <= HEAD


def bone_transforms(build: Build, stance: Stance) -> np.ndarray:
    """Forward kinematics: how each bone moves from rest to the stance.

    Returns:
        Float array [13, 3, 4]: rotation and translation that map a point at rest to the posed point. The
        pelvis stays where it is at rest; `pose_surface` then puts the feet on the ground.
    """
    flexion, twist, abduction = stance.angles.T
    # Limbs hang down: swinging forward is a negative turn about x. The trunk stands up: bowing is positive.
    x = np.where(_TRUNK, flexion, -flexion)
    y = twist * _MIRROR
    z = np.where(_TRUNK, 1.0, -_MIRROR) * abduction
    y = y + np.where(np.arange(len(BONES)) == PELVIS, np.deg2rad(stance.heading), 0.0)
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    o, i = np.zeros_like(x), np.ones_like(x)
    turn_x = np.array([[i, o, o], [o, cx, -sx], [o, sx, cx]]).transpose(2, 0, 1)
    turn_y = np.array([[cy, o, sy], [o, i, o], [-sy, o, cy]]).transpose(2, 0, 1)
    turn_z = np.array([[cz, -sz, o], [sz, cz, o], [o, o, i]]).transpose(2, 0, 1)
    # A limb twists first, about itself; the trunk turns last, about the vertical.
    local = np.where(_TRUNK[:, None, None], turn_y @ turn_x @ turn_z, turn_z @ turn_x @ turn_y)
    joints = rest_joints(build)
    turns, origins = [local[0]], [joints[0]]
    for bone in range(1, len(BONES)):
        parent = PARENTS[bone]
        turns.append(turns[parent] @ local[bone])
        origins.append(origins[parent] + turns[parent] @ (joints[bone] - joints[parent]))
    rotation, origin = np.stack(turns), np.stack(origins)
    return np.concatenate([rotation, (origin - np.einsum("bij,bj->bi", rotation, joints))[..., None]], -1)


def drape(part: Loft, build: Build, transforms: np.ndarray) -> np.ndarray:
    """Hang a skirt or a coat around both legs.

    Every ring keeps its height below the pelvis and grows until it holds both legs: a stride opens no gap.

    Returns:
        Float array [RINGS, 3, 3] of posed rings.
    """
    joints = rest_joints(build)
    height = part.rings[:, 0, 1]
    pelvis = transforms[PELVIS]
    centre = part.rings[:, 0] @ pelvis[:, :3].T + pelvis[:, 3]
    legs = []
    for thigh, shank, foot in ((R_THIGH, R_SHANK, R_FOOT), (L_THIGH, L_SHANK, L_FOOT)):
        chain = [
            transforms[bone, :, :3] @ joints[bone] + transforms[bone, :, 3] for bone in (foot, shank, thigh)
        ]
        x, y, z = np.transpose(chain)  # from the ankle up, so that the heights rise
        legs.append(
            np.stack([np.interp(centre[:, 1], y, x), centre[:, 1], np.interp(centre[:, 1], y, z)], -1)
        )
    right, left = legs
    below = np.clip((joints[R_THIGH, 1] - height) / 0.12, 0, 1)[:, None]
    middle = 0.5 * (right + left)
    centre = centre + below * (middle - centre)
    side, front = pelvis[:, 0], pelvis[:, 2]
    # The thigh is thicker than the shank.
    thick = np.clip((height - joints[R_SHANK, 1]) / (joints[R_THIGH, 1] - joints[R_SHANK, 1]), 0, 1)
    reach = build.limb * (0.072 + 0.038 * thick) + part.flare
    # Half axes r I + s s^T / |s|: r + |s| along the legs' offset s, r across it; the cloth does not turn.
    offset = 0.5 * (left - right) @ np.stack([side, front], 1)
    shape = reach[:, None, None] * np.eye(2) + offset[:, :, None] * offset[:, None] / (
        np.linalg.norm(offset, axis=1)[:, None, None] + 1e-9
    )
    body = np.stack([part.rings[:, 1, 0], part.rings[:, 2, 2]], 1)[:, :, None] * np.eye(2)
    shape = body + below[:, :, None] * (shape - body)
    return np.concatenate([centre[:, None], shape @ np.stack([side, front])], 1)


class Surface(NamedTuple):
    """All lofts of a person, stacked; P parts."""

    rings: np.ndarray  # [P, RINGS, 3, 3]
    bones: np.ndarray  # [P, RINGS, 2]
    weight: np.ndarray  # [P, RINGS]
    circle: np.ndarray  # [P, SEGMENTS + 1, 2]: the ring's (sin, cos)
    draped: tuple[tuple[int, Loft], ...]  # the parts that hang around the legs


def stack(parts: list[Loft]) -> Surface:
    """Stack lofts so that all of them are posed at once."""
    angle = np.linspace(-np.pi, np.pi, SEGMENTS + 1)
    unit = np.stack([np.sin(angle), np.cos(angle)], -1)
    unit[np.abs(unit) < 1e-9] = 0
    circle = np.stack([np.sign(unit) * np.abs(unit) ** part.square for part in parts])
    return Surface(
        np.stack([part.rings for part in parts]),
        np.stack([part.bones for part in parts]),
        np.stack([part.weight for part in parts]),
        circle,
        tuple((index, part) for index, part in enumerate(parts) if part.flare > 0),
    )


def pose_surface(build: Build, surface: Surface, stance: Stance) -> tuple[np.ndarray, np.ndarray]:
    """Pose a person and put the lower foot on the ground (y = 0).

    Returns:
        Vertices [P, RINGS, SEGMENTS + 1, 3] and keypoints [18, 3], metres.
    """
    transforms = bone_transforms(build, stance)
    rest = rest_keypoints(build)
    moves = transforms[list(KEYPOINT_BONES)]
    keypoints = np.einsum("kij,kj->ki", moves[..., :3], rest) + moves[..., 3]
    yaw = np.deg2rad(stance.heading)
    upright = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    held = [np.column_stack([upright, keypoints[wrist] - upright @ rest[wrist]]) for wrist in (4, 7)]
    transforms = np.concatenate([transforms, held])
    weight = surface.weight[..., None, None]
    moves = (1 - weight) * transforms[surface.bones[..., 0]] + weight * transforms[surface.bones[..., 1]]
    rings = surface.rings @ moves[..., :3].swapaxes(-1, -2)
    rings[:, :, 0] += moves[..., 3]
    for index, part in surface.draped:
        rings[index] = drape(part, build, transforms)
    vertices = rings[:, :, None, 0] + surface.circle[:, None] @ rings[:, :, 1:]
    ground = np.array([0, vertices[..., 1].min(), 0])
    return (vertices - ground).astype(np.float32), keypoints - ground
