"""Other code bases read an export as they read Market-1501, and equal exports are equal bytes."""

import re
import shutil
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline import index, subset
from pipeline.datasets.marks import Mark, read_mark
from pipeline.runtime.scratch import md5, model_hash
from tests.pipeline.market import save_image
from tools import export, import_images

SYNTHETIC = [
    "0002_c1s1_000001_01_g0001.jpg",
    "0002_c1s1_000001_01_g0002.jpg",
    "0007_c6s1_000002_01_g0001.jpg",
]


@pytest.fixture
def project(market: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with subsets of 50 % and three synthetic images, and the present folder."""
    monkeypatch.chdir(market.parent)
    text = (Path(__file__).parents[2] / "params.yaml").read_text()
    text = text.replace("root: data/world", f"root: {market}").replace("[20, 40, 60, 80]", "[50]")
    text = text.replace("identities_per_batch: 12", "identities_per_batch: 3")
    text = text.replace("images_per_identity: 4 # K", "images_per_identity: 2 # K")
    Path("params.yaml").write_text(text.replace("validation_identities: 20", "validation_identities: 1"))
    index.main()
    subset.main()
    model = Path("models/generator/all/100")
    model.mkdir(parents=True)
    (model / "model_index.json").write_text("{}")
    folder = Path("data/synthetic/all/50")
    train = index.read_index().query("split == 'train'")
    for seed, name in enumerate(SYNTHETIC):
        save_image(folder / name, 500 + seed)
    names = [name for name in SYNTHETIC if int(name[:4]) in set(train.pid)]
    manifest = pd.DataFrame({"name": names, "pid": [int(name[:4]) for name in names]})
    manifest.assign(generator=model_hash(model)).to_csv(folder / "manifest.csv", index=False)
    return market.parent


def run(command: object, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    command.main()  # type: ignore[attr-defined]


def expected(splits: list[str]) -> Counter:
    """(pid, camera from 0) of the images that an export must hold, synthetic ones included."""
    table = index.read_index()
    if splits == ["train"]:
        table = table[table.image.isin(subset.read_subset(50))]
        added = pd.read_csv("data/synthetic/all/50/manifest.csv").name
    else:
        table, added = table[table.split.isin(splits)], []
    counts = Counter(zip(table.pid, table.camid - 1, strict=True))
    return counts + Counter((int(name[:4]), int(name[6]) - 1) for name in added)


def test_torchreids_own_loader_reads_an_export(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchreid.reid.data.datasets.image.market1501 import Market1501

    run(export, monkeypatch, "augmented", "50")
    with pytest.warns(UserWarning, match="deprecated"):  # it finds the folders under the link
        loaded = Market1501(root="exports/augmented-50", verbose=False)
    assert Counter((int(Path(path).name[:4]), camid) for path, _, camid, _ in loaded.train) == expected(
        ["train"]
    )
    assert len({pid for _, pid, _, _ in loaded.train}) == len({pid for pid, _ in expected(["train"])})
    assert len({(Path(path).name[:4], pid) for path, pid, _, _ in loaded.train}) == loaded.num_train_pids
    assert Counter((pid, camid) for _, pid, camid, _ in loaded.query) == expected(["query"])
    gallery = Counter({key: n for key, n in expected(["gallery"]).items() if key[0] != -1})
    assert Counter((pid, camid) for _, pid, camid, _ in loaded.gallery) == gallery


@pytest.mark.parametrize(
    "root", ["Market-1501-v15.09.15", "market1501"]
)  # fast-reid's, reid-strong-baseline's
def test_the_rule_of_fast_reid_and_reid_strong_baseline_reads_an_export(
    root: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(export, monkeypatch, "augmented", "50")
    folders = {"bounding_box_train": ["train"], "query": ["query"], "bounding_box_test": ["gallery"]}
    for folder, splits in folders.items():
        found = Counter()
        for file in (Path("exports/augmented-50").absolute() / root / folder).glob("*.jpg"):
            match = re.search(r"([-\d]+)_c(\d)", str(file))  # on the whole path, as they do
            assert match
            pid, camid = int(match[1]), int(match[2])
            if pid == -1:  # junk, which they skip
                continue
            assert 0 <= pid <= 1501 and 1 <= camid <= 6  # they assert it, too
            found[pid, camid - 1] += 1
        wanted = Counter({key: n for key, n in expected(splits).items() if key[0] != -1})
        assert found == wanted and found.total() > 0
    gallery = list(Path("exports/augmented-50", root, "bounding_box_test").glob("*.jpg"))
    assert len(gallery) == expected(["gallery"]).total() > found.total(), "junk lies there, as in Market-1501"


def test_images_are_the_same_bytes_and_hard_links(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(export, monkeypatch, "augmented", "50")
    root = Path("exports/augmented-50/Market-1501-v15.09.15")
    table = index.read_index().set_index("image")
    for file in root.rglob("*.jpg"):
        name = file.relative_to(root).as_posix()
        if "_g" not in name:
            assert md5(file) == table.md5[name]
    assert (root / "bounding_box_train" / "0002_c1s1_000001_01_g0001.jpg").stat().st_nlink > 1


def test_where_links_are_impossible_images_are_copied(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    run(export, monkeypatch, "standard", "100")
    files = list(Path("exports/standard-100/Market-1501-v15.09.15").rglob("*.jpg"))
    assert len(files) == len(index.read_index().query("split in ['train', 'query', 'gallery']"))
    assert all(file.stat().st_nlink == 1 for file in files)


def test_equal_exports_are_equal_archives(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(export, monkeypatch, "augmented", "50", "--archive")
    first = Path("exports/augmented-50.tar").read_bytes()
    for file in Path("data/synthetic/all/50").iterdir():
        file.touch()
    run(export, monkeypatch, "augmented", "50", "--archive")
    assert Path("exports/augmented-50.tar").read_bytes() == first
    with tarfile.open("exports/augmented-50.tar") as tar:
        tar.extractall("unpacked", filter="data")
    assert Path("unpacked/augmented-50/market1501/query").is_dir()
    card = Path("unpacked/augmented-50/README.md").read_text()
    made = len(pd.read_csv("data/synthetic/all/50/manifest.csv"))
    real = len(subset.read_subset(50))
    assert f"| `bounding_box_train` | {real} | {made} |" in card and "all real training images" in card
    assert model_hash("models/generator/all/100") in card


def test_the_card_says_which_images_were_chosen(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree("data/synthetic/all", "data/filtered/sure")
    text = Path("params.yaml").read_text()
    sure = (
        "synthetic: data/synthetic/all, judge: image_encoder, min_agreement: 0.9, min_diversity: 0.1, seed: 0"
    )
    text = text.replace("filters: {}", f"filters: {{sure: {{{sure}}}}}")
    text = text.replace("synthetic: data/synthetic/all #", "synthetic: data/filtered/sure #")
    Path("params.yaml").write_text(text.replace("synthetic_ratio: null", "synthetic_ratio: 0.5"))
    run(export, monkeypatch, "augmented", "50")
    card = Path("exports/augmented-50/README.md").read_text()
    assert "the image encoder judged to show their person (agreement of at least 0.9)" in card
    assert "At most 0.5 per real image were taken" in card


@pytest.mark.parametrize("changed", ["model", "manifest"])
def test_a_card_that_would_describe_another_generator_is_refused(
    changed: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if changed == "model":
        Path("models/generator/all/100/model_index.json").write_text("{ }")
    else:
        file = Path("data/synthetic/all/50/manifest.csv")
        pd.read_csv(file).drop(columns="generator").to_csv(file, index=False)
    with pytest.raises(ValueError, match="not of the present generator, models/generator/all/100, which"):
        run(export, monkeypatch, "augmented", "50")
    assert not Path("exports").exists()


@pytest.mark.parametrize(
    "name", ["0002_c1_fake.png", "0002_c12s1_x.jpg", "0002_cam3_a.jpg", "0002_c9s1_000001_01.jpg"]
)
def test_a_name_that_loaders_misread_is_refused(
    name: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path("data/synthetic/all/50")
    save_image(folder / name)
    pd.DataFrame({"name": [name], "pid": [2]}).to_csv(folder / "manifest.csv")
    with pytest.raises(ValueError, match=f"{name}: loaders read no image of identity 2 by camera 1 to 6"):
        run(export, monkeypatch, "augmented", "50")


def test_deepfashion_has_no_folders_to_export_to(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("format: market1501 #", "format: deepfashion #"))
    with pytest.raises(ValueError, match="format is deepfashion; expected market1501"):
        run(export, monkeypatch, "standard", "50")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pidm", "50"], "the arm is pidm; expected standard or one of augmented"),
        (["augmented", "30"], r"the percent is 30; expected one of 50 \(subset.percents\) or 100"),
        (
            ["standard", "50", "--to", "exp_20_c2"],
            "public loaders read an identity and a camera from this path",
        ),
        (["standard", "50", "--to", "."], "exists and is no export; name another folder"),
        (["augmented", "100"], "the arm augmented has no synthetic images at 100 %; expected standard"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(
    arguments: list[str], sentence: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises((ValueError, OSError), match=sentence):
        run(export, monkeypatch, *arguments)


def test_a_synthetic_image_under_a_real_name_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, name = Path("data/synthetic/all/50"), Path(subset.read_subset(50)[0]).name
    next(folder.glob("*.jpg")).rename(folder / name)
    pd.DataFrame({"name": [name], "pid": [int(name[:4])]}).to_csv(folder / "manifest.csv")
    with pytest.raises(ValueError, match=f"{name} stands twice"):
        run(export, monkeypatch, "augmented", "50")


def test_outside_images_become_an_arm(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pid = int(index.read_index().query("split == 'train'").pid.min())
    stem = f"{pid:04d}_c1s1_000001_01"
    jpeg = save_image(Path(f"outside/{stem}.jpg"), 1)
    save_image(Path(f"outside/{stem}_g0007.png"), 2)
    save_image(Path(f"outside/again/{stem}_g0007.png"), 3)
    for name in ("left.webp", "notes.txt"):
        (Path("outside") / name).touch()
    run(import_images, monkeypatch, "outside", "pidm")
    assert "outside: 2 files are not imported, the first is left.webp\n" in capsys.readouterr().out
    folder = Path("data/imported/pidm/50")
    manifest = pd.read_csv(folder / "manifest.csv")
    # A counter stays, for it may be that of our plan, which a user study compares by; others get a free one.
    assert dict(zip(manifest.file, manifest.name, strict=True)) == {
        f"{stem}.jpg": f"{stem}_g0001.jpg",
        f"{stem}_g0007.png": f"{stem}_g0007.jpg",
        f"again/{stem}_g0007.png": f"{stem}_g0002.jpg",
    }
    assert manifest.pid.tolist() == [pid] * 3
    assert manifest.md5.tolist() == [md5(folder / name) for name in manifest.name]
    assert md5(jpeg) == manifest.set_index("file").md5[f"{stem}.jpg"], "a JPEG stays as it is"
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("data/synthetic/all", "data/imported/pidm"))
    run(export, monkeypatch, "augmented", "50")
    train = Path("exports/augmented-50/market1501/bounding_box_train")
    assert len(list(train.glob("*_g*.jpg"))) == 3


def test_the_mark_of_an_outside_png_stays(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = int(index.read_index().query("split == 'train'").pid.min())
    png = save_image(Path(f"outside/{pid:04d}_c1s1_000001_01.png"), 1)
    mark, chunks = Mark("abc", "source.jpg", "pose.jpg", 7), PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", mark.to_xmp().decode())
    with Image.open(png) as image:
        image.save(png, pnginfo=chunks)
    assert read_mark(png) == mark
    run(import_images, monkeypatch, "outside", "pidm", "--percents", "50")
    (made,) = Path("data/imported/pidm/50").glob("*.jpg")
    assert read_mark(made) == mark

    chunks = PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", " " * 70_000)
    with Image.open(png) as image:
        image.save(png, pnginfo=chunks)
    with pytest.raises(ValueError, match="its XMP has 70000 bytes, a JPEG holds 65504"):
        run(import_images, monkeypatch, "outside", "pidm", "--percents", "50")


def test_a_mapping_names_images_of_any_name(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = sorted(set(index.read_index().query("split == 'train'").pid))[:2]
    for i, name in enumerate(["a/x.png", "b.jpg", "c.jpg"]):
        save_image(Path("outside") / name, i)
    rows = {"file": ["b.jpg", "a/x.png", "c.jpg"], "pid": [pids[0], pids[0], pids[1]], "camid": [3, 3, 6]}
    pd.DataFrame(rows).to_csv("names.csv", index=False)
    run(import_images, monkeypatch, "outside", "pidm", "--mapping", "names.csv", "--percents", "50")
    manifest = pd.read_csv("data/imported/pidm/50/manifest.csv")
    assert manifest[["name", "file"]].to_numpy().tolist() == [
        [f"{pids[0]:04d}_c3s0_000000_00_g0001.jpg", "a/x.png"],
        [f"{pids[0]:04d}_c3s0_000000_00_g0002.jpg", "b.jpg"],
        [f"{pids[1]:04d}_c6s0_000000_00_g0001.jpg", "c.jpg"],
    ]


def test_a_mapping_outweighs_what_a_name_says(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = sorted(set(index.read_index().query("split == 'train'").pid))[:2]
    file = f"{one:04d}_c1s1_000001_01_g0007.jpg"
    save_image(Path("outside") / file)
    pd.DataFrame({"file": [file], "pid": [other], "camid": [3]}).to_csv("names.csv", index=False)
    run(import_images, monkeypatch, "outside", "pidm", "--mapping", "names.csv", "--percents", "50")
    assert pd.read_csv("data/imported/pidm/50/manifest.csv").name.tolist() == [
        f"{other:04d}_c3s0_000000_00_g0001.jpg"
    ]


@pytest.mark.parametrize(
    ("name", "row", "sentence"),
    [
        ("0003_c1s1_000001_00.jpg", None, "shows identity 3, which is no training identity"),
        ("face.jpg", None, r"face.jpg: the name is not of the form .* \(--mapping\)"),
        ("face.jpg", ("face.jpg", 2, 7), "face.jpg has camid 7, expected 1 to 6"),
        ("face.jpg", ("../params.yaml", 2, 1), "lies outside outside"),
        ("0002_c1s1_000001_00.txt", None, "outside holds no images"),
    ],
)
def test_bad_outside_images_are_refused_and_nothing_is_written(
    name: str, row: tuple | None, sentence: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_image(Path("outside/x.jpg")).rename(Path("outside") / name)
    arguments = ["outside", "pidm"]
    if row:
        pd.DataFrame([row], columns=["file", "pid", "camid"]).to_csv("names.csv", index=False)
        arguments += ["--mapping", "names.csv"]
    with pytest.raises(ValueError, match=sentence):
        run(import_images, monkeypatch, *arguments)
    assert not Path("data/imported").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "names.csv is missing; expected a table with the columns file, pid, camid"),
        ("file,pid\na.jpg,2\n", "names.csv: it has no column 'camid'; expected a table with the columns"),
        (
            "file,pid,camid\na.jpg,two,1\n",
            "names.csv: line 2, column 'pid' is 'two', expected a whole number",
        ),
    ],
)
def test_a_bad_mapping_is_named(
    text: str | None, sentence: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("outside").mkdir()
    if text:
        Path("names.csv").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        run(import_images, monkeypatch, "outside", "pidm", "--mapping", "names.csv")


def test_a_folder_without_a_manifest_is_read_by_its_names(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path("elsewhere/pidm/50")
    shutil.copytree("data/synthetic/all/50", folder)
    (folder / "manifest.csv").unlink()
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("data/synthetic/all", "elsewhere/pidm"))
    run(export, monkeypatch, "augmented", "50")
    made = {file.name for file in folder.glob("*.jpg")}
    assert made and made <= {file.name for file in Path("exports/augmented-50").rglob("*.jpg")}


def test_a_damaged_outside_image_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = int(index.read_index().query("split == 'train'").pid.min())
    file = save_image(Path(f"outside/{pid:04d}_c1s1_000001_01.jpg"))
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(ValueError, match=r"000001_01.jpg: damaged or unreadable"):
        run(import_images, monkeypatch, "outside", "pidm")
    assert not Path("data/imported/pidm/50").exists()
