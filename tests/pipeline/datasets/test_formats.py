"""A small data set of every kind in its true form goes through the stages, and bad ones are named."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd
import pytest

from generator.sample import IMAGPosePipeline
from pipeline import (
    check,
    contact_sheets,
    cross,
    gains,
    generate,
    identity,
    plan,
    poses,
    report,
    scores,
    subset,
    table4,
    train_reid,
)
from pipeline import filter as filters
from pipeline import index as index_stage
from pipeline.artifacts import GENERATOR_CURVES, IDENTITY, SYNTHETIC, read_index, read_plan, read_subset
from pipeline.datasets.formats import FORMATS
from pipeline.datasets.indexing import index_dataset
from pipeline.datasets.marks import read_mark
from pipeline.datasets.names import read_name
from pipeline.datasets.synthetic import read_synthetic
from pipeline.params import IndexSettings, load_params
from pipeline.runtime.outputs import write_csv
from pipeline.shared import pose_judge
from tests import REPOSITORY, change, embedded, read_yaml, write_params
from tests.generator import tiny
from tests.pipeline.market import (
    deepfashion_folder,
    keypoints_frame,
    market_layout,
    msmt17_folder,
    save_image,
    save_method,
    table_folder,
)
from tools import table as table_tool
from tools.export import __main__ as export

NONE_HELD_OUT = IndexSettings(validation_identities=0, seed=0)
NAMES = ["Ánna", "b 10", "b 2", "李", "q_1", "r", "s"]


class Example(NamedTuple):
    """A data set: its format, how it is made, one of its images, and what the index says of that one."""

    format: str
    make: Callable[[Path], object]
    image: str
    pid: int
    camid: int
    plan: str  # pattern of the names of images that are generated from it
    further: Mapping[str, object] = MappingProxyType({})


def folders_per_identity(root: Path) -> None:
    """<split>/<person>/<image>, of which tools.table makes the table."""
    for seed, (split, person) in enumerate(
        (split, person)
        for split, people in (("train", NAMES[:4]), ("test", NAMES[4:]))
        for person in people
        for _ in range(6)
    ):
        save_image(root / split / person / f"cam{seed % 2 + 3}-{seed}.jpg", seed)
    images, _ = table_tool.list_images(root)
    table, _ = table_tool.split_by_folders(root, images, table_tool.read_camera([r"cam(\d+)"]))
    write_csv(table, root / "images.csv")
    keypoints_frame(table.image.tolist()).to_csv(root / "keypoints.csv", index=False)


TRAIN, TEST = {"train": 1}, {"query": 5, "gallery": 5}
EXAMPLES = {
    "DukeMTMC-reID": Example(
        "market1501",
        lambda root: market_layout(
            root, "{pid:04d}_c{cam}_f{n:07d}.jpg", {"train": 7137, "query": 5, "gallery": 5}, (2, 8)
        ),
        "bounding_box_train/7140_c8_f0000002.jpg",
        7140,
        8,
        r"7140_c8_f0000002_g\d{4}\.jpg",
    ),
    "CUHK03-NP": Example(
        "market1501",
        lambda root: market_layout(root, "{pid:04d}_c{cam}_{n}.png", TRAIN | TEST, (1, 2)),
        "bounding_box_train/0004_c2_2.png",
        4,
        2,
        r"0004_c2_2_g\d{4}\.jpg",
    ),
    "own cameras in Market-1501's layout": Example(
        "market1501",
        lambda root: market_layout(root, "{pid}_p7_c{cam}-{n} (1).JPEG", TRAIN | TEST, (0, 12)),
        "bounding_box_train/4_p7_c12-2 (1).JPEG",
        4,
        12,
        r"0004_c12_4_p7_c12-2-1-_g\d{4}\.jpg",
    ),
    "one camera in Market-1501's layout": Example(
        "market1501",
        lambda root: market_layout(root, "{pid:04d}_c1s{cam}_{n:06d}_00.jpg", TRAIN | TEST, (1, 2)),
        "bounding_box_train/0004_c1s2_000002_00.jpg",
        4,
        1,
        r"0004_c1s2_000002_00_g\d{4}\.jpg",
        {"sequence": 2, "frame": 2},
    ),
    "MSMT17 V1": Example(
        "msmt17",
        lambda root: msmt17_folder(root, "train", "test"),
        "train/0003/0003_002_14_0303morning_0008_2.jpg",
        4,
        14,
        r"0004_c14_0003_002_14_0303morning_0008_2_g\d{4}\.jpg",
        {"list": "list_val.txt", "pid_in_list": 3},
    ),
    "MSMT17 V2": Example(
        "msmt17",
        lambda root: msmt17_folder(root, "mask_train_v2", "mask_test_v2"),
        "mask_train_v2/0003/0003_001_14_0303morning_0008_1.jpg",
        4,
        14,
        r"0004_c14_0003_001_14_0303morning_0008_1_g\d{4}\.jpg",
        {"list": "list_train.txt"},
    ),
    "a table of names": Example(
        "table",
        lambda root: table_folder(root, NAMES, ("lobby", "stairs"), own_queries=True),
        "walk 1/b 10/train 2.png",
        2,  # after b 2
        2,
        r"0002_c2_train-2_g\d{4}\.jpg",
        {"pid_in_table": "b 10", "camid_in_table": "stairs", "hour": "02"},
    ),
    "a table of numbers": Example(
        "table",
        lambda root: table_folder(root, list("1234567"), ("0", "12"), own_queries=True),
        "walk 1/4/train 2.png",
        4,
        12,
        r"0004_c12_train-2_g\d{4}\.jpg",
        {"hour": "02"},
    ),
    "a table without cameras and queries, from person 0 on": Example(
        "table",
        lambda root: table_folder(root, list("0123456"), None, own_queries=False),
        "walk 1/3/train 2.png",
        4,
        -1,
        r"0004_c0_train-2_g\d{4}\.jpg",
        {"pid_in_table": "3"},
    ),
    "folders per identity": Example(
        "table", folders_per_identity, "train/Ánna/cam4-1.jpg", 6, 4, r"0006_c4_cam4-1_g\d{4}\.jpg"
    ),
    "DeepFashion": Example(
        "deepfashion",
        deepfashion_folder,
        "train_highres/fashionMENShirts_Polosid0000473801_7additional.jpg",
        473801,
        -1,
        r"473801_c0_fashionMENShirts_Polosid0000473801_7additional_g\d{4}\.jpg",
        {"view": 7},
    ),
}

OWN_KEYPOINTS = ("annotations", "data set/keypoints.csv")  # poses.source and .path


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Example:
    """An example in the folder `data set` of the present folder, with parameters of a tiny run."""
    monkeypatch.chdir(tmp_path)
    chosen = EXAMPLES[request.param]
    chosen.make(Path("data set"))
    shutil.copytree(REPOSITORY / "profiles", "profiles")
    keypoints = ("pose_transfer", "data set") if chosen.format == "deepfashion" else OWN_KEYPOINTS
    write_params(
        tmp_path,
        embedded(
            {
                "dataset.format": chosen.format,
                "dataset.root": "data set",
                "poses.source": keypoints[0],
                "poses.path": keypoints[1],
                "index.validation_identities": 0,
                "subset.percents": [60],
                "plan.min_keypoints": 1,
                "arms": {"imagpose": {"generator": "all", "to": 300}},
                "reid.seeds": [0],
                "reid.height": 32,
                "reid.width": 16,
                "reid.channels": 8,
                "reid.iterations": 2,
                "reid.padding": 1,
                "reid.identities_per_batch": 2,
                "reid.images_per_identity": 2,
                "cross_datasets": {"again": {"root": "data set", "format": chosen.format}},
            }
        ),
    )
    return chosen


def call(stage: object, *arguments: str) -> None:
    sys.argv = ["stage", *arguments]
    stage.main()  # type: ignore[attr-defined]


def plan_images() -> pd.DataFrame:
    for stage in (index_stage, poses, subset, plan):
        call(stage)
    return read_plan("all", 60)


def test_it_is_indexed_drawn_and_planned(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    params = load_params()
    check.check_dataset(params)
    drawn = plan_images()
    index = read_index()
    row = index.set_index("image").loc[example.image]
    assert (row.split, row.pid, row.camid) == ("train", example.pid, example.camid)
    assert {name: row[name] for name in example.further} == {
        name: int(value) if isinstance(value, str) and value.isdecimal() else value
        for name, value in example.further.items()
    }, "a column of numbers is read as one"
    assert set(index.split) == {"train", "query", "gallery"} and index.pid.min() > 0
    assert not set(index.pid[index.split == "train"]) & set(index.pid[index.split != "train"])

    # Names say identity and camera, are unique, and may stand on any disk.
    assert drawn.name.is_unique and drawn.name.str.fullmatch(r"[A-Za-z0-9._-]{1,200}").all()
    for name, pid, camid in zip(drawn.name, drawn.pid, drawn.camid, strict=True):
        assert read_name(name) == (pid, max(camid, 0))
    of_image = drawn.name[drawn.sources.str.split("|").str[0] == example.image]
    assert len(of_image) == 0 or of_image.str.fullmatch(example.plan).all()


def test_validation_people_are_drawn(example: Example) -> None:
    index, *_ = index_dataset(
        example.format, Path("data set"), IndexSettings(validation_identities=1, seed=0)
    )
    queries, gallery = index[index.split == "val_query"], index[index.split == "val_gallery"]
    assert queries.pid.nunique() == 1 and set(gallery.pid) == set(queries.pid)
    assert len(queries) == len(queries.drop_duplicates(["pid", "camid"]))
    subset.check_validation(index)


def test_a_querys_own_picture_in_the_gallery_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = table_folder(tmp_path, list("1234567"), None, own_queries=True)
    copied, to = "walk 0/5/query 0.png", "walk 1/5/gallery 2.png"
    shutil.copy(root / copied, root / to)
    index_dataset("table", root, NONE_HELD_OUT)
    said = capsys.readouterr().err
    assert f"{root}: 1 queries have their own picture in the gallery as a match, the first is" in said
    assert f"is {copied} ({to}); take one of the two out" in said
    shutil.copy(root / copied, root / "walk 1/6/gallery 2.png")  # another person's image is a wrong one
    (root / to).unlink()
    index_dataset("table", root, NONE_HELD_OUT)
    assert "own picture" not in capsys.readouterr().err


def test_a_test_of_one_image_per_camera_is_divided(tmp_path: Path) -> None:
    """As VIPeR's: one image of each person by each of two cameras."""
    rows = [("train", "a", "1"), *(("test", person, camera) for person in "bcd" for camera in "12")]
    table = pd.DataFrame(rows, columns=["split", "pid", "camid"])
    table["image"] = [f"{number}.jpg" for number in range(len(table))]
    for seed, image in enumerate(table.image):
        save_image(tmp_path / image, seed)
    table.to_csv(tmp_path / "images.csv", index=False)
    index, *_ = index_dataset("table", tmp_path, NONE_HELD_OUT)
    assert (
        index[index.split != "train"].groupby("pid").split.apply(sorted).tolist()
        == [["gallery", "query"]] * 3
    )


@pytest.mark.slow
def test_everything_downstream_works(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    """With noise for generated images, and models that are not trained to know anybody."""
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(train_reid, "models_at_once", lambda: 1)
    save_method(SYNTHETIC / "all/60", plan_images().assign(md5="-"), 1000)
    for arm in ("standard", "imagpose"):
        call(train_reid, arm)
    call(cross, "again")
    for stage in (table4, gains):
        call(stage)
    pairs = pd.read_csv("reports/gains/camera_pair.csv")
    assert pairs.empty == (example.camid == -1)
    call(contact_sheets, "all", "60")
    manifest = pd.read_csv("data/synthetic/all/60/manifest.csv")
    write_csv(manifest[["name"]].assign(percent=60, agreement=0.5), IDENTITY / "imagpose.csv")
    write_csv(pd.DataFrame({"step": [1, 2], "loss": 1.0, "percent": 100}), GENERATOR_CURVES / "all.csv")
    call(report)
    page = Path("reports/report.html").read_text()
    known = set(read_index().camid[read_index().split.isin(["query", "gallery"])]) - {-1}
    assert ("Every other image of the query" in page) == (len(known) < 2)
    assert ("unknown camera" in page) == (example.camid == -1)
    table = pd.read_csv("reports/table4.csv")
    assert table.mAP_again.tolist() == table.mAP.tolist()

    # An export in the layout table is a data set again; its synthetic images bear no mark here.
    Path("data/synthetic/all/60/manifest.csv").write_text(manifest.to_csv(index=False))
    monkeypatch.setattr(export, "data_card", lambda *arguments: "card")
    call(export, "imagpose", "60", "--layout", "table")
    again, rejected, _ = index_dataset("table", Path("exports/imagpose-60"), NONE_HELD_OUT)
    added = table.n_synthetic[(table.arm == "imagpose") & (table.percent == 60)]
    assert rejected.empty and (again.synthetic == "True").sum() == added.item()
    index = read_index().set_index("image")
    for image, pid, camid in zip(again.image, again.pid, again.camid, strict=True):
        if image.startswith("real/"):
            row = index.loc[image.removeprefix("real/")]
            assert (row.pid, row.camid) == (pid, camid)


@pytest.mark.slow
def test_images_are_generated_judged_filtered_and_scored(
    example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tiny generator that has learned nothing."""
    monkeypatch.setattr(pose_judge, "ITERATIONS", 2)
    models = Path("models/generator/all/100")
    parts = tiny.vae(), tiny.image_encoder(), tiny.denoiser(trained=True), tiny.scheduler()
    IMAGPosePipeline(*parts, 64, 32, 32, 16).save_pretrained(models)
    changes = {
        "dataset.height": 64,
        "dataset.width": 32,
        "generator.token_height": 32,
        "generator.token_width": 16,
        "generator.image_encoder": str(models / "image_encoder"),
        "generate.sample": {**read_yaml(Path("params.yaml"))["generate"]["sample"], "steps": 1},
        "filters": {"sure": {"generator": "all", "min_agreement": 0.5}},
        "arms": {"imagpose": {"generator": "all", "to": 300}, "kept": {"generator": "sure", "to": 300}},
        "scores.identities": "test",
        "scores.sources": 4,
        "scores.height": 24,
        "scores.width": 16,
    }
    write_params(Path(), change(read_yaml(Path("params.yaml")), changes))

    drawn = plan_images()
    call(generate, "all", "60")
    folder, table = read_synthetic("all", 60, set(drawn.pid))
    assert table.name.tolist() == drawn.name.tolist()
    root = Path("data set")
    for name, source in zip(table.name, table.sources.str.split("|").str[0], strict=True):
        assert read_mark(folder / name).sources.split("|")[0] == source and (root / source).is_file()

    call(identity, "imagpose")
    agreement = pd.read_csv(IDENTITY / "imagpose.csv").set_index("name").agreement
    added = load_params().arms["imagpose"].count(len(read_subset(60)), len(read_subset(100)))
    assert len(agreement) == added and set(agreement.index) <= set(table.name)
    assert agreement.between(0, 1).all()
    call(filters, "sure")
    folder, kept = read_synthetic("sure", 60, set(drawn.pid))
    judged = pd.read_csv(folder / "scores.csv")
    assert len(judged) == added and kept.name.tolist() == judged.name[judged.kept].tolist()

    call(scores)
    found = json.loads(scores.SCORES.read_text())
    test = read_index().query("split in ['query', 'gallery']")
    assert 0 < found["people"] <= test.pid.nunique() and found["pairs"] > 0
    assert all(-1 < found[scenario]["ssim"] <= 1 for scenario in scores.SCENARIOS)


# --- what loaders of other code make of it ------------------------------------------------------------------


@pytest.mark.slow
def test_torchreid_reads_the_same_lists(tmp_path: Path) -> None:
    from torchreid.reid.data.datasets.image.msmt17 import MSMT17

    root = msmt17_folder(tmp_path / "msmt17/MSMT17_V1", "train", "test")
    theirs = MSMT17(root=str(tmp_path), combineall=False, verbose=False)
    index, *_ = index_dataset("msmt17", root, NONE_HELD_OUT)
    known = index.pid[index.split == "train"].max()
    for split, first in (("train", 1), ("query", known + 1), ("gallery", known + 1)):
        rows = index[(index.split == split) & (index.list != "list_val.txt")]
        ours = [(str(root / row.image), row.pid - first, row.camid - 1) for row in rows.itertuples()]
        assert [image[:3] for image in getattr(theirs, split)] == ours


# --- bad input ----------------------------------------------------------------------------------------------


def refusal(name: str, root: Path) -> str:
    with pytest.raises(ValueError) as caught:
        index_dataset(name, root, NONE_HELD_OUT)
    return str(caught.value).replace(str(root), "ROOT")


TABLES = {  # what stands in images.csv -> the sentence
    "image,split\na.jpg,train\n": "ROOT/images.csv has no column pid; expected image, pid, camid, split",
    "image;pid;split\n": "has no column image; expected",
    "": "has no column image; expected",
    "image,pid,pid,split\n": "has a column twice; expected",
    "image,pid,split\na.jpg,1\n": "line 2 has 2 cells, expected 3",
    'image,pid,split\n"a.jpg,1,train\n': "is no CSV (unexpected end of data)",
    "image,pid,split\na.jpg,,train\n": "line 2: a.jpg has no pid; say whom it shows, or take the row out",
    "image,pid,split\na.jpg,1,val\n": "line 2: the split of a.jpg is 'val', expected train, query,",
    "image,pid,split\na.jpg,1,train\n./a.jpg,1,query\n": "line 3: a.jpg has two rows; leave one",
    "image,pid,split\n../a.jpg,1,train\n": "line 2: the image is '../a.jpg', expected a path in ROOT",
    "image,pid,split\n/a.jpg,1,train\n": "line 2: the image is '/a.jpg', expected a path in ROOT",
    "image,pid,split\na.jpg,-1,train\n": "line 2: a.jpg is junk (pid -1), which only the gallery has",
    "image,pid,split\na.jpg,1,train\nb.jpg,01,train\n": "pid is 01 in one row and 1 in another; write one",
    "image,pid,split\n": "ROOT/images.csv holds no image for the split train that can be used",
    "image,pid,split\na.jpg,1,train\nb.jpg,2,test\n": "no query has another image of its identity in the",
    "image,pid,split\na.jpg,1,train\nb.jpg,2,query\n": "holds no image for the split gallery that",
    "image,pid,split\na.jpg,1,train\nb.jpg,1,test\n": "1 of the identities stand in training and in test",
    "image,pid,split\ngone.jpg,1,train\n": "can be used; 1 files are rejected, the first: there is no",
}


@pytest.mark.parametrize("text", TABLES)
def test_a_bad_table_is_named_by_its_line(text: str, tmp_path: Path) -> None:
    for seed, name in enumerate(("a.jpg", "b.jpg")):
        save_image(tmp_path / name, seed)
    (tmp_path / "images.csv").write_text(text)
    assert TABLES[text] in refusal("table", tmp_path)


def test_a_table_in_another_encoding_or_none_at_all(tmp_path: Path) -> None:
    assert refusal("table", tmp_path).startswith("ROOT/images.csv is missing; a data set of the format table")
    (tmp_path / "images.csv").write_bytes("image,pid,split\n".encode("utf-16"))
    assert refusal("table", tmp_path) == (
        "ROOT/images.csv: this is no text in UTF-8; save it as CSV in UTF-8"
    )


def test_a_table_from_a_spreadsheet(tmp_path: Path) -> None:
    """With a mark of its encoding, empty lines, spaces, capital letters and backslashes."""
    for seed, name in enumerate(("sub/a.jpg", "sub/b.jpg", "sub/c.jpg", "sub/d.jpg", "sub/e.jpg")):
        save_image(tmp_path / name, seed)
    (tmp_path / "images.csv").write_bytes(
        b"\xef\xbb\xbfimage, pid ,camid,split,width,reason\r\nsub\\a.jpg,x,1,Train,9,r\r\n\r\n"
        b"sub/b.jpg, y,,query,9,r\r\nsub/c.jpg,y,2,gallery,9,r\r\nsub/d.jpg,-1,2,gallery,9,r\r\n"
    )
    index, *_ = index_dataset("table", tmp_path, NONE_HELD_OUT)
    assert index.columns.tolist() == [
        *("image", "split", "pid", "camid", "reason", "pid_in_table", "camid_in_table"),
        *("width", "height", "md5"),
    ]
    assert index[["image", "split", "pid", "camid"]].to_numpy().tolist() == [
        ["sub/a.jpg", "train", 1, 1],
        ["sub/b.jpg", "query", 2, -1],
        ["sub/c.jpg", "gallery", 2, 2],
        ["sub/d.jpg", "gallery", -1, 2],
    ]
    assert set(index.width) == {64}, "measured, not copied"


LISTS = {
    "0000/0000_000_01_0303noon_0008_0.jpg": "line 1 is '0000/0000_000_01_0303noon_0008_0.jpg'; expected",
    "0000/a.jpg 0": "line 1 is '0000/a.jpg 0'; expected an image and its identity",
    "../0000_000_01_x.jpg 0": "line 1 is '../0000_000_01_x.jpg 0'; expected",
}


@pytest.mark.parametrize("line", LISTS)
def test_a_bad_line_of_msmt17_is_named(line: str, tmp_path: Path) -> None:
    root = msmt17_folder(tmp_path, "train", "test")
    (root / "list_val.txt").write_text(f"{line}\n")
    assert refusal("msmt17", root).startswith(f"ROOT/list_val.txt: {LISTS[line]}")


def test_what_a_folder_of_msmt17_lacks_is_named(tmp_path: Path) -> None:
    root = msmt17_folder(tmp_path / "MSMT17_V1", "train", "test")
    assert refusal("msmt17", tmp_path).endswith("as V2; give the folder ROOT/MSMT17_V1")
    image = "train/0003/0003_002_14_0303morning_0008_2.jpg"
    (root / image).unlink()
    _, rejected, _ = index_dataset("msmt17", root, NONE_HELD_OUT)
    assert rejected.to_numpy().tolist() == [[image, "there is no such file"]]
    train = root / "list_train.txt"
    train.write_text(train.read_text() + (root / "list_val.txt").read_text())
    assert re.fullmatch(
        r"ROOT/list_val\.txt: train/0000/\S+ has two lines, the first in list_train\.txt; leave one",
        refusal("msmt17", root),
    )
    (root / "list_val.txt").unlink()
    assert refusal("msmt17", root).startswith("ROOT/list_val.txt is missing; a folder of MSMT17 has")
    shutil.rmtree(root / "test")
    assert refusal("msmt17", root).startswith("ROOT has neither train/ and test/, as MSMT17 V1")


def test_every_format_has_what_the_protocol_asks_for() -> None:
    for form in FORMATS.values():
        assert callable(form.list_images) and callable(form.warnings)
