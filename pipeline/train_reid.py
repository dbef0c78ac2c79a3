"""Stages `standard` and `augmented`: train and test the re-ID models of one arm, for every fraction and seed.

`standard` has real images only, at every fraction and at 100 %; every other arm is a recipe of
params.yaml that adds synthetic images. All train for the same number of iterations. Writes
data/reid/<arm>.csv, one row per model.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import pipeline.images
import reid
from pipeline.checkpoints import Checkpoints
from pipeline.cli import command_line
from pipeline.curve import Curve
from pipeline.files import code_hash, scratch, stage_main, write_csv, write_json
from pipeline.images import load_images
from pipeline.index import read_index
from pipeline.memory import keep_memory
from pipeline.params import ArmSettings, Params, ReidSection, load_params
from pipeline.subset import read_subset
from pipeline.synthetic import read_synthetic
from reid.evaluate import distances, evaluate, features
from reid.train import train

RESULTS = Path("data/reid")


@dataclass(frozen=True)
class ImageSet:
    """Images with what the evaluation needs to know of them; decoded once for all models of a stage."""

    table: pd.DataFrame  # columns pid, camid, md5
    pixels: np.ndarray  # uint8 [N, H, W, 3]

    @classmethod
    def read(cls, table: pd.DataFrame, files: list[Path], settings: ReidSection) -> "ImageSet":
        """Decode `files`, one per row of `table`, at the input size of the re-ID model."""
        return cls(table.reset_index(drop=True), load_images(files, settings.height, settings.width))


def read_added(arm: ArmSettings, fraction: int, real: ImageSet, settings: ReidSection) -> ImageSet:
    """The images that an arm adds to the real ones of a subset: synthetic, or real ones once more."""
    folder, table = read_synthetic(arm.synthetic, fraction, set(real.table.pid))
    if arm.synthetic_ratio is not None:
        # By their checksums: as good as at random, and a smaller ratio's images are among a larger one's.
        table = table.sort_values("md5").head(round(arm.synthetic_ratio * len(real.table))).sort_index()
    if not arm.repeat_real:
        return ImageSet.read(table, [folder / name for name in table.name], settings)
    if "sources" not in table:
        raise ValueError(
            f"{folder}: repeat_real needs a manifest.csv with the column sources, as `generate` writes"
        )
    sources = pd.Index(real.table.image).get_indexer(table.sources.str.split("|").str[0])
    if (sources < 0).any():
        raise ValueError(f"{folder}: a source image is not in the {fraction} % subset; run `generate` again")
    return ImageSet(real.table.iloc[sources].reset_index(drop=True), real.pixels[sources])


def train_and_test(
    real: ImageSet,
    added: ImageSet | None,
    query: ImageSet,
    gallery: ImageSet,
    arm: ArmSettings | None,
    seed: int,
    settings: ReidSection,
    title: str,
) -> dict[str, float]:
    """Train one model and rank the gallery with it; percent. A result that is known already is read again."""
    sets = [real, *([added] if added else []), query, gallery]
    folder = scratch(
        "train_reid",
        settings=settings.model_copy(update={"seeds": ()}),
        seed=seed,
        arm=arm.model_dump(mode="json", exclude={"synthetic"}) if arm else None,
        images=[images.table.md5.tolist() for images in sets],
        pids=[images.table.pid.tolist() for images in sets],
        code=code_hash(reid, pipeline.images),
    )
    result = folder / "result.json"
    if not result.is_file():
        device = "cuda" if torch.cuda.is_available() else "cpu"
        train_sets = [real, added] if added else [real]
        curve = Curve(folder / "curve.jsonl", f"reid/{title.split()[0]}")  # of the model that is in training
        model = train(
            np.concatenate([images.pixels for images in train_sets]),
            np.concatenate([images.table.pid for images in train_sets]),
            np.repeat([False, True][: len(train_sets)], [len(images.table) for images in train_sets]),
            settings,
            seed,
            synthetic_share=arm.synthetic_share if arm else None,
            synthetic_weight=arm.synthetic_weight if arm else 1.0,
            synthetic_smoothing=arm.synthetic_smoothing if arm else None,
            real_first=arm.real_first if arm else 0.0,
            device=device,
            checkpoints=Checkpoints(folder),
            title=title,
            log=curve.log,
        )
        curve.close()
        found = evaluate(
            distances(
                features(model, query.pixels, settings.evaluation_batch),
                features(model, gallery.pixels, settings.evaluation_batch),
            ),
            query.table.pid.to_numpy(),
            query.table.camid.to_numpy(),
            gallery.table.pid.to_numpy(),
            gallery.table.camid.to_numpy(),
        )
        values = {
            "rank1": found.rank(1),
            "mAP": found.mAP,
            "mINP": found.mINP,
            "rank5": found.rank(5),
            "rank10": found.rank(10),
            "mAP_trapezoid": found.mAP_trapezoid,
        }
        write_json({name: round(100 * value, 4) for name, value in values.items()}, result)
    return json.loads(result.read_text())


def run_arm(name: str, params: Params) -> pd.DataFrame:
    """Train and test all models of one arm."""
    settings, arm = params.reid, params.arms.get(name)
    index, root = read_index().set_index("image", drop=False), params.dataset.root
    prefix = "val_" if settings.evaluate_on == "validation" else ""
    tested = [index[index.split == prefix + split] for split in ("query", "gallery")]
    query, gallery = (
        ImageSet.read(rows, [root / image for image in rows.image], settings) for rows in tested
    )
    every = index.loc[read_subset(100)]
    everyone = ImageSet.read(every, [root / image for image in every.image], settings)
    fractions = list(params.subset.fractions) if arm else [*params.subset.fractions, 100]

    rows = []
    with tqdm(total=len(fractions) * len(settings.seeds), desc=name, unit="model") as bar:
        for fraction in fractions:
            chosen = everyone.table.image.isin(read_subset(fraction)).to_numpy()
            real = ImageSet(everyone.table[chosen].reset_index(drop=True), everyone.pixels[chosen])
            added = read_added(arm, fraction, real, settings) if arm else None
            n_added = len(added.table) if added else 0
            repeated = n_added if arm and arm.repeat_real else 0
            for seed in settings.seeds:
                title = f"{name} {fraction} % seed {seed}"
                values = train_and_test(real, added, query, gallery, arm, seed, settings, title)
                rows.append(
                    {
                        "arm": name,
                        "train_on": params.train_on(name),
                        "fraction": fraction,
                        "seed": seed,
                        "n_real": len(real.table) + repeated,
                        "n_synthetic": n_added - repeated,
                        "iterations": settings.iterations,
                        **values,
                    }
                )
                bar.update()
    return pd.DataFrame(rows)


def main() -> None:
    """Run the stage."""
    parser = command_line("train_reid", __doc__)
    parser.add_argument("arm", help="standard, or a recipe in the section arms of params.yaml")
    keep_memory()
    name, params = parser.parse_args().arm, load_params()
    if name != "standard" and name not in params.arms:
        raise ValueError(f"the arm is {name}; expected standard or one of {', '.join(params.arms)}")
    write_csv(run_arm(name, params), RESULTS / f"{name}.csv")


if __name__ == "__main__":
    stage_main(main)
