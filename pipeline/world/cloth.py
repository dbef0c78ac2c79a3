"""Colours and fabrics, painted as square tiles that wrap around a part of the body."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TILE = 64  # texels of one part's texture, both ways

# Texture coordinates of a tile's texels: U around the part (0.5: front), V along it from the first ring.
U, V = np.meshgrid((np.arange(TILE) + 0.5) / TILE, (np.arange(TILE) + 0.5) / TILE)
ANGLE = 2 * np.pi * (U - 0.5)  # radians from the front, + towards the person's left
FRONT = np.abs(ANGLE) < 0.5 * np.pi

Colour = np.ndarray  # [3], RGB, 0..255
Palette = Sequence[tuple[float, tuple[int, int, int]]]  # (share, colour)

# Concentrated, as street clothes are: that is what makes people hard to tell apart.
UPPER: Palette = (
    (0.24, (30, 30, 34)), (0.13, (70, 72, 78)), (0.15, (36, 44, 74)), (0.10, (132, 134, 138)),
    (0.13, (222, 222, 218)), (0.08, (68, 100, 156)), (0.05, (186, 168, 138)), (0.04, (164, 40, 44)),
    (0.03, (58, 92, 62)), (0.02, (214, 176, 66)), (0.03, (202, 140, 158)),
)  # fmt: skip
INNER: Palette = ((0.5, (222, 222, 220)), (0.3, (60, 62, 68)), (0.2, (110, 130, 160)))
LOWER: Palette = (
    (0.32, (30, 31, 36)), (0.28, (48, 60, 92)), (0.14, (84, 86, 92)), (0.10, (112, 134, 172)),
    (0.10, (172, 156, 128)), (0.03, (206, 204, 198)), (0.03, (96, 66, 52)),
)  # fmt: skip
SKIN: Palette = (
    (0.55, (226, 178, 150)),
    (0.25, (204, 150, 116)),
    (0.12, (150, 100, 74)),
    (0.08, (98, 66, 52)),
)
HAIR: Palette = (
    (0.45, (28, 24, 24)), (0.32, (66, 46, 34)), (0.10, (122, 86, 56)), (0.08, (190, 154, 98)),
    (0.05, (158, 156, 154)),
)  # fmt: skip
SHOES: Palette = (
    (0.42, (30, 30, 32)), (0.26, (218, 218, 216)), (0.14, (104, 76, 56)), (0.10, (92, 94, 100)),
    (0.08, (160, 52, 50)),
)  # fmt: skip
BAGS: Palette = (
    (0.40, (32, 32, 36)), (0.20, (48, 58, 96)), (0.14, (110, 76, 50)), (0.10, (142, 42, 44)),
    (0.16, (122, 122, 108)),
)  # fmt: skip


def pick(rng: np.random.Generator, palette: Palette, spread: float = 4) -> Colour:
    """Draw a colour; ``spread`` is its standard deviation per channel, and 2.5 times that in brightness."""
    share = np.array([entry[0] for entry in palette])
    base = np.array(palette[rng.choice(len(palette), p=share / share.sum())][1], float)
    return np.clip(base + rng.normal(0, spread, 3) + rng.normal(0, 2.5 * spread), 10, 245)


def flat(colour: Colour) -> np.ndarray:
    """Return a tile [TILE, TILE, 3] of one colour."""
    return np.broadcast_to(colour, (TILE, TILE, 3)).copy()


@dataclass(frozen=True, eq=False)
class Cloth:
    """A fabric: two colours and a pattern with its period in metres."""

    colour: Colour
    second: Colour
    pattern: str
    period: float

    def paint(self, width: float, height: float) -> np.ndarray:
        """Return the fabric as a tile [TILE, TILE, 3] for a part ``width`` m around and ``height`` m long."""
        x, y = U * width / self.period, V * height / self.period
        # A whole number of periods around the part: no seam.
        turn = U * np.round(width / self.period) % 1
        if self.pattern == "horizontal stripes":
            mark = 1.0 * ((y % 1) < 0.42)
        elif self.pattern == "vertical stripes":
            mark = 1.0 * (turn < 0.3)
        elif self.pattern == "checks":
            mark = 0.5 * ((turn < 0.45).astype(float) + ((y % 1) < 0.45))
        elif self.pattern == "spots":
            mark = 1.0 * (np.cos(2 * np.pi * x) + np.cos(2 * np.pi * y) > 0.9)
        elif self.pattern == "patches":
            waves = np.sin(2.1 * x + 1.3 * np.sin(1.7 * y)) + np.sin(2.6 * y + 1.9 * np.sin(1.3 * x + 2))
            mark = 1.0 * (waves > 0.5)
        else:
            mark = np.zeros_like(x)
        return self.colour + (self.second - self.colour) * mark[..., None]


def sample_cloth(rng: np.random.Generator, palette: Palette, patterned: float) -> Cloth:
    """Draw a fabric; ``patterned`` is the probability of a pattern."""
    colour, second = pick(rng, palette), pick(rng, UPPER)
    if np.abs(colour - second).sum() < 120:  # too alike for a pattern to be seen
        second = np.where(colour.mean() > 110, 0.35 * colour, 0.4 * colour + 140)
    names = ("horizontal stripes", "vertical stripes", "checks", "spots", "patches")
    pattern = rng.choice(names, p=(0.36, 0.12, 0.26, 0.10, 0.16)) if rng.random() < patterned else "plain"
    return Cloth(colour, second, str(pattern), rng.uniform(0.075, 0.15))


def add_print(rng: np.random.Generator, tile: np.ndarray, cloth: Cloth, front: bool) -> None:
    """Paint a print on the chest or on the back of a torso's tile, in place."""
    angle = ANGLE if front else np.where(ANGLE > 0, np.pi - ANGLE, -np.pi - ANGLE)
    width, low, high = rng.uniform(0.35, 0.85), rng.uniform(0.42, 0.56), rng.uniform(0.68, 0.80)
    inside = (np.abs(angle) < width) & (low < V) & (high > V)
    kind = rng.integers(4)
    if kind == 1:  # an ellipse
        inside = (angle / width) ** 2 + ((V - 0.5 * (low + high)) / (0.55 * (high - low))) ** 2 < 1
    elif kind == 2:  # three bars
        inside &= (((V - low) / (high - low) * 3) % 1) < 0.6
    elif kind == 3:  # a small badge on one side
        inside = (np.abs(angle - 0.55) < 0.22) & (V > 0.60) & (V < 0.70)
    tile[inside] = cloth.second if rng.random() < 0.7 else pick(rng, UPPER, 6)
