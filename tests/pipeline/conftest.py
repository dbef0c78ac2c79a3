"""A small data set in Market-1501 format."""

from pathlib import Path

import pytest

from tests.pipeline.market import keypoints_frame, save_image


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """4 training identities x 3 cameras x 2 images, 3 test identities, a distractor, junk; keypoints."""
    root = tmp_path / "market"
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
