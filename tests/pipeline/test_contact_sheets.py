"""A contact sheet shows each image beside the right source, pose and real image."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from generator.keypoints import pose_distance
from generator.pose import draw_skeleton
from pipeline import contact_sheets as stage
from pipeline import plan, poses
from pipeline.artifacts import SYNTHETIC, read_poses
from pipeline.datasets.indexing import index_dataset
from pipeline.params import IndexSettings, Params, load_params
from pipeline.runtime.outputs import write_csv
from tests import REPOSITORY
from tests.pipeline.market import save_image


@pytest.fixture
def run(market: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Params, pd.DataFrame, pd.DataFrame]:
    """A finished run in the present folder: parameters, index and the manifest of 12 images at 20 %."""
    monkeypatch.chdir(market.parent)
    text = (REPOSITORY / "profiles/embedded.yaml").read_text().replace("data/world", str(market))
    Path("params.yaml").write_text(text)
    params = load_params()
    index, _, _ = index_dataset("market1501", market, IndexSettings(validation_identities=0, seed=0))
    write_csv(index, "data/index.csv")
    poses.main()
    train = index[index.split == "train"]
    settings = params.plan.model_copy(update={"min_keypoints": 1, "sources": 1, "poses_per_joint": 3})
    manifest = plan.make_plan(train, np.full(len(train), 18), 12, 20, settings).assign(md5="")
    folder = SYNTHETIC / "all" / "20"
    for seed, name in enumerate(manifest.name):
        save_image(folder / name, 1000 + seed)
    write_csv(manifest, folder / "manifest.csv")
    return params, index, manifest


def tile(sheet: Image.Image, column: int) -> np.ndarray:
    """Cut tile `column` of the first generated image out of a sheet, at the size of the data set."""
    left = stage._GROUP_GAP + column * (128 + stage._GAP)
    box = (left, 2 * stage._LABEL, left + 128, 2 * stage._LABEL + 256)
    return np.asarray(sheet.crop(box).resize((64, 128), Image.Resampling.BOX), float)


def test_a_row_shows_source_pose_generated_and_real(
    run: tuple[Params, pd.DataFrame, pd.DataFrame], market: Path
) -> None:
    params, index, manifest = run
    train = index[index.split == "train"]
    folder = SYNTHETIC / "all" / "20"
    row = manifest[manifest.pid == 7].iloc[:1]
    sheet = stage.draw_sheet(row, folder, train, params)
    own = train.image[(train.pid == 7) & (train.image != row.sources.iloc[0])].tolist()
    pose = read_poses([row.pose.iloc[0]])[0]
    nearest = own[int(pose_distance(pose, read_poses(own), 128).argmin())]
    skeleton = draw_skeleton(pose, 128, 64)
    files = [market / row.sources.iloc[0], None, folder / row.name.iloc[0], market / nearest]
    for column, file in enumerate(files):
        expected = np.asarray(Image.open(file) if file else skeleton, float)
        assert np.abs(tile(sheet, column) - expected).mean() < 5, column


def test_somebody_with_one_image_has_a_grey_tile(run: tuple[Params, pd.DataFrame, pd.DataFrame]) -> None:
    params, index, manifest = run
    row = manifest.iloc[:1]
    only = index[index.image == row.sources.iloc[0]]
    sheet = stage.draw_sheet(row, SYNTHETIC / "all" / "20", only, params)
    assert (tile(sheet, 3) == 200).all()


def test_a_sheet_shows_as_many_identities_as_there_are() -> None:
    manifest = pd.DataFrame({"pid": [1] * 20 + [2, 3, 3], "name": [f"{i}.jpg" for i in range(23)]})
    rows = stage.draw_rows(manifest, 3, seed=0)
    assert sorted(rows.pid) == [1, 2, 3] and rows.index.is_monotonic_increasing
    assert len(stage.draw_rows(manifest, 50, seed=0)) == 23
    draws = {tuple(stage.draw_rows(manifest, 3, seed=seed).name) for seed in range(9)}
    assert len(draws) > 1


@pytest.mark.slow
def test_the_stage_draws_the_same_sheet_again(
    run: tuple[Params, pd.DataFrame, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, _, manifest = run
    monkeypatch.setattr(sys, "argv", ["contact_sheets", "all", "20"])
    stage.main()
    first = Path("reports/contact_sheets/all-20.png").read_bytes()
    with Image.open("reports/contact_sheets/all-20.png") as sheet:
        lines = -(-min(params.contact_sheets.rows, len(manifest)) // 3)
        assert sheet.height > lines * 256
    stage.main()
    assert Path("reports/contact_sheets/all-20.png").read_bytes() == first
    monkeypatch.setattr(sys, "argv", ["contact_sheets", "subset", "20"])
    with pytest.raises(
        FileNotFoundError, match=r"subset/20/manifest.csv is missing; run the stage 'generate'"
    ):
        stage.main()
