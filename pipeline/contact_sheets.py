"""Stage `contact_sheets`: synthetic images beside their source, target pose and a real image of the person.

Reads data/synthetic/<train_on>/<percent>/, data/index.csv, data/poses.csv and the images of the data set;
writes reports/contact_sheets/<train_on>-<percent>.png.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from common.seeding import make_rng
from generator.keypoints import pose_distance
from generator.pose import draw_skeleton
from pipeline.artifacts import (
    CONTACT_SHEETS,
    MANIFEST,
    PLAN_COLUMNS,
    SYNTHETIC,
    read_index,
    read_pose_table,
    to_keypoints,
)
from pipeline.datasets.images import read_image
from pipeline.datasets.marks import save_composite
from pipeline.datasets.views import from_view
from pipeline.params import Params, load_params
from pipeline.runtime.outputs import atomic, read_csv
from pipeline.runtime.stage import command_line, stage_main

TILES = ("source", "target pose", "generated", "real")
_TILE_HEIGHT = 256  # pixels on the sheet; tiles have the shape of the data set's images
_PER_LINE = 3  # generated images side by side, so that a sheet fits on a screen
_GAP, _GROUP_GAP, _LABEL = 4, 28, 30  # pixels between tiles, between groups, and for a line of text
_SCENARIOS = {"multi": "several poses at once"}  # scenarios whose name in the plan would puzzle a reader
_INK, _PAPER, _NOTHING = (30, 30, 30), (255, 255, 255), (200, 200, 200)


def draw_rows(manifest: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """Draw `count` rows of as many different identities as possible, in the order of the manifest."""
    rng = make_rng(seed, "contact sheet")
    shuffled = manifest.iloc[rng.permutation(len(manifest))]
    shuffled = shuffled.assign(turn=shuffled.groupby("pid").cumcount()).sort_values("turn", kind="stable")
    return manifest.loc[sorted(shuffled.index[:count])]


def draw_sheet(manifest: pd.DataFrame, folder: Path, index: pd.DataFrame, params: Params) -> Image.Image:
    """Draw one sheet: for some images the first source, the pose, the image and a real image of the person.

    Args:
        manifest: Columns of the plan, for the images in `folder`.
        folder: Folder of the synthetic images.
        index: All training images, columns image and pid.
        params: Size of the images, root of the data set, number of rows and seed.
    """
    # Groups of four tiles, three groups side by side.
    font = ImageFont.load_default(20)
    if manifest.empty:
        sheet = Image.new("RGB", (560, 2 * _LABEL), _PAPER)
        ImageDraw.Draw(sheet).text(
            (_GROUP_GAP, _LABEL // 2), "No arm has images of this generator here.", _INK, font
        )
        return sheet
    height, width = params.dataset.height, params.dataset.width
    tile = (round(_TILE_HEIGHT * (width - 2 * params.dataset.border) / height), _TILE_HEIGHT)
    group_width = len(TILES) * (tile[0] + _GAP) - _GAP + _GROUP_GAP
    rows = draw_rows(manifest, params.contact_sheets.rows, params.contact_sheets.seed)
    lines = -(-len(rows) // _PER_LINE)
    columns = min(_PER_LINE, len(rows))
    size = (_GROUP_GAP + columns * group_width, _LABEL + lines * (_LABEL + tile[1] + _GAP))
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    poses = read_pose_table()
    for i, row in enumerate(rows.to_dict("records")):
        left = _GROUP_GAP + i % _PER_LINE * group_width
        top = _LABEL + i // _PER_LINE * (_LABEL + tile[1] + _GAP)
        scenario = _SCENARIOS.get(row["scenario"], row["scenario"])
        pen.text((left, top + 4), f"identity {row['pid']:04d}, {scenario}", _INK, font)
        for name, picture in zip(TILES, _pictures(row, folder, index, poses, params), strict=True):
            if i < _PER_LINE:
                pen.text((left, 4), name, _INK, font)
            sheet.paste(picture.resize(tile, Image.Resampling.BICUBIC), (left, top + _LABEL))
            left += tile[0] + _GAP
    return sheet


def _pictures(
    row: dict[Hashable, Any], folder: Path, index: pd.DataFrame, poses: pd.DataFrame, params: Params
) -> list[Image.Image]:
    """Return the pictures of one row, in the order of `TILES`.

    The real image is the training image nearest in pose that is no source; grey if there is none.
    """
    dataset = params.dataset
    sources = row["sources"].split("|")
    own = index.image[(index.pid == row["pid"]) & ~index.image.isin(sources)].tolist()
    pose = to_keypoints(poses, [row["pose"]])[0]
    skeleton = from_view(draw_skeleton(pose, dataset.height, dataset.width), dataset.border)
    if own:
        nearest = own[int(pose_distance(pose, to_keypoints(poses, own), dataset.height).argmin())]
        real = read_image(dataset.root / nearest)
    else:
        real = Image.new("RGB", (dataset.width, dataset.height), _NOTHING)
    source, generated = read_image(dataset.root / sources[0]), read_image(folder / row["name"])
    return [source, Image.fromarray(skeleton), generated, real]


def main() -> None:
    """Run the stage."""
    parser = command_line("contact_sheets", __doc__)
    parser.add_argument("train_on", choices=["all", "subset"], help="what the generator was trained on")
    parser.add_argument("percent", type=int, help="percent of the training images in the subset")
    arguments = parser.parse_args()
    params, index = load_params(), read_index()
    folder = SYNTHETIC / arguments.train_on / str(arguments.percent)
    manifest = read_csv(folder / MANIFEST, PLAN_COLUMNS, "generate")
    print(f"{params.contact_sheets.rows} of {len(manifest)} images to show", flush=True)
    sheet = draw_sheet(manifest, folder, index[index.split == "train"], params)
    with atomic(CONTACT_SHEETS / f"{arguments.train_on}-{arguments.percent}.png") as file:
        save_composite(sheet, file)


if __name__ == "__main__":
    stage_main(main)
