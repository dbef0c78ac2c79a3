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
        0.04, 0.13, 0.13, 0.10, 0.09, 0.13, 0.10, 0.09, 0.19, 0.13, 0.10, 0.19, 0.13, 0.10, 0.03, 0.03, 0.04,
        0.04,
    ]
)  # fmt: skip


class Rendering(NamedTuple):
    """One photo and what is known about it."""

    image: np.ndarray  # uint8 [height, width, 3], RGB
    keypoints: np.ndarray  # float32 [18, 3]: x, y in pixels (centres at integers), score 1; or all 0
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
        # The camera turns about the middle of a person, at its distance from them.
        cp, sp, cr, sr = np.cos(camera.pitch), np.sin(camera.pitch), np.cos(camera.roll), np.sin(camera.roll)
        pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        self.rotation = (np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]) @ pitch).astype(np.float32)
        self.distance = np.float32(camera.distance)
        self.middle = np.array([0, 0.9, 0], np.float32)

        # The detector's box: as high as the person times a zoom, its middle on theirs but for an offset.
        low, high = _bounds(self._plane(vertices)[0])
        box = (high[1] - low[1]) * camera.zoom * view.zoom
        self.scale = np.float32(height / box)
        centre = 0.5 * (low + high)
        self.origin = np.array([0.5 * width, 0.5 * height]) - self.scale * centre
        self.origin -= height * (np.array(camera.aim) + np.array(view.shift))
        self.origin = self.origin.astype(np.float32)

    def _plane(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return points on the image plane at distance 1, y down, and their depths in metres."""
        rotated = (points - self.middle) @ self.rotation.T
        depth = self.distance - rotated[..., 2]
        return np.stack([rotated[..., 0], -rotated[..., 1]], -1) / depth[..., None], depth

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pixel coordinates [..., 2] (corner of the first pixel at 0) and depths [...] in metres."""
        plane, depth = self._plane(points)
        return plane * self.scale + self.origin, depth


def _draw(
    person: Person, vertices: np.ndarray, camera: Camera, project: _Projection, height: int, width: int
) -> _Layer:
    """Draw a posed person, lit and textured, on black."""
    parts = len(vertices)
    pixel, depth = project(vertices)
    # Undo the pinhole of OpenCV's rasteriser (tan of its field of view: 1/2), so that it draws at our pixels.
    focal = float(height)
    corners = np.empty((*depth.shape, 3), np.float32)
    corners[..., 0] = (pixel[..., 0] - 0.5 * width) / focal * depth
    corners[..., 1] = (0.5 * height - pixel[..., 1]) / focal * depth
    corners[..., 2] = -depth

    # Rasterise for every sample where in the texture it lies, how it faces the sun, and how far away it is.
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

    # The rest is computed inside the person's bounding box alone.
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
    open_air *= depth_there < FAR  # no light where nobody is: the colour stays black
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
    # The person, on layers of SUPERSAMPLING x the image's size; `own` is where nobody else hides them.
    vertices, joints = pose_surface(person.build, person.surface, stance)
    project = _Projection(camera, view, vertices, height, width)
    layer = _draw(person, vertices, camera, project, height, width)
    own = layer.depth < FAR
    if view.passer_by is not None and passer_by is not None:
        other = _draw_passer_by(passer_by, view.passer_by, camera, project, height, width)
        nearer = other.depth < layer.depth
        layer = _Layer(
            np.where(nearer[..., None], other.colour, layer.colour), np.minimum(layer.depth, other.depth)
        )
        own &= ~nearer

    # In front of the scenery, down to the image's size.
    size = (width, height)
    alpha = (layer.depth < FAR).astype(np.float32)
    people = cv2.resize(layer.colour, size, interpolation=cv2.INTER_AREA)
    cover = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)[..., None]
    picture = _scenery(camera, view, project, height, width) * (1 - cover) + people
    mask = cv2.resize(own.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5

    # A keypoint is visible inside the image and not behind a drawn surface.
    pixel, distance = project(joints)
    sample = np.floor(pixel * SUPERSAMPLING).astype(int)
    inside = ((sample >= 0) & (sample < np.array(size) * SUPERSAMPLING)).all(1)
    column, row = np.clip(sample, 0, np.array(size) * SUPERSAMPLING - 1).T
    visible = inside & (distance - layer.depth[row, column] < _TOLERANCE)
    # In profile the far ear and eye lie on the outline: they must be on the person at all.
    visible &= own[row, column]
    if view.pole is not None:
        visible &= ~_draw_pole(view.pole, picture, mask, pixel)
    keypoints = np.zeros((18, 3), np.float32)
    keypoints[visible, :2] = pixel[visible] - 0.5
    keypoints[visible, 2] = 1
    return Rendering(_expose(picture, camera, view), keypoints, mask)


def _draw_passer_by(
    passer_by: tuple[Person, Stance],
    seed: int,
    camera: Camera,
    project: _Projection,
    height: int,
    width: int,
) -> _Layer:
    """Draw somebody to the left or right of the person, in front of them or behind."""
    # Not `make_rng`: this seed is one shot's own (`sample_view` drew it), so that it needs no purpose.
    rng = np.random.default_rng(seed)
    place = np.array([rng.choice([-1, 1]) * rng.uniform(0.38, 0.62), 0, rng.choice([-0.9, 0.6])])
    person, stance = passer_by
    vertices, _ = pose_surface(person.build, person.surface, stance)
    return _draw(person, vertices + place, camera, project, height, width)


def _scenery(camera: Camera, view: View, project: _Projection, height: int, width: int) -> np.ndarray:
    """Cut the image's part out of the camera's scenery, with the person's shadow at their feet."""
    # The part lies somewhere in the scene; its place and size differ from shot to shot.
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

    # The shadow: a soft ellipse on the side away from the sun, flatter the lower the camera stands.
    foot = project(np.array([-0.25 * camera.sun[0], 0.0, -0.25 * camera.sun[2]]))[0]
    radius = 0.36 * project.scale / project.distance
    flat = max(np.sin(camera.pitch), 0.12)
    y, x = np.ogrid[:height, :width]
    shade = np.exp(-(((x - foot[0]) / radius) ** 2) - ((y - foot[1]) / (radius * flat + 1.5)) ** 2)
    picture *= (1 - camera.shadow * shade)[..., None].astype(np.float32)
    return picture


def _draw_pole(
    pole: tuple[float, float, float, float], picture: np.ndarray, mask: np.ndarray, points: np.ndarray
) -> np.ndarray:
    """Draw what stands in front of a person into the picture and out of the mask, in place.

    Returns:
        bool [N]: the points [N, 2] in pixels that it hides.
    """
    height, width = mask.shape
    left, share, top, grey = pole
    edges = np.array([left * width, (left + share) * width, top * height])
    start, stop, head = np.clip(np.round(edges).astype(int), 0, None)
    # Round: darker towards its edges, and a little more on the left.
    across = np.linspace(-1, 1, max(stop - start, 1), dtype=np.float32)[: max(width - start, 0), None]
    picture[head:, start:stop] = grey * (1.05 - 0.45 * across**2 + 0.2 * across)
    mask[head:, start:stop] = False
    return (points[:, 0] >= start) & (points[:, 0] < stop) & (points[:, 1] >= head)


def _expose(picture: np.ndarray, camera: Camera, view: View) -> np.ndarray:
    """Take the photo: blur and vignette of the lens, colour response, tone curve and noise of the sensor."""
    height, width = picture.shape[:2]
    picture = cv2.GaussianBlur(picture, (0, 0), camera.blur * height / 128)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    fall = (view.exposure * (1 - 0.5 * camera.vignette * (x * x + y * y))).astype(np.float32)
    picture = cv2.transform(picture * fall[..., None], camera.colour)
    toned = cv2.LUT(np.clip(picture, 0, 255).astype(np.uint8), camera.curve)
    # Not `make_rng`, as in `_draw_passer_by`.
    noise = np.random.default_rng(view.noise).standard_normal(picture.shape, np.float32)
    return np.clip(toned + camera.noise * noise, 0, 255).astype(np.uint8)
