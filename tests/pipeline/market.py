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


# --- other data sets in their true form ---------------------------------------------------------------------


def draw_people() -> list[tuple[str, int, int, int]]:
    """(split, number of the person, camera 0 or 1, number of the image) of a small data set."""
    rows = [("train", pid, cam, n) for pid in range(4) for cam in (0, 1) for n in range(3)]
    rows += [("query", pid, cam, 0) for pid in range(3) for cam in (0, 1)]
    return rows + [("gallery", pid, cam, n) for pid in range(3) for cam in (0, 1) for n in (1, 2)]


def save_images(root: Path, images: list[str]) -> Path:
    """Write images of noise, and keypoints.csv for all of them."""
    for seed, image in enumerate(images):
        save_image(root / image, seed)
    keypoints_frame(images).to_csv(root / "keypoints.csv", index=False)
    return root


def market_layout(root: Path, name: str, first: dict[str, int], cameras: tuple[int, int]) -> Path:
    """Write a data set in Market-1501's layout.

    Args:
        root: Folder to write to.
        name: Form of the names, with pid, cam and n.
        first: The first identity of each split; query and gallery share people.
        cameras: The two cameras.
    """
    folders = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
    return save_images(
        root,
        [
            f"{folders[split]}/{name.format(pid=first[split] + pid, cam=cameras[cam], n=n)}"
            for split, pid, cam, n in draw_people()
        ],
    )


def msmt17_folder(root: Path, train: str, test: str) -> Path:
    """MSMT17: both folders count people from 0, and a third of the training stands in list_val.txt."""
    lists: dict[str, list[str]] = {"train": [], "val": [], "query": [], "gallery": []}
    images = []
    for split, pid, cam, n in draw_people():
        name = f"{pid:04d}/{pid:04d}_{n:03d}_{(1, 14)[cam]:02d}_0303morning_0008_{n}.jpg"
        lists["val" if split == "train" and n == 2 else split].append(f"{name} {pid}")
        images.append(f"{train if split == 'train' else test}/{name}")
    save_images(root, images)
    for name, lines in lists.items():
        (root / f"list_{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def table_folder(root: Path, people: list[str], cameras: tuple[str, str] | None, own_queries: bool) -> Path:
    """A folder with images.csv; the names of seven people, training first, and of two cameras if any."""
    rows = []
    for split, pid, cam, n in draw_people():
        person = people[pid + (0 if split == "train" else 4)]
        row = {"image": f"walk {cam}/{person}/{split} {n}.png", "pid": person}
        row |= {"camid": cameras[cam]} if cameras else {}
        rows.append(row | {"split": split if split == "train" or own_queries else "test", "hour": f"0{n}"})
    save_images(root, [str(row["image"]) for row in rows])
    pd.DataFrame(rows).to_csv(root / "images.csv", index=False)
    return root
