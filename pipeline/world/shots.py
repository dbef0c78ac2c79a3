"""All photos of one identity: in which cameras, when, and walking which way."""

from dataclasses import dataclass

import numpy as np

from common.seeding import make_rng
from pipeline.world.body import Stance
from pipeline.world.camera import Camera, View, sample_camera, sample_view
from pipeline.world.person import sample_person
from pipeline.world.render import Rendering, render
from pipeline.world.stance import sample_stance

# People of these purposes walk past the same cameras; every other purpose has cameras of its own.
_WORLD = ("train", "test", "distractor")


def purpose_camera(seed: int, purpose: str, camid: int, strength: float) -> Camera:
    """Return a camera (``camid`` from 1) of the set that sees people of ``purpose``."""
    return sample_camera(seed, "world" if purpose in _WORLD else purpose, camid - 1, strength)


@dataclass(frozen=True, eq=False)
class Scene:
    """What one photo of a person will show, before it is rendered."""

    camid: int  # from 1
    sequence: int  # from 1
    frame: int
    box: int  # from 0
    stance: Stance
    view: View

    def name(self, pid: int) -> str:
        """Return the Market-1501 file name; ``pid`` -1 is junk, 0 a distractor."""
        who = "-1" if pid == -1 else f"{pid:04d}"
        return f"{who}_c{self.camid}s{self.sequence}_{self.frame:06d}_{self.box:02d}.jpg"


@dataclass(frozen=True, eq=False)
class Shot(Scene):
    """One photo with everything that it was made from."""

    image: np.ndarray  # uint8 [height, width, 3], RGB
    keypoints: np.ndarray  # float32 [18, 3]: x, y in pixels, score; all 0 where not visible
    mask: np.ndarray  # bool [height, width]: the person, where nothing hides them


def render_shot(
    seed: int,
    purpose: str,
    pid: int,
    camid: int,
    stance: Stance,
    view: View,
    height: int,
    width: int,
    strength: float,
) -> Rendering:
    """Render one identity in a given stance through any camera of its set (``camid`` from 1)."""
    passer_by = None
    if view.passer_by is not None:
        other = f"{purpose}/passer-by"
        passer_by = (
            sample_person(seed, other, view.passer_by % 64),
            sample_stance(seed, other, view.passer_by),
        )
    camera = purpose_camera(seed, purpose, camid, strength)
    return render(sample_person(seed, purpose, pid), stance, camera, view, height, width, passer_by)


def scenes(seed: int, purpose: str, pid: int, count: int, n_cameras: int) -> list[Scene]:
    """Return what all photos of one identity will show.

    Four to six of the cameras see the person, each once or twice (a tracklet each). Within a tracklet the
    heading wanders by some degrees only; gait, arms, box and light differ from photo to photo.

    Args:
        seed: Seed of the world.
        purpose: Whose photos: ``"train"``, ``"test"`` and ``"distractor"`` share the world's cameras; any
            other purpose, for example ``"foundation"``, has people and cameras of its own.
        pid: Number of the identity within the purpose, >= 0.
        count: Number of photos.
        n_cameras: Cameras in the set, at most 9 if the photos are to be named after Market-1501.

    Returns:
        ``count`` scenes, by camera and tracklet.
    """
    # Every camera that sees the person takes one photo; the other photos fall to these cameras at random.
    rng = make_rng(seed, f"{purpose}/shots", pid)
    seen_by = min(n_cameras, int(rng.integers(4, 7)), count)
    cameras = np.sort(rng.permutation(n_cameras)[:seen_by])
    places = np.concatenate([np.arange(seen_by), rng.integers(seen_by, size=count - seen_by)])
    result = []
    for place, camera in enumerate(cameras):
        # The photos of a camera are one or two tracklets, each with its own heading and start.
        number = int((places == place).sum())
        split = int(rng.integers(number // 2, number + 1))
        first_frame, first_sequence = int(rng.integers(1, 80_000)), int(rng.integers(1, 5))
        headings = rng.uniform(0, 360, 2)
        for i in range(number):
            tracklet = int(i >= split)
            index = (pid, int(camera), i)
            heading = float(
                (headings[tracklet] + make_rng(seed, f"{purpose}/heading", *index).normal(0, 12)) % 360
            )
            stance = sample_stance(seed, purpose, *index, heading=heading)
            view = sample_view(seed, purpose, *index)
            frame = first_frame + 9_000 * tracklet + 25 * i
            result.append(Scene(int(camera) + 1, first_sequence + tracklet, frame, 1 + i % 3, stance, view))
    return result


def shots(
    seed: int,
    purpose: str,
    pid: int,
    count: int,
    n_cameras: int,
    height: int,
    width: int,
    strength: float,
) -> list[Shot]:
    """Return all photos of one identity: its `scenes`, rendered.

    Args:
        seed: Seed of the world.
        purpose: Whose photos, as in `scenes`.
        pid: Number of the identity within the purpose, >= 0.
        count: Number of photos.
        n_cameras: Cameras in the set.
        height: Rows of an image.
        width: Columns of an image.
        strength: How strongly the cameras distort colours; see `sample_camera`.
    """
    return [
        take(scene, seed, purpose, pid, height, width, strength)
        for scene in scenes(seed, purpose, pid, count, n_cameras)
    ]


def take(scene: Scene, seed: int, purpose: str, pid: int, height: int, width: int, strength: float) -> Shot:
    """Render a scene of an identity; the arguments are those of `shots`."""
    image, keypoints, mask = render_shot(
        seed, purpose, pid, scene.camid, scene.stance, scene.view, height, width, strength
    )
    return Shot(**vars(scene), image=image, keypoints=keypoints, mask=mask)
