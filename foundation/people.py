"""The people that base weights are trained and measured on: rendered, and in no split of the data set."""

import hashlib
from dataclasses import dataclass
from functools import partial

import numpy as np

import common
import pipeline.world
from foundation.settings import FoundationSettings
from pipeline.runtime.outputs import atomic
from pipeline.runtime.scratch import scratch
from pipeline.runtime.stage import progress
from pipeline.runtime.workers import worker_pool
from pipeline.world.shots import shots


@dataclass(frozen=True)
class People:
    """Photos of people, those of one person after the other.

    Attributes:
        images: Photos, uint8 [N, H, W, 3] RGB.
        keypoints: Keypoints of each photo, float32 [N, 18, 3]: x, y in pixels, score.
        pids: Identities, int64 [N], from 0 on without gaps.
    """

    images: np.ndarray
    keypoints: np.ndarray
    pids: np.ndarray

    def __getitem__(self, index: slice | np.ndarray) -> "People":
        """Return some of the photos."""
        return People(self.images[index], self.keypoints[index], self.pids[index])

    def checksum(self) -> str:
        """Return an MD5 of all photos, for the keys of trainings on them."""
        digest = hashlib.md5(usedforsecurity=False)
        for array in (self.images, self.keypoints, self.pids):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def render_people(settings: FoundationSettings, first: int, count: int, each: int) -> People:
    """Render photos of people, or read them from the disk where they have been rendered before.

    Args:
        settings: Seed, cameras and size of the photos.
        first: Number of the first person, >= 0. Other numbers are other people.
        count: Number of people.
        each: Photos of each person.
    """
    names = ("seed", "cameras", "camera_strength", "height", "width")
    key = {"first": first, "count": count, "each": each, **{name: getattr(settings, name) for name in names}}
    folder = scratch("people", __file__, pipeline.world, common, **key) / "photos"
    if not folder.is_dir():
        with worker_pool() as pool, atomic(folder) as temporary:
            temporary.mkdir()
            photos = pool.map(
                partial(_render_person, settings, each), range(first, first + count), chunksize=8
            )
            images, keypoints = zip(*progress(photos, count, "rendering people"), strict=True)
            np.save(temporary / "images.npy", np.concatenate(images))
            np.save(temporary / "keypoints.npy", np.concatenate(keypoints))
    images = np.load(folder / "images.npy", mmap_mode="c")
    return People(images, np.load(folder / "keypoints.npy"), np.repeat(np.arange(count), each))


def _render_person(settings: FoundationSettings, each: int, pid: int) -> tuple[np.ndarray, np.ndarray]:
    """Photos [each, H, W, 3] and keypoints [each, 18, 3] of one person."""
    camera = settings.height, settings.width, settings.camera_strength
    photos = shots(settings.seed, "foundation", pid, each, settings.cameras, *camera)
    return np.stack([photo.image for photo in photos]), np.stack([photo.keypoints for photo in photos])
