"""A network that sees nothing but colours names people who differ in colour."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper
from PIL import Image

from pipeline import index
from pipeline.artifacts import NEEDS, PLANS
from pipeline.runtime.outputs import write_csv, write_json
from tests import embedded, write_params
from tools import recognise

COLOURS = {"anna": (200, 40, 40), "bert": (40, 200, 40), "cleo": (40, 40, 200)}


def save_network(file: Path, kind: int, shape: list[object], number: object = "n") -> None:
    """Save a network whose features are the mean colours of an image."""
    entry = helper.make_tensor_value_info("images", kind, shape)
    out = helper.make_tensor_value_info("features", TensorProto.FLOAT, [number, 3])
    nodes = [
        helper.make_node("GlobalAveragePool", ["planes"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
    ]
    if kind == TensorProto.UINT8:
        nodes[:0] = [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        ]
    else:
        nodes.insert(0, helper.make_node("Identity", ["images"], ["planes"]))
    graph = helper.make_graph(nodes, "colours", [entry], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three people before two cameras, three images each, of which the second camera sees all in one tint."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "people"
    rows = []
    for name, colour in COLOURS.items():
        for camera, image in [(camera, image) for camera in (1, 2) for image in range(3)]:
            tinted = (240, 240, 200 + image) if camera == 2 else tuple(value + image for value in colour)
            file = f"{name}_{camera}_{image}.png"
            root.mkdir(exist_ok=True)
            Image.new("RGB", (8, 16), tinted).save(root / file)
            rows.append({"image": file, "pid": name, "camid": camera, "split": "train"})
    for camera in (1, 2):
        file = f"dora_{camera}.png"
        Image.new("RGB", (8, 16), (camera, 0, 9)).save(root / file)
        rows.append(
            {"image": file, "pid": "dora", "camid": camera, "split": ("query", "gallery")[camera - 1]}
        )
    pd.DataFrame(rows).to_csv(root / "images.csv", index=False)
    changes = {
        "dataset.format": "table",
        "dataset.root": str(root),
        "index.validation_identities": 0,
        "subset.percents": [50],
    }
    write_params(tmp_path, embedded(changes))
    index.main()
    return tmp_path


def save_generated(*, with_sources: bool = True) -> None:
    """Save two images of each person at 50 %: one in the own colour, one in that of another."""
    folder = Path("data/synthetic/all/50")
    folder.mkdir(parents=True)
    people = list(COLOURS)
    rows: list[dict[str, object]] = []
    for pid, person in enumerate(people, 1):
        for number, shown in enumerate((person, people[pid % 3])):
            name = f"{pid:04}_g{number}.png"
            Image.new("RGB", (8, 16), COLOURS[shown]).save(folder / name)
            rows.append({"name": name, "pid": pid, "order": len(rows), "md5": "-"})
            if with_sources:
                rows[-1]["sources"] = f"{person}_1_0.png|{person}_1_1.png"
    write_csv(pd.DataFrame(rows), folder / "manifest.csv")
    write_json({"50": len(rows)}, PLANS / "all" / NEEDS)


def run(monkeypatch: pytest.MonkeyPatch, file: Path) -> pd.DataFrame:
    monkeypatch.setattr(sys, "argv", ["recognise", str(file)])
    recognise.main()
    return pd.read_csv("reports/recognised.csv", keep_default_na=False)


def mean_colour(file: Path) -> np.ndarray:
    colour = np.asarray(Image.open(file)).mean((0, 1))
    return np.asarray(colour / np.linalg.norm(colour))


def slow_rank(colour: np.ndarray, pid: int, gallery: pd.DataFrame) -> int:
    """Rank of the first image of a person in a list sorted by likeness, others first among equals."""
    likeness = [(-float(colour @ mean_colour(Path("people") / image)), own == pid) for image, own in gallery]
    return 1 + [is_own for _, is_own in sorted((round(d, 5), own) for d, own in likeness)].index(True)


def test_people_are_named_as_by_sorting_all_photographs(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_generated()
    save_network(project / "colours.onnx", TensorProto.UINT8, ["n", "h", "w", 3])
    table = run(monkeypatch, project / "colours.onnx")
    train = recognise.read_index().query("split == 'train'")
    asked = {
        "photograph": [
            (Path("people") / row.image, row.pid, {row.image}, row.camid) for row in train.itertuples()
        ],
        "generated": [],
        "source": [],
    }
    for row in pd.read_csv("data/synthetic/all/50/manifest.csv").itertuples():
        sources = str(row.sources).split("|")
        asked["generated"].append((Path("data/synthetic/all/50") / row.name, row.pid, {*sources}, 1))
        asked["source"].append((Path("people") / sources[0], row.pid, {*sources}, 1))
    for (shown, cameras), cells in table.groupby(["shown", "cameras"]):
        found = []
        for file, pid, sources, camid in asked[shown]:
            kept = train[~train.image.isin(sources)]
            if cameras == "other":
                kept = kept[(kept.pid != pid) | (kept.camid != camid)]
            found.append(slow_rank(mean_colour(file), pid, list(zip(kept.image, kept.pid, strict=True))))
        assert cells.images.item() == len(found)
        for k in (1, 5):
            assert cells[f"rank{k}"].item() == pytest.approx(100 * np.mean(np.array(found) <= k), abs=0.01)
    assert len(table) == 6
    at = table.set_index(["shown", "cameras"]).rank1
    assert at["generated", "all"] == 50  # in the own colour, and in another's
    assert at["source", "all"] == 100 and at["source", "other"] < 100
    said = capsys.readouterr().out
    assert "| generated | all | 50 % | all" in " ".join(said.replace("|", " | ").split())


def test_images_of_unknown_sources_are_asked_about_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_generated(with_sources=False)
    save_network(project / "colours.onnx", TensorProto.UINT8, ["n", 16, 8, 3])
    table = run(monkeypatch, project / "colours.onnx")
    assert table[["shown", "cameras"]].to_numpy().tolist() == [
        ["photograph", "all"], ["photograph", "other"], ["generated", "all"],
    ]  # fmt: skip


def test_both_forms_of_input_see_the_same_image(project: Path) -> None:
    files = sorted((project / "people").glob("*.png"))
    save_network(project / "pixels.onnx", TensorProto.UINT8, ["n", 16, 8, 3])
    save_network(project / "planes.onnx", TensorProto.FLOAT, ["n", 3, "h", "w"])
    pixels = recognise.load_network(project / "pixels.onnx")(files)
    planes = recognise.load_network(project / "planes.onnx")(files)
    assert np.linalg.norm(pixels, axis=1) == pytest.approx(1, abs=1e-6)
    colours = np.array([np.asarray(Image.open(file))[0, 0] for file in files])
    normalised = (colours / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]  # ImageNet's, RGB
    np.testing.assert_allclose(
        planes, normalised / np.linalg.norm(normalised, axis=1, keepdims=True), atol=1e-4
    )
    np.testing.assert_allclose(pixels, colours / np.linalg.norm(colours, axis=1, keepdims=True), atol=1e-5)


def test_a_network_for_a_fixed_number_of_images_gets_that_number(project: Path) -> None:
    files = sorted((project / "people").glob("*.png"))
    save_network(project / "any.onnx", TensorProto.UINT8, ["n", 16, 8, 3])
    expected = recognise.load_network(project / "any.onnx")(files)
    for number in (1, 7):
        save_network(project / "fixed.onnx", TensorProto.UINT8, [number, 16, 8, 3], number)
        np.testing.assert_allclose(recognise.load_network(project / "fixed.onnx")(files), expected)


def test_with_one_camera_there_is_no_other_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.read_csv("people/images.csv").assign(camid=1)
    table.to_csv("people/images.csv", index=False)
    index.main()
    save_generated()
    save_network(project / "colours.onnx", TensorProto.UINT8, ["n", 16, 8, 3])
    assert set(run(monkeypatch, project / "colours.onnx").cameras) == {"all"}


def test_files_that_are_no_networks_are_named(project: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.onnx is missing; expected a re-ID network as ONNX"):
        recognise.load_network(project / "gone.onnx")
    (project / "text.onnx").write_text("no network")
    with pytest.raises(ValueError, match=r"text\.onnx is no network that ONNX Runtime can load"):
        recognise.load_network(project / "text.onnx")
    save_network(project / "grey.onnx", TensorProto.FLOAT, ["n", 1, 16, 8])
    with pytest.raises(
        ValueError, match=r"maps images tensor\(float\) .*expected images, float \[N, 3, H, W\]"
    ):
        recognise.load_network(project / "grey.onnx")
