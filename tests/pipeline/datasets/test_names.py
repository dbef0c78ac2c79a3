"""Names say identity and camera, to this code and to public loaders, whatever the files were called."""

import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.loaders import misreadings, read_as_loaders
from pipeline.datasets.names import is_clutter, read_name, speaking_stem
from reid.cameras import NO_CAMERA
from tests.pipeline.market import save_image

NAMES = {
    "0002_c1s1_000451_03.jpg": (2, 1),
    "-1_c3s1_000009_03.jpg": (-1, 3),
    "0005_c2_f0046985.jpg": (5, 2),
    "0003_c1_21.png": (3, 1),
    "00012_c14.JPEG": (12, 14),
    "0002_p12_c1s1_000451_03.jpg": (2, 1),
    "0002_c3_c5.jpg": (2, 3),
    "0002_cat_c5_c6.jpg": (2, 5),
    "0002_cam1.jpg": None,
    "0002c1.jpg": None,
    "-2_c1.jpg": None,
    "x0002_c1.jpg": None,
    "c1_0002.jpg": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_identity_and_camera_of_a_name(name: str) -> None:
    assert read_name(name) == NAMES[name]


@given(
    image=st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=300),
    pid=st.integers(1, 99_999),
    camid=st.integers(NO_CAMERA, 40),
)
def test_every_stem_says_both_and_may_stand_on_any_disk(image: str, pid: int, camid: int) -> None:
    stem = speaking_stem(image, pid, camid)
    known = 0 if camid == NO_CAMERA else camid
    assert read_name(stem) == (pid, known)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,150}", stem)
    assert speaking_stem(f"{stem}.jpg", pid, camid) == stem or len(stem) > 120 or "." in stem
    if known < 10:
        assert read_as_loaders(stem) == (pid, known)


def test_a_name_that_says_both_stays() -> None:
    assert speaking_stem("bounding_box_train/0002_c1s1_000451_03.jpg", 2, 1) == "0002_c1s1_000451_03"
    assert speaking_stem("0002_c1s1_000451_03.jpg", 2, 2) == "0002_c2_0002_c1s1_000451_03"
    assert speaking_stem("0002_c12.jpg", 2, 1) == "0002_c1_0002_c12"


CLUTTER = (
    "Thumbs.db",
    ".DS_Store",
    "._0002_c1.jpg",
    "__MACOSX",
    "readme.txt",
    "README",
    "desktop.ini",
    "a.mat",
)


@pytest.mark.parametrize("name", CLUTTER)
def test_what_is_none_of_the_data(name: str) -> None:
    assert is_clutter(Path("query") / name) and not is_clutter(Path(name) / "0002_c1.jpg")


@pytest.mark.slow
def test_torchreid_reads_what_we_say_that_it_reads(tmp_path: Path) -> None:
    from torchreid.reid.data.datasets.image.market1501 import Market1501

    names = [*(name for name, who in NAMES.items() if who), "1501_c6.jpg", "1502_c1.jpg", "0002_c7.jpg"]
    for name in names:
        folder = tmp_path / "one"
        save_image(folder / name)
        pid, camid = read_name(name) or (0, 0)
        images = pd.DataFrame({"image": [name], "pid": [pid], "camid": [camid]})
        try:
            read = [(who, camera + 1) for _, who, camera in Market1501.process_dir(None, str(folder))]
        except AssertionError:
            read = None
        is_right = read == ([] if pid == -1 else [(pid, camid)])
        assert (misreadings(folder, images) == []) == is_right, name
        (folder / name).unlink()
