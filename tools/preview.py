"""Generate a few images of one person on one picture, to try guidance, steps, sources and poses.

The picture shows the sources. Below them each column has a photo, its pose, and one generated image per row
of settings. Poses come from other images, so the photos are no ground truth. Needs the stages `index` and
`poses`; takes the trained generator if there is one, else the base weights.
"""

import time
from argparse import Namespace
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import ValidationError

from common.seeding import make_rng
from generator.grid import VIEWS
from generator.pose import draw_skeleton
from generator.sample import IMAGPosePipeline, JointRequest, load_pipeline
from generator.settings import SampleSettings
from pipeline.artifacts import generator_folder, read_index, read_poses
from pipeline.datasets.images import read_image
from pipeline.datasets.marks import save_composite
from pipeline.datasets.views import to_view
from pipeline.params import Params, load_params
from pipeline.runtime.outputs import atomic
from pipeline.runtime.stage import command_line, stage_main
from pipeline.shared.imagpose import encode_images, load_base_model

_TILE_HEIGHT = 224  # pixels on the picture; a tile is then as wide as an image's name
_GAP, _LINE, _LABEL_WIDTH = 6, 22, 96  # pixels between tiles, for a line of text, and left of the rows
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


class Row(NamedTuple):
    """One row of the picture."""

    label: str  # text beside the row; newlines separate its lines
    images: list[NDArray[np.uint8]]
    captions: list[str]  # texts below the first images


def choose_sources(index: pd.DataFrame, pid: int, names: Sequence[str], count: int, seed: int) -> list[str]:
    """Return the named images of an identity, or `count` random ones.

    Args:
        index: Index of the data set.
        pid: The identity.
        names: File names, with or without their folder.
        count: Number of images, 1 to 3; fewer if the identity has fewer.
        seed: Seed of the draw.

    Raises:
        ValueError: The identity is not in the index, or a named image is not one of its images.
    """
    own = index.image[index.pid == pid]
    if own.empty:
        pids = sorted(index.pid[index.pid > 0].unique())
        raise ValueError(f"identity {pid} is not in data/index.csv; it has {_some(pids)}")
    if names:
        images = [_find(own, name) for name in names]
        if None in images:
            name = names[images.index(None)]
            raise ValueError(f"{name} is no image of identity {pid}; it has {_some(sorted(own))}")
        return [str(image) for image in images]
    return make_rng(seed, "preview sources", pid).permutation(sorted(own))[:count].tolist()


def choose_poses(index: pd.DataFrame, names: Sequence[str], count: int, least: int, seed: int) -> list[str]:
    """Return the images whose poses are used: the named ones, or `count` random training images.

    Args:
        index: Index of the data set.
        names: File names, with or without their folder.
        count: Number of random images.
        least: Visible keypoints that a random image must have.
        seed: Seed of the draw.

    Raises:
        ValueError: A named image is not in the index, or too few images have so many keypoints.
    """
    if names:
        images = [_find(index.image, name) for name in names]
        if None in images:
            raise ValueError(f"{names[images.index(None)]} is not in data/index.csv")
        return [str(image) for image in images]
    train = sorted(index.image[index.split == "train"])
    enough = (read_poses(train)[..., 2] > 0).sum(-1) >= least
    candidates = np.array(train)[enough]
    if len(candidates) < count:
        raise ValueError(
            f"plan.min_keypoints is {least}; only {len(candidates)} training images show as many"
        )
    return make_rng(seed, "preview poses").permutation(candidates)[:count].tolist()


def _find(images: pd.Series, name: str) -> str | None:
    """Return the image of that name, with or without its folder."""
    matches = images[(images == name) | (images.str.rsplit("/", n=1).str[-1] == name)]
    return None if matches.empty else matches.iloc[0]


def _some(values: Sequence[object]) -> str:
    """Name the first five values."""
    return ", ".join(map(str, values[:5])) + (f" and {len(values) - 5} more" if len(values) > 5 else "")


def joint_requests(
    sources: int, poses: NDArray[np.floating], seed: int, surroundings: bool = False
) -> list[JointRequest]:
    """Plan as few joint images as hold all poses beside all sources; image i has the seed `seed` + i.

    Args:
        sources: Number of sources, 1 to 3.
        poses: Target poses, [N, 18, 3].
        seed: Seed of the first image's noise.
        surroundings: Whether the poses come with their surroundings, which are the views after the sources.
    """
    room = VIEWS - sources
    requests = []
    for start in range(0, len(poses), room):
        numbers = range(start, min(start + room, len(poses)))
        requests.append(
            JointRequest(
                tuple(range(sources)),
                poses[start : start + room],
                tuple(seed + number for number in numbers),
                surroundings=tuple(sources + number for number in numbers) if surroundings else (),
            )
        )
    return requests


def load_model(model: Path | None, params: Params) -> tuple[IMAGPosePipeline, str]:
    """Load a generator and name it.

    Args:
        model: Folder of the generator; None takes the trained one, or the base weights if there is none.
        params: Settings of the base weights.

    Raises:
        ValueError: The folder holds no generator, or a damaged one.
    """
    trained = generator_folder("all", 100)
    if model is None and not (trained / "model_index.json").is_file():
        return load_base_model(params), f"{params.generator.base} (base weights, not fine-tuned)"
    model = model or trained
    if not (model / "model_index.json").is_file():
        raise ValueError(f"{model} holds no generator; expected a folder such as {trained}")
    return load_pipeline(model), str(model)


def draw(title: str, rows: Sequence[Row], height: int, width: int) -> Image.Image:
    """Draw labelled rows of images, each image uint8 [height, width, 3], under a title."""
    # The picture is as wide as its longest row or its title.
    tile = (round(_TILE_HEIGHT * width / height), _TILE_HEIGHT)
    font, small = ImageFont.load_default(15), ImageFont.load_default(11)
    columns = max(len(row.images) for row in rows)
    step = _TILE_HEIGHT + _LINE
    row_width = _LABEL_WIDTH + columns * (tile[0] + _GAP)
    size = (max(row_width, round(font.getlength(title)) + _GAP) + _GAP, _LINE + len(rows) * step + _GAP)
    picture = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((_GAP, 2), title, _INK, font)
    for i, row in enumerate(rows):
        top = _LINE + _GAP + i * step
        pen.multiline_text((_GAP, top + _TILE_HEIGHT // 3), row.label, _INK, font)
        for j, image in enumerate(row.images):
            left = _LABEL_WIDTH + j * (tile[0] + _GAP)
            picture.paste(Image.fromarray(image).resize(tile, Image.Resampling.BICUBIC), (left, top))
            if j < len(row.captions):
                pen.text((left, top + _TILE_HEIGHT + 2), row.captions[j], _INK, small)
    return picture


def variants(base: SampleSettings, guidance: Sequence[float], steps: Sequence[int]) -> list[SampleSettings]:
    """Return the settings of each row: every guidance scale with every number of steps.

    Args:
        base: Settings of the run.
        guidance: Guidance scales; empty takes that of `base`.
        steps: Numbers of DDIM steps; empty takes that of `base`.

    Raises:
        ValueError: A value is out of its range.
    """
    try:
        return [
            SampleSettings(**base.model_dump() | {"guidance_scale": scale, "steps": count})
            for scale, count in product(guidance or [base.guidance_scale], steps or [base.steps])
        ]
    except ValidationError as error:
        mistake = error.errors()[0]
        option = {"guidance_scale": "guidance"}.get(str(mistake["loc"][0]), mistake["loc"][0])
        raise ValueError(f"--{option} is {mistake['input']}: {mistake['msg'].lower()}") from None


def generate_rows(
    imagpose: IMAGPosePipeline,
    params: Params,
    sources: list[str],
    pose_images: list[str],
    settings: Sequence[SampleSettings],
    seed: int,
) -> list[Row]:
    """Return the rows of the picture; the last ones are generated, one row for each of the settings.

    Args:
        imagpose: The generator.
        params: Settings of the run.
        sources: Names of the source images.
        pose_images: Names of the images whose keypoints are the target poses.
        settings: Settings of the sampler, one per row.
        seed: Seed of the first image's noise.
    """
    # The three rows that need no generator.
    dataset, poses = params.dataset, read_poses(pose_images)
    photos = [to_view(read_image(dataset.root / image), dataset) for image in [*sources, *pose_images]]
    skeletons = [draw_skeleton(pose, *imagpose.view_size) for pose in poses]
    rows = [
        Row("sources", photos[: len(sources)], _names(sources)),
        Row("photo of\nthe pose", photos[len(sources) :], []),
        Row("target\npose", skeletons, _names(pose_images)),
    ]

    # Every image is encoded once; identities are of no use here.
    surroundings = params.generate.surroundings
    images = [*sources, *(pose_images if surroundings else [])]
    views = encode_images(
        dataset,
        images,
        np.zeros(len(images), int),
        imagpose,
        params.generator.encode_batch,
        flip=False,
        surroundings=surroundings,
    )
    requests = joint_requests(len(sources), poses, seed, surroundings)
    for each in settings:
        made = np.concatenate(list(imagpose.generate(views, requests, each)))  # [N, H, W, 3]
        label = f"guidance\n{each.guidance_scale:g}\n{each.steps} steps"
        rows.append(Row(label, list(made), [f"seed {seed + i}" for i in range(len(made))]))
    return rows


def _names(images: Sequence[str]) -> list[str]:
    return [Path(image).stem for image in images]


def _parse() -> Namespace:
    """Read the command line, and refuse what cannot be."""
    parser = command_line("preview", __doc__, "tools")
    parser.add_argument("--identity", type=int, required=True, help="identity (pid), as in the file names")
    parser.add_argument("--source", nargs="+", default=[], metavar="IMAGE", help="1 to 3 of its images")
    parser.add_argument("--sources", type=int, default=1, choices=(1, 2, 3), help="or this many random ones")
    parser.add_argument("--pose", nargs="+", default=[], metavar="IMAGE", help="images whose poses are used")
    parser.add_argument("--poses", type=int, default=3, help="or this many random training images")
    parser.add_argument(
        "--guidance",
        type=float,
        nargs="+",
        default=[],
        metavar="W",
        help="guidance scale, one row each (default: as in params.yaml)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="steps of DDIM, one row each (default: as in params.yaml)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random choices and of the noise")
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FOLDER",
        help="a generator (default: models/generator/all/100 if it is trained, else the base weights)",
    )
    parser.add_argument("--output", type=Path, default=Path("preview.png"), help="a .png or .jpg file")
    arguments = parser.parse_args()
    if len(arguments.source) > VIEWS - 1:
        raise ValueError(f"--source names {len(arguments.source)} images; expected 1 to {VIEWS - 1}")
    if arguments.poses < 1 or arguments.seed < 0:
        raise ValueError("--poses and --seed: expected at least one pose and no negative seed")
    if arguments.output.suffix not in (".png", ".jpg"):
        raise ValueError(f"--output is {arguments.output}; expected a .png or .jpg file")
    return arguments


def main() -> None:
    """Run the command."""
    # What to generate; mistakes are named before anything is loaded.
    arguments = _parse()
    params, index, seed = load_params(), read_index(), arguments.seed
    settings = variants(params.generate.sample, arguments.guidance, arguments.steps)
    sources = choose_sources(index, arguments.identity, arguments.source, arguments.sources, seed)
    pose_images = choose_poses(index, arguments.pose, arguments.poses, params.plan.min_keypoints, seed)

    # Generate, draw, and tell how long it took.
    start = time.monotonic()
    imagpose, name = load_model(arguments.model, params)
    imagpose.to("cuda" if torch.cuda.is_available() else "cpu")
    middle = time.monotonic()
    rows = generate_rows(imagpose, params, sources, pose_images, settings, seed)
    seconds = time.monotonic() - middle
    picture = draw(f"identity {arguments.identity:04d}, {name}", rows, *imagpose.view_size)
    with atomic(arguments.output) as file:
        save_composite(picture, file)
    print(
        f"{arguments.output}: {len(settings) * len(pose_images)} images by {name}; "
        f"{middle - start:.1f} s to load, {seconds:.1f} s to generate"
    )


if __name__ == "__main__":
    stage_main(main)
