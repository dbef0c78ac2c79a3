"""Stages `standard` and `augmented`: train and test the re-ID models of one arm, for every fraction and seed.

`standard` has real images only, at every fraction and at 100 %; every other arm is a recipe of
params.yaml that adds synthetic images. All train for the same number of iterations. Writes
data/reid/<arm>.csv, one row per model, data/reid/<arm>.queries.csv, one row per model and query,
data/reid/<arm>.curves.csv, the learning curve of each model, and the weights as
models/reid/<arm>/<fraction>-<seed>.safetensors.
"""

import json
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
from pipeline.files import (
    atomic,
    is_sealed,
    md5,
    release,
    scratch,
    seal,
    stage_main,
    write_csv,
    write_json,
)
from pipeline.images import load_images
from pipeline.index import read_index
from pipeline.memory import keep_memory
from pipeline.params import ArmSettings, Params, ReidSection, load_params
from pipeline.subset import read_subset
from pipeline.synthetic import read_arm, say_unused
from pipeline.workers import available_cores, bar_position, worker_pool
from reid.evaluate import average_precision_by_camera, distances, evaluate, features
from reid.model import load_model, save_model
from reid.rerank import rerank
from reid.settings import ReidSettings
from reid.train import REPORT_EVERY, train

RESULTS = Path("data/reid")
MODELS = Path("models/reid")
CURVE = "curve.jsonl"  # beside the weights in scratch
TOP = 10  # best gallery images of each query that are written down


@dataclass(frozen=True)
class ImageSet:
    """Images with what the evaluation needs to know of them; decoded once for all models of a stage."""

    table: pd.DataFrame  # columns pid, md5; to be tested on also image, camid
    pixels: np.ndarray  # uint8 [N, H, W, 3]

    @classmethod
    def read(cls, table: pd.DataFrame, files: list[Path], settings: ReidSection) -> "ImageSet":
        """Decode `files`, one per row of `table`, at the input size of the re-ID model."""
        return cls(table.reset_index(drop=True), load_images(files, settings.height, settings.width))

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Identities and cameras, int [N] each."""
        return self.table.pid.to_numpy(), self.table.camid.to_numpy()


def read_added(arm: ArmSettings, fraction: int, real: ImageSet, settings: ReidSection) -> ImageSet:
    """The images that an arm adds to the real ones of a subset: synthetic, or real ones once more."""
    folder, table = read_arm(arm, fraction, set(real.table.pid), len(real.table))
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


def train_model(
    real: ImageSet,
    added: ImageSet | None,
    arm: ArmSettings | None,
    seed: int,
    settings: ReidSection,
    title: str,
) -> Path:
    """Train one model and return the file with its weights; one that is there is not trained again."""
    sets = [real, *([added] if added else [])]
    folder = scratch(
        "train_reid",
        __file__,
        reid,
        pipeline.images,
        settings=settings.model_dump(mode="json", include=set(ReidSettings.model_fields)),
        seed=seed,
        arm=arm.model_dump(mode="json", exclude={"synthetic"}) if arm else None,
        images=[images.table.md5.tolist() for images in sets],
        pids=[images.table.pid.tolist() for images in sets],
        weights=md5(settings.weights) if settings.weights else None,
    )
    weights, done = folder / "model.safetensors", folder / "model.json"
    if not is_sealed(done):
        curve = Curve(folder / CURVE, f"reid/{title.split()[0]}")  # of the model that is in training
        with _out_of_memory("training", settings, "identities_per_batch", "images_per_identity"):
            model = train(
                np.concatenate([images.pixels for images in sets]),
                np.concatenate([images.table.pid for images in sets]),
                np.repeat([False, True][: len(sets)], [len(images.table) for images in sets]),
                settings,
                seed,
                synthetic_share=arm.synthetic_share if arm else None,
                synthetic_rate=arm.synthetic_rate if arm else 1.0,
                synthetic_weight=arm.synthetic_weight if arm else 1.0,
                synthetic_smoothing=arm.synthetic_smoothing if arm else None,
                real_first=arm.real_first if arm else 0.0,
                real_last=arm.real_last if arm else 0.0,
                device=_device(),
                checkpoints=Checkpoints(folder),
                checkpoint_every=settings.checkpoint_every,
                title=title,
                bar_position=bar_position(),
                log=curve.log,
            )
        curve.close()
        with atomic(weights) as file:
            save_model(model, file)
        seal(done, weights, curve.file)
    release(folder)
    return weights


def evaluate_model(
    weights: Path, query: ImageSet, gallery: ImageSet, settings: ReidSection
) -> tuple[dict[str, float], pd.DataFrame]:
    """Rank the gallery for each query. A result that is known already is read again.

    Returns:
        The summaries (percent), and a table of the queries: query (its image), ap (percent; of the whole
        gallery), first_match (rank from 1 of the first right gallery image), top (the best ten gallery images
        in order, separated by spaces), and for each camera ap_c<camera>, ap in the images of that camera
        alone. What a query cannot have, for want of right images, is empty.
    """
    folder = scratch(
        "test_reid",
        __file__,
        reid,
        pipeline.images,
        weights=md5(weights),
        settings=settings.model_dump(mode="json", exclude={"seeds"}),
        images=[
            images.table[["image", "pid", "camid", "md5"]].values.tolist() for images in (query, gallery)
        ],
    )
    result, table, done = folder / "result.json", folder / "queries.csv", folder / "done.json"
    if not is_sealed(done):
        model = load_model(weights, settings, _device())
        with _out_of_memory("testing", settings, "evaluation_batch"):
            wanted = features(model, query.pixels, settings.evaluation_batch)
            shown = features(model, gallery.pixels, settings.evaluation_batch)
        found = evaluate(distances(wanted, shown), *query.labels(), *gallery.labels(), top=TOP)
        values = {
            "rank1": found.rank(1),
            "mAP": found.mAP,
            "mINP": found.mINP,
            "rank5": found.rank(5),
            "rank10": found.rank(10),
            "mAP_trapezoid": found.mAP_trapezoid,
        }
        if settings.rerank:
            kept = gallery.table.pid.to_numpy() != -1  # junk must not count among the neighbours
            blocks = rerank(
                wanted, shown[kept], settings.rerank_k1, settings.rerank_k2, settings.rerank_lambda
            )
            pids, camids = gallery.labels()
            again = evaluate(blocks, *query.labels(), pids[kept], camids[kept])
            values |= {"rank1_rerank": again.rank(1), "mAP_rerank": again.mAP}
        names = gallery.table.image.to_numpy()
        queries = pd.DataFrame(
            {
                "query": query.table.image,
                "ap": 100 * found.average_precision,
                "first_match": pd.Series(found.first_rank).where(found.matches > 0).astype("Int64"),
                "top": [" ".join(names[places[places >= 0]]) for places in found.top],
            }
        )
        by_camera = average_precision_by_camera(wanted, shown, *query.labels(), *gallery.labels())
        for camera, precision in by_camera.items():
            queries[f"ap_c{camera}"] = 100 * precision
        write_csv(queries, table, float_format="%.4f")
        write_json({name: round(100 * value, 4) for name, value in values.items()}, result)
        seal(done, result, table)
    release(folder)
    return json.loads(result.read_text()), pd.read_csv(table, dtype={"first_match": "Int64"})


@contextmanager
def _out_of_memory(what: str, settings: ReidSection, *keys: str) -> Iterator[None]:
    """Name the keys that decide how much memory is needed.

    A batch of a training is not taken in parts as the generator's is: batch normalisation and the hardest
    triplets would change with them.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        named = " and ".join(f"reid.{key} ({getattr(settings, key)})" for key in keys)
        reason = str(error).split(". ")[0]
        raise ValueError(f"{what} does not fit into the memory ({reason}); lower {named}") from None


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Job:
    """One model of an arm: what it is trained on, what it is tested on."""

    fraction: int
    seed: int
    real: ImageSet
    added: ImageSet | None
    query: ImageSet
    gallery: ImageSet


@dataclass(frozen=True)
class Outcome:
    """What became of a job: what it adds to the arm's three tables, and its weights."""

    row: dict[str, str | int | float]
    queries: pd.DataFrame
    curve: pd.DataFrame
    weights: Path


def train_and_test(name: str, params: Params, job: Job) -> Outcome:
    """Train and test one model of the arm `name`.

    A CPU gives it one core, and the other cores train other models: small convolutions use one core better
    than two, and a result does not depend on how many there are.
    """
    if _device() == "cpu":
        torch.set_num_threads(1)
    settings, arm = params.reid, params.arms.get(name)
    title = f"{name} {job.fraction} % seed {job.seed}"
    weights = train_model(job.real, job.added, arm, job.seed, settings, title)
    values, queries = evaluate_model(weights, job.query, job.gallery, settings)
    n_added = len(job.added.table) if job.added else 0
    repeated = n_added if arm and arm.repeat_real else 0
    row: dict[str, str | int | float] = {
        "arm": name,
        "train_on": params.train_on(name),
        "fraction": job.fraction,
        "seed": job.seed,
        "n_real": len(job.real.table) + repeated,
        "n_synthetic": n_added - repeated,
        "generator": _generator(job.added),
        "iterations": settings.iterations,
        **values,
    }
    # Without the looks at checkpoints: how often a model's state was kept must not show.
    curve = Curve(weights.with_name(CURVE)).table(every=REPORT_EVERY)
    for table in (queries, curve):
        table.insert(0, "fraction", job.fraction)
        table.insert(1, "seed", job.seed)
    return Outcome(row, queries, curve, weights)


def _generator(added: ImageSet | None) -> str:
    """The `model_hash` of the generator that made the images, as their manifest has it; empty if none did."""
    found = set(added.table.get("generator", [])) if added else set()
    return str(found.pop()) if len(found) == 1 else ""


def _work(name: str, params: Params, jobs: Iterable[Job], workers: int) -> Iterator[Outcome]:
    work = partial(train_and_test, name, params)
    if workers == 1:
        yield from map(work, jobs)
    else:
        with worker_pool(workers, setup=keep_memory) as pool:
            waiting: deque[Future[Outcome]] = deque()
            for job in jobs:  # and not pool.map, which would ask for the images of all jobs at once
                waiting.append(pool.submit(work, job))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            yield from (job.result() for job in waiting)


def run_arm(name: str, params: Params) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, Path]]:
    """Train and test all models of one arm: one after the other on a GPU, one per core on a CPU.

    Returns:
        A row per model, a row per model and query, their learning curves, and their weights.
    """
    settings, arm = params.reid, params.arms.get(name)
    index, root = read_index().set_index("image", drop=False), params.dataset.root
    prefix = "val_" if settings.evaluate_on == "validation" else ""
    tested = [index[index.split == prefix + split] for split in ("query", "gallery")]
    fractions = list(params.subset.fractions) if arm else [*params.subset.fractions, 100]
    count = len(fractions) * len(settings.seeds)
    workers = 1 if _device() == "cuda" else min(available_cores(), count)
    print(
        f"{count} models, {settings.iterations} iterations x "
        f"{settings.identities_per_batch * settings.images_per_identity} images each, {workers} at a time; "
        f"{len(tested[0])} queries against {len(tested[1])} images",
        flush=True,
    )
    query, gallery = (
        ImageSet.read(rows, [root / image for image in rows.image], settings) for rows in tested
    )
    every = index.loc[read_subset(100)]
    everyone = ImageSet.read(every, [root / image for image in every.image], settings)

    def read(fraction: int) -> tuple[ImageSet, ImageSet | None]:
        """The real images of a subset, and what the arm adds to them."""
        chosen = everyone.table.image.isin(read_subset(fraction)).to_numpy()
        real = ImageSet(everyone.table[chosen].reset_index(drop=True), everyone.pixels[chosen])
        return real, read_added(arm, fraction, real, settings) if arm else None

    if arm:
        say_unused(arm.synthetic, fractions)
        for fraction in fractions:  # before the first training; kept, they might not fit into memory
            read(fraction)

    def jobs() -> Iterator[Job]:
        for fraction in fractions:
            real, added = read(fraction)
            for seed in settings.seeds:
                yield Job(fraction, seed, real, added, query, gallery)

    done = list(tqdm(_work(name, params, jobs(), workers), desc=name, total=count, unit="model"))
    return (
        pd.DataFrame([outcome.row for outcome in done]),
        pd.concat(outcome.queries for outcome in done),
        pd.concat(outcome.curve for outcome in done),
        {f"{job.row['fraction']}-{job.row['seed']}.safetensors": job.weights for job in done},
    )


def main() -> None:
    """Run the stage."""
    parser = command_line("train_reid", __doc__)
    parser.add_argument("arm", help="standard, or a recipe in the section arms of params.yaml")
    keep_memory()
    name, params = parser.parse_args().arm, load_params()
    if name != "standard" and name not in params.arms:
        raise ValueError(f"the arm is {name}; expected standard or one of {', '.join(params.arms)}")
    rows, queries, curves, models = run_arm(name, params)
    with atomic(MODELS / name) as folder:
        folder.mkdir()
        for file, weights in models.items():
            shutil.copy(weights, folder / file)
    write_csv(queries, RESULTS / f"{name}.queries.csv")
    write_csv(curves, RESULTS / f"{name}.curves.csv")
    write_csv(rows, RESULTS / f"{name}.csv")


if __name__ == "__main__":
    stage_main(main)
