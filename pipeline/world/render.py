"""Draw a person in a stance through a camera: textured surfaces, z-buffer, light, lens and sensor."""

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from pipeline.world.body import RINGS, SEGMENTS, Stance, pose_surface
from pipeline.world.camera import SCENE_HEIGHT, SCENE_WIDTH, Camera, View
from pipeline.world.cloth import TILE
from pipeline.world.person import Person

SUPERSAMPLING = 2  # samples per pixel, both ways
FAR = 100.0  # metres; depth of pixels where nobody is

# How far behind the drawn surface a keypoint may lie and still be seen, in metres: joints lie inside limbs.
_TOLERANCE = np.array(
    [
        0.04,
        0.13,
        0.13,
        0.10,
        0.09,
        0.13,
        0.10,
        0.09,
        0.19,
        0.13,
        0.10,
        0.19,
        0.13,
        0.10,
        0.03,
        0.03,
        0.04,
        0.04,
    ]
)


class Rendering(NamedTuple):
    """One photo and what is known about it."""

    image: np.ndarray  # uint8 [height, width, 3], RGB
    keypoints: (
        np.ndarray
    )  # float32 [18, 3]: x, y in pixels (centres at integers), score 1 visible, else all 0
    mask: np.ndarray  # bool [height, width]: the person, where nothing hides them


class _Layer(NamedTuple):
    colour: np.ndarray  # float32 [h, w, 3], at SUPERSAMPLING resolution
    depth: np.ndarray  # float32 [h, w], metres


@lru_cache(maxsize=64)
def _triangles(parts: int) -> np.ndarray:
    """Return the corner indices [T, 3] of the triangles of ``parts`` lofts."""
    corner = np.arange(parts * RINGS * (SEGMENTS + 1), dtype=np.int32).reshape(parts, RINGS, SEGMENTS + 1)
    a, b, c, d = corner[:, :-1, :-1], corner[:, :-1, 1:], corner[:, 1:, :-1], corner[:, 1:, 1:]
    return np.ascontiguousarray(
        np.concatenate([np.stack([a, b, c], -1), np.stack([b, d, c], -1)]).reshape(-1, 3)
    )


@lru_cache(maxsize=64)
def _texels(parts: int) -> np.ndarray:
    """Return the texture coordinates [P, RINGS, SEGMENTS + 1, 2] of all corners, in texels."""
    u = np.linspace(0, TILE - 1, SEGMENTS + 1)
    v = np.linspace(0, TILE - 1, RINGS) + TILE * np.arange(parts)[:, None]
    shape = (parts, RINGS, SEGMENTS + 1)
    return np.stack([np.broadcast_to(u, shape), np.broadcast_to(v[..., None], shape)], -1)


def _normals(vertices: np.ndarray) -> np.ndarray:
    """Return unit normals, pointing outwards, of a stack of lofts [P, RINGS, SEGMENTS + 1, 3]."""
    closed = np.concatenate([vertices[:, :, -2:-1], vertices, vertices[:, :, 1:2]], 2)
    around = closed[:, :, 2:] - closed[:, :, :-2]
    along = np.empty_like(vertices)
    along[:, 1:-1] = vertices[:, 2:] - vertices[:, :-2]
    along[:, 0], along[:, -1] = vertices[:, 1] - vertices[:, 0], vertices[:, -1] - vertices[:, -2]
    ax, ay, az = np.moveaxis(along, -1, 0)
    bx, by, bz = np.moveaxis(around, -1, 0)
    normal = np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], -1)
    return -normal / (np.sqrt((normal * normal).sum(-1, keepdims=True)) + 1e-9)


def _settings() -> cv2.TriangleRasterizeSettings:
    settings = cv2.TriangleRasterizeSettings()
    settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
    settings.setCullingMode(cv2.RASTERIZE_CULLING_CW)
    return settings


_SETTINGS = _settings()


def _bounds(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the greatest x and y of points [..., 2]."""
    x, y = points[..., 0], points[..., 1]
    return np.array([x.min(), y.min()]), np.array([x.max(), y.max()])


class _Projection:
    """A pinhole camera that looks at the middle of the person and crops the detector's box."""

    def __init__(self, camera: Camera, view: View, vertices: np.ndarray, height: int, width: int) -> None:
        cp, sp, cr, sr = np.cos(camera.pitch), np.sin(camera.pitch), np.cos(camera.roll), np.sin(camera.roll)
        pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        self.rotation = (np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]) @ pitch).astype(np.float32)
        self.distance = np.float32(camera.distance)
        self.middle = np.array([0, 0.9, 0], np.float32)
        low, high = _bounds(self._plane(vertices)[0])
        box = (high[1] - low[1]) * camera.zoom * view.zoom
        self.scale = np.float32(height / box)
        centre = 0.5 * (low + high)
        self.origin = np.array([0.5 * width, 0.5 * height]) - self.scale * centre
        self.origin -= height * (np.array(camera.aim) + np.array(view.shift))
        self.origin = self.origin.astype(np.float32)

    def _plane(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen = (points - self.middle) @ self.rotation.T
        depth = self.distance - seen[..., 2]
        return np.stack([seen[..., 0], -seen[..., 1]], -1) / depth[..., None], depth

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pixel coordinates [..., 2] (corner of the first pixel at 0) and depths [...] in metres."""
        plane, depth = self._plane(points)
        return plane * self.scale + self.origin, depth


def _draw(
    person: Person, vertices: np.ndarray, camera: Camera, project: _Projection, height: int, width: int
) -> _Layer:
    parts = len(vertices)
    pixel, depth = project(vertices)
    # Undo the pinhole of OpenCV's rasteriser (tan of its field of view: 1/2), so that it draws at our pixels.
    focal = float(height)
    corners = np.empty((*depth.shape, 3), np.float32)
    corners[..., 0] = (pixel[..., 0] - 0.5 * width) / focal * depth
    corners[..., 1] = (0.5 * height - pixel[..., 1]) / focal * depth
    corners[..., 2] = -depth
    attributes = np.empty((*depth.shape, 3), np.float32)
    attributes[..., :2] = _texels(parts)
    normals = _normals(vertices)
    attributes[..., 2] = normals @ camera.sun.astype(np.float32)
    rows, columns = height * SUPERSAMPLING, width * SUPERSAMPLING
    buffer = np.zeros((rows, columns, 3), np.float32)
    z = np.full((rows, columns), FAR, np.float32)
    cv2.triangleRasterize(
        corners.reshape(-1, 3), _triangles(parts), attributes.reshape(-1, 3), buffer, z,
        np.eye(4, dtype=np.float32), 2 * np.arctan(0.5), 0.5, FAR, _SETTINGS,
    )  # fmt: skip
    # The rest is worked out only inside the person's bounding box.
    low, high = _bounds(SUPERSAMPLING * pixel)
    (x0, y0), (x1, y1) = np.floor(low).clip(0).astype(int), np.ceil(high).clip(1).astype(int)
    if x0 >= min(x1, columns) or y0 >= min(y1, rows):
        return _Layer(buffer, z)  # entirely outside the picture
    texel, depth_there = buffer[y0:y1, x0:x1], z[y0:y1, x0:x1]
    albedo = cv2.remap(
        person.texture, texel[..., 0], texel[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    # Creases and gaps between limbs are darker: compare each depth with its surroundings (ambient occlusion).
    near = np.minimum(depth_there, project.distance + np.float32(0.6))
    open_air = 1 - np.clip((near - cv2.blur(near, (13, 13))) * 2.2, 0, 0.35)
    open_air *= depth_there < FAR  # no light where nobody is: their colour stays black
    direct = np.clip(texel[..., 2] * 0.75 + 0.25, 0, 1) * open_air
    light = cv2.merge([direct, open_air, open_air])
    mix = np.column_stack([camera.sun_colour, camera.sky_colour, np.zeros(3)]).astype(np.float32)
    buffer[y0:y1, x0:x1] = cv2.multiply(albedo, cv2.transform(light, mix), dtype=cv2.CV_32F)
    return _Layer(buffer, z)


def render(
    person: Person,
    stance: Stance,
    camera: Camera,
    view: View,
    height: int = 128,
    width: int = 64,
    passer_by: tuple[Person, Stance] | None = None,
) -> Rendering:
    """Draw one person; a pure function of its arguments.

    Args:
        person: Who.
        stance: How they stand; its heading is relative to the camera.
        camera: Which camera.
        view: The circumstances of this shot.
        height: Rows of the image.
        width: Columns of the image.
        passer_by: Somebody else in the picture, drawn when ``view.passer_by`` is not None.
    """
    vertices, joints = pose_surface(person.build, person.surface, stance)
    project = _Projection(camera, view, vertices, height, width)
    colour, depth = _draw(person, vertices, camera, project, height, width)
    alpha = (depth < FAR).astype(np.float32)
    own = alpha
    if view.passer_by is not None and passer_by is not None:
        rng = np.random.default_rng(view.passer_by)
        place = np.array([rng.choice([-1, 1]) * rng.uniform(0.38, 0.62), 0, rng.choice([-0.9, 0.6])])
        others, _ = pose_surface(passer_by[0].build, passer_by[0].surface, passer_by[1])
        other = _draw(passer_by[0], others + place, camera, project, height, width)
        nearer = other.depth < depth
        colour = np.where(nearer[..., None], other.colour, colour)
        depth = np.minimum(depth, other.depth)
        own = alpha * ~nearer
        alpha = (depth < FAR).astype(np.float32)
    drawn = cv2.resize(colour, (width, height), interpolation=cv2.INTER_AREA)
    cover = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_AREA)[..., None]
    mask = cv2.resize(own, (width, height), interpolation=cv2.INTER_AREA) > 0.5

    # Scenery, with the person's shadow at their feet.
    left, top, zoom = view.scene
    rows, columns = SCENE_HEIGHT / 1.5 * zoom, SCENE_HEIGHT / 1.5 * zoom * width / height
    x0, y0 = left * (SCENE_WIDTH - columns - 1), (0.35 + 0.3 * top) * (SCENE_HEIGHT - rows)
    cut = np.array([[columns / width, 0, x0], [0, rows / height, y0]])
    picture = cv2.warpAffine(
        camera.scene,
        cut,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.float32)
    foot = project(np.array([-0.25 * camera.sun[0], 0.0, -0.25 * camera.sun[2]]))[0]
    radius = 0.36 * project.scale / project.distance
    flat = max(np.sin(camera.pitch), 0.12)
    y, x = np.ogrid[:height, :width]
    shade = np.exp(-(((x - foot[0]) / radius) ** 2) - ((y - foot[1]) / (radius * flat + 1.5)) ** 2)
    picture *= (1 - camera.shadow * shade)[..., None].astype(np.float32)
    picture = picture * (1 - cover) + drawn

    # Visibility: inside the image and not behind a drawn surface.
    pixel, distance = project(joints)
    at = np.floor(pixel * SUPERSAMPLING).astype(int)
    inside = ((at >= 0) & (at < np.array([width, height]) * SUPERSAMPLING)).all(1)
    column, row = np.clip(at, 0, np.array([width, height]) * SUPERSAMPLING - 1).T
    visible = inside & (distance - depth[row, column] < _TOLERANCE)
    # In profile the far ear and eye lie on the outline: they must belong to the person at all.
    visible &= own[row, column] > 0
    if view.pole is not None:
        pole = np.array([view.pole[0] * width, (view.pole[0] + view.pole[1]) * width, view.pole[2] * height])
        start, stop, head = np.clip(np.round(pole).astype(int), 0, None)
        across = np.linspace(-1, 1, max(stop - start, 1), dtype=np.float32)[: max(width - start, 0), None]
        picture[head:, start:stop] = view.pole[3] * (1.05 - 0.45 * across**2 + 0.2 * across)
        mask[head:, start:stop] = False
        visible &= ~((pixel[:, 0] >= start) & (pixel[:, 0] < stop) & (pixel[:, 1] >= head))
    keypoints = np.zeros((18, 3), np.float32)
    keypoints[visible, :2] = pixel[visible] - 0.5
    keypoints[visible, 2] = 1
    return Rendering(_expose(picture, camera, view), keypoints, mask)


def _expose(picture: np.ndarray, camera: Camera, view: View) -> np.ndarray:
    """Lens and sensor: blur, vignette, colour response, tone curve, noise."""
    height, width = picture.shape[:2]
    picture = cv2.GaussianBlur(picture, (0, 0), camera.blur * height / 128)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    fall = (view.exposure * (1 - 0.5 * camera.vignette * (x * x + y * y))).astype(np.float32)
    picture = cv2.transform(picture * fall[..., None], camera.colour)
    toned = cv2.LUT(np.clip(picture, 0, 255).astype(np.uint8), camera.curve)
    noise = np.random.default_rng(view.noise).standard_normal(picture.shape, np.float32)
    return np.clip(toned + camera.noise * noise, 0, 255).astype(np.uint8)
