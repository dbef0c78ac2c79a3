"""Other code bases read an export as they read Market-1501, and equal exports are equal bytes."""

import re
import shutil
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from pipeline import index, subset
from pipeline.artifacts import read_index, read_subset
from pipeline.datasets.signatures import read_signature
from pipeline.runtime.hashes import md5, model_hash
from tests import REPOSITORY
from tests.pipeline.certificates import make_certificates
from tests.pipeline.market import save_image
from tools import verify
from tools.export import __main__ as export

SYNTHETIC = [
    "0002_c1s1_000001_01_g0001.jpg",
    "0002_c1s1_000001_01_g0002.jpg",
    "0007_c6s1_000002_01_g0001.jpg",
]


@pytest.fixture
def project(market: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with subsets of 50 % and three synthetic images, and the present folder."""
    monkeypatch.chdir(market.parent)
    text = (REPOSITORY / "profiles/embedded.yaml").read_text()
    text = text.replace("data/world", str(market)).replace("[20, 40, 60, 80]", "[50]")
    text = text.replace("identities_per_batch: 12", "identities_per_batch: 3")
    text = text.replace("images_per_identity: 4 # K", "images_per_identity: 2 # K")
    Path("params.yaml").write_text(text.replace("validation_identities: 20", "validation_identities: 1"))
    index.main()
    subset.main()
    model = Path("models/generator/all/100")
    model.mkdir(parents=True)
    (model / "model_index.json").write_text("{}")
    folder = Path("data/synthetic/all/50")
    train = read_index().query("split == 'train'")
    for seed, name in enumerate(SYNTHETIC):
        save_image(folder / name, 500 + seed)
    names = [name for name in SYNTHETIC if int(name[:4]) in set(train.pid)]
    write_manifest(names, [int(name[6]) for name in names])
    return market.parent


def write_manifest(names: list[str], camids: list[int], pids: list[int] | None = None) -> None:
    """Write the manifest of synthetic images; a name begins with the identity."""
    pids = pids or [int(name[:4]) for name in names]
    manifest = pd.DataFrame(
        {"name": names, "pid": pids, "camid": camids, "order": range(len(names)), "md5": "-"}
    )
    manifest["generator"] = model_hash("models/generator/all/100")
    manifest.to_csv("data/synthetic/all/50/manifest.csv", index=False)


def run(command: object, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    command.main()  # type: ignore[attr-defined]


def expected(splits: list[str]) -> Counter:
    """(pid, camera from 0) of the images that an export must hold, synthetic ones included."""
    table = read_index()
    if splits == ["train"]:
        table = table[table.image.isin(read_subset(50))]
        added = pd.read_csv("data/synthetic/all/50/manifest.csv").name
    else:
        table, added = table[table.split.isin(splits)], []
    counts = Counter(zip(table.pid, table.camid - 1, strict=True))
    return counts + Counter((int(name[:4]), int(name[6]) - 1) for name in added)


def test_torchreids_own_loader_reads_an_export(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchreid.reid.data.datasets.image.market1501 import Market1501

    run(export, monkeypatch, "imagpose", "50")
    with pytest.warns(UserWarning, match="deprecated"):  # it finds the folders under the link
        loaded = Market1501(root="exports/imagpose-50", verbose=False)
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
    run(export, monkeypatch, "imagpose", "50")
    folders = {"bounding_box_train": ["train"], "query": ["query"], "bounding_box_test": ["gallery"]}
    for folder, splits in folders.items():
        found = Counter()
        for file in (Path("exports/imagpose-50").absolute() / root / folder).glob("*.jpg"):
            match = re.search(r"([-\d]+)_c(\d)", str(file))  # on the whole path, as they do
            assert match
            pid, camid = int(match[1]), int(match[2])
            if pid == -1:  # junk, which they skip
                continue
            assert 0 <= pid <= 1501 and 1 <= camid <= 6  # they assert it, too
            found[pid, camid - 1] += 1
        wanted = Counter({key: n for key, n in expected(splits).items() if key[0] != -1})
        assert found == wanted and found.total() > 0
    gallery = list(Path("exports/imagpose-50", root, "bounding_box_test").glob("*.jpg"))
    assert len(gallery) == expected(["gallery"]).total() > found.total(), "junk lies there, as in Market-1501"


def test_images_are_the_same_bytes_and_hard_links(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(export, monkeypatch, "imagpose", "50")
    root = Path("exports/imagpose-50/Market-1501-v15.09.15")
    table = read_index().set_index("image")
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
    assert len(files) == len(read_index().query("split in ['train', 'query', 'gallery']"))
    assert all(file.stat().st_nlink == 1 for file in files)


def test_equal_exports_are_equal_archives(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(export, monkeypatch, "imagpose", "50", "--archive")
    first = Path("exports/imagpose-50.tar").read_bytes()
    for file in Path("data/synthetic/all/50").iterdir():
        file.touch()
    run(export, monkeypatch, "imagpose", "50", "--archive")
    assert Path("exports/imagpose-50.tar").read_bytes() == first
    with tarfile.open("exports/imagpose-50.tar") as tar:
        tar.extractall("unpacked", filter="data")
    assert Path("unpacked/imagpose-50/market1501/query").is_dir()
    card = Path("unpacked/imagpose-50/README.md").read_text()
    synthetic = len(pd.read_csv("data/synthetic/all/50/manifest.csv"))
    real = len(read_subset(50))
    assert f"| train | {real} | {synthetic} |" in card and "all real training images" in card
    assert model_hash("models/generator/all/100") in card


def test_the_card_says_which_images_were_chosen(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree("data/synthetic/all", "data/synthetic/sure")
    text = Path("params.yaml").read_text()
    text = text.replace("filters: {}", "filters: {sure: {generator: all, min_agreement: 0.9}}")
    text = text.replace("imagpose: {generator: all}", "imagpose: {generator: sure}")
    Path("params.yaml").write_text(text)
    run(export, monkeypatch, "imagpose", "50")
    card = Path("exports/imagpose-50/README.md").read_text()
    assert "the image encoder judged to show their person (agreement of at least 0.9)" in card


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
        run(export, monkeypatch, "imagpose", "50")
    assert not Path("exports").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "camid", "exported"),
    [
        ("0002_c1_fake.png", 1, "0002_c1_fake.jpg"),  # loaders take *.jpg alone
        ("fake.jpg", 3, "0002_c3_fake.jpg"),
        ("0002_p12_c3.jpg", 3, "0002_c3_0002_p12_c3.jpg"),  # they would read identity 12
        ("0002_c0_fake.jpg", -1, "0002_c1_0002_c0_fake.jpg"),  # no camera is known, and they want one
        ("0002_c1s1_000001_01.jpg", 1, "0002_c1s1_000001_01_2.jpg"),  # the name of a real image
    ],
)
def test_what_loaders_would_misread_gets_a_name_that_they_read(
    name: str, camid: int, exported: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_image(Path("data/synthetic/all/50") / name)
    write_manifest([name], [camid], [2])
    real = {Path(image).name for image in read_subset(50)}
    if name.startswith("0002_c1s1") and name not in real:
        exported = name
    run(export, monkeypatch, "imagpose", "50")
    listed = pd.read_csv("exports/imagpose-50/synthetic.csv")
    assert listed.file.tolist() == [f"Market-1501-v15.09.15/bounding_box_train/{exported}"]
    assert listed.pid.tolist() == [2]
    assert (Path("exports/imagpose-50/market1501/bounding_box_train") / exported).is_file()


def test_what_loaders_cannot_read_is_refused_and_a_table_takes_it(
    project: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seventh camera, an identity over 1501, and a test with one camera."""
    for old, new, sentence in (
        (
            "query/0003_c2s1_000001_00.jpg",
            "query/0003_c7s1_000001_00.jpg",
            "stop at Market-1501-v15.09.15/query/0003_c7s1_000001",
        ),
        (
            "query/0003_c7s1_000001_00.jpg",
            "query/0003_c12s1_000001_00.jpg",
            "identity 3 and camera 1 from Market-1501-v15.09.15/query/0003_c12s1",
        ),
    ):
        (market / old).rename(market / new)
        keypoints = market / "keypoints.csv"
        keypoints.write_text(keypoints.read_text().replace(old, new))
        index.main()
        with pytest.raises(ValueError, match=sentence) as caught:
            run(export, monkeypatch, "imagpose", "50")
        assert str(caught.value).endswith("(1 such images); --layout table exports it as it is")
        assert not Path("exports/imagpose-50").exists()
    run(export, monkeypatch, "imagpose", "50", "--layout", "table", "--archive")
    table = pd.read_csv("exports/imagpose-50/images.csv").set_index("image")
    assert table.camid["real/query/0003_c12s1_000001_00.jpg"] == 12
    assert all((Path("exports/imagpose-50") / image).is_file() for image in table.index)
    assert table.split.value_counts().to_dict() == {
        "gallery": 14,
        "train": 9 + table.synthetic.sum(),
        "query": 6,
    }
    card = Path("exports/imagpose-50/README.md").read_text()
    assert "with the table `images.csv`" in card

    frame = read_index()
    one = frame.assign(camid=frame.camid.where(frame.split == "train", 1))
    monkeypatch.setattr(export, "read_index", lambda: one)
    with pytest.raises(ValueError, match=r"no two cameras in its test, and .* would find nobody; --layout"):
        run(export, monkeypatch, "imagpose", "50", "--to", "elsewhere")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pidm", "50"], "the arm is pidm; expected standard or one of imagpose"),
        (["imagpose", "30"], r"the percent is 30; expected one of 50 \(subset.percents\) or 100"),
        (
            ["standard", "50", "--to", "exp_20_c2"],
            "reid-strong-baseline read identity 20 and camera 2 from the path",
        ),
        (["standard", "50", "--to", "."], "exists and is no export; name another folder"),
        (["imagpose", "100"], "the arm imagpose has no synthetic images at 100 %; expected standard"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(
    arguments: list[str], sentence: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises((ValueError, OSError), match=sentence):
        run(export, monkeypatch, *arguments)


def test_images_of_another_generator_are_exported_and_named_so(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree("data/synthetic/all", "data/synthetic/pidm")
    text = Path("params.yaml").read_text()
    text = text.replace("imports: {}", "imports: {pidm: {folder: elsewhere/pidm}}")
    Path("params.yaml").write_text(text.replace("imagpose: {generator: all}", "pidm: {generator: pidm}"))
    run(export, monkeypatch, "pidm", "50")
    names = set(pd.read_csv("data/synthetic/pidm/50/manifest.csv").name)
    assert names and names <= {file.name for file in Path("exports/pidm-50").rglob("*.jpg")}
    card = Path("exports/pidm-50/README.md").read_text()
    assert "Another generator made them; they were imported as `data/synthetic/pidm`." in card


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hugging Face's datasets without a network, with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def train_rows() -> Counter:
    """(pid, camera, synthetic, sources) of the images that a training set must hold."""
    real = read_index()
    real = real[real.image.isin(read_subset(50))]
    added = pd.read_csv("data/synthetic/all/50/manifest.csv")
    return Counter(
        [
            *zip(real.pid, real.camid, [False] * len(real), [""] * len(real), strict=True),
            *zip(added.pid, added.camid, [True] * len(added), added.sources, strict=True),
        ]
    )


@pytest.mark.slow
def test_hugging_faces_datasets_and_mlcroissant_read_an_imagefolder(
    project: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlcroissant
    from datasets import load_dataset
    from PIL import Image

    manifest = pd.read_csv("data/synthetic/all/50/manifest.csv")
    origins = {"sources": [f"bounding_box_train/{name}|b.jpg" for name in manifest.name], "pose": "c.jpg"}
    manifest.assign(**origins).to_csv("data/synthetic/all/50/manifest.csv", index=False)
    run(export, monkeypatch, "imagpose", "50", "--layout", "imagefolder")
    folder = Path("exports/imagpose-50")
    index = read_index()

    # By the front matter of the card, and by the names of the folders alone
    loaded = load_dataset(str(folder))
    assert set(loaded) == {"train", "query", "gallery"}
    assert (
        Counter((r["pid"], r["camid"], r["synthetic"], r["sources"]) for r in loaded["train"]) == train_rows()
    )
    for split in ("query", "gallery"):
        inside = index[index.split == split]
        assert Counter(zip(loaded[split]["pid"], loaded[split]["camid"], strict=True)) == Counter(
            zip(inside.pid, inside.camid, strict=True)
        )
    by_name = load_dataset("imagefolder", data_dir=str(folder))
    assert {split: len(rows) for split, rows in by_name.items()} == {
        "train": len(loaded["train"]),
        "test": len(loaded["query"]) + len(loaded["gallery"]),
    }

    # Croissant: without an error, and with the pixels of the file that the record names
    described = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
    assert not described.metadata.issues.errors
    records = list(described.records("train"))
    read = Counter(
        (r["train/pid"], r["train/camid"], r["train/synthetic"], r["train/sources"].decode()) for r in records
    )
    assert read == train_rows()
    for record in records:
        with Image.open(folder / "train" / record["train/file_name"].decode()) as image:
            assert record["train/image"].tobytes() == image.tobytes()


def test_synthetic_images_of_an_export_are_signed_and_real_ones_are_not(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    certificates, key, authority = make_certificates(project)
    run(export, monkeypatch, "imagpose", "50", "--layout", "table", "--sign", str(certificates), str(key))
    listed = pd.read_csv("exports/imagpose-50/synthetic.csv").file
    for image in pd.read_csv("exports/imagpose-50/images.csv").image:
        state = read_signature(Path("exports/imagpose-50") / image, authority.read_bytes()).state
        assert state == ("signed" if image in set(listed) else "unsigned")
    run(verify, monkeypatch, "exports/imagpose-50", "--signatures", "--trust", str(authority))
    assert f"{len(listed)} images, all as they were signed" in capsys.readouterr().out
    assert all(
        read_signature(Path("data/synthetic/all/50") / Path(name).name).state == "unsigned" for name in listed
    )
