"""Stage `filter`: keep the synthetic images that show the right person and something new.

A judge looks at every image of a folder: either a re-ID model that is trained here, on the real images of the
subset alone, or the generator's frozen image encoder, which was never trained on this data set. Writes
data/filtered/<name>/<fraction>/ with the images that pass, manifest.csv and scores.csv of all images, and the
figure reports/filters/<name>.png.
"""

import os
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

import pipeline.images
import reid
from generator.encoders import encode_tokens, load_image_encoder, to_float
from pipeline.checkpoints import Checkpoints
from pipeline.cli import command_line
from pipeline.files import atomic, md5, progress, scratch, stage_main, write_csv
from pipeline.images import load_images
from pipeline.index import read_index
from pipeline.marks import save_composite
from pipeline.memory import keep_memory
from pipeline.params import FILTERED, FilterSettings, Params, load_params
from pipeline.subset import read_subset
from pipeline.synthetic import read_synthetic, say_unused
from reid.evaluate import features
from reid.train import train

FIGURES = Path("reports/filters")
_EXAMPLES = 12  # images of each kind in the figure

# Maps image files to features float32 [N, D] of unit length.
Judge = Callable[[list[Path]], np.ndarray]


def agreement(synthetic: np.ndarray, pids: np.ndarray, real: np.ndarray, real_pids: np.ndarray) -> np.ndarray:
    """How surely each image shows its own identity: the share of the other identities that it resembles less.

    An identity is the mean of its real images. A rank and no distance, so that one threshold means the same
    for every judge: 1 is top-1, 0.5 is chance.

    Args:
        synthetic: features float [N, D] of unit length.
        pids: int [N], each among `real_pids`.
        real: features float [M, D] of unit length.
        real_pids: int [M], at least two different ones.

    Returns:
        float [N] in [0, 1].
    """
    identities, label = np.unique(real_pids, return_inverse=True)
    centers = np.zeros((len(identities), real.shape[1]))
    np.add.at(centers, label, real)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True).clip(1e-12)
    similarity = synthetic @ centers.T
    own = similarity[np.arange(len(pids)), np.searchsorted(identities, pids)]
    return (similarity < own[:, None]).sum(axis=1) / (len(identities) - 1)


def select(
    synthetic: np.ndarray,
    pids: np.ndarray,
    real: np.ndarray,
    real_pids: np.ndarray,
    agrees: np.ndarray,
    settings: FilterSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Go through each identity's images from the surest on, and keep those that add something.

    Args:
        synthetic: as for `agreement`, like the next three.
        pids: see there.
        real: see there.
        real_pids: see there.
        agrees: float [N], what `agreement` says.
        settings: the two thresholds.

    Returns:
        diversity float [N], the cosine distance of each image to the nearest one that is there already (real,
        or kept before it), and kept bool [N].
    """
    diversity, kept = np.zeros(len(pids)), np.zeros(len(pids), bool)
    for pid in np.unique(pids):
        own = np.flatnonzero(pids == pid)
        nearest = (synthetic[own] @ real[real_pids == pid].T).max(axis=1)
        alike = synthetic[own] @ synthetic[own].T
        for i in np.argsort(-agrees[own], kind="stable"):
            diversity[own[i]] = 1 - nearest[i]
            enough = agrees[own[i]] >= settings.min_agreement and 1 - nearest[i] >= settings.min_diversity
            if enough:
                kept[own[i]] = True
                nearest = np.maximum(nearest, alike[i])
    return diversity, kept


def subset_judge(real: pd.DataFrame, settings: FilterSettings, params: Params) -> tuple[Judge, np.ndarray]:
    """Train a re-ID model on the real images of a subset (columns image, pid, md5) alone.

    Returns:
        The judge, and what it says of the real images.
    """
    section = params.reid
    folder = scratch(
        "filter",
        __file__,
        reid,
        pipeline.images,
        settings=section.model_copy(update={"seeds": ()}),
        seed=settings.seed,
        images=real.md5.tolist(),
        pids=real.pid.tolist(),
        weights=md5(section.weights) if section.weights else None,
    )
    files = [params.dataset.root / image for image in real.image]
    model = train(
        load_images(files, section.height, section.width),
        real.pid.to_numpy(),
        np.zeros(len(real), bool),
        section,
        settings.seed,
        device="cuda" if torch.cuda.is_available() else "cpu",
        checkpoints=Checkpoints(folder),
        title="judge",
    )

    def judge(files: list[Path]) -> np.ndarray:
        images = load_images(files, section.height, section.width)
        return features(model, images, section.evaluation_batch)

    return judge, judge(files)


def encoder_judge(real: pd.DataFrame, params: Params, folder: Path) -> tuple[Judge, np.ndarray]:
    """Take the frozen image encoder: its class token beside the mean of its patches.

    What all real images of the subset (column image) share says nothing of a person, and is taken off.

    Returns:
        The judge, and what it says of the real images.
    """
    section = params.generator
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = load_image_encoder(folder).to(device)

    def tokens(files: list[Path]) -> np.ndarray:
        parts = []
        starts = range(0, len(files), section.encode_batch)
        for start in progress(starts, len(starts), "encoding"):
            batch = files[start : start + section.encode_batch]
            images = load_images(batch, params.dataset.height, params.dataset.width)
            found = encode_tokens(
                encoder,
                to_float(torch.from_numpy(images).to(device)),
                (section.token_height, section.token_width),
            )
            parts.append(torch.cat([found[:, 0], found[:, 1:].mean(dim=1)], dim=1).float().cpu().numpy())
        return np.concatenate(parts)

    known = tokens([params.dataset.root / image for image in real.image])
    center = known.mean(axis=0)

    def directions(found: np.ndarray) -> np.ndarray:
        centred = found - center
        return centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-12)

    return lambda files: directions(tokens(files)), directions(known)


def filter_subset(name: str, fraction: int, params: Params, output: Path) -> pd.DataFrame:
    """Filter the images for one subset into the folder `output`.

    Returns:
        The columns of scores.csv (name, agreement, diversity, kept), and for the figure: file, the image, and
        source, the real image that it was made from, or one of its person if the folder does not say.

    Raises:
        ValueError: no image passes.
    """
    settings = params.filters[name]
    real = read_index().set_index("image", drop=False).loc[read_subset(fraction)]
    folder, table = read_synthetic(settings.synthetic, fraction, set(real.pid))
    trained = (
        f", a judge of {params.reid.iterations} iterations to train" if settings.judge == "subset" else ""
    )
    print(f"{fraction} %: {len(table)} images to judge by {len(real)} real ones{trained}", flush=True)
    judge, known = (
        subset_judge(real, settings, params)
        if settings.judge == "subset"
        else encoder_judge(real, params, params.generator.image_encoder)
    )
    found = judge([folder / image for image in table.name])
    pids, real_pids = table.pid.to_numpy(), real.pid.to_numpy()
    agrees = agreement(found, pids, known, real_pids)
    diversity, kept = select(found, pids, known, real_pids, agrees, settings)
    if not kept.any():
        raise ValueError(
            f"filters.{name}: no image of {folder} passes (highest agreement {agrees.max():.2f}, highest "
            f"diversity {diversity.max():.2f}); lower min_agreement or min_diversity"
        )
    for image in table.name[kept]:
        (output / image).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(folder / image, output / image)
    scores = pd.DataFrame({"name": table.name, "agreement": agrees, "diversity": diversity, "kept": kept})
    write_csv(table[kept], output / "manifest.csv")
    write_csv(scores, output / "scores.csv", "%.4f")
    first = real.drop_duplicates("pid").set_index("pid").image
    sources = table.sources.str.split("|").str[0] if "sources" in table else first[table.pid].to_numpy()
    return scores.assign(file=[folder / image for image in table.name], source=sources)


def link_or_copy(file: Path, link: Path) -> None:
    """Give a file a second name, or copy it where the disk has no hard links or is another one."""
    try:
        os.link(file, link)
    except OSError:
        shutil.copyfile(file, link)


def draw(scores: dict[int, pd.DataFrame], name: str, params: Params) -> Figure:
    """Draw how the scores are distributed in each subset, and examples of the smallest: kept, then rejected.

    Each example stands to the right of the real image that it was made from (of its person, if that is not
    known), with its agreement; examples are spread evenly from the lowest to the highest.
    """
    settings = params.filters[name]
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    upper, lower = cast(np.ndarray, figure.subfigures(2, 1))
    upper.suptitle(f"Filter {name}: judge {settings.judge}, images of {settings.synthetic}", fontsize=11)
    thresholds = {"agreement": settings.min_agreement, "diversity": settings.min_diversity}
    for axis, (score, threshold) in zip(upper.subplots(1, 2), thresholds.items(), strict=True):
        for fraction, table in scores.items():
            share = table.kept.mean()
            axis.hist(
                table[score],
                bins=np.linspace(0, max(1.0, threshold), 41),
                density=True,
                histtype="step",
                label=f"{fraction} %: {100 * share:.0f} % of {len(table)} kept",
            )
        axis.axvline(threshold, color="black", ls="--", lw=1, label="threshold")
        axis.set(xlabel=score, ylabel="density")
        axis.spines[["top", "right"]].set_visible(False)
    upper.axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    fraction, table = next(iter(scores.items()))
    axes = lower.subplots(2, _EXAMPLES)
    for row, kept in zip(axes, (True, False), strict=True):
        examples = table[table.kept == kept].sort_values(["agreement", "name"])
        places = sorted({i * (len(examples) - 1) // (_EXAMPLES - 1) for i in range(_EXAMPLES)})
        for axis in row:
            axis.axis("off")
        row[0].set_title(f"{'kept' if kept else 'rejected'} at {fraction} %", fontsize=9, loc="left", y=1.12)
        shown = examples.iloc[places].to_dict("records") if len(examples) else []
        for axis, example in zip(row, shown, strict=False):
            files = [params.dataset.root / example["source"], example["file"]]
            pair = load_images(files, params.dataset.height, params.dataset.width)
            axis.imshow(np.concatenate(pair, axis=1))
            label = f"{example['agreement']:.2f}"
            axis.text(0.5, 1.02, label, transform=axis.transAxes, ha="center", fontsize=8)
    return figure


def main() -> None:
    """Run the stage."""
    parser = command_line("filter", __doc__)
    parser.add_argument("name", help="a recipe in the section filters of params.yaml")
    name, params = parser.parse_args().name, load_params()
    if name not in params.filters:
        raise ValueError(f"the filter is {name}; expected one of {', '.join(params.filters) or 'none'}")
    keep_memory()
    say_unused(params.filters[name].synthetic, params.subset.fractions)
    scores = {}
    with atomic(FILTERED / name) as folder:
        for fraction in tqdm(params.subset.fractions, desc="filtering", unit="subset", delay=2):
            (folder / str(fraction)).mkdir(parents=True)
            scores[fraction] = filter_subset(name, fraction, params, folder / str(fraction))
    drawn = BytesIO()
    draw(scores, name, params).savefig(drawn, dpi=110)
    with atomic(FIGURES / f"{name}.png") as file, Image.open(drawn) as picture:
        save_composite(picture, file)


if __name__ == "__main__":
    stage_main(main)
