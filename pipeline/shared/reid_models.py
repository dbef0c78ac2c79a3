"""Re-ID models in the hands of the stages: sets of images in memory, and what a model makes of a test set."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import pipeline.datasets.images
import reid
from pipeline.artifacts import join_images
from pipeline.datasets.images import load_images
from pipeline.params import ReidSection
from pipeline.runtime.hashes import md5
from pipeline.runtime.outputs import write_csv, write_json
from pipeline.runtime.scratch import is_sealed, release, scratch, seal
from pipeline.runtime.workers import available_cores, worker_number
from reid.evaluate import average_precision_by_camera, distances, evaluate, features
from reid.model import BoT, load_model
from reid.rerank import rerank
from reid.settings import ReidSettings

TOP = 10  # best gallery images of each query that are written down


@dataclass(frozen=True)
class ImageSet:
    """Images with what training and test need to know of them; decoded once for all models of a stage.

    Attributes:
        table: Columns pid and md5; to be tested on, also image and camid.
        pixels: uint8 [N, H, W, 3], at the input size of the re-ID model.
        file: Where the pixels lie, if other processes are to read them.
    """

    table: pd.DataFrame
    pixels: np.ndarray
    file: Path | None = None

    @classmethod
    def read(cls, table: pd.DataFrame, files: list[Path], settings: ReidSection) -> "ImageSet":
        """Decode `files`, one per row of `table`."""
        return cls(table.reset_index(drop=True), load_images(files, settings.height, settings.width))

    def shared(self, file: Path) -> "ImageSet":
        """Return these images with their pixels in `file`, which other processes read instead of a copy."""
        np.save(file, self.pixels)
        return _open_shared(self.table, file)

    def __reduce__(self) -> tuple[Any, ...]:
        """Send another process the name of the pixels' file, if they have one, and not the pixels."""
        return (_open_shared, (self.table, self.file)) if self.file else (ImageSet, (self.table, self.pixels))

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return identities and cameras, int [N] each."""
        return self.table.pid.to_numpy(), self.table.camid.to_numpy()


def _open_shared(table: pd.DataFrame, file: Path) -> ImageSet:
    # Mapped into memory, which processes share. "c" lets a process change its own copy: torch warns at "r".
    return ImageSet(table, np.load(file, mmap_mode="c"), file)


def evaluate_model(
    weights: Path, query: ImageSet, gallery: ImageSet, settings: ReidSection
) -> tuple[dict[str, float], pd.DataFrame]:
    """Rank the gallery for each query. A result that is known already is read again.

    Args:
        weights: Weights of a saved re-ID model; `load_model` says what lies beside them.
        query: Images to search for.
        gallery: Images to search in.
        settings: Settings of the model and of re-ranking.

    Returns:
        The summaries (percent), and a table of the queries: query (its image), ap (percent; of the whole
        gallery), first_match (rank from 1 of the first right gallery image), top (the best ten gallery images
        in order, as `join_images` joins them), and for each known camera ap_c<camera>, ap in the images of
        that camera only. Values that do not exist because a query has no right image are empty.
    """
    columns = ["image", "pid", "camid", "md5"]
    folder = scratch(
        "test_reid",
        __file__,
        reid,
        pipeline.datasets.images,
        weights=md5(weights),
        settings=settings.model_dump(mode="json", exclude={"seeds"}),
        images=[images.table[columns].values.tolist() for images in (query, gallery)],
    )
    summary, table, done = folder / "result.json", folder / "queries.csv", folder / "done.json"
    if not is_sealed(done):
        model = load_model(weights, reid_device())
        _check_settings(weights, model.settings, settings)
        values, queries = _rank(model, query, gallery, settings)
        write_csv(queries, table, float_format="%.4f")
        write_json({name: round(100 * value, 4) for name, value in values.items()}, summary)
        seal(done, summary, table)
    release(folder)
    return json.loads(summary.read_text()), pd.read_csv(table, dtype={"first_match": "Int64"})


def _check_settings(weights: Path, trained: ReidSettings, present: ReidSection) -> None:
    """Raise a ValueError if a model was trained with other settings; its first weights are no matter."""
    for name in sorted(set(ReidSettings.model_fields) - {"weights"}):
        if getattr(trained, name) != getattr(present, name):
            raise ValueError(
                f"{weights} was trained with {name} {getattr(trained, name)}, which is "
                f"{getattr(present, name)} in the present settings; train it again"
            )


def _rank(
    model: BoT, query: ImageSet, gallery: ImageSet, settings: ReidSection
) -> tuple[dict[str, float], pd.DataFrame]:
    """Return the summaries, shares in [0, 1], and the table of the queries."""
    query_features = features(model, query.pixels, settings.evaluation_batch)
    gallery_features = features(model, gallery.pixels, settings.evaluation_batch)
    pids, camids = gallery.labels()
    ranking = evaluate(distances(query_features, gallery_features), *query.labels(), pids, camids, top=TOP)
    values = {
        "rank1": ranking.rank(1),
        "mAP": ranking.mAP,
        "mINP": ranking.mINP,
        "rank5": ranking.rank(5),
        "rank10": ranking.rank(10),
        "mAP_trapezoid": ranking.mAP_trapezoid,
    }
    if settings.rerank:
        people = pids != -1  # junk must not count among the neighbours
        blocks = rerank(
            query_features,
            gallery_features[people],
            settings.rerank_k1,
            settings.rerank_k2,
            settings.rerank_lambda,
        )
        reranked = evaluate(blocks, *query.labels(), pids[people], camids[people])
        values |= {"rank1_rerank": reranked.rank(1), "mAP_rerank": reranked.mAP}

    names = gallery.table.image.to_numpy()
    queries = pd.DataFrame(
        {
            "query": query.table.image,
            "ap": 100 * ranking.average_precision,
            "first_match": pd.Series(ranking.first_rank).where(ranking.matches > 0).astype("Int64"),
            "top": [join_images(names[places[places >= 0]]) for places in ranking.top],
        }
    )
    by_camera = average_precision_by_camera(
        query_features, gallery_features, *query.labels(), *gallery.labels()
    )
    for camera, precision in by_camera.items():
        queries[f"ap_c{camera}"] = 100 * precision
    return values, queries


@contextmanager
def name_memory_keys(work: str, section: str, settings: ReidSection, *keys: str) -> Iterator[None]:
    """Name the keys that decide how much memory `work` needs, when a GPU has too little.

    A batch of a training is not taken in parts as the generator's is: batch normalisation and the hardest
    triplets would change with them.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        named = " and ".join(f"{section}.{key} ({getattr(settings, key)})" for key in keys)
        reason = str(error).split(". ")[0]
        raise ValueError(f"{work} does not fit into the memory ({reason}); lower {named}") from None


def models_at_once() -> int:
    """Return how many re-ID models train at a time: one per GPU, or one per core where there is none."""
    return torch.cuda.device_count() if torch.cuda.is_available() else available_cores()


def reid_device() -> str:
    """Return torch's name of the device of this process's models: worker n has the n-th GPU."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{max(worker_number() - 1, 0) % torch.cuda.device_count()}"
