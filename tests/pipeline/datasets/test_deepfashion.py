"""DeepFashion's public files become the tables that every later stage reads."""

import json
from pathlib import Path

import pandas as pd
import pytest

from generator.keypoints import KEYPOINT_NAMES
from pipeline import check
from pipeline import index as index_stage
from pipeline import poses as poses_stage
from pipeline.artifacts import INDEX_COLUMNS, read_index, read_poses
from pipeline.datasets.indexing import index_dataset
from pipeline.params import IndexSettings, Params, load_params
from tests import REPOSITORY
from tests.pipeline.market import deepfashion_folder, save_image

PARAMS = load_params(REPOSITORY / "profiles/market1501.yaml")
NONE_HELD_OUT = IndexSettings(validation_identities=0, seed=0)


def deepfashion_params(root: Path, border: int = 0) -> Params:
    """Paper scale with the values for DeepFashion at 256 x 176, with PATN's keypoints."""
    values = PARAMS.model_dump(mode="json")
    values["dataset"] |= {"format": "deepfashion", "root": str(root), "height": 256, "width": 192}
    values["dataset"] |= {"border": border}
    values["poses"] |= {"source": "pose_transfer", "path": str(root)}
    values["index"] |= {"validation_identities": 1}
    values["scores"] |= {"pairs": str(root / "fasion-resize-pairs-test.csv"), "height": 256, "width": 176}
    return Params.model_validate(values)


def test_every_image_has_its_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, rejected, leaked = index_dataset("deepfashion", deepfashion_folder(tmp_path), NONE_HELD_OUT)
    assert capsys.readouterr().out == "15 files to decode\n"
    assert set(INDEX_COLUMNS) <= set(index.columns) and rejected.empty
    assert leaked.train.nunique() == 6, "the test images are copies of training images here"
    assert index.split.value_counts().to_dict() == {"train": 9, "query": 2, "gallery": 4}
    row = index[index.image == "train_highres/fashionMENShirts_Polosid0000473801_7additional.jpg"].iloc[0]
    assert (row.pid, row.camid, row.variant, row["view"], row.width, row.height) == (
        473801,
        -1,
        1,
        7,
        75,
        110,
    )
    assert not set(index.pid[index.split == "train"]) & set(index.pid[index.split != "train"])


def test_files_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    root = deepfashion_folder(tmp_path)
    names = {
        "0002_c1s1_000451_03.jpg": "the name is not of the form",
        "fashionWOMENDressesid0000262902_3back.png": "the name is not of the form",
        "fashionWOMENDressesid0000262902_2side.jpg": "a square image",
        "fashionWOMENDressesid0000262902_4full.jpg": "an empty file",
    }
    for name in names:
        save_image(root / "train_highres" / name, size=(64, 64))
    (root / "train_highres" / list(names)[-1]).write_bytes(b"")
    names["more"] = "a folder, where images are looked for and no further folders"
    (root / "train_highres" / "more").mkdir()
    names["gone.jpg"] = "a link that leads nowhere"
    (root / "train_highres" / "gone.jpg").symlink_to("nowhere")
    index, rejected, _ = index_dataset("deepfashion", root, NONE_HELD_OUT)
    assert len(index) == 15
    reasons = dict(zip(rejected.image, rejected.reason, strict=True))
    assert set(reasons) == {f"train_highres/{name}" for name in names}
    for name, reason in names.items():
        assert reason in reasons[f"train_highres/{name}"]


def test_a_name_that_breaks_a_line_is_listed_escaped(tmp_path: Path) -> None:
    root = deepfashion_folder(tmp_path)
    (root / "train_highres" / "Icon\r").write_bytes(b"")
    _, rejected, _ = index_dataset("deepfashion", root, NONE_HELD_OUT)
    assert rejected.image.tolist() == ["train_highres/Icon\\r"]


@pytest.mark.parametrize(
    ("copied", "sentence"),
    [
        ("fashionMENShirts_Polosid0000473801_2side.jpg", "1 of the identities stand in training and in test"),
        ("fashionWOMENDressesid0000473801_2side.jpg", "item 00004738 is both"),
    ],
)
def test_a_split_that_cannot_be_is_refused(tmp_path: Path, copied: str, sentence: str) -> None:
    root = deepfashion_folder(tmp_path)
    save_image(root / "test_highres" / copied, size=(75, 110))
    with pytest.raises(ValueError, match=sentence):
        index_dataset("deepfashion", root, NONE_HELD_OUT)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train_highres is missing; a DeepFashion folder has it, or train/"):
        index_dataset("deepfashion", tmp_path, NONE_HELD_OUT)


@pytest.mark.parametrize("border", [0, 8])
def test_the_stages_write_the_tables_that_market_1501_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, border: int
) -> None:
    root = deepfashion_folder(tmp_path / "fashion")
    monkeypatch.chdir(tmp_path)
    for module in (index_stage, poses_stage):
        monkeypatch.setattr(module, "load_params", lambda: deepfashion_params(root, border))
    check.check_dataset(deepfashion_params(root, border))
    check.check_poses(deepfashion_params(root, border))
    index_stage.main()
    poses_stage.main()
    index = read_index()
    assert set(index.split) == {"train", "query", "gallery", "val_query", "val_gallery"}
    poses = read_poses(index.image.tolist())
    assert json.loads(Path("reports/poses.json").read_text())["images_without_person"] == 1
    raw = pd.read_csv(root / "fasion-resize-annotation-test.csv", sep=":").set_index("name")
    image = index.image[index.split == "query"].iloc[0]
    xs = json.loads(raw.keypoints_x[Path(image).name])
    x, _, score = poses[index.image.tolist().index(image), KEYPOINT_NAMES.index("neck")]
    # Stretched to 192 columns, or moved by the border.
    expected = xs[1] + 8 if border else (xs[1] + 0.5) * 192 / 176 - 0.5
    assert x == pytest.approx(expected, abs=0.01) and score == 1
