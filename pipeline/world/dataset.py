"""Write the embedded world as a folder in exact Market-1501 format, with the keypoints of every image."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from common.seeding import make_rng
from generator.keypoints import KEYPOINT_NAMES
from pipeline.runtime.outputs import atomic, write_csv
from pipeline.runtime.stage import progress
from pipeline.runtime.workers import worker_pool
from pipeline.world.camera import sample_view
from pipeline.world.settings import WorldSettings
from pipeline.world.shots import Scene, Shot, scenes, shots, take
from pipeline.world.stance import sample_stance

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"  # Market-1501's folders
JPEG_QUALITY = 92

# A job is (kind, number): all photos of one identity, or one stray box of the gallery.
Job = tuple[str, int]


def photos(settings: WorldSettings, job: Job) -> Iterator[tuple[str, Shot]]:
    """Yield the images of one job, each with its path relative to the root.

    Training identities have the pids from 1; those of the test follow. A test identity gives one query from
    each camera with at least two photos of it (from its first camera if there is no such camera), so that the
    gallery keeps a match in another camera.
    """
    # One stray box of the gallery ...
    kind, number = job
    if kind in ("distractor", "junk"):
        pid = 0 if kind == "distractor" else -1
        shot = stray_shot(settings, kind, number)
        yield f"{GALLERY}/{shot.name(pid)}", shot
        return
    # ... or all photos of one identity; those of the test are split into query and gallery.
    pid = number + 1 if kind == "train" else settings.train_identities + number + 1
    own_shots = shots(
        settings.seed,
        kind,
        number,
        settings.images_per_identity,
        settings.cameras,
        settings.height,
        settings.width,
        settings.camera_strength,
    )
    queries = _queries(settings.seed, number, [shot.camid for shot in own_shots]) if kind == "test" else set()
    for index, shot in enumerate(own_shots):
        folder = TRAIN if kind == "train" else QUERY if index in queries else GALLERY
        yield f"{folder}/{shot.name(pid)}", shot


def training_scenes(settings: WorldSettings) -> dict[str, Scene]:
    """Return what every photo of the training identities shows, by its path relative to the root."""
    return {
        f"{TRAIN}/{scene.name(number + 1)}": scene
        for number in range(settings.train_identities)
        for scene in scenes(settings.seed, "train", number, settings.images_per_identity, settings.cameras)
    }


def _queries(seed: int, number: int, camids: list[int]) -> set[int]:
    """Draw which photos of a test identity are queries; `camids` are the cameras of all its photos."""
    rng = make_rng(seed, "test/query", number)
    by_camera = [np.flatnonzero(np.array(camids) == camid) for camid in sorted(set(camids))]
    several = [indices for indices in by_camera if len(indices) > 1] or by_camera[:1]
    return {int(rng.choice(indices)) for indices in several}


def stray_shot(settings: WorldSettings, kind: str, number: int) -> Shot:
    """Return a gallery image that matches no query.

    Args:
        settings: The world.
        kind: ``"distractor"`` for a person without a query, now and then in a loose box; ``"junk"`` for a box
            that misses a good part of a test identity.
        number: Which one; it is also in the file name, so that all names differ.
    """
    rng = make_rng(settings.seed, kind, number)
    if kind == "junk":
        purpose, person, loose = "test", int(rng.integers(settings.test_identities)), 14.0
    else:
        purpose, person, loose = "distractor", number, 6.0 if rng.random() < 0.25 else 1.0
    camid = 1 + int(rng.integers(settings.cameras))
    stance = sample_stance(settings.seed, kind, number)
    view = sample_view(settings.seed, kind, number, loose=loose)
    scene = Scene(camid, 1 + int(rng.integers(5)), 100_000 + number, 1, stance, view)
    size = settings.height, settings.width
    return take(scene, settings.seed, purpose, person, *size, settings.camera_strength)


_README = """The people on these images are rendered; nobody like them exists.
`python -m pipeline.world` made this folder. `dvc repro` replaces data/world as a whole: keep images of your
own in another folder, and name it as dataset.root in params.yaml.
"""


def build(settings: WorldSettings, root: Path, workers: int) -> None:
    """Render the world to ``root``; an old folder there is replaced when the new one is complete.

    The files do not depend on the number of worker processes.

    Args:
        settings: The world.
        root: Where `bounding_box_train`, `query`, `bounding_box_test` and `keypoints.csv` go.
        workers: Processes.
    """
    jobs: list[Job] = [
        *(("train", number) for number in range(settings.train_identities)),
        *(("test", number) for number in range(settings.test_identities)),
        *(("distractor", number) for number in range(settings.distractors)),
        *(("junk", number) for number in range(settings.junk)),
    ]
    people = settings.train_identities + settings.test_identities
    images = people * settings.images_per_identity + settings.distractors + settings.junk
    print(f"{images} images of {people} people to render", flush=True)
    rows: list[tuple[str, np.ndarray]] = []
    with atomic(root) as folder:
        for name in (TRAIN, QUERY, GALLERY):
            (folder / name).mkdir(parents=True)
        with worker_pool(workers) as pool:
            parts = pool.map(partial(_write, settings, folder), jobs, chunksize=4)
            for part in progress(parts, total=len(jobs), desc="world"):
                rows += part

        # keypoints.csv: one row per image, by its name.
        rows.sort(key=lambda row: row[0])
        columns = [f"{name}_{value}" for name in KEYPOINT_NAMES for value in ("x", "y", "score")]
        frame = pd.DataFrame(
            np.stack([keypoints for _, keypoints in rows]).reshape(len(rows), -1), columns=columns
        )
        frame.insert(0, "image", [name for name, _ in rows])
        write_csv(frame, folder / "keypoints.csv", float_format="%.2f")
        (folder / "README.txt").write_text(_README, encoding="utf-8")


def _write(settings: WorldSettings, folder: Path, job: Job) -> list[tuple[str, np.ndarray]]:
    """Write the images of one job, and return the name and the keypoints [18, 3] of each."""
    cv2.setNumThreads(1)
    rows = []
    for name, shot in photos(settings, job):
        _, code = cv2.imencode(".jpg", shot.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        (folder / name).write_bytes(code.tobytes())
        rows.append((name, shot.keypoints))
    return rows
