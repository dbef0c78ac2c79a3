"""Stances: how people stand, walk and hold their arms."""

import numpy as np

from common.seeding import make_rng
from pipeline.world.body import (
    BONES,
    CHEST,
    HEAD,
    L_ARM,
    L_FOOT,
    L_FOREARM,
    L_SHANK,
    L_THIGH,
    PELVIS,
    R_ARM,
    R_FOOT,
    R_FOREARM,
    R_SHANK,
    R_THIGH,
    Stance,
)

# Arm habits: share, then upper-arm flexion, twist, abduction and elbow flexion in degrees (None: swings).
_ARMS: dict[str, tuple[float, tuple[float, float, float, float] | None]] = {
    "swing": (0.52, None),
    "pocket": (0.13, (-14, 25, 14, 48)),
    "phone at the ear": (0.07, (42, 20, 28, 138)),
    "phone in front": (0.10, (28, 38, 6, 98)),
    "hand on the strap": (0.07, (18, 32, 14, 128)),
    "hanging": (0.07, (0, 5, 7, 10)),
    "behind the back": (0.04, (-28, 60, 10, 55)),
}
_BOTH_ARMS = {"carrying": (0.07, (24, 12, 6, 82)), "folded": (0.03, (30, 62, 4, 96))}


def sample_stance(seed: int, purpose: str, *indices: int, heading: float | None = None) -> Stance:
    """Draw a stance.

    Args:
        seed: Seed of the world.
        purpose: What the stance is for; disjoint purposes give independent stances.
        indices: Which one.
        heading: Degrees (see `Stance`); drawn from 0 to 360 when None.
    """
    # Most people walk; the others stand. `degrees` [13, 3] holds flexion, twist and abduction of each bone.
    rng = make_rng(seed, f"{purpose}/stance", *indices)
    turn = rng.uniform(0, 360) if heading is None else heading
    degrees = np.zeros((len(BONES), 3))
    walking = rng.random() < 0.8
    stride = rng.uniform(16, 30) if walking else rng.uniform(0, 5)
    phase = rng.uniform(0, 2 * np.pi)
    for thigh, shank, foot, shift in ((R_THIGH, R_SHANK, R_FOOT, 0.0), (L_THIGH, L_SHANK, L_FOOT, np.pi)):
        swing = np.sin(phase + shift)
        # The knee bends while the leg comes forward (cosine positive) and yields a little under load.
        knee = (
            (4 + 50 * (stride / 30) * max(0.0, np.cos(phase + shift)) ** 1.5)
            if walking
            else rng.uniform(0, 8)
        )
        degrees[thigh] = (stride * swing + 4 * (stride / 30) + 0.35 * knee, -4, rng.uniform(0.5, 3))
        degrees[shank, 0] = -knee
        degrees[foot, 0] = -8 * max(0.0, -swing) * walking + 6 * max(0.0, swing) * walking
        if not walking:
            degrees[thigh, 2] = rng.uniform(1, 6)

    # The trunk leans forward a little and turns against the legs.
    lean = rng.normal(3, 3)
    degrees[PELVIS] = (0.3 * lean, 4 * np.sin(phase) * walking, rng.normal(0, 1.0))
    degrees[CHEST] = (0.7 * lean, -7 * np.sin(phase) * walking + rng.normal(0, 4), rng.normal(0, 1.5))
    degrees[HEAD] = (rng.normal(4, 6), rng.normal(0, 15), rng.normal(0, 3))

    # Each arm has a habit of its own, unless one of them takes both.
    names = [*_ARMS, *_BOTH_ARMS]
    share = np.array([value[0] for value in (*_ARMS.values(), *_BOTH_ARMS.values())])
    habits = rng.choice(len(names), 2, p=share / share.sum())
    for side, (arm, forearm, shift) in enumerate(((R_ARM, R_FOREARM, np.pi), (L_ARM, L_FOREARM, 0.0))):
        name = names[habits[0]] if names[habits[0]] in _BOTH_ARMS else names[habits[side]]
        angles = _BOTH_ARMS[name][1] if name in _BOTH_ARMS else _ARMS[name][1]
        if angles is None:
            swing = np.sin(phase + shift) * stride * rng.uniform(0.7, 1.3)
            angles = (
                swing,
                rng.uniform(5, 20),
                rng.uniform(4, 11),
                14 + 0.7 * max(0.0, swing) + rng.uniform(0, 14),
            )
        degrees[arm] = np.array(angles[:3]) + rng.normal(0, (4, 5, 2))
        degrees[forearm, 0] = max(0.0, angles[3] + rng.normal(0, 6))
    return Stance(float(turn), np.deg2rad(degrees))
