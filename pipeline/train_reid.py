"""Stages `standard` and `augmented`: train and test the re-ID models of one arm, for every fraction and seed.

`standard` has real images only, at every fraction and at 100 %; every other arm is a recipe of
params.yaml that adds synthetic images. All train for the same number of iterations. Writes
data/reid/<arm>.csv, one row per model.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import reid
from pipeline.checkpoints import Checkpoints
from pipeline.files import code_hash, md5, read_csv, scratch, stage_main, write_csv, write_json
from pipeline.index import read_index
from pipeline.memory import keep_memory
from pipeline.params import SYNTHETIC, ArmSettings, Params, ReidSection, load_params
from pipeline.subset import read_subset
from reid.data import load_images
from reid.evaluate import distances, evaluate, features
from reid.train import train

RESULTS = Path("data/reid")
MANIFEST = {"name": str, "pid": int, "md5": str}


@dataclass(frozen=True)
class ImageSet:
    """Images with what the evaluation needs to know of them; decoded once for all models of a stage."""

    table: pd.DataFrame  # columns pid, camid, md5
    pixels: np.ndarray  # uint8 [N, H, W, 3]

    @classmethod
    def read(cls, table: pd.DataFrame, files: list[Path], settings: ReidSection) -> "ImageSet":
        """Decode `files`, one per row of `table`, at the input size of the re-ID model."""
        return cls(table.reset_index(drop=True), load_images(files, settings.height, settings.width))


def read_synthetic(folder: Path, fraction: int, settings: ReidSection) -> ImageSet:
    """The synthetic images of one subset: those that its manifest lists."""
    manifest = read_csv(folder / str(fraction) / "manifest.csv", MANIFEST, "generate")
    return ImageSet.read(manifest, [folder / str(fraction) / name for name in manifest.name], settings)


def train_and_test(
    real: ImageSet,
    synthetic: ImageSet | None,
    query: ImageSet,
    gallery: ImageSet,
    arm: ArmSettings | None,
    seed: int,
    settings: ReidSection,
    title: str,
) -> dict[str, float]:
    """Train one model and rank the gallery with it; percent. A result that is known already is read again."""
    sets = [real, *([synthetic] if synthetic else []), query, gallery]
    folder = scratch(
        "train_reid",
        settings=settings.model_copy(update={"seeds": ()}),
        seed=seed,
        arm=arm.model_dump(mode="json", exclude={"synthetic"}) if arm else None,
        images=[images.table.md5.tolist() for images in sets],
        pids=[images.table.pid.tolist() for images in sets],
        weights=md5(settings.weights) if settings.weights else None,
        camids=[images.table.camid.tolist() for images in (query, gallery)],
        code=code_hash(reid),
    )
    result = folder / "result.json"
    if not result.is_file():
        device = "cuda" if torch.cuda.is_available() else "cpu"
        train_sets = [real, synthetic] if synthetic else [real]
        model = train(
            np.concatenate([images.pixels for images in train_sets]),
            np.concatenate([images.table.pid for images in train_sets]),
            np.repeat([False, True][: len(train_sets)], [len(images.table) for images in train_sets]),
            settings,
            seed,
            synthetic_share=arm.synthetic_share if arm else None,
            synthetic_weight=arm.synthetic_weight if arm else 1.0,
            device=device,
            checkpoints=Checkpoints(folder),
            checkpoint_every=settings.checkpoint_every,
            title=title,
        )
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
            synthetic = read_synthetic(arm.synthetic, fraction, settings) if arm else None
            for seed in settings.seeds:
                title = f"{name} {fraction} % seed {seed}"
                values = train_and_test(real, synthetic, query, gallery, arm, seed, settings, title)
                rows.append(
                    {
                        "arm": name,
                        "train_on": _train_on(arm),
                        "fraction": fraction,
                        "seed": seed,
                        "n_real": len(real.table),
                        "n_synthetic": len(synthetic.table) if synthetic else 0,
                        "iterations": settings.iterations,
                        **values,
                    }
                )
                bar.update()
    return pd.DataFrame(rows)


def _train_on(arm: ArmSettings | None) -> str:
    """What the generator of an arm's images was trained on; `other` for images from elsewhere."""
    if arm is None:
        return "none"
    return arm.synthetic.name if arm.synthetic.parent == SYNTHETIC else "other"


def main() -> None:
    """Run the stage."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.train_reid", description=__doc__)
    parser.add_argument("arm", help="standard, or a recipe in the section arms of params.yaml")
    keep_memory()
    name, params = parser.parse_args().arm, load_params()
    if name != "standard" and name not in params.arms:
        raise ValueError(f"the arm is {name}; expected standard or one of {', '.join(params.arms)}")
    write_csv(run_arm(name, params), RESULTS / f"{name}.csv")


if __name__ == "__main__":
    stage_main(main)
