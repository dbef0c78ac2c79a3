"""Every file that passes between stages: where it lies, what its columns are, and how it is read.

A stage that needs another one's output imports it from here, and never from that stage. Paths are relative to
the project's folder; `percent` is always the whole share of the real training images, such as 20.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from generator.keypoints import KEYPOINT_NAMES
from pipeline.runtime.outputs import read_csv

# --- check, world -------------------------------------------------------------------------------------------
CHECKED = Path("data/checked.txt")
WORLD = Path("data/world")

# --- index --------------------------------------------------------------------------------------------------
INDEX = Path("data/index.csv")
INDEX_COLUMNS = {
    "image": str,  # path relative to the root of the data set, with forward slashes
    "split": str,  # train, query, gallery, val_query or val_gallery
    "pid": int,  # identity, from 1; in the gallery also 0 (distractor) and -1 (junk)
    "camid": int,  # -1 where no camera is known (`reid.cameras.NO_CAMERA`)
    "width": int,  # pixels; between camid and width a format has columns of its own
    "height": int,
    "md5": str,
}
REJECTED = Path("data/rejected.csv")  # columns image, reason
LEAKED = Path("data/leaked.csv")  # columns train, test: two names of the same picture
LEAKED_VALIDATION = Path("data/leaked_validation.csv")  # likewise
DATA_SUMMARY = Path("reports/data.json")


def read_index() -> pd.DataFrame:
    """Read data/index.csv, with the columns `INDEX_COLUMNS` and those of the data set's format."""
    return read_csv(INDEX, INDEX_COLUMNS, "index")


# --- poses --------------------------------------------------------------------------------------------------
POSES = Path("data/poses.csv")
COORDINATES = [f"{name}_{part}" for name in KEYPOINT_NAMES for part in ("x", "y", "score")]
POSE_COLUMNS = {"image": str} | dict.fromkeys(COORDINATES, float)
POSES_SUMMARY = Path("reports/poses.json")


def to_keypoints(table: pd.DataFrame, images: Sequence[str]) -> NDArray[np.float32]:
    """Return the keypoints [N, 18, 3] of `images` from a table with the columns `POSE_COLUMNS`."""
    values = table.set_index("image").loc[list(images), COORDINATES].to_numpy(np.float32)
    return values.reshape(len(images), len(KEYPOINT_NAMES), 3)


def read_pose_table() -> pd.DataFrame:
    """Read data/poses.csv, with the columns `POSE_COLUMNS`."""
    return read_csv(POSES, POSE_COLUMNS, "poses")


def read_poses(images: Sequence[str]) -> NDArray[np.float32]:
    """Read the keypoints of `images` from data/poses.csv.

    Returns:
        [N, 18, 3] x, y in pixels of an image of dataset.height x dataset.width, and score (0: not visible).
    """
    return to_keypoints(read_pose_table(), images)


# --- subset, plan -------------------------------------------------------------------------------------------
SUBSETS = Path("data/subsets")  # <percent>.csv, and 100.csv with all training images
PLANS = Path(
    "data/plans"
)  # <generator>/NEEDS, and <generator>/<percent>.csv of generators that follow a plan
NEEDS = "needs.json"
PLAN_COLUMNS = {
    "name": str,  # file name of the synthetic image: `speaking_stem` of its first source and a counter
    "pid": int,
    "camid": int,  # that of the first source, or of the pose where its surroundings are shown
    "order": int,  # an arm of n images has those of 0 to n - 1
    "sources": str,  # 1 to 3 images of the identity, joined by |
    "pose": str,  # image whose keypoints are the target pose
    "joint": int,  # rows of one joint image are adjacent and share identity and sources
    "scenario": str,  # of the joint image: T1, T2, T3, or multi for IMAGPose*
    "seed": int,  # of the image's noise, 32 bits
}


def read_subset(percent: int) -> list[str]:
    """Read the images of a subset, in the order of their names."""
    return read_csv(SUBSETS / f"{percent}.csv", {"image": str}, "subset").image.tolist()


def read_plan(generator: str, percent: int) -> pd.DataFrame:
    """Read the plan of a generator's images for a subset; the columns are `PLAN_COLUMNS`."""
    return read_csv(PLANS / generator / f"{percent}.csv", PLAN_COLUMNS, "plan")


def read_needs(generator: str) -> dict[int, int]:
    """Read how many images of a generator its largest arm needs, by the percents at which one needs any."""
    file = PLANS / generator / NEEDS
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; run the stage 'plan', which writes it")
    return {int(percent): count for percent, count in json.loads(file.read_text(encoding="utf-8")).items()}


# --- train_generator, generate, import_images, filter, identity ---------------------------------------------
# In a folder of base weights: the photographs that they were trained and measured on
BASE_PHOTOGRAPHS = "photographs.csv"
BASE_PHOTOGRAPH_COLUMNS = {"image": str, "pid": int, "md5": str}
GENERATORS = Path("models/generator")
GENERATOR_CURVES = Path("reports/generator")  # <train_on>.csv
CURVE_COLUMNS = {"percent": int, "step": int, "loss": float}
SYNTHETIC = Path("data/synthetic")  # <generator>/<percent>/, images and MANIFEST
MANIFEST = "manifest.csv"
# An arm of n images has the first n by order. The other columns of a plan follow where there was one.
MANIFEST_COLUMNS = {"name": str, "pid": int, "order": int, "md5": str}
FILTER_FIGURES = Path("reports/filters")  # <filter>.png
COPIES = Path("data/copies")  # <import>.csv
IDENTITY = Path("data/identity")  # <arm>.csv
IDENTITY_COLUMNS = {"percent": int, "name": str, "agreement": float}


def generator_folder(train_on: str, percent: int) -> Path:
    """Return the folder of the generator that may make images for a subset.

    Args:
        train_on: "all", whose one generator serves every subset, or "subset".
        percent: The subset's share.
    """
    return GENERATORS / train_on / str(100 if train_on == "all" else percent)


# --- arm_judges ---------------------------------------------------------------------------------------------
ARM_JUDGES = Path("data/arm_judges")  # <arm>.json: its key judge, and that judge's settings

# --- standard, augmented, cross -----------------------------------------------------------------------------
REID_RESULTS = Path("data/reid")  # <arm>.csv, <arm>.queries.csv, <arm>.curves.csv
RESULT_COLUMNS = {
    "arm": str,  # "standard" has real images only, "standard@<judge>" those of another judge
    "train_on": str,  # what the generator was trained on: all or subset of the real images, none, or other
    "percent": int,  # of the real training images
    "seed": int,
    "n_real": int,  # training images
    "n_synthetic": int,
    "iterations": int,
    "rank1": float,  # percent
    "mAP": float,
    "mINP": float,
}
METRICS = ("rank1", "mAP", "mINP")  # that every model has; rankings of other kinds and data sets may follow
GENERATOR_COLUMN = (
    "generator"  # follows where this pipeline's images were added: the generator's `model_hash`
)
QUERY_COLUMNS = {  # one row per model and query
    "percent": int,
    "seed": int,
    "query": str,  # image
    "ap": float,  # percent; empty where nothing can be found
    "top": str,  # the best gallery images, best first, as `join_images` joins them
}
REID_MODELS = Path("models/reid")


def standard_of(judge: str | None) -> str:
    """Return the name of the arm with real images only: of the section reid (None), or of another judge."""
    return "standard" if judge is None else f"standard@{judge}"


def is_standard(arm: str) -> bool:
    """Tell whether an arm has real images only; no recipe of params.yaml can have such a name."""
    return arm.partition("@")[0] == "standard"


def join_images(images: Iterable[str]) -> str:
    """Join images by spaces; those in their names become %20, and percent signs %25."""
    return " ".join(image.replace("%", "%25").replace(" ", "%20") for image in images)


def split_images(text: str) -> list[str]:
    """Return the images that `join_images` joined."""
    return [unquote(image) for image in text.split()]


def reid_stage(arm: str) -> str:
    """Return the name of the stage that trains the re-ID models of an arm."""
    if arm == "standard":
        return arm
    return f"standard_of@{arm.partition('@')[2]}" if is_standard(arm) else f"augmented@{arm}"


def results_file(arm: str, kind: str = "") -> Path:
    """Return the file of an arm's results; `kind` is "queries" or "curves" for its other two tables."""
    return REID_RESULTS / (f"{arm}.{kind}.csv" if kind else f"{arm}.csv")


def read_results(arm: str) -> pd.DataFrame:
    """Read the models of an arm; the first columns are `RESULT_COLUMNS`."""
    return read_csv(results_file(arm), RESULT_COLUMNS, reid_stage(arm))


def read_queries(arm: str) -> pd.DataFrame:
    """Read the rankings of an arm's models; the first columns are `QUERY_COLUMNS`."""
    return read_csv(results_file(arm, "queries"), QUERY_COLUMNS, reid_stage(arm))


def read_curves(arm: str) -> pd.DataFrame:
    """Read the learning curves of an arm's models; the first columns are `CURVE_COLUMNS`."""
    return read_csv(results_file(arm, "curves"), CURVE_COLUMNS, reid_stage(arm))


CROSS = REID_RESULTS / "cross"  # <data set>.csv, <data set>.rejected.csv, <data set>.leaked.csv
CROSS_COLUMNS = {"arm": str, "percent": int, "seed": int}


def reid_weights(percent: int, seed: int) -> str:
    """Return the name of a re-ID model's weights in the folder of its arm; its settings lie beside them."""
    return f"{percent}-{seed}.safetensors"


# --- table4, gains, contact_sheets, report, scores ----------------------------------------------------------
TABLE4 = Path("reports/table4.csv")  # all rows of `REID_RESULTS`
JUDGE_COLUMN = "judge"  # of table4.csv where there are several: reid for that section, else a key of judges
SECTION_JUDGE = "reid"
BOUND_COLUMN = "bound"  # of table4.csv where people are rendered: the arm that has these images instead
TABLE4_SUMMARY = TABLE4.with_suffix(".json")
HEADLINE = Path("reports/summary.json")
NUMBERS_FIGURE = Path("reports/numbers.png")
GAINS = Path("reports/gains")  # <question>.csv
GAINS_FIGURE = Path("reports/gains.png")
CONTACT_SHEETS = Path("reports/contact_sheets")  # <train_on>-<percent>.png
REPORT = Path("reports/report.html")
SCORES = Path("reports/scores.json")
