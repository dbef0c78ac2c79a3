"""Identities: build, hair, clothes, shoes and bags, as posed surfaces with a painted texture."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline.world.body import (
    CHEST,
    HEAD,
    L_ARM,
    L_FOOT,
    L_FOREARM,
    L_HAND,
    L_SHANK,
    L_THIGH,
    PELVIS,
    R_ARM,
    R_FOOT,
    R_FOREARM,
    R_HAND,
    R_SHANK,
    R_THIGH,
    Build,
    Loft,
    Surface,
    ball,
    loft,
    rest_joints,
    rest_keypoints,
    stack,
)
from pipeline.world.random import generator

TILE = 64  # texels of one part's texture, both ways

# Colours as (share, RGB 0..255). Concentrated, as in street clothes: that is what makes people hard to tell apart.
_UPPER = [
    (0.24, (30, 30, 34)), (0.13, (70, 72, 78)), (0.15, (36, 44, 74)), (0.10, (132, 134, 138)), (0.13, (222, 222, 218)),
    (0.08, (68, 100, 156)), (0.05, (186, 168, 138)), (0.04, (164, 40, 44)), (0.03, (58, 92, 62)), (0.02, (214, 176, 66)),
    (0.03, (202, 140, 158)),
]  # fmt: skip
_LOWER = [
    (0.32, (30, 31, 36)), (0.28, (48, 60, 92)), (0.14, (84, 86, 92)), (0.10, (112, 134, 172)), (0.10, (172, 156, 128)),
    (0.03, (206, 204, 198)), (0.03, (96, 66, 52)),
]  # fmt: skip
_SKIN = [(0.55, (226, 178, 150)), (0.25, (204, 150, 116)), (0.12, (150, 100, 74)), (0.08, (98, 66, 52))]
_HAIR = [
    (0.45, (28, 24, 24)),
    (0.32, (66, 46, 34)),
    (0.10, (122, 86, 56)),
    (0.08, (190, 154, 98)),
    (0.05, (158, 156, 154)),
]
_SHOES = [
    (0.42, (30, 30, 32)),
    (0.26, (218, 218, 216)),
    (0.14, (104, 76, 56)),
    (0.10, (92, 94, 100)),
    (0.08, (160, 52, 50)),
]
_BAGS = [
    (0.40, (32, 32, 36)),
    (0.20, (48, 58, 96)),
    (0.14, (110, 76, 50)),
    (0.10, (142, 42, 44)),
    (0.16, (122, 122, 108)),
]

_U, _V = np.meshgrid((np.arange(TILE) + 0.5) / TILE, (np.arange(TILE) + 0.5) / TILE)
_ANGLE = 2 * np.pi * (_U - 0.5)  # 0 front, + the person's left
_FRONT = np.abs(_ANGLE) < 0.5 * np.pi

Colour = np.ndarray


def _pick(
    rng: np.random.Generator, palette: list[tuple[float, tuple[int, int, int]]], spread: float = 4
) -> Colour:
    share = np.array([entry[0] for entry in palette])
    base = np.array(palette[rng.choice(len(palette), p=share / share.sum())][1], float)
    return np.clip(base + rng.normal(0, spread, 3) + rng.normal(0, 2.5 * spread), 10, 245)


@dataclass(frozen=True)
class Cloth:
    """A fabric: two colours and a pattern with its period in metres."""

    colour: Colour
    second: Colour
    pattern: str
    period: float

    def paint(self, width: float, height: float) -> np.ndarray:
        """Return the fabric as a tile [TILE, TILE, 3], wrapped around a part ``width`` x ``height`` metres."""
        x, y = _U * width / self.period, _V * height / self.period
        if self.pattern == "horizontal stripes":
            mark = (y % 1) < 0.42
        elif self.pattern == "vertical stripes":
            # A whole number of periods: no seam.
            mark = (_U * np.round(width / self.period) % 1) < 0.3
        elif self.pattern == "checks":
            turn = _U * np.round(width / self.period) % 1
            mark = 0.5 * ((turn < 0.45).astype(float) + ((y % 1) < 0.45))
        elif self.pattern == "spots":
            mark = np.cos(2 * np.pi * x) + np.cos(2 * np.pi * y) > 0.9
        elif self.pattern == "patches":
            waves = np.sin(2.1 * x + 1.3 * np.sin(1.7 * y)) + np.sin(2.6 * y + 1.9 * np.sin(1.3 * x + 2))
            mark = waves > 0.5
        else:
            mark = np.zeros_like(x)
        return self.colour + (self.second - self.colour) * mark[..., None]


def _cloth(rng: np.random.Generator, palette: list, patterned: float) -> Cloth:
    colour, second = _pick(rng, palette), _pick(rng, _UPPER)
    if np.abs(colour - second).sum() < 120:
        second = np.where(colour.mean() > 110, 0.35 * colour, 0.4 * colour + 140)
    names = ("horizontal stripes", "vertical stripes", "checks", "spots", "patches")
    pattern = rng.choice(names, p=(0.36, 0.12, 0.26, 0.10, 0.16)) if rng.random() < patterned else "plain"
    return Cloth(colour, second, str(pattern), rng.uniform(0.075, 0.15))


@dataclass(frozen=True, eq=False)
class Person:
    """One identity, ready to be posed and drawn."""

    build: Build
    surface: Surface
    texture: np.ndarray  # uint8 [P * TILE, TILE, 3]: the parts' tiles one below the other, first ring on top
    description: str


def _build(rng: np.random.Generator, woman: bool) -> Build:
    height = rng.normal(1.66, 0.055) if woman else rng.normal(1.77, 0.06)
    girth = np.clip(rng.normal(1.0, 0.11), 0.82, 1.32)
    scale = height / 1.72
    return Build(
        height=height,
        shoulder=scale * (0.158 if woman else 0.185) * girth**0.3 * rng.normal(1, 0.03),
        hip=scale * (0.172 if woman else 0.162) * girth**0.6,
        waist=scale * (0.122 if woman else 0.146) * girth,
        chest=scale * (0.146 if woman else 0.170) * girth**0.7,
        depth=scale * (0.100 if woman else 0.112) * girth**0.8,
        bust=0.030 * scale * girth if woman else 0.0,
        limb=scale * (0.95 if woman else 1.03) * girth**0.7,
        head=scale**0.4 * rng.normal(1.06, 0.02),
    )


# --- geometry ------------------------------------------------------------------------------------------------------


def _torso(build: Build, puff: float) -> Loft:
    h, b = build.height, build
    rows = [
        (0.46, 0.70 * b.hip, 0.080, 0.0), (0.50, b.hip, 0.112, -0.008), (0.54, b.hip, 0.116, -0.008),
        (0.58, 0.45 * b.hip + 0.55 * b.waist, 0.102, 0.0), (0.62, b.waist, 0.094, 0.004),
        (0.66, 0.6 * b.waist + 0.4 * b.chest, 0.096, 0.006), (0.70, b.chest, b.depth, 0.004 + 0.6 * b.bust),
        (0.74, b.chest, b.depth, 0.7 * b.bust), (0.78, 0.94 * b.shoulder, 0.92 * b.depth, 0.1 * b.bust - 0.004),
        (0.81, 0.82 * b.shoulder, 0.75 * b.depth, -0.008), (0.835, 0.42 * b.shoulder, 0.070, -0.010),
        (0.852, 0.055, 0.056, -0.006),
    ]  # fmt: skip
    knots = [(y * h, a + puff, d + puff, 0.0, z) for y, a, d, z in rows]
    return loft(knots, (PELVIS, CHEST), joint=(0.28, 0.5))


def _arm(build: Build, right: bool, sleeve: float, end: float) -> Loft:
    """``sleeve``: cloth thickness in metres; ``end``: where it ends, 0 at the wrist, 1 at the shoulder."""
    joint = rest_joints(build)[R_ARM if right else L_ARM]
    top, bottom = joint[1] + 0.018, joint[1] - 0.328 * build.height
    radii = np.array([0.025, 0.028, 0.033, 0.037, 0.038, 0.036, 0.039, 0.042, 0.044, 0.048, 0.050, 0.030])
    at = np.linspace(0, 1, len(radii))
    radii = build.limb * radii + sleeve * (at >= end) * np.where(at == 1, 0.5, 1)
    inward = joint[0] * np.interp(at, (0.8, 0.9, 1.0), (1.0, 0.95, 0.82))  # the shoulder's slope
    rows = zip(at, radii, inward, strict=True)
    knots = [(bottom + t * (top - bottom), r, 1.06 * r, x, joint[2]) for t, r, x in rows]
    bones = (R_FOREARM, R_ARM) if right else (L_FOREARM, L_ARM)
    return loft(knots, bones, joint=(0.44, 0.56))


def _leg(build: Build, right: bool, cloth: float, end: float) -> Loft:
    joint = rest_joints(build)[R_THIGH if right else L_THIGH]
    top, bottom = 0.535 * build.height, 0.030 * build.height
    radii = np.array([0.036, 0.042, 0.052, 0.057, 0.057, 0.054, 0.060, 0.070, 0.077, 0.083, 0.086, 0.070])
    at = np.linspace(0, 1, len(radii))
    # Loose cloth hides the calf and the knee.
    loose = np.maximum(radii, 0.052) + cloth
    radii = build.limb * np.where((at >= end) & (cloth > 0.004), loose, radii)
    knots = [
        (bottom + t * (top - bottom), r, 1.05 * r, joint[0], 0.0) for t, r in zip(at, radii, strict=True)
    ]
    bones = (R_SHANK, R_THIGH) if right else (L_SHANK, L_THIGH)
    return loft(knots, bones, joint=(0.45, 0.56))


def _foot(build: Build, right: bool, tall: float) -> Loft:
    x = rest_joints(build)[R_FOOT if right else L_FOOT, 0]
    rows = [
        (0.195, 0.012, 0.012, 0.016), (0.180, 0.034, 0.020, 0.022), (0.130, 0.047, 0.028, 0.030),
        (0.070, 0.046, 0.038, 0.040), (0.010, 0.042, 0.050, 0.052), (-0.050, 0.040, 0.050, 0.052),
        (-0.080, 0.020, 0.030, 0.036),
    ]  # fmt: skip
    scale = build.height / 1.72
    knots = [(scale * z, scale * w, scale * (d + tall), x, scale * (y + tall)) for z, w, d, y in rows]
    return loft(knots, (R_FOOT, R_FOOT) if right else (L_FOOT, L_FOOT), along="z")


def _skirt(build: Build, top: float, hem: float, clearance: float, puff: float) -> Loft:
    """From the waist line ``top`` to the ``hem``, both in body heights."""
    h = build.height
    at = np.linspace(hem, top, 7)
    waist = (at > 0.57)[:, None] * np.array([0.45 * build.hip + 0.55 * build.waist, 0.104])
    hips = (at <= 0.57)[:, None] * np.array([build.hip, 0.120])
    size = waist + hips + puff
    knots = [(y * h, a, d, 0.0, -0.004) for y, (a, d) in zip(at, size, strict=True)]
    return loft(knots, (PELVIS, PELVIS), flare=clearance)


# --- paint ---------------------------------------------------------------------------------------------------------


def _flat(colour: Colour) -> np.ndarray:
    return np.broadcast_to(colour, (TILE, TILE, 3)).copy()


def _face(
    rng: np.random.Generator, skin: Colour, hair: Colour, bald: bool, beard: bool, glasses: bool
) -> np.ndarray:
    tile = _flat(skin)
    # The ball's rows are spaced by angle: 0 is the chin's underside, 0.5 the ears' height.
    tile[(_V < 0.24) & ~_FRONT] = 0.85 * skin
    hairline = np.where(np.abs(_ANGLE) < 1.15, 0.74, np.where(np.abs(_ANGLE) < 1.8, 0.50, 0.30))
    if not bald:
        tile[hairline < _V] = hair
    side = np.abs(_ANGLE)
    if beard:
        tile[(side < 1.3) & (_V > 0.16) & (_V < 0.40)] = 0.35 * skin + 0.65 * hair
    tile[(side < 0.30) & (np.abs(_V - 0.315) < 0.022)] = 0.45 * skin + 0.55 * np.array([150, 40, 44])
    tile[(side > 0.16) & (side < 0.62) & (np.abs(_V - 0.535) < 0.040)] = 0.25 * skin + 8
    tile[(side > 0.12) & (side < 0.66) & (np.abs(_V - 0.615) < 0.018)] = 0.5 * skin + 0.5 * np.minimum(
        hair, skin
    )
    if glasses:
        tile[(side < 1.5) & (np.abs(_V - 0.535) < 0.05)] = rng.uniform(15, 45)
    tile[(np.abs(side - 1.62) < 0.16) & (_V > 0.40) & (_V < 0.56)] = 0.86 * skin
    return tile


def _print(rng: np.random.Generator, tile: np.ndarray, cloth: Cloth, front: bool) -> None:
    """Paint a print on the chest or on the back of a torso tile."""
    angle = _ANGLE if front else np.where(_ANGLE > 0, np.pi - _ANGLE, -np.pi - _ANGLE)
    width, low, high = rng.uniform(0.35, 0.85), rng.uniform(0.42, 0.56), rng.uniform(0.68, 0.80)
    inside = (np.abs(angle) < width) & (low < _V) & (high > _V)
    kind = rng.integers(4)
    if kind == 1:
        inside = (angle / width) ** 2 + ((_V - 0.5 * (low + high)) / (0.55 * (high - low))) ** 2 < 1
    elif kind == 2:
        inside &= (((_V - low) / (high - low) * 3) % 1) < 0.6
    elif kind == 3:
        inside = (np.abs(np.abs(angle) - 0.55) < 0.22) & (_V > 0.60) & (_V < 0.70) & (angle > 0)
    tile[inside] = cloth.second if rng.random() < 0.7 else _pick(rng, _UPPER, 6)


@lru_cache(maxsize=64)
def sample_person(seed: int, purpose: str, index: int) -> Person:
    """Draw an identity; equal arguments give the same person, different purposes give different people.

    Args:
        seed: Seed of the world.
        purpose: For example ``"train"``, ``"test"`` or ``"foundation"``.
        index: Number of the identity within the purpose.
    """
    rng = generator(seed, f"{purpose}/person", index)
    woman = bool(rng.random() < 0.48)
    build = _build(rng, woman)
    h = build.height
    skin, hair = _pick(rng, _SKIN, 3), _pick(rng, _HAIR, 3)
    names: list[str] = []
    parts: list[tuple[Loft, np.ndarray]] = []

    # Clothes: what is worn decides lengths, thickness and paint of torso, arms, legs and skirt.
    upper = str(
        rng.choice(
            ["t-shirt", "shirt", "jacket", "hoodie", "coat", "vest"], p=[0.34, 0.16, 0.20, 0.14, 0.11, 0.05]
        )
    )
    dress = woman and rng.random() < 0.13
    if dress:
        upper = "t-shirt"
        lower = "dress"
    elif woman:
        lower = str(rng.choice(["trousers", "leggings", "skirt", "shorts"], p=[0.46, 0.24, 0.17, 0.13]))
    else:
        lower = str(rng.choice(["trousers", "shorts"], p=[0.80, 0.20]))
    if upper == "coat" and lower == "shorts":
        lower = "trousers"
    cloth = _cloth(rng, _UPPER, {"t-shirt": 0.38, "shirt": 0.45, "hoodie": 0.2}.get(upper, 0.14))
    inner = _cloth(rng, [(0.5, (222, 222, 220)), (0.3, (60, 62, 68)), (0.2, (110, 130, 160))], 0.15)
    legwear = cloth if dress else _cloth(rng, _LOWER, 0.10 if lower != "skirt" else 0.3)
    puff = {"t-shirt": 0.0, "shirt": 0.004, "jacket": 0.018, "hoodie": 0.016, "coat": 0.018, "vest": 0.018}[
        upper
    ]
    sleeve = {
        "t-shirt": 0.012,
        "shirt": 0.010,
        "jacket": 0.020,
        "hoodie": 0.018,
        "coat": 0.020,
        "vest": 0.008,
    }[upper]
    sleeve_end = float(rng.uniform(0.62, 0.76)) if upper == "t-shirt" else 0.0
    if upper == "shirt" and rng.random() < 0.3:
        sleeve_end = 0.48
    names += [upper, cloth.pattern, lower, legwear.pattern]

    # Torso.
    waistline = 0.20 if upper in ("jacket", "hoodie", "vest") else 0.27
    torso = cloth.paint(0.95, 0.68)
    if rng.random() < 0.22 and cloth.pattern == "plain":  # two-tone yoke
        torso[rng.uniform(0.62, 0.75) < _V] = cloth.second
    if upper in ("t-shirt", "hoodie") and cloth.pattern == "plain" and rng.random() < 0.55:
        _print(rng, torso, cloth, front=True)
    if cloth.pattern == "plain" and rng.random() < 0.25:
        _print(rng, torso, cloth, front=False)
    opened = upper in ("jacket", "coat", "vest") and rng.random() < 0.65
    if opened:
        gap = np.abs(_ANGLE) < rng.uniform(0.35, 0.65) + 0.25 * (_V - 0.5)
        torso[gap] = inner.paint(0.95, 0.68)[gap]
    elif upper in ("jacket", "coat", "vest", "shirt"):
        torso[np.abs(_ANGLE) < 0.07] = 0.55 * cloth.colour  # zip or buttons
    if upper == "hoodie":
        torso[(np.abs(_ANGLE) < 0.7) & (_V > 0.30) & (_V < 0.44)] *= 0.8  # pouch
    torso[waistline > _V] = legwear.paint(0.95, 0.68)[waistline > _V]
    if not dress:
        torso[np.abs(_V - waistline) < 0.016] = 0.5 * legwear.colour  # belt or hem's shadow
    neckline = 0.90 - 0.10 * (np.abs(_ANGLE) < 0.8) * (1 - np.abs(_ANGLE) / 0.8) * (
        upper in ("t-shirt", "shirt")
    )
    torso[neckline < _V] = (
        skin if upper in ("t-shirt", "shirt") else (cloth.second if upper == "hoodie" else cloth.colour * 0.8)
    )
    bag = str(rng.choice(["none", "backpack", "shoulder bag", "handbag"], p=[0.42, 0.25, 0.18, 0.15]))
    bag_colour, bag_right = _pick(rng, _BAGS), bool(rng.random() < 0.5)
    way = -1 if bag_right else 1
    if bag == "backpack":
        torso[(np.abs(np.abs(_ANGLE) - 0.72) < 0.14) & (_V > 0.46) & (_V < 0.93)] = bag_colour
    if bag == "shoulder bag":  # the strap crosses the chest and the back, from the other shoulder to the bag
        turn = np.where(_FRONT, _ANGLE, np.sign(_ANGLE) * np.pi - _ANGLE) * way
        torso[np.abs(turn - (1.25 - 2.1 * (_V - 0.22) / 0.70)) < 0.13] = 0.8 * bag_colour
    parts.append((_torso(build, puff), torso))

    # Head, neck and hair.
    k = build.head
    skull = np.array([0, 0.928 * h, 0.012])
    style = (
        str(rng.choice(["long", "ponytail", "bun", "short", "cap"], p=[0.46, 0.24, 0.10, 0.12, 0.08]))
        if woman
        else str(
            rng.choice(
                ["short", "crop", "bald", "cap", "beanie", "long"], p=[0.50, 0.18, 0.07, 0.14, 0.06, 0.05]
            )
        )
    )
    names += [style, bag]
    beard, glasses = not woman and rng.random() < 0.22, rng.random() < 0.15
    face = _face(rng, skin, hair, style == "bald", bool(beard), bool(glasses))
    parts.append((ball(tuple(skull), (0.082 * k, 0.122 * k, 0.100 * k), HEAD, stretch=0.28), face))
    parts.append(
        (
            ball((0, skull[1] - 0.014 * k, skull[2] + 0.098 * k), (0.015, 0.026, 0.020), HEAD),
            _flat(skin * 0.97),
        )
    )
    neck = loft(
        [(0.815 * h, 0.058, 0.060, 0, -0.012), (0.90 * h, 0.052, 0.056, 0, 0.0)],
        (CHEST, HEAD),
        joint=(0.3, 1.0),
    )
    parts.append((neck, _flat(0.9 * skin)))
    strands = 1 + 0.16 * np.sin(_U * 2 * np.pi * 11 + 3 * np.sin(5 * _V))
    hair_tile = _flat(hair) * strands[..., None]
    hat = _pick(rng, _UPPER)
    if style in ("cap", "beanie"):
        crown = (0.090, 0.085, 0.108) if style == "cap" else (0.092, 0.105, 0.110)
        hat_tile = _flat(hat)
        hat_tile[_V < 0.52] = 0.75 * hat
        parts.append((ball((0, skull[1] + 0.058 * k, 0.006), tuple(k * np.array(crown)), HEAD), hat_tile))
        if style == "cap":
            y = skull[1] + 0.058 * k
            brim = [
                (0.21, 0.03, 0.006, 0, y - 0.012),
                (0.17, 0.075, 0.010, 0, y),
                (0.05, 0.082, 0.012, 0, y + 0.01),
            ]
            parts.append((loft(brim, (HEAD, HEAD), along="z"), _flat(0.7 * hat)))
    elif style not in ("bald", "crop"):
        parts.append(
            (ball((0, skull[1] + 0.030 * k, -0.012), (0.090 * k, 0.110 * k, 0.104 * k), HEAD), hair_tile)
        )
    if style == "long":
        tip = rng.uniform(0.70, 0.83)
        back = -build.depth - puff - 0.012
        curtain = [
            (tip * h, 0.085, 0.030, 0, back), (0.82 * h, 0.100, 0.045, 0, 0.65 * back), (0.87 * h, 0.100, 0.068, 0, -0.045),
            (0.93 * h, 0.095 * k, 0.085, 0, -0.030), (0.97 * h, 0.070, 0.07, 0, -0.02),
        ]  # fmt: skip
        parts.append((loft(curtain, (CHEST, HEAD), joint=(0.25, 0.6)), hair_tile))
    elif style == "ponytail":
        tail = [(0.80 * h, 0.012, 0.012, 0, -0.135), (0.87 * h, 0.034, 0.030, 0, -0.145), (0.95 * h, 0.030, 0.030, 0, -0.115),
                (0.965 * h, 0.02, 0.02, 0, -0.09)]  # fmt: skip
        parts.append((loft(tail, (HEAD, HEAD)), hair_tile))
    elif style == "bun":
        parts.append((ball((0, skull[1] + 0.085 * k, -0.095), (0.050, 0.046, 0.046), HEAD), hair_tile))

    # Arms and hands.
    keypoints = rest_keypoints(build)
    contrast = cloth.second if rng.random() < 0.15 and cloth.pattern == "plain" else None
    for right in (True, False):
        arm = cloth.paint(0.30, 0.52)
        if contrast is not None:
            arm[:] = contrast
        if upper == "vest":
            arm = inner.paint(0.30, 0.52)
        if sleeve_end == 0 and upper in ("jacket", "hoodie"):
            arm[_V < 0.07] = 0.7 * cloth.colour
        arm[sleeve_end > _V] = skin
        parts.append((_arm(build, right, sleeve, sleeve_end), arm))
        wrist = keypoints[4 if right else 7]
        hand = ball(
            (wrist[0], wrist[1] - 0.065, wrist[2] + 0.008),
            (0.026, 0.085, 0.044),
            R_FOREARM if right else L_FOREARM,
        )
        parts.append((hand, _flat(skin)))

    # Legs and feet.
    shoe = _pick(rng, _SHOES)
    boots = rng.random() < (0.25 if woman else 0.08)
    loose = {"trousers": rng.uniform(0.004, 0.020), "shorts": 0.022}.get(lower, 0.0)
    leg_end = {"shorts": rng.uniform(0.52, 0.62), "skirt": 2.0, "dress": 2.0}.get(lower, 0.0)
    tights = lower in ("skirt", "dress") and rng.random() < 0.45
    for right in (True, False):
        leg = legwear.paint(0.45, 0.85)
        if lower == "trousers" and legwear.pattern == "plain":
            leg *= (1 - 0.12 * (np.abs(np.abs(_ANGLE) - 1.57) < 0.12))[..., None]  # seams
        leg[leg_end > _V] = np.array([40, 38, 42]) if tights else skin
        if boots:
            leg[_V < 0.26] = shoe
        elif lower == "shorts":
            leg[_V < 0.07] = (220, 220, 218)  # socks
        parts.append((_leg(build, right, loose, leg_end), leg))
        foot = _flat(shoe)
        sole = np.abs(_ANGLE) > 2.2
        foot[sole] = 0.5 * shoe + (110 if shoe.mean() > 90 else 10)
        parts.append((_foot(build, right, 0.006), foot))
    if lower in ("skirt", "dress"):
        hem = rng.uniform(0.24, 0.38)
        skirt = legwear.paint(1.0, 0.5)
        skirt *= (1 + 0.10 * np.sin(_U * 2 * np.pi * 9))[..., None] if rng.random() < 0.5 else 1  # pleats
        parts.append((_skirt(build, 0.59, hem, rng.uniform(0.012, 0.05), 0.012), skirt))
    if upper == "coat":
        hem = rng.uniform(0.26, 0.40)
        coat = cloth.paint(1.0, 0.6)
        if opened:
            gap = np.abs(_ANGLE) < 0.5 - 0.1 * _V
            coat[gap] = legwear.paint(1.0, 0.6)[gap] * 0.85
        else:
            coat[np.abs(_ANGLE) < 0.07] = 0.55 * cloth.colour
        coat[_V < 0.04] *= 0.7
        parts.append((_skirt(build, 0.585, hem, 0.045, 0.022), coat))
    elif upper in ("jacket", "hoodie", "vest"):
        hem = cloth.paint(1.0, 0.2)
        if opened:
            gap = np.abs(_ANGLE) < 0.5
            hem[gap] = inner.paint(1.0, 0.2)[gap]
        hem[_V < 0.25] *= 0.75
        parts.append((_skirt(build, 0.585, 0.515, 0.02, 0.016), hem))
    if upper == "hoodie":
        hood = loft(
            [
                (0.80 * h, 0.10, 0.04, 0, -build.depth - 0.01),
                (0.83 * h, 0.115, 0.065, 0, -0.075),
                (0.865 * h, 0.10, 0.075, 0, -0.03),
            ],
            (CHEST, CHEST),
        )
        parts.append((hood, _flat(cloth.colour * 0.85)))

    # Bags.
    bag_tile = _flat(bag_colour)
    if bag == "backpack":
        bag_tile[(_V > 0.10) & (_V < 0.48) & (np.abs(_ANGLE) > 2.0)] = 0.75 * bag_colour
        bag_tile[np.abs(_V - 0.5) < 0.03] = 0.45 * bag_colour
        bag_tile[(np.abs(_V - 0.75) < 0.05) & (np.abs(_ANGLE) > 2.7)] = np.minimum(bag_colour + 110, 240)
        size = rng.uniform(0.85, 1.15)
        z = -build.depth - puff - 0.065
        sack = [(0.80 * h - 0.36 * size, 0.13, 0.055), (0.80 * h - 0.30 * size, 0.155, 0.085), (0.80 * h - 0.1, 0.150, 0.075),
                (0.80 * h, 0.125, 0.055), (0.815 * h, 0.07, 0.03)]  # fmt: skip
        knots = [(y, a * size, d, 0.0, z) for y, a, d in sack]
        parts.append((loft(knots, (CHEST, CHEST), square=0.6), bag_tile))
    elif bag == "shoulder bag":
        bag_tile[_V > 0.62] = 0.75 * bag_colour
        x = way * (build.hip + 0.065)
        knots = [
            (0.465 * h, 0.045, 0.13, x, -0.02),
            (0.52 * h, 0.055, 0.15, x, -0.02),
            (0.585 * h, 0.035, 0.13, x, -0.02),
        ]
        parts.append((loft(knots, (PELVIS, PELVIS), square=0.6), bag_tile))
    elif bag == "handbag":
        wrist = keypoints[4 if bag_right else 7]
        knots = [(wrist[1] - 0.40, 0.045, 0.14, wrist[0], 0.0), (wrist[1] - 0.22, 0.045, 0.15, wrist[0], 0.0),
                 (wrist[1] - 0.17, 0.02, 0.11, wrist[0], 0.0), (wrist[1] - 0.09, 0.008, 0.03, wrist[0], 0.0)]  # fmt: skip
        bone = R_HAND if bag_right else L_HAND
        parts.append((loft(knots, (bone, bone), square=0.6), bag_tile))

    tiles = np.stack([tile for _, tile in parts])
    weave = rng.normal(0, 1, (len(parts), TILE // 8, TILE // 8)).repeat(8, 1).repeat(8, 2)
    tiles = tiles * (1 + 0.03 * weave[..., None])
    texture = np.clip(tiles, 0, 255).astype(np.uint8).reshape(-1, TILE, 3)
    return Person(build, stack([part for part, _ in parts]), texture, ", ".join(names))
