"""Makes the files of a data set in Market-1501 format."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from generator.keypoints import KEYPOINT_NAMES
from pipeline.runtime.outputs import write_csv


def save_image(path: Path, seed: int = 0, size: tuple[int, int] = (64, 128)) -> Path:
    """Write a JPEG of noise; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    Image.fromarray(pixels).resize(size).save(path, quality=90)
    return path


def keypoints_frame(images: list[str], seed: int = 0) -> pd.DataFrame:
    """Make keypoints.csv: random positions inside 64x128 pixels, a fifth of them not visible."""
    rng = np.random.default_rng(seed)
    points = rng.uniform((0, 0, 0.1), (63, 127, 1), (len(images), 18, 3)).round(2)
    points[rng.random((len(images), 18)) < 0.2] = 0
    columns = [f"{name}_{part}" for name in KEYPOINT_NAMES for part in ("x", "y", "score")]
    frame = pd.DataFrame(points.reshape(len(images), -1), columns=columns)
    frame.insert(0, "image", images)
    return frame


def save_method(folder: Path, manifest: pd.DataFrame, seed: int) -> Path:
    """Write the images of a manifest, of noise, as the stage `generate` lays them out."""
    for number, name in enumerate(manifest.name):
        save_image(folder / name, seed + number)
    write_csv(manifest, folder / "manifest.csv")
    return folder


def make_market(root: Path) -> Path:
    """4 training identities x 3 cameras x 2 images, 3 test identities, a distractor, junk; keypoints."""
    names = [
        f"{pid:04d}_c{cam}s1_{n:06d}_01.jpg" for pid in (2, 7, 10, 11) for cam in (1, 2, 6) for n in (1, 2)
    ]
    images = [f"bounding_box_train/{name}" for name in names]
    for pid in (3, 4, 1501):
        images += [f"query/{pid:04d}_c{cam}s1_000001_00.jpg" for cam in (1, 2)]
        images += [f"bounding_box_test/{pid:04d}_c{cam}s2_00000{n}_01.jpg" for cam in (1, 2) for n in (1, 2)]
    images += ["bounding_box_test/0000_c3s1_000009_02.jpg", "bounding_box_test/-1_c3s1_000009_03.jpg"]
    for seed, image in enumerate(images):
        save_image(root / image, seed)
    keypoints_frame(images).to_csv(root / "keypoints.csv", index=False)
    return root


def deepfashion_folder(root: Path) -> Path:
    """DeepFashion's public files: 3 training and 2 test identities of 3 images each; one has no keypoints."""
    people = {
        "train": ("MENShirts_Polosid0000473801", "WOMENDressesid0000262902", "WOMENDressesid0000262903"),
        "test": ("WOMENTees_Tanksid0000159006", "MENDenimid0000008004"),
    }
    rng = np.random.default_rng(0)
    for split, names in people.items():
        images = [
            f"fashion{name}_{view}.jpg" for name in names for view in ("1front", "3back", "7additional")
        ]
        annotations = ["name:keypoints_y:keypoints_x"]
        for seed, image in enumerate(images):
            save_image(root / f"{split}_highres" / image, seed, size=(75, 110))
            ys, xs = rng.integers(0, 256, 18).tolist(), rng.integers(0, 176, 18).tolist()
            xs[4] = ys[4] = -1
            annotations.append(f"{image}: {ys}: {xs}")
        if split == "train":
            annotations[-1] = f"{images[-1]}: {[-1] * 18}: {[-1] * 18}"
        (root / f"fasion-resize-annotation-{split}.csv").write_text("\n".join(annotations) + "\n")
        pairs = [
            f"{a},{b}"
            for a in images
            for b in images
            if a != b and a.rsplit("_", 1)[0] == b.rsplit("_", 1)[0]
        ]
        (root / f"fasion-resize-pairs-{split}.csv").write_text("\n".join(["from,to", *pairs]) + "\n")
    return root
