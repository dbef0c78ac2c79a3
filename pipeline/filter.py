"""Stage `filter`: keep those synthetic images that show the right person.

The judge is the generator's frozen image encoder, which was never trained on this data set; it knows each
person from the real images of the subset. Reads data/synthetic/<generator>/<percent>/; writes
data/synthetic/<name>/<percent>/ with the images that pass, manifest.csv and scores.csv of all images, and the
figure reports/filters/<name>.png.
"""

from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from pipeline.artifacts import FILTER_FIGURES, MANIFEST, SYNTHETIC, read_index, read_needs, read_subset
from pipeline.datasets.images import load_images
from pipeline.datasets.marks import save_composite
from pipeline.datasets.synthetic import read_synthetic
from pipeline.params import Params, load_params
from pipeline.runtime.memory import keep_memory
from pipeline.runtime.outputs import atomic, link_or_copy, write_csv
from pipeline.runtime.stage import command_line, stage_main
from pipeline.shared.judges import agreement, encoder_judge

_EXAMPLES = 12  # images of each kind in the figure


def filter_subset(name: str, percent: int, count: int, params: Params, output: Path) -> pd.DataFrame:
    """Filter the images for one subset into the folder `output`.

    Args:
        name: Key of the filter.
        percent: Share of the subset.
        count: Number of images to look at: what an arm without the filter would have.
        params: Parameters of the run.
        output: Folder to write to, which exists.

    Returns:
        The columns of scores.csv (name, agreement, kept), and for the figure: file, the image, and source,
        the real image that it was made from, or one of its person if the manifest does not say.

    Raises:
        ValueError: No image passes.
    """
    settings = params.filters[name]
    real = read_index().set_index("image", drop=False).loc[read_subset(percent)]
    folder, table = read_synthetic(settings.generator, percent, set(real.pid))
    table = table.sort_values("order").head(count).sort_index()
    print(f"{percent} %: {len(table)} images to judge by {len(real)} real ones", flush=True)
    judge, real_features = encoder_judge(real, params, params.generator.image_encoder)
    features = judge([folder / image for image in table.name])
    scores = agreement(features, table.pid.to_numpy(), real_features, real.pid.to_numpy())
    passes = scores >= settings.min_agreement
    if not passes.any():
        raise ValueError(
            f"filters.{name}: no image of {folder} passes (the highest agreement is {scores.max():.2f}); "
            "lower min_agreement"
        )
    for image in table.name[passes]:
        link_or_copy(folder / image, output / image)
    write_csv(table[passes], output / MANIFEST)
    table = table.assign(agreement=scores, kept=passes)
    write_csv(table[["name", "agreement", "kept"]], output / "scores.csv", "%.4f")
    first = real.drop_duplicates("pid").set_index("pid").image
    sources = table.sources.str.split("|").str[0] if "sources" in table else first[table.pid].to_numpy()
    return table.assign(file=[folder / image for image in table.name], source=sources)


def draw(scores: dict[int, pd.DataFrame], name: str, params: Params) -> Figure:
    """Draw how agreement is distributed in each subset, and examples of the smallest: kept, then rejected.

    Each example stands to the right of the real image that it was made from (of its person, if that is not
    known), with its agreement; examples are spread evenly from the lowest to the highest.

    Args:
        scores: What `filter_subset` returns, by percent.
        name: Key of the filter.
        params: Parameters of the run.
    """
    settings = params.filters[name]
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    upper, lower = cast(np.ndarray, figure.subfigures(2, 1))
    upper.suptitle(f"Filter {name}: images of generator {settings.generator}", fontsize=11)
    axis = upper.subplots()
    for percent, table in scores.items():
        axis.hist(
            table.agreement,
            bins=np.linspace(0, 1, 41),
            density=True,
            histtype="step",
            label=f"{percent} %: {100 * table.kept.mean():.0f} % of {len(table)} kept",
        )
    axis.axvline(settings.min_agreement, color="black", ls="--", lw=1, label="min_agreement")
    axis.set(xlabel="agreement", ylabel="density")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="upper left")

    percent, table = next(iter(scores.items()))
    for row, kept in zip(lower.subplots(2, _EXAMPLES), (True, False), strict=True):
        examples = table[table.kept == kept].sort_values(["agreement", "name"])
        places = sorted({i * (len(examples) - 1) // (_EXAMPLES - 1) for i in range(_EXAMPLES)})
        for axis in row:
            axis.axis("off")
        row[0].set_title(f"{'kept' if kept else 'rejected'} at {percent} %", fontsize=9, loc="left", y=1.12)
        picks = examples.iloc[places].to_dict("records") if len(examples) else []
        for axis, example in zip(row, picks, strict=False):
            files = [params.dataset.root / example["source"], example["file"]]
            pair = load_images(files, params.dataset.height, params.dataset.width)
            axis.imshow(np.concatenate(pair, axis=1))
            label = f"{example['agreement']:.2f}"
            axis.text(0.5, 1.02, label, transform=axis.transAxes, ha="center", fontsize=8)
    return figure


def main() -> None:
    """Run the stage."""
    parser = command_line("filter", __doc__)
    parser.add_argument("name", help="key of the section filters of params.yaml")
    name, params = parser.parse_args().name, load_params()
    if name not in params.filters:
        raise ValueError(f"the filter is {name}; expected one of {', '.join(params.filters) or 'none'}")
    keep_memory()
    scores = {}
    with atomic(SYNTHETIC / name) as folder:
        needs = read_needs(name).items()
        for percent, count in tqdm(needs, desc="filtering", unit="subset", delay=2):
            (folder / str(percent)).mkdir(parents=True)
            scores[percent] = filter_subset(name, percent, count, params, folder / str(percent))
    drawn = BytesIO()
    draw(scores, name, params).savefig(drawn, dpi=110)
    with atomic(FILTER_FIGURES / f"{name}.png") as file, Image.open(drawn) as picture:
        save_composite(picture, file)


if __name__ == "__main__":
    stage_main(main)
