"""Identities: build, hair, clothes, shoes and bags, as surfaces with a painted texture."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from common.seeding import make_rng
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
from pipeline.world.cloth import (
    ANGLE,
    BAGS,
    FRONT,
    HAIR,
    INNER,
    LOWER,
    SHOES,
    SKIN,
    TILE,
    UPPER,
    Cloth,
    Colour,
    U,
    V,
    add_print,
    flat,
    pick,
    sample_cloth,
)

Part = tuple[Loft, np.ndarray]  # a surface and its tile [TILE, TILE, 3]

# Upper clothes: share, how far they stand off the trunk and off the arm in metres, share with a pattern.
_UPPER_WEAR = {
    "t-shirt": (0.34, 0.0, 0.012, 0.38),
    "shirt": (0.16, 0.004, 0.010, 0.45),
    "jacket": (0.20, 0.018, 0.020, 0.14),
    "hoodie": (0.14, 0.016, 0.018, 0.20),
    "coat": (0.11, 0.018, 0.020, 0.14),
    "vest": (0.05, 0.018, 0.008, 0.14),
}
_OPENS = ("jacket", "coat", "vest")
_SHOWS_NECK = ("t-shirt", "shirt")


@dataclass(frozen=True, eq=False)
class Person:
    """One identity, ready to be posed and drawn."""

    build: Build
    surface: Surface
    texture: np.ndarray  # uint8 [P * TILE, TILE, 3]: the parts' tiles one below the other, first ring on top
    description: str


@dataclass(frozen=True, eq=False)
class _Outfit:
    upper: str
    lower: str
    cloth: Cloth
    inner: Cloth  # under an open jacket
    legwear: Cloth
    puff: float  # metres that the upper clothes stand off the trunk
    sleeve: float  # and off the arm
    sleeve_end: float  # 0 at the wrist, 1 at the shoulder


@dataclass(frozen=True, eq=False)
class _Bag:
    kind: str
    colour: Colour
    right: bool  # the person's side on which it hangs


# --- shapes ---


def _build(rng: np.random.Generator, woman: bool) -> Build:
    """Draw the proportions of a body."""
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


def _torso(build: Build, puff: float) -> Loft:
    """Return hips, waist and chest in clothes that stand ``puff`` metres off."""
    h, b = build.height, build
    rows = [  # height in body heights, half width, half depth, z of the middle
        (0.46, 0.70 * b.hip, 0.080, 0.0), (0.50, b.hip, 0.112, -0.008), (0.54, b.hip, 0.116, -0.008),
        (0.58, 0.45 * b.hip + 0.55 * b.waist, 0.102, 0.0), (0.62, b.waist, 0.094, 0.004),
        (0.66, 0.6 * b.waist + 0.4 * b.chest, 0.096, 0.006), (0.70, b.chest, b.depth, 0.004 + 0.6 * b.bust),
        (0.74, b.chest, b.depth, 0.7 * b.bust),
        (0.78, 0.94 * b.shoulder, 0.92 * b.depth, 0.1 * b.bust - 0.004),
        (0.81, 0.82 * b.shoulder, 0.75 * b.depth, -0.008), (0.835, 0.42 * b.shoulder, 0.070, -0.010),
        (0.852, 0.055, 0.056, -0.006),
    ]  # fmt: skip
    knots = [(y * h, a + puff, d + puff, 0.0, z) for y, a, d, z in rows]
    return loft(knots, (PELVIS, CHEST), joint=(0.28, 0.5))


def _arm(build: Build, right: bool, sleeve: float, end: float) -> Loft:
    """Return an arm in a sleeve ``sleeve`` metres thick that ends at ``end``: 0 the wrist, 1 the shoulder."""
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
    """Return a leg in cloth ``cloth`` metres thick that ends at ``end``: 0 the ankle, 1 the hip."""
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
    """Return a shoe whose sole is ``tall`` metres thick."""
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
    """Return a skirt or the lower part of a coat from ``top`` to ``hem``, both in body heights."""
    h = build.height
    at = np.linspace(hem, top, 7)
    waist = (at > 0.57)[:, None] * np.array([0.45 * build.hip + 0.55 * build.waist, 0.104])
    hips = (at <= 0.57)[:, None] * np.array([build.hip, 0.120])
    size = waist + hips + puff
    knots = [(y * h, a, d, 0.0, -0.004) for y, (a, d) in zip(at, size, strict=True)]
    return loft(knots, (PELVIS, PELVIS), flare=clearance)


def _face(
    rng: np.random.Generator, skin: Colour, hair: Colour, bald: bool, beard: bool, glasses: bool
) -> np.ndarray:
    """Paint a face and the hair around it on the tile of a head."""
    tile = flat(skin)
    # The ball's rows are spaced by angle: 0 is the chin's underside, 0.5 the ears' height.
    tile[(V < 0.24) & ~FRONT] = 0.85 * skin
    hairline = np.where(np.abs(ANGLE) < 1.15, 0.74, np.where(np.abs(ANGLE) < 1.8, 0.50, 0.30))
    if not bald:
        tile[hairline < V] = hair
    side = np.abs(ANGLE)
    if beard:
        tile[(side < 1.3) & (V > 0.16) & (V < 0.40)] = 0.35 * skin + 0.65 * hair
    tile[(side < 0.30) & (np.abs(V - 0.315) < 0.022)] = 0.45 * skin + 0.55 * np.array([150, 40, 44])
    tile[(side > 0.16) & (side < 0.62) & (np.abs(V - 0.535) < 0.040)] = 0.25 * skin + 8
    tile[(side > 0.12) & (side < 0.66) & (np.abs(V - 0.615) < 0.018)] = 0.5 * skin + 0.5 * np.minimum(
        hair, skin
    )
    if glasses:
        tile[(side < 1.5) & (np.abs(V - 0.535) < 0.05)] = rng.uniform(15, 45)
    tile[(np.abs(side - 1.62) < 0.16) & (V > 0.40) & (V < 0.56)] = 0.86 * skin
    return tile


# --- what they wear ---


def _outfit(rng: np.random.Generator, woman: bool) -> _Outfit:
    """Draw which clothes a person wears, and their fabrics."""
    share = [entry[0] for entry in _UPPER_WEAR.values()]
    upper = str(rng.choice(list(_UPPER_WEAR), p=share))
    if woman and rng.random() < 0.13:
        upper, lower = "t-shirt", "dress"
    elif woman:
        lower = str(rng.choice(["trousers", "leggings", "skirt", "shorts"], p=[0.46, 0.24, 0.17, 0.13]))
    else:
        lower = str(rng.choice(["trousers", "shorts"], p=[0.80, 0.20]))
    if upper == "coat" and lower == "shorts":
        lower = "trousers"
    _, puff, sleeve, patterned = _UPPER_WEAR[upper]
    cloth = sample_cloth(rng, UPPER, patterned)
    inner = sample_cloth(rng, INNER, 0.15)
    legwear = cloth if lower == "dress" else sample_cloth(rng, LOWER, 0.3 if lower == "skirt" else 0.10)
    sleeve_end = float(rng.uniform(0.62, 0.76)) if upper == "t-shirt" else 0.0
    if upper == "shirt" and rng.random() < 0.3:
        sleeve_end = 0.48  # rolled up
    return _Outfit(upper, lower, cloth, inner, legwear, puff, sleeve, sleeve_end)


def _paint_torso(rng: np.random.Generator, outfit: _Outfit, skin: Colour) -> tuple[np.ndarray, bool]:
    """Return the torso's tile and whether the upper clothes are worn open."""
    upper, cloth = outfit.upper, outfit.cloth
    plain = cloth.pattern == "plain"
    tile = cloth.paint(0.95, 0.68)
    if rng.random() < 0.22 and plain:  # a yoke of another colour
        tile[rng.uniform(0.62, 0.75) < V] = cloth.second
    if upper in ("t-shirt", "hoodie") and plain and rng.random() < 0.55:
        add_print(rng, tile, cloth, front=True)
    if plain and rng.random() < 0.25:
        add_print(rng, tile, cloth, front=False)
    opened = upper in _OPENS and bool(rng.random() < 0.65)
    if opened:
        gap = np.abs(ANGLE) < rng.uniform(0.35, 0.65) + 0.25 * (V - 0.5)
        tile[gap] = outfit.inner.paint(0.95, 0.68)[gap]
    elif upper in (*_OPENS, "shirt"):
        tile[np.abs(ANGLE) < 0.07] = 0.55 * cloth.colour  # zip or buttons
    if upper == "hoodie":
        tile[(np.abs(ANGLE) < 0.7) & (V > 0.30) & (V < 0.44)] *= 0.8  # pouch
    waistline = 0.20 if upper in ("jacket", "hoodie", "vest") else 0.27
    below = waistline > V
    tile[below] = outfit.legwear.paint(0.95, 0.68)[below]
    if outfit.lower != "dress":
        tile[np.abs(V - waistline) < 0.016] = 0.5 * outfit.legwear.colour  # belt, or the hem's shadow
    if upper in _SHOWS_NECK:
        neckline, collar = 0.90 - 0.10 * np.clip(1 - np.abs(ANGLE) / 0.8, 0, 1), skin
    else:
        neckline, collar = np.full_like(V, 0.90), cloth.second if upper == "hoodie" else 0.8 * cloth.colour
    tile[neckline < V] = collar
    return tile, opened


def _sample_bag(rng: np.random.Generator) -> _Bag:
    kind = str(rng.choice(["none", "backpack", "shoulder bag", "handbag"], p=[0.42, 0.25, 0.18, 0.15]))
    return _Bag(kind, pick(rng, BAGS), bool(rng.random() < 0.5))


def _paint_straps(tile: np.ndarray, bag: _Bag) -> None:
    """Paint the straps of a bag on the torso's tile, in place."""
    if bag.kind == "backpack":
        tile[(np.abs(np.abs(ANGLE) - 0.72) < 0.14) & (V > 0.46) & (V < 0.93)] = bag.colour
    if bag.kind == "shoulder bag":  # across chest and back, from the other shoulder down to the bag
        side = -1 if bag.right else 1
        turn = np.where(FRONT, ANGLE, np.sign(ANGLE) * np.pi - ANGLE) * side
        tile[np.abs(turn - (1.25 - 3.0 * (V - 0.22))) < 0.13] = 0.8 * bag.colour


def _head(
    rng: np.random.Generator, build: Build, woman: bool, skin: Colour, hair: Colour, puff: float
) -> tuple[str, list[Part]]:
    """Return the hair style and the parts of head, neck, hair and hat."""
    if woman:
        styles = {"long": 0.46, "ponytail": 0.24, "bun": 0.10, "short": 0.12, "cap": 0.08}
    else:
        styles = {"short": 0.50, "crop": 0.18, "bald": 0.07, "cap": 0.14, "beanie": 0.06, "long": 0.05}
    style = str(rng.choice(list(styles), p=list(styles.values())))
    beard, glasses = not woman and bool(rng.random() < 0.22), bool(rng.random() < 0.15)
    h, k, skull = build.height, build.head, 0.928 * build.height
    face = _face(rng, skin, hair, style == "bald", beard, glasses)
    nose = ball((0, skull - 0.014 * k, 0.012 + 0.098 * k), (0.015, 0.026, 0.020), HEAD)
    neck = [(0.815 * h, 0.058, 0.060, 0, -0.012), (0.90 * h, 0.052, 0.056, 0, 0.0)]
    parts = [
        (ball((0, skull, 0.012), (0.082 * k, 0.122 * k, 0.100 * k), HEAD, stretch=0.28), face),
        (nose, flat(0.97 * skin)),
        (loft(neck, (CHEST, HEAD), joint=(0.3, 1.0)), flat(0.9 * skin)),
    ]
    hat = pick(rng, UPPER)
    parts += _hat(build, style, hat) if style in ("cap", "beanie") else _hair(rng, build, style, hair, puff)
    return style, parts


def _hat(build: Build, style: str, colour: Colour) -> Iterator[Part]:
    """Yield the parts of a cap or a beanie."""
    k = build.head
    tile = flat(colour)
    tile[V < 0.52] = 0.75 * colour
    y = 0.928 * build.height + 0.058 * k
    x, top, z = (0.090, 0.085, 0.108) if style == "cap" else (0.092, 0.105, 0.110)
    yield ball((0, y, 0.006), (k * x, k * top, k * z), HEAD), tile
    if style == "cap":
        brim = [
            (0.21, 0.03, 0.006, 0, y - 0.012),
            (0.17, 0.075, 0.010, 0, y),
            (0.05, 0.082, 0.012, 0, y + 0.01),
        ]
        yield loft(brim, (HEAD, HEAD), along="z"), flat(0.7 * colour)


def _hair(rng: np.random.Generator, build: Build, style: str, hair: Colour, puff: float) -> Iterator[Part]:
    """Yield the hair that stands off the head; ``puff`` is how far clothes stand off the back, metres."""
    h, k, skull = build.height, build.head, 0.928 * build.height
    strands = flat(hair) * (1 + 0.16 * np.sin(U * 2 * np.pi * 11 + 3 * np.sin(5 * V)))[..., None]
    if style not in ("bald", "crop"):
        # A shell behind the face: a little larger than the skull and further back.
        yield ball((0, skull + 0.030 * k, -0.012), (0.090 * k, 0.110 * k, 0.104 * k), HEAD), strands
    if style == "long":
        tip = rng.uniform(0.70, 0.83)
        back = -build.depth - puff - 0.012
        curtain = [
            (tip * h, 0.085, 0.030, 0, back),
            (0.82 * h, 0.100, 0.045, 0, 0.65 * back),
            (0.87 * h, 0.100, 0.068, 0, -0.045),
            (0.93 * h, 0.095 * k, 0.085, 0, -0.030),
            (0.97 * h, 0.070, 0.070, 0, -0.020),
        ]
        yield loft(curtain, (CHEST, HEAD), joint=(0.25, 0.6)), strands
    elif style == "ponytail":
        tail = [
            (0.80 * h, 0.012, 0.012, 0, -0.135),
            (0.87 * h, 0.034, 0.030, 0, -0.145),
            (0.95 * h, 0.030, 0.030, 0, -0.115),
            (0.965 * h, 0.020, 0.020, 0, -0.090),
        ]
        yield loft(tail, (HEAD, HEAD)), strands
    elif style == "bun":
        yield ball((0, skull + 0.085 * k, -0.095), (0.050, 0.046, 0.046), HEAD), strands


def _arms(rng: np.random.Generator, build: Build, outfit: _Outfit, skin: Colour) -> Iterator[Part]:
    """Yield arms in their sleeves, and hands."""
    cloth, end = outfit.cloth, outfit.sleeve_end
    contrast = rng.random() < 0.15 and cloth.pattern == "plain"
    keypoints = rest_keypoints(build)
    for right in (True, False):
        tile = (outfit.inner if outfit.upper == "vest" else cloth).paint(0.30, 0.52)
        if contrast and outfit.upper != "vest":
            tile = flat(cloth.second)
        if end == 0 and outfit.upper in ("jacket", "hoodie"):
            tile[V < 0.07] = 0.7 * cloth.colour  # cuff
        tile[end > V] = skin
        yield _arm(build, right, outfit.sleeve, end), tile
        x, y, z = keypoints[4 if right else 7]
        forearm = R_FOREARM if right else L_FOREARM
        yield ball((x, y - 0.065, z + 0.008), (0.026, 0.085, 0.044), forearm), flat(skin)


def _legs(
    rng: np.random.Generator, build: Build, outfit: _Outfit, skin: Colour, woman: bool
) -> Iterator[Part]:
    """Yield legs in what covers them, and shoes."""
    lower, legwear = outfit.lower, outfit.legwear
    shoe = pick(rng, SHOES)
    boots = rng.random() < (0.25 if woman else 0.08)
    loose = {"trousers": rng.uniform(0.004, 0.020), "shorts": 0.022}.get(lower, 0.0)
    end = {"shorts": rng.uniform(0.52, 0.62), "skirt": 2.0, "dress": 2.0}.get(lower, 0.0)
    tights = lower in ("skirt", "dress") and rng.random() < 0.45
    for right in (True, False):
        tile = legwear.paint(0.45, 0.85)
        if lower == "trousers" and legwear.pattern == "plain":
            tile *= (1 - 0.12 * (np.abs(np.abs(ANGLE) - 1.57) < 0.12))[..., None]  # seams
        covered = tile[V > 0.70]
        tile[end > V] = np.array([40, 38, 42]) if tights else skin
        if lower in ("skirt", "dress"):
            # Under every skirt: a thigh that comes near the cloth must not shine through.
            tile[V > 0.70] = covered
        if boots:
            tile[V < 0.26] = shoe
        elif lower == "shorts":
            tile[V < 0.07] = (220, 220, 218)  # socks
        yield _leg(build, right, loose, end), tile
        foot = flat(shoe)
        foot[np.abs(ANGLE) > 2.2] = 0.5 * shoe + (110 if shoe.mean() > 90 else 10)  # sole
        yield _foot(build, right, 0.006), foot


def _hems(rng: np.random.Generator, build: Build, outfit: _Outfit, opened: bool) -> Iterator[Part]:
    """Yield what hangs around the hips, and a hood."""
    upper, cloth, legwear, h = outfit.upper, outfit.cloth, outfit.legwear, build.height
    if outfit.lower in ("skirt", "dress"):
        hem = rng.uniform(0.24, 0.38)
        skirt = legwear.paint(1.0, 0.5)
        if rng.random() < 0.5:  # pleats
            skirt *= (1 + 0.10 * np.sin(U * 2 * np.pi * 9))[..., None]
        yield _skirt(build, 0.59, hem, rng.uniform(0.020, 0.05), 0.012), skirt
    if upper == "coat":
        hem = rng.uniform(0.26, 0.40)
        coat = cloth.paint(1.0, 0.6)
        if opened:
            gap = np.abs(ANGLE) < 0.5 - 0.1 * V
            coat[gap] = 0.85 * legwear.paint(1.0, 0.6)[gap]
        else:
            coat[np.abs(ANGLE) < 0.07] = 0.55 * cloth.colour
        coat[V < 0.04] *= 0.7
        yield _skirt(build, 0.585, hem, 0.045, 0.022), coat
    elif upper in ("jacket", "hoodie", "vest"):
        rim = cloth.paint(1.0, 0.2)
        if opened:
            gap = np.abs(ANGLE) < 0.5
            rim[gap] = outfit.inner.paint(1.0, 0.2)[gap]
        rim[V < 0.25] *= 0.75
        yield _skirt(build, 0.585, 0.515, 0.02, 0.016), rim
    if upper == "hoodie":
        hood = [
            (0.80 * h, 0.10, 0.04, 0, -build.depth - 0.01),
            (0.83 * h, 0.115, 0.065, 0, -0.075),
            (0.865 * h, 0.10, 0.075, 0, -0.03),
        ]
        yield loft(hood, (CHEST, CHEST)), flat(0.85 * cloth.colour)


def _carried(rng: np.random.Generator, build: Build, outfit: _Outfit, bag: _Bag) -> Iterator[Part]:
    """Yield the bag, if there is one."""
    h, tile = build.height, flat(bag.colour)
    if bag.kind == "backpack":
        tile[(V > 0.10) & (V < 0.48) & (np.abs(ANGLE) > 2.0)] = 0.75 * bag.colour  # front pocket
        tile[np.abs(V - 0.5) < 0.03] = 0.45 * bag.colour  # zip
        tile[(np.abs(V - 0.75) < 0.05) & (np.abs(ANGLE) > 2.7)] = np.minimum(bag.colour + 110, 240)  # label
        size = rng.uniform(0.85, 1.15)
        z = -build.depth - outfit.puff - 0.065
        sack = [
            (0.80 * h - 0.36 * size, 0.130 * size, 0.055, 0.0, z),
            (0.80 * h - 0.30 * size, 0.155 * size, 0.085, 0.0, z),
            (0.80 * h - 0.10, 0.150 * size, 0.075, 0.0, z),
            (0.80 * h, 0.125 * size, 0.055, 0.0, z),
            (0.815 * h, 0.070 * size, 0.030, 0.0, z),
        ]
        yield loft(sack, (CHEST, CHEST), square=0.6), tile
    elif bag.kind == "shoulder bag":
        tile[V > 0.62] = 0.75 * bag.colour  # flap
        x = (build.hip + 0.065) * (-1 if bag.right else 1)
        sack = [
            (0.465 * h, 0.045, 0.13, x, -0.02),
            (0.52 * h, 0.055, 0.15, x, -0.02),
            (0.585 * h, 0.035, 0.13, x, -0.02),
        ]
        yield loft(sack, (PELVIS, PELVIS), square=0.6), tile
    elif bag.kind == "handbag":
        x, y, _ = rest_keypoints(build)[4 if bag.right else 7]
        sack = [
            (y - 0.40, 0.045, 0.14, x, 0.0),
            (y - 0.22, 0.045, 0.15, x, 0.0),
            (y - 0.17, 0.020, 0.11, x, 0.0),
            (y - 0.09, 0.008, 0.03, x, 0.0),
        ]
        hand = R_HAND if bag.right else L_HAND
        yield loft(sack, (hand, hand), square=0.6), tile


@lru_cache(maxsize=64)
def sample_person(seed: int, purpose: str, index: int) -> Person:
    """Draw an identity; equal arguments give the same person, different purposes give different people.

    Args:
        seed: Seed of the world.
        purpose: For example ``"train"``, ``"test"`` or ``"foundation"``.
        index: Number of the identity within the purpose.
    """
    # Who they are and what they wear, then the parts one after the other.
    rng = make_rng(seed, f"{purpose}/person", index)
    woman = bool(rng.random() < 0.48)
    build = _build(rng, woman)
    skin, hair = pick(rng, SKIN, 3), pick(rng, HAIR, 3)
    outfit = _outfit(rng, woman)
    torso, opened = _paint_torso(rng, outfit, skin)
    bag = _sample_bag(rng)
    _paint_straps(torso, bag)
    style, head = _head(rng, build, woman, skin, hair, outfit.puff)
    parts = [
        (_torso(build, outfit.puff), torso),
        *head,
        *_arms(rng, build, outfit, skin),
        *_legs(rng, build, outfit, skin, woman),
        *_hems(rng, build, outfit, opened),
        *_carried(rng, build, outfit, bag),
    ]

    # Uneven cloth: blocks of 8 x 8 texels, a little lighter or darker.
    weave = rng.normal(0, 1, (len(parts), TILE // 8, TILE // 8)).repeat(8, 1).repeat(8, 2)
    tiles = np.stack([tile for _, tile in parts]) * (1 + 0.03 * weave[..., None])
    texture = np.clip(tiles, 0, 255).astype(np.uint8).reshape(-1, TILE, 3)
    names = (outfit.upper, outfit.cloth.pattern, outfit.lower, outfit.legwear.pattern, style, bag.kind)
    return Person(build, stack([part for part, _ in parts]), texture, ", ".join(names))
