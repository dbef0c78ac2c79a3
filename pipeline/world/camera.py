"""Cameras: where they stand, how they are lit, what lies behind, and how their colours and lens distort."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from common.seeding import make_rng

# Scenery is painted at this many rows per image height, and three times as wide: room for each shot's offset.
SCENE_HEIGHT, SCENE_WIDTH = 192, 288
_SURFACES = np.array(  # RGB of walls and grounds
    [
        (150, 146, 140), (118, 120, 124), (176, 168, 152), (98, 92, 88), (148, 110, 90), (92, 110, 88),
        (196, 194, 190),
    ]
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Camera:
    """One camera; everything that all of its shots share."""

    pitch: float  # radians, looking down
    roll: float  # radians
    distance: float  # metres to the person
    sun: np.ndarray  # [3], unit vector towards the light; the camera looks along -z
    sun_colour: np.ndarray  # [3]
    sky_colour: np.ndarray  # [3], of the light from all around
    scene: np.ndarray  # uint8 [SCENE_HEIGHT, SCENE_WIDTH, 3]
    colour: np.ndarray  # [3, 3] mixes the channels
    curve: np.ndarray  # uint8 [1, 256, 3]: tone curve of each channel
    vignette: float  # how much darker the corners are, 0..1
    blur: float  # standard deviation in pixels of an image 128 high
    noise: float  # standard deviation in grey levels
    shadow: float  # darkness of the shadow on the ground, 0..1
    zoom: float  # its detector's boxes: box height over person height
    aim: tuple[float, float]  # its detector's usual offset, in box heights


def _scene(rng: np.random.Generator) -> np.ndarray:
    """Paint what a camera sees behind people: wall, ground and things that stand there.

    Returns:
        uint8 [SCENE_HEIGHT, SCENE_WIDTH, 3], RGB.
    """
    # Two areas that meet at the row `base`, each a little lighter towards its lower edge.
    h, w = SCENE_HEIGHT, SCENE_WIDTH
    wall = _SURFACES[rng.integers(len(_SURFACES))] * rng.uniform(0.55, 1.15)
    ground = _SURFACES[rng.choice([0, 1, 2, 3, 5])] * rng.uniform(0.6, 1.15)
    base = int(h * rng.uniform(0.18, 0.72))
    rows = np.arange(h)[:, None, None]
    image = np.where(rows < base, wall * (0.85 + 0.25 * rows / h), ground * (0.8 + 0.35 * (rows - base) / h))
    image = np.ascontiguousarray(np.broadcast_to(image, (h, w, 3)), np.float32)
    _paint_wall(rng, image, wall, base)
    _paint_ground(rng, image, ground, base)
    cv2.line(image, (0, base), (w, base), _tint(rng, wall, 0.4, 0.7), 2)
    _paint_things(rng, image, wall, ground, base)

    # Grain of the surfaces, brightness of the whole, and a lens that is focused on people.
    grain = rng.normal(0, 1, (h // 2, w // 2, 1)).astype(np.float32)
    image *= 1 + 0.045 * cv2.resize(grain, (w, h), interpolation=cv2.INTER_LINEAR)[..., None]
    image *= np.float32(np.clip(150 / image.mean(), 0.7, 1.5)) * np.float32(rng.uniform(0.55, 1.15))
    return np.clip(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.2)), 0, 255).astype(np.uint8)


def _tint(
    rng: np.random.Generator, colour: np.ndarray, low: float, high: float
) -> tuple[float, float, float]:
    """Draw a brightness between ``low`` and ``high`` times that of a colour [3]."""
    r, g, b = np.clip(colour * rng.uniform(low, high), 0, 255)
    return float(r), float(g), float(b)


def _paint_wall(rng: np.random.Generator, image: np.ndarray, wall: np.ndarray, base: int) -> None:
    """Paint bricks, panels, windows, foliage or a fence above the row ``base``, in place."""
    h, w = image.shape[:2]
    kind = rng.integers(5)
    if kind == 0:  # bricks
        step = int(rng.integers(8, 16))
        for row, y in enumerate(range(base, -step, -step)):
            cv2.line(image, (0, y), (w, y), _tint(rng, wall, 0.7, 0.8), 1)
            for x in range((row % 2) * step, w, 2 * step):
                cv2.line(image, (x, y - step), (x, y), _tint(rng, wall, 0.7, 0.8), 1)
    elif kind == 1:  # panels
        step = int(rng.integers(24, 50))
        for x in range(int(rng.integers(step)), w, step):
            cv2.rectangle(image, (x, 0), (x + step // 2, base - 4), _tint(rng, wall, 0.5, 1.4), -1)
            cv2.line(image, (x, 0), (x, base), _tint(rng, wall, 0.5, 0.6), 2)
    elif kind == 2:  # windows
        size = int(rng.integers(22, 40))
        for x in range(int(rng.integers(size)), w, int(size * 1.7)):
            for y in range(base - 2 * size, -size, -int(1.5 * size)):
                glass = np.array([70, 84, 100]) * rng.uniform(0.6, 1.7)
                cv2.rectangle(image, (x, y), (x + size, y + size), _tint(rng, wall, 1.15, 1.3), 3)
                cv2.rectangle(image, (x, y), (x + size, y + size), _tint(rng, glass, 0.9, 1.1), -1)
                middle = x + size // 2
                cv2.line(image, (middle, y), (middle, y + size), _tint(rng, wall, 1.1, 1.2), 1)
    elif kind == 3:  # foliage
        leaves = cv2.resize(
            rng.uniform(0.45, 1.25, (24, 48, 1)).astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC
        )
        image[:base] = np.array([70, 98, 56]) * leaves[:base, :, None]
    else:  # a fence
        for x in range(int(rng.integers(10)), w, int(rng.integers(9, 18))):
            cv2.line(image, (x, int(0.45 * base)), (x, base), _tint(rng, wall, 0.45, 0.6), 2)
        cv2.line(image, (0, int(0.45 * base)), (w, int(0.45 * base)), _tint(rng, wall, 0.4, 0.6), 3)


def _paint_ground(rng: np.random.Generator, image: np.ndarray, ground: np.ndarray, base: int) -> None:
    """Paint joints of a pavement, or a kerb or road marking, below the row ``base``, in place."""
    h, w = image.shape[:2]
    vanish = (float(rng.uniform(-0.3, 1.3) * w), base - h * rng.uniform(0.1, 0.9))
    if rng.random() < 0.65:
        # Joints that run towards the vanishing point, without those parts that would cross the wall.
        wall_rows = image[:base].copy()
        for start in np.arange(-2 * w, 3 * w, rng.uniform(26, 60)):
            end = (int(vanish[0] + 0.02 * (start - vanish[0])), int(vanish[1]))
            cv2.line(image, (int(start), h), end, _tint(rng, ground, 0.78, 0.88), 1)
        image[:base] = wall_rows
        # Joints across, the closer together the farther away.
        for t in np.linspace(0.08, 1, int(rng.integers(4, 9))) ** 1.6:
            y = int(base + t * (h - base))
            cv2.line(image, (0, y), (w, y), _tint(rng, ground, 0.78, 0.88), 1)
    else:
        y = int(base + 0.3 * (h - base))
        slant = int(rng.normal(0, 12))
        colour = _tint(rng, ground, 1.3, 1.7)
        cv2.line(image, (0, y - slant), (w, y + slant), colour, int(rng.integers(2, 7)))


def _paint_things(
    rng: np.random.Generator, image: np.ndarray, wall: np.ndarray, ground: np.ndarray, base: int
) -> None:
    """Paint a few poles, doors, posters and bins or parked cars, in place."""
    w = image.shape[1]
    for _ in range(int(rng.integers(3, 8))):
        x, colour = int(rng.integers(w)), rng.uniform(30, 200) + rng.normal(0, 25, 3)
        thing = rng.integers(4)
        if thing == 0:  # a pole
            corner = (x + int(rng.integers(3, 9)), base + int(rng.integers(3, 20)))
            cv2.rectangle(image, (x, 0), corner, _tint(rng, colour * 0.3 + 70, 0.6, 1.2), -1)
        elif thing == 1:  # a door
            top, right = base - int(rng.integers(50, 95)), x + int(rng.integers(22, 40))
            cv2.rectangle(image, (x, top), (right, base), _tint(rng, wall, 0.4, 0.75), -1)
        elif thing == 2:  # a poster
            y, s = int(rng.integers(0, max(base - 20, 1))), int(rng.integers(12, 34))
            cv2.rectangle(image, (x, y), (x + s, y + int(0.8 * s)), _tint(rng, colour, 0.9, 1.1), -1)
        else:  # a bin or a car, with its shadow
            y, s = base + int(rng.integers(0, 16)), int(rng.integers(14, 44))
            cv2.rectangle(image, (x, y - s // 2), (x + s, y), _tint(rng, colour * 0.6, 0.8, 1.1), -1)
            shadow = _tint(rng, ground, 0.4, 0.5)
            cv2.ellipse(image, (x + s // 2, y), (s // 2, 3), 0, 0, 360, shadow, -1)


@lru_cache(maxsize=256)
def sample_camera(seed: int, purpose: str, index: int, strength: float) -> Camera:
    """Draw a camera; equal arguments give the same camera.

    Args:
        seed: Seed of the world.
        purpose: The set of cameras, for example ``"world"`` or ``"foundation"``.
        index: Number of the camera within the set.
        strength: How much of its colour response, tone curve and noise it keeps: 0 makes it neutral.
            Light, scenery, blur and viewpoint do not depend on it.
    """
    # Light: a sun above the horizon and a sky; the brighter the one, the darker the other.
    rng = make_rng(seed, f"{purpose}/camera", index)
    azimuth, elevation = rng.uniform(-np.pi, np.pi), rng.uniform(0.35, 1.2)
    sun = np.array(
        [np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)]
    )
    warmth = rng.normal(0, 0.10)
    glare = rng.uniform(0.25, 0.80)  # 0 overcast, 1 bright sun
    tint = np.array([1 + warmth, 1.0, 1 - warmth])

    # Colour response: white balance, hue shift, saturation.
    gain = np.exp(rng.normal(0, 0.10, 3)) * np.exp(rng.normal(0, 0.15))
    saturation, hue = rng.uniform(0.40, 1.25), rng.normal(0, 0.12)
    grey = np.full((3, 3), 1 / 3)
    axis = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    rotation = np.eye(3) * np.cos(hue) + np.sin(hue) * axis + (1 - np.cos(hue)) * grey
    colour = np.diag(gain) @ (saturation * rotation + (1 - saturation) * grey)
    colour = np.eye(3) + strength * (colour - np.eye(3))

    # Tone curve of each channel: haze, contrast and gamma.
    level = np.arange(256) / 255
    contrast, haze = rng.uniform(0.62, 1.25), rng.uniform(0, 0.16)
    gamma = np.exp(rng.normal(0, 0.22)) * np.exp(rng.normal(0, 0.05, 3))
    curve = np.clip(haze + (1 - haze) * (0.45 + contrast * (level[:, None] ** gamma - 0.45)), 0, 1)
    curve = level[:, None] + strength * (curve - level[:, None])
    return Camera(
        pitch=rng.uniform(0.0, 0.52),
        roll=rng.normal(0, 0.035),
        distance=rng.uniform(3.5, 12),
        sun=sun,
        sun_colour=glare * tint,
        sky_colour=(1.02 - 0.62 * glare) * (2 - tint),
        scene=_scene(rng),
        colour=colour.astype(np.float32),
        curve=(255 * curve).astype(np.uint8)[None],
        vignette=rng.uniform(0, 0.25),
        blur=rng.uniform(0.15, 0.95),
        noise=strength * rng.uniform(1.5, 8.0),
        shadow=rng.uniform(0.1, 0.55),
        zoom=rng.uniform(1.01, 1.12),
        aim=(rng.normal(0, 0.012), rng.normal(0, 0.012)),
    )


@dataclass(frozen=True)
class View:
    """What differs between two shots of one camera, apart from who stands there and how."""

    zoom: float  # factor on the camera's box height
    shift: tuple[float, float]  # right and down, in box heights
    scene: tuple[float, float, float]  # where the scenery is cut out (0..1, 0..1) and how far it is zoomed
    exposure: float  # factor on the light
    noise: int  # seed of the sensor noise
    # Something in front: left, width, top (shares of the box), grey level.
    pole: tuple[float, float, float, float] | None
    passer_by: int | None  # somebody else in the picture: who, and the seed of where they are


def sample_view(seed: int, purpose: str, *indices: int, loose: float = 1.0) -> View:
    """Draw the circumstances of one shot.

    Args:
        seed: Seed of the world.
        purpose: What the shot is for.
        indices: Which one.
        loose: Factor on the detector's errors; 1 for a good box, 6 or more for junk.
    """
    # Now and then something stands in front: a post of any place, or something low and broad.
    rng = make_rng(seed, f"{purpose}/view", *indices)
    pole = None
    if rng.random() < 0.05:
        if rng.random() < 0.6:
            pole = (rng.uniform(0.05, 0.85), rng.uniform(0.07, 0.16), 0.0, rng.uniform(40, 190))
        else:
            pole = (
                rng.uniform(-0.3, 0.3),
                rng.uniform(0.6, 1.4),
                rng.uniform(0.66, 0.85),
                rng.uniform(40, 170),
            )
    return View(
        zoom=float(np.exp(rng.normal(0.01, 0.03 * loose))),
        shift=(float(rng.normal(0, 0.014 * loose)), float(rng.normal(0, 0.014 * loose))),
        scene=(float(rng.random()), float(rng.random()), float(rng.uniform(0.85, 1.2))),
        exposure=float(np.exp(rng.normal(0, 0.06))),
        noise=int(rng.integers(2**31)),
        pole=pole,
        passer_by=int(rng.integers(2**20)) if rng.random() < 0.06 else None,
    )
