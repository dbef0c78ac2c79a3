"""Stages `standard`, `standard_of` and `augmented`: train and test the re-ID models of one arm.

There is a model for every percent and seed. `standard` has real images only, at every percent and at 100 %,
and so has `standard@<judge>`, by the settings of another judge. Every other arm is a recipe of params.yaml
that adds synthetic images. All models of a judge train for the same number of iterations. Writes
data/reid/<arm>.csv, one row per model, data/reid/<arm>.queries.csv, one row per model and query,
data/reid/<arm>.curves.csv, the learning curve of each model, and the models as
models/reid/<arm>/<percent>-<seed>.safetensors, each with its settings beside it as .json.
"""

import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import pipeline.datasets.images
import pipeline.shared.reid_models
import reid
from pipeline.artifacts import (
    GENERATOR_COLUMN,
    REID_MODELS,
    read_index,
    read_subset,
    reid_weights,
    results_file,
)
from pipeline.datasets.synthetic import read_arm
from pipeline.params import ArmSettings, Params, ReidSection, load_params
from pipeline.runtime.checkpoints import Checkpoints
from pipeline.runtime.curve import Curve
from pipeline.runtime.hashes import md5
from pipeline.runtime.memory import keep_memory
from pipeline.runtime.outputs import atomic, write_csv
from pipeline.runtime.scratch import is_sealed, release, scratch, seal
from pipeline.runtime.stage import command_line, stage_main
from pipeline.runtime.workers import bar_position, worker_pool
from pipeline.shared.reid_models import (
    ImageSet,
    evaluate_model,
    models_at_once,
    name_memory_keys,
    reid_device,
)
from reid.model import save_model, settings_file
from reid.settings import Mix, ReidSettings
from reid.train import REPORT_EVERY, train

_CURVE = "curve.jsonl"  # beside the weights in scratch


@dataclass(frozen=True)
class Job:
    """One model of an arm: what it is trained on, and what it is tested on.

    Attributes:
        percent: Share of the subset.
        seed: Seed of the training.
        real: Images of the subset.
        added: Images that the arm adds; None for `standard`.
        query: Queries of the test.
        gallery: Gallery of the test.
    """

    percent: int
    seed: int
    real: ImageSet
    added: ImageSet | None
    query: ImageSet
    gallery: ImageSet


@dataclass(frozen=True)
class Outcome:
    """What a job adds to the arm's three tables, and the file with the model's weights."""

    row: dict[str, str | int | float]
    queries: pd.DataFrame
    curve: pd.DataFrame
    weights: Path


# --- one model ----------------------------------------------------------------------------------------------


def train_model(
    real: ImageSet, added: ImageSet | None, mix: Mix | None, seed: int, settings: ReidSection, title: str
) -> Path:
    """Train one model and return the file with its weights; one that is there is not trained again.

    Args:
        real: Images of the subset.
        added: Images that the arm adds, if it does.
        mix: How the two are mixed; needed with `added`.
        seed: Seed of the training.
        settings: Settings of the training.
        title: Name of the model on the progress bar; its first word names the curve.
    """
    sets = [real, *([added] if added else [])]
    folder = scratch(
        "train_reid",
        __file__,
        reid,
        pipeline.datasets.images,
        pipeline.shared.reid_models,
        settings=settings.model_dump(mode="json", include=set(ReidSettings.model_fields)),
        seed=seed,
        mix=mix.model_dump(mode="json", include=set(Mix.model_fields)) if mix else None,
        images=[images.table.md5.tolist() for images in sets],
        pids=[images.table.pid.tolist() for images in sets],
        weights=md5(settings.weights) if settings.weights else None,
    )
    weights, done = folder / "model.safetensors", folder / "done.json"
    if not is_sealed(done):
        curve = Curve(folder / _CURVE, f"reid/{title.split()[0]}")  # of the model that is in training
        model = train(
            np.concatenate([images.pixels for images in sets]),
            np.concatenate([images.table.pid for images in sets]),
            np.repeat([False, True][: len(sets)], [len(images.table) for images in sets]),
            settings,
            seed,
            mix=mix,
            device=reid_device(),
            checkpoints=Checkpoints(folder),
            checkpoint_every=settings.checkpoint_every,
            title=title,
            bar_position=bar_position(),
            log=curve.log,
        )
        curve.close()
        with atomic(weights) as file, atomic(settings_file(weights)) as description:
            save_model(model, file, description)
        seal(done, weights, settings_file(weights), curve.file)
    release(folder)
    return weights


def train_and_test(name: str, params: Params, job: Job) -> Outcome:
    """Train and test one model of the arm `name`.

    A CPU gives it one core, and the other cores train other models: small convolutions use one core better
    than two, and a result does not depend on how many there are. GPUs train one model each.
    """
    if reid_device() == "cpu":
        torch.set_num_threads(1)
    settings, arm = params.reid_of(name), params.arms.get(name)
    title = f"{name} {job.percent} % seed {job.seed}"
    section = params.section_of(name)
    with name_memory_keys("training", section, settings, "identities_per_batch", "images_per_identity"):
        weights = train_model(job.real, job.added, arm, job.seed, settings, title)
    with name_memory_keys("testing", section, settings, "evaluation_batch"):
        values, queries = evaluate_model(weights, job.query, job.gallery, settings)
    added = len(job.added.table) if job.added else 0
    repeated = added if arm and arm.repeat_real else 0  # images of the control are real ones
    row: dict[str, str | int | float] = {
        "arm": name,
        "train_on": params.train_on(name),
        "percent": job.percent,
        "seed": job.seed,
        "n_real": len(job.real.table) + repeated,
        "n_synthetic": added - repeated,
        GENERATOR_COLUMN: _generator(job.added),
        "iterations": settings.iterations,
        **values,
    }
    # Without the looks at checkpoints: how often a model's state was kept must not show.
    curve = Curve(weights.with_name(_CURVE)).table(every=REPORT_EVERY)
    for table in (queries, curve):
        table.insert(0, "percent", job.percent)
        table.insert(1, "seed", job.seed)
    return Outcome(row, queries, curve, weights)


def _generator(added: ImageSet | None) -> str:
    """Return the `model_hash` of the generator, as the images' manifest has it; empty if none made them."""
    hashes = set(added.table.get("generator", [])) if added else set()
    return str(hashes.pop()) if len(hashes) == 1 else ""


# --- all models of an arm -----------------------------------------------------------------------------------


def read_added(
    arm: ArmSettings, percent: int, real: ImageSet, all_real: int, settings: ReidSection
) -> ImageSet:
    """Read the images that an arm adds to the real ones of a subset: synthetic, or real ones once more.

    Args:
        arm: The recipe.
        percent: Share of the subset.
        real: Images of the subset.
        all_real: Number of all real training images.
        settings: Settings of the training.
    """
    folder, table = read_arm(arm, percent, set(real.table.pid), len(real.table), all_real)
    if not arm.repeat_real:
        return ImageSet.read(table, [folder / name for name in table.name], settings)
    sources = pd.Index(real.table.image).get_indexer(table.sources.str.split("|").str[0])
    if (sources < 0).any():
        raise ValueError(f"{folder}: a source image is not in the {percent} % subset; run `generate` again")
    return ImageSet(real.table.iloc[sources].reset_index(drop=True), real.pixels[sources])


def read_test_sets(params: Params, settings: ReidSection) -> tuple[ImageSet, ImageSet]:
    """Read query and gallery of the test, or those of the validation identities."""
    index, root = read_index(), params.dataset.root
    prefix = "val_" if settings.evaluate_on == "validation" else ""
    tables = [index[index.split == prefix + split] for split in ("query", "gallery")]
    query, gallery = (
        ImageSet.read(table, [root / image for image in table.image], settings) for table in tables
    )
    return query, gallery


def list_jobs(name: str, params: Params, folder: Path | None = None) -> Iterator[Job]:
    """Yield the models of an arm, by percent and seed; images are read once per percent.

    All added images are read once before the first job, so that a bad one is found before the first training;
    kept, they might not fit into memory.

    Args:
        name: Name of the arm.
        params: Settings of the run.
        folder: Where pixels are put for other processes to read; None keeps them in memory.
    """
    index, root, arm = read_index().set_index("image", drop=False), params.dataset.root, params.arms.get(name)
    settings = params.reid_of(name)
    train = index.loc[read_subset(100)]
    training_images = ImageSet.read(train, [root / image for image in train.image], settings)

    def read(percent: int) -> tuple[ImageSet, ImageSet | None]:
        in_subset = training_images.table.image.isin(read_subset(percent)).to_numpy()
        real = ImageSet(
            training_images.table[in_subset].reset_index(drop=True), training_images.pixels[in_subset]
        )
        return real, read_added(arm, percent, real, len(train), settings) if arm else None

    percents = params.percents_of(name)
    for percent in percents if arm else []:
        read(percent)

    def place(images: ImageSet, name: str) -> ImageSet:
        return images.shared(folder / f"{name}.npy") if folder else images

    query, gallery = map(place, read_test_sets(params, settings), ("query", "gallery"))
    for percent in percents:
        real, added = read(percent)
        real = place(real, f"real-{percent}")
        added = place(added, f"added-{percent}") if added else None
        for seed in settings.seeds:
            yield Job(percent, seed, real, added, query, gallery)


def run_arm(name: str, params: Params) -> list[Outcome]:
    """Train and test all models of one arm: as many at a time as there are GPUs, or cores without a GPU."""
    settings = params.reid_of(name)
    count = len(params.percents_of(name)) * len(settings.seeds)
    workers = min(models_at_once(), count)
    print(
        f"{count} models, {settings.iterations} iterations x "
        f"{settings.identities_per_batch * settings.images_per_identity} images each, {workers} at a time",
        flush=True,
    )
    work = _work_in_turn if workers == 1 else partial(_work_at_once, workers=workers)
    return list(tqdm(work(name, params), desc=name, total=count, unit="model"))


def _work_in_turn(name: str, params: Params) -> Iterator[Outcome]:
    """Yield the outcomes of an arm's jobs, done in this process."""
    yield from map(partial(train_and_test, name, params), list_jobs(name, params))


def _work_at_once(name: str, params: Params, workers: int) -> Iterator[Outcome]:
    """Yield the outcomes of an arm's jobs in their order, done in several processes.

    All read the pixels from files in scratch: a copy for each job would be the whole test set many times.
    """
    work = partial(train_and_test, name, params)
    folder = scratch("pixels", __file__, arm=name)
    try:
        with worker_pool(workers, setup=keep_memory) as pool:
            waiting: deque[Future[Outcome]] = deque()
            for job in list_jobs(name, params, folder):  # not pool.map, which would ask for all jobs at once
                waiting.append(pool.submit(work, job))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            yield from (job.result() for job in waiting)
    finally:  # also after a mistake: they may be gigabytes
        for file in folder.glob("*.npy"):
            file.unlink()
        release(folder)


def main() -> None:
    """Run the stage."""
    parser = command_line("train_reid", __doc__)
    parser.add_argument("arm", help="standard, standard@<judge>, or a key of the section arms of params.yaml")
    keep_memory()
    name, params = parser.parse_args().arm, load_params()
    if name not in params.all_arms:
        raise ValueError(f"the arm is {name}; expected one of {', '.join(params.all_arms)}")
    outcomes = run_arm(name, params)
    with atomic(REID_MODELS / name) as folder:
        folder.mkdir()
        for outcome in outcomes:
            percent, seed = int(outcome.row["percent"]), int(outcome.row["seed"])
            weights = folder / reid_weights(percent, seed)
            shutil.copy(outcome.weights, weights)
            shutil.copy(settings_file(outcome.weights), settings_file(weights))
    write_csv(pd.concat(outcome.queries for outcome in outcomes), results_file(name, "queries"))
    write_csv(pd.concat(outcome.curve for outcome in outcomes), results_file(name, "curves"))
    write_csv(pd.DataFrame([outcome.row for outcome in outcomes]), results_file(name))


if __name__ == "__main__":
    stage_main(main)
