"""The people of base weights, to train and to measure on: rendered, or photographed for another data set."""

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

import common
import pipeline.datasets.images
import pipeline.datasets.views
import pipeline.world
from common.seeding import make_rng
from foundation.settings import LEAST_PHOTOS, FoundationSettings, PhotographedSettings, RenderedSettings
from pipeline.datasets.formats import FORMATS
from pipeline.datasets.images import read_image
from pipeline.datasets.indexing import read_contents
from pipeline.datasets.views import to_view
from pipeline.keypoints.sources import find_keypoints
from pipeline.params import DatasetSettings
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


class Cast(NamedTuple):
    """Everybody whom a training of base weights sees.

    Attributes:
        train: People to train on.
        held_out: Other people, to measure on: `LEAST_PHOTOS` photos or more of each, in the order of cameras.
        photographs: Files of the photographs, columns image, pid and md5; none of people that are rendered.
    """

    train: People
    held_out: People
    photographs: pd.DataFrame | None


def find_people(settings: FoundationSettings) -> Cast:
    """Render or read everybody.

    Raises:
        ValueError: The data set cannot be read, or too few of its people can be measured on.
    """
    if settings.photographed:
        return _read_people(settings, settings.photographed)
    rendered = settings.rendered
    assert rendered  # the settings have one of the two
    # The people to measure on are the next ones after those to train on, with twice as many photos: half of
    # them are for the judge.
    each = rendered.images_per_identity
    train = _render_people(settings, rendered, 0, rendered.identities, each)
    held_out = _render_people(settings, rendered, rendered.identities, rendered.held_out_identities, 2 * each)
    return Cast(train, held_out, None)


# --- photographs --------------------------------------------------------------------------------------------


def _read_people(settings: FoundationSettings, photographed: PhotographedSettings) -> Cast:
    """Read a data set's people, of whom some are drawn to measure on."""
    root = photographed.root
    listing, contents = read_contents(root, FORMATS[photographed.format].list_images(root))
    photos = listing.images[["image", "pid", "camid"]].join(contents)
    photos = photos.query("pid > 0")  # neither junk nor distractors
    if photos.empty:
        raise ValueError(
            f"{root} holds no photograph of a person that can be used; {len(listing.rejected)} files are "
            "rejected"
        )
    dataset = DatasetSettings(
        name=root.name,
        format=photographed.format,
        root=root,
        height=settings.height,
        width=settings.width,
        border=photographed.border,
    )
    keypoints, _ = find_keypoints(photographed.poses, dataset, photos)
    photos = photos.assign(row=np.arange(len(photos)), keypoints=(keypoints[..., 2] > 0).sum(1))
    without = int((photos.keypoints == 0).sum())
    photos = photos.query("keypoints > 0")
    print(
        f"{root}: {len(photos)} photographs of {photos.pid.nunique()} people; {len(listing.rejected)} files "
        f"are not used, and {without} photographs without a keypoint",
        flush=True,
    )

    # Those to train on come first, each person's photographs by camera
    held_out = _draw_held_out(photos.pid, settings.seed, photographed)
    photos = photos.assign(is_held_out=photos.pid.isin(held_out))
    photos = photos.sort_values(["is_held_out", "pid", "camid", "image"], ignore_index=True)
    views, keypoints, pids = _read_views(photos, dataset), keypoints[photos.row], photos.pid.to_numpy()
    first = int((~photos.is_held_out).sum())
    train, to_measure = (
        People(views[part], keypoints[part], np.unique(pids[part], return_inverse=True)[1])
        for part in (slice(first), slice(first, None))
    )
    return Cast(train, to_measure, photos[["image", "pid", "md5"]])


def _draw_held_out(pids: pd.Series, seed: int, photographed: PhotographedSettings) -> set[int]:
    """Draw the people to measure on from those with enough photographs."""
    counts = pids.value_counts().sort_index()
    enough = counts.index[counts >= LEAST_PHOTOS].to_numpy()
    count = photographed.held_out_identities
    if count > len(enough) or count > len(counts) - 2:
        raise ValueError(
            f"photographed.held_out_identities is {count}; expected at most "
            f"{max(0, min(len(enough), len(counts) - 2))}: of {len(counts)} people in {photographed.root}, "
            f"{len(enough)} have {LEAST_PHOTOS} photographs or more, and two must be left to train on"
        )
    return set(make_rng(seed, "held-out people").permutation(enough)[:count].tolist())


def _read_views(photos: pd.DataFrame, dataset: DatasetSettings) -> np.ndarray:
    """Read photographs as views, uint8 [N, H, W, 3]: a memory map of a file in scratch."""
    key = {"photos": photos.md5.tolist(), "size": [dataset.height, dataset.width, dataset.border]}
    modules = (pipeline.datasets.images, pipeline.datasets.views)
    file = scratch("people", __file__, *modules, **key) / "photos.npy"
    if not file.is_file():
        with atomic(file) as temporary:
            shape = (len(photos), dataset.height, dataset.width, 3)
            views = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            for row, image in enumerate(progress(photos.image, len(photos), "reading photographs")):
                views[row] = to_view(read_image(dataset.root / image), dataset)
            views.flush()
    return np.load(file, mmap_mode="c")


# --- rendered people ----------------------------------------------------------------------------------------


def _render_people(
    settings: FoundationSettings, rendered: RenderedSettings, first: int, count: int, each: int
) -> People:
    """Render photos of people, or read them from the disk where they have been rendered before.

    Args:
        settings: Seed and size of the photos.
        rendered: Cameras.
        first: Number of the first person, >= 0. Other numbers are other people.
        count: Number of people.
        each: Photos of each person.
    """
    key = {"first": first, "count": count, "each": each}
    key |= {name: getattr(settings, name) for name in ("seed", "height", "width")}
    cameras = {name: getattr(rendered, name) for name in ("cameras", "camera_strength")}
    folder = scratch("people", __file__, pipeline.world, common, **key, **cameras) / "photos"
    if not folder.is_dir():
        with worker_pool() as pool, atomic(folder) as temporary:
            temporary.mkdir()
            photos = pool.map(
                partial(_render_person, settings, rendered, each), range(first, first + count), chunksize=8
            )
            images, keypoints = zip(*progress(photos, count, "rendering people"), strict=True)
            np.save(temporary / "images.npy", np.concatenate(images))
            np.save(temporary / "keypoints.npy", np.concatenate(keypoints))
    images = np.load(folder / "images.npy", mmap_mode="c")
    return People(images, np.load(folder / "keypoints.npy"), np.repeat(np.arange(count), each))


def _render_person(
    settings: FoundationSettings, rendered: RenderedSettings, each: int, pid: int
) -> tuple[np.ndarray, np.ndarray]:
    """Photos [each, H, W, 3] and keypoints [each, 18, 3] of one person."""
    camera = settings.height, settings.width, rendered.camera_strength
    photos = shots(settings.seed, "foundation", pid, each, rendered.cameras, *camera)
    return np.stack([photo.image for photo in photos]), np.stack([photo.keypoints for photo in photos])
