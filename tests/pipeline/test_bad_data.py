"""Every way in which a data set can be bad, with the sentence that it gives; and what is not bad at all."""

import os
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import index as stage
from pipeline.datasets.formats import FORMATS
from pipeline.datasets.indexing import index_dataset
from pipeline.params import IndexSettings
from pipeline.runtime.stage import stage_main
from tests import REPOSITORY
from tests.pipeline.market import save_image

Spoil = Callable[[Path], object]

IMAGES = [
    "bounding_box_train/0002_c1s1_000001_01.jpg",
    "bounding_box_train/0002_c2s1_000001_01.jpg",
    "bounding_box_train/0007_c1s1_000001_01.jpg",  # an identity with one image
    "query/0003_c1s1_000001_00.jpg",
    "bounding_box_test/0003_c2s1_000001_01.jpg",
    "bounding_box_test/0000_c3s1_000009_02.jpg",
    "bounding_box_test/-1_c3s1_000009_03.jpg",
]
FIRST = IMAGES[0]
NEW = "bounding_box_train/0005_c1s1_000001_01.jpg"

FORM = "its name does not begin with identity and camera, as 0002_c1s1_000451_03.jpg"
SUFFIX = "its name does not end in .jpg, .jpeg, .png"
SIGNS = "the name holds signs that cannot be printed; rename it"
BAR = "the name holds |, which separates images in the tables of a run; rename it"
STRAY = "distractors (0000) and junk (-1) belong in bounding_box_test"
FOLDER = "a folder, where images are looked for and no further folders"
LINK = "a link that leads nowhere"
BOMB = "more than 4096 x 4096 pixels are no crop of a person"
BITS = "more than 8 bits per channel ({}), which public loaders clip"
ALPHA = "it has transparent pixels, of which public loaders show the colour beneath"
TURNED = (
    "EXIF orientation {}: some public loaders turn the image, others do not; save it turned, without the tag"
)
FORMAT = "no JPEG or PNG image"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound") / "market"
    for seed, image in enumerate(IMAGES):
        save_image(root / image, seed)
    return root


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "market")


def index(root: Path, held_out: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    return index_dataset("market1501", root, IndexSettings(validation_identities=held_out, seed=0))


# --- ways to spoil or change a data set ---------------------------------------------------------------------


def named(name: str) -> Spoil:
    """Another good image of identity 5 or whatever the name says, in the folder for training."""
    return lambda root: save_image(root / "new.jpg", 99).rename(root / "bounding_box_train" / name)


def bytes_of(content: bytes) -> Spoil:
    return lambda root: (root / NEW).write_bytes(content)


def picture(mode: str, kind: str = "PNG", size: tuple[int, int] = (8, 16), **options: object) -> Spoil:
    return lambda root: Image.new(mode, size).save(root / NEW, kind, **options)


def bomb(root: Path) -> None:
    """A PNG of a few bytes that says it has 20,000 x 20,000 pixels."""
    picture("L")(root)
    content = bytearray((root / NEW).read_bytes())
    content[16:24] = struct.pack(">II", 20_000, 20_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (root / NEW).write_bytes(content)


def deep(root: Path) -> None:
    """A PNG of 8 x 16 pixels with 16 bits per channel, of which every decoder keeps the upper 8."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 8, 16, 16, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x4d\x80" * 24) * 16)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (root / NEW).write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def oriented(orientation: int) -> Spoil:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return picture("RGB", "JPEG", exif=exif)


def cut(share: float) -> Spoil:
    def spoil(root: Path) -> None:
        content = (root / FIRST).read_bytes()
        (root / NEW).write_bytes(content[: int(len(content) * share)])

    return spoil


def flip_bytes(root: Path) -> None:
    content = bytearray((root / FIRST).read_bytes())
    content[2:40] = bytes(38)
    (root / NEW).write_bytes(content)


def link(target: str, at: str = NEW) -> Spoil:
    def spoil(root: Path) -> None:
        if (root / at).is_dir():
            shutil.rmtree(root / at)
        (root / at).symlink_to(target)

    return spoil


def outside(root: Path) -> None:
    """A link out of the data set, such as DVC's cache makes."""
    (root / NEW).symlink_to(save_image(root.parent / "elsewhere.jpg", 99))


def outside_folder(root: Path) -> None:
    (root / "query").rename(root.parent / "elsewhere")
    (root / "query").symlink_to(root.parent / "elsewhere")


def subfolder(root: Path) -> None:
    save_image(root / "bounding_box_train/more" / Path(NEW).name)


def move(image: str, to: str) -> Spoil:
    return lambda root: (root / image).rename(root / to)


def copy(image: str, to: str) -> Spoil:
    return lambda root: shutil.copy(root / image, root / to)


def only(folder: str, *others: Spoil) -> Spoil:
    """Nothing in a folder but what `others` put there."""

    def spoil(root: Path) -> None:
        shutil.rmtree(root / folder)
        (root / folder).mkdir()
        for other in others:
            other(root)

    return spoil


# --- files that are listed with the reason, beside the images that stay -------------------------------------

REJECTED: dict[str, tuple[Spoil, str, str]] = {
    name: (named(name), f"bounding_box_train/{name}".replace("\n", "\\n"), reason)
    for reason, names in {
        FORM: [
            "0002_s1_000451_03.jpg",
            "0002_cam1_000451.jpg",
            "-2_c1s1_000451_03.jpg",
            "0002_C1s1_000451_03.jpg",
            " 0002_c1s1_000451_03.jpg",
            "٠٠٠٢_c1s1_000451_03.jpg",
            "copy of 0002_c1s1_000451_03.jpg",
            "ΑΒ.jpg",
        ],
        SUFFIX: ["0005_c1s1_000451_03", "0005_c1s1_000451_03.bmp", "notes.txt"],
        SIGNS: ["0002_c1s1_000451_03\n.jpg", "0005_c1s1_000451_03.jpg\n"],
        BAR: ["0005_c1|2.jpg"],
        STRAY: ["0000_c1s1_000451_03.jpg", "-1_c1s1_000451_03.jpg"],
    }.items()
    for name in names
} | {
    "an empty file": (bytes_of(b""), NEW, "an empty file"),
    "text": (bytes_of(b"not an image"), NEW, FORMAT),
    "half a header": (bytes_of(b"\xff\xd8\xff\xe0"), NEW, FORMAT),
    "PostScript": (bytes_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), NEW, FORMAT),
    "GIF": (picture("P", "GIF"), NEW, FORMAT),
    "TIFF": (picture("RGB", "TIFF"), NEW, FORMAT),
    "WebP": (picture("RGB", "WEBP"), NEW, FORMAT),
    "overwritten": (flip_bytes, NEW, FORMAT),
    "16-bit": (picture("I;16"), NEW, BITS.format("I;16")),
    "transparent": (picture("RGBA"), NEW, ALPHA),
    "transparent palette": (picture("P", transparency=0), NEW, ALPHA),
    "transparent grey": (picture("LA"), NEW, ALPHA),
    "turned by EXIF": (oriented(6), NEW, TURNED.format(6)),
    "mirrored by EXIF": (oriented(2), NEW, TURNED.format(2)),
    "bomb": (bomb, NEW, BOMB),
    "huge": (picture("1", size=(4096, 4097)), NEW, BOMB),
    "broken link": (link("nowhere.jpg"), NEW, LINK),
    "looping link": (link(Path(NEW).name), NEW, LINK),
    "subfolder": (subfolder, "bounding_box_train/more", FOLDER),
    "folder with an image's name": (lambda root: (root / NEW).mkdir(), NEW, FOLDER),
    "link to a folder": (link("../query"), NEW, FOLDER),
    "name that is no text": (
        lambda root: (root / "query/caf\udce9.jpg").write_bytes(b""),
        "query/caf\\udce9.jpg",
        SIGNS,
    ),
    "name that breaks a line": (  # macOS makes such files
        lambda root: (root / "query/Icon\r").write_bytes(b""),
        "query/Icon\\r",
        SIGNS,
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_what_is_not_used_is_listed_with_the_reason(case: str, root: Path) -> None:
    spoil, image, reason = REJECTED[case]
    spoil(root)
    images, rejected, _ = index(root)
    assert rejected.to_numpy().tolist() == [[image, reason]]
    assert sorted(images.image) == sorted(IMAGES)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_image_is_listed(share: float, root: Path) -> None:
    cut(share)(root)
    with pytest.raises(OSError) as caught:
        Image.open(root / NEW).load()  # how many bytes are left over is the decoder's to say
    _, rejected, _ = index(root)
    assert rejected.to_numpy().tolist() == [[NEW, f"damaged or unreadable: {caught.value}"]]


def test_the_tables_and_the_summary_agree_on_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names with spaces, commas and quotes survive the table, a newline is escaped."""
    names = ["a b.jpg", 'a,"b".jpg', "a\nb.jpg", "naïve.jpg"]
    for name in names:
        named(name)(root)
    monkeypatch.chdir(root.parent)
    _write_params(root)
    stage.main()
    table = pd.read_csv("data/rejected.csv")
    assert sorted(table.image) == sorted("bounding_box_train/" + name.replace("\n", "\\n") for name in names)
    assert pd.read_json("reports/data.json", typ="series")["rejected_files"] == len(names)


def _write_params(root: Path) -> None:
    shipped = (REPOSITORY / "profiles/embedded.yaml").read_text()
    text = shipped.replace("root: data/world", f"root: {root.name}")
    Path("params.yaml").write_text(text.replace("validation_identities: 20", "validation_identities: 0"))


# --- data sets that cannot be used at all -------------------------------------------------------------------

FORMAT_NEEDS = "a data set in Market-1501 format has bounding_box_train, query, bounding_box_test"
NO_IMAGE = "{root}/query holds no image for the split query that can be used"
REFUSED: dict[str, tuple[Spoil, str]] = {
    "no root": (
        lambda root: shutil.rmtree(root),
        "{root} is no folder; " + FORMAT_NEEDS,
    ),
    "a file for a root": (
        lambda root: (shutil.rmtree(root), root.write_text("")),
        "{root} is no folder; " + FORMAT_NEEDS,
    ),
    "a looping root": (
        lambda root: (shutil.rmtree(root), root.symlink_to(root)),
        "{root} is no folder; " + FORMAT_NEEDS,
    ),
    "missing split": (
        lambda root: shutil.rmtree(root / "query"),
        "{root}/query is missing; " + FORMAT_NEEDS,
    ),
    "misspelled split": (
        move("bounding_box_test", "bounding_box_Test"),
        "{root}/bounding_box_test is missing; " + FORMAT_NEEDS,
    ),
    "a file for a split": (
        lambda root: (shutil.rmtree(root / "query"), (root / "query").write_text("")),
        "{root}/query is no folder; " + FORMAT_NEEDS,
    ),
    "a looping split": (link("query", at="query"), "{root}/query leads nowhere; " + FORMAT_NEEDS),
    "a split that is a broken link": (
        link("gone", at="query"),
        "{root}/query leads nowhere; " + FORMAT_NEEDS,
    ),
    "empty folder": (only("query"), NO_IMAGE),
    "nothing but misnamed": (
        only(
            "query", lambda root: (root / "query/a.png").touch(), lambda root: (root / "query/b.db").touch()
        ),
        NO_IMAGE + f"; 2 files are rejected, the first: {FORM}",
    ),
    "an identity in training and test": (
        copy(FIRST, "bounding_box_test/0002_c3s1_000451_03.jpg"),
        "{root}: 1 of the identities stand in training and in test, the first is 0002 "
        f"({FIRST} and bounding_box_test/0002_c3s1_000451_03.jpg); remove them from one side",
    ),
    "one file name in training and test": (
        copy(FIRST, f"query/{Path(FIRST).name}"),
        "{root}: 1 of the identities stand in training and in test, the first is 0002 "
        f"({FIRST} and query/{Path(FIRST).name}); remove them from one side",
    ),
    "nobody to be found": (
        move(IMAGES[4], "bounding_box_test/0004_c2s1_000001_01.jpg"),
        "{root}: no query has an image of its identity from another camera in the gallery",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_data_set_that_cannot_be_used_is_refused(case: str, root: Path) -> None:
    spoil, sentence = REFUSED[case]
    spoil(root)
    with pytest.raises(ValueError) as caught:
        index(root)
    assert str(caught.value) == sentence.format(root=root)


# --- what is not bad, although public loaders misread it ----------------------------------------------------

WHO = "torchreid, fast-reid and reid-strong-baseline"
NAMES = {  # a name, its identity and camera, and what the loaders make of it
    "0005_p12_c1s1_000451_03.jpg": (5, 1, "read identity 12 and camera 1 from {image}"),
    "0005_c12s1_000451_03.jpg": (5, 12, "read identity 5 and camera 1 from {image}"),
    "0005_c0s1_000451_03.jpg": (
        5,
        0,
        "stop at {image}, for they take identities up to 1501 and cameras 1 to 6",
    ),
    "0005_c7_f0000451.jpg": (5, 7, "stop at {image}, for they take identities up to 1501 and cameras 1 to 6"),
    "7140_c2_f0046985.jpg": (7140, 2, "stop at {image}, for they take identities up to 1501"),
    "0005_c1_1.png": (5, 1, "do not see {image}, for they take *.jpg alone"),
    "0005_c1s1_000451_03.JPG": (5, 1, "do not see {image}, for they take *.jpg alone"),
    "5_c1s1_000451_03.jpg": (5, 1, None),
    "00005_c1.jpg": (5, 1, None),
    "0005_c1s1_000451_03 .jpg": (5, 1, None),
    "0005_c1s1_451_03_g1.jpg.jpg": (5, 1, None),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_public_loaders_misread_is_used_and_said(name: str, root: Path) -> None:
    pid, camid, says = NAMES[name]
    named(name)(root)
    images, rejected, _ = index(root)
    row = images.set_index("image").loc[f"bounding_box_train/{name}"]
    assert (row.pid, row.camid) == (pid, camid) and rejected.empty
    sentences = FORMATS["market1501"].warnings(root, images)
    assert len(sentences) == (says is not None)
    if says:
        assert sentences[0].startswith(f"{WHO} {says.format(image=f'bounding_box_train/{name}')}")
        assert sentences[0].endswith("(1 such images)")


@pytest.mark.parametrize("name", ["exp_20_c2", "7_c1", "run-_c3", "a/12_c6x/market"])
def test_a_root_that_misleads_public_loaders_is_used_and_said(name: str, root: Path) -> None:
    there = root.parent / name
    there.parent.mkdir(exist_ok=True, parents=True)
    root.rename(there)
    images, *_ = index(there)
    (sentence,) = FORMATS["market1501"].warnings(there, images)
    assert sentence.startswith(f"{WHO} read identity ")
    assert sentence.endswith(f"from the path {there} of every image")
    root.symlink_to(there)  # loaders see the name of the link
    assert FORMATS["market1501"].warnings(root, images) == []


def test_what_archives_and_systems_leave_is_passed_over(root: Path) -> None:
    """As in the archives of Market-1501 and MSMT17, and on disks that macOS and Windows have used."""
    for name in ("Thumbs.db", ".DS_Store", f"._{Path(FIRST).name}", "desktop.ini", "readme.txt", ".jpg"):
        (root / "bounding_box_train" / name).write_bytes(b"0")
    for name in ("gt_bbox/0002_c1s1_000451_03.jpg", "gt_query/0002_c1s1_000451_00_good.mat", "__MACOSX/._x"):
        (root / name).parent.mkdir()
        (root / name).touch()
    (root / "bounding_box_train/__MACOSX").mkdir()
    images, rejected, _ = index(root)
    assert sorted(images.image) == sorted(IMAGES) and rejected.empty
    assert FORMATS["market1501"].warnings(root, images) == []


def test_with_one_camera_any_other_image_is_a_match(root: Path) -> None:
    for image in IMAGES:
        if "_c1" not in image:
            to = re.sub(r"_c\d", "_c1", image).replace("_000001_", "_000002_")
            (root / image).rename(root / to)
    images, *_ = index(root)
    assert set(images.camid) == {1} and len(images) == len(IMAGES)
    (root / "bounding_box_test/0003_c1s1_000002_01.jpg").unlink()
    with pytest.raises(ValueError, match="no query has another image of its identity in the gallery"):
        index(root)


def test_someone_must_be_left_to_train_on(root: Path) -> None:
    with pytest.raises(ValueError) as caught:
        index(root, held_out=2)
    assert str(caught.value) == (
        "index.validation_identities is 2; expected less than 2, the number of training identities"
    )


# --- the same picture in training and test ------------------------------------------------------------------


def test_leaked_images_are_listed_in_pairs(root: Path) -> None:
    copy(FIRST, "query/0003_c3s1_000007_00.jpg")(root)
    copy(FIRST, "bounding_box_test/0003_c3s1_000008_00.jpg")(root)
    copy(FIRST, "bounding_box_train/0007_c3s1_000009_00.jpg")(root)  # other copies of the same picture
    link(f"../{IMAGES[4]}")(root)  # a link into the test set is a leak too
    Image.open(root / IMAGES[2]).save(root / "query/0003_c4s1_000009_00.jpg", "PNG")  # other bytes
    images, rejected, leaked = index(root)
    assert leaked.to_numpy().tolist() == [
        [FIRST, "bounding_box_test/0003_c3s1_000008_00.jpg"],
        [FIRST, "query/0003_c3s1_000007_00.jpg"],
        [NEW, IMAGES[4]],
        ["bounding_box_train/0007_c1s1_000001_01.jpg", "query/0003_c4s1_000009_00.jpg"],
        ["bounding_box_train/0007_c3s1_000009_00.jpg", "query/0003_c3s1_000007_00.jpg"],
    ]
    summary = stage.summarise(images, rejected, leaked)
    assert summary["train_images_in_test"] == 4 and summary["rejected_files"] == 0
    assert len(images) == len(IMAGES) + 5


@pytest.mark.parametrize("held_out", [0, 1])
def test_the_pairs_agree_with_a_slow_search(held_out: int, root: Path) -> None:
    rng = np.random.default_rng(held_out)
    for number, source in enumerate(rng.integers(4, size=24)):
        folder, pid = [("bounding_box_train", 2), ("query", 3), ("bounding_box_test", 3)][number % 3]
        copy(IMAGES[source], f"{folder}/{pid:04d}_c5s1_{number:06d}_00.jpg")(root)
    images, _, leaked = index(root, held_out)
    content = {image: (root / image).read_bytes() for image in images.image}
    train = [image for image in content if image.startswith("bounding_box_train/")]
    test = [image for image in content if not image.startswith("bounding_box_train/")]
    every = {(a, b) for a in train for b in test if content[a] == content[b]}
    pairs = set(map(tuple, leaked.to_numpy().tolist()))
    assert pairs <= every and len(pairs) == len(leaked) < len(content)
    assert {a for a, _ in pairs} == {a for a, _ in every} and {b for _, b in pairs} == {b for _, b in every}


# --- what is valid ------------------------------------------------------------------------------------------


def _with_damaged_exif(root: Path) -> None:
    picture("RGB", "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff broken")(root)


def _grey_linked(root: Path) -> None:
    Image.new("L", (8, 16), 77).save(root.parent / "elsewhere.jpg")
    (root / NEW).symlink_to(root.parent / "elsewhere.jpg")


def _opaque(mode: str) -> Spoil:
    """An image with an alpha channel that hides nothing, as many programs write."""
    return lambda root: Image.new("RGB", (8, 16), "teal").convert(mode).save(root / NEW, "PNG")


VALID: dict[str, Spoil] = {
    "opaque colour with alpha": _opaque("RGBA"),
    "opaque grey with alpha": _opaque("LA"),
    "grey": picture("L", "JPEG"),
    "CMYK": picture("CMYK", "JPEG"),
    "progressive": picture("RGB", "JPEG", progressive=True),
    "PNG named .jpg": picture("RGB"),
    "palette": picture("P"),
    "16-bit colour": deep,
    "black and white": picture("1"),
    "one pixel": picture("RGB", "JPEG", size=(1, 1)),
    "large": picture("RGB", "JPEG", size=(512, 1024)),
    "upright by EXIF": oriented(1),
    "no EXIF orientation": oriented(0),
    "unknown EXIF orientation": oriented(9),
    "damaged EXIF": _with_damaged_exif,
    "link out of the root": outside,
    "link to a grey image": _grey_linked,
    "synthetic name": named("0002_c1s1_000451_03_g0001.jpg"),
    "long sequence": named("0002_c6s12_000000_99.jpg"),
    "last identity": named("1501_c6s1_000000_00.jpg"),
    "identity with one image": named("0006_c1s1_000000_00.jpg"),
    "one name in query and gallery": copy(IMAGES[3], f"bounding_box_test/{Path(IMAGES[3]).name}"),
    "query without a match": copy(IMAGES[1], "query/0009_c1s1_000001_00.jpg"),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("case", VALID)
def test_nothing_valid_is_refused(case: str, root: Path) -> None:
    VALID[case](root)
    images, rejected, _ = index(root)
    assert rejected.empty and len(images) == len(IMAGES) + 1


@pytest.mark.parametrize("name", ["data set", "数据", "a\nb", "exp_20_c", "c2_20", "caf\udce9", "%(s){}[*]"])
def test_the_root_may_have_any_other_name(name: str, root: Path) -> None:
    assert len(index(root.rename(root.parent / name))[0]) == len(IMAGES)


def test_a_root_may_be_a_link_and_a_split_may_not(root: Path) -> None:
    """DVC follows a link in place of the data set, and does not look behind one inside of it."""
    (root.parent / "linked").symlink_to(root)
    assert sorted(index(root.parent / "linked")[0].image) == sorted(IMAGES)
    outside_folder(root)
    with pytest.raises(ValueError, match="is a link to a folder, and DVC does not see changes behind it"):
        index(root)


# --- no permission ------------------------------------------------------------------------------------------


@pytest.fixture
def as_stranger(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """In the folder of the root, whose owner is somebody else once the fixture is called."""
    monkeypatch.chdir(root.parent)
    _write_params(root)
    me = os.geteuid()
    root.parent.chmod(0o555)
    yield lambda: os.seteuid(65534) if me == 0 else None  # the superuser may write everywhere
    os.seteuid(me)
    root.parent.chmod(0o755)
    (root / "query").chmod(0o755)


def test_a_folder_that_cannot_be_written_is_named(as_stranger: Callable[[], None]) -> None:
    as_stranger()
    with pytest.raises(SystemExit) as caught:
        stage_main(stage.main)
    sentence = ": data/index.csv: cannot be written (Permission denied); it was not changed"
    assert str(caught.value.code).endswith(sentence)


def test_what_cannot_be_read_is_named(root: Path, as_stranger: Callable[[], None]) -> None:
    (root / FIRST).chmod(0)
    as_stranger()
    _, rejected, _ = index(Path(root.name))
    assert rejected.to_numpy().tolist() == [[FIRST, "damaged or unreadable: Permission denied"]]


def test_a_folder_that_cannot_be_read_is_named(root: Path, as_stranger: Callable[[], None]) -> None:
    (root / "query").chmod(0o300)
    as_stranger()
    with pytest.raises(SystemExit) as caught:
        stage_main(stage.main)
    assert str(caught.value.code).endswith(": market/query: Permission denied")
