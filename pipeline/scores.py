"""Stage `scores`: how close generated images come to photographs, in T1, T2, T3 and IMAGPose* (Table 1).

Reads models/generator/all/100, data/index.csv, data/poses.csv and the images; writes reports/scores.json. A
pair is a source and a target photograph of one person whom the generator never saw. The generator shows the
source's person in the target's pose, and the result is compared with the target. Two judges that need no
file from outside say whether the person and the pose are right. With `scores.identities: validation` these
people are training identities on which no model trains, so that choices leave the test identities alone. A
pipeline of its own, since Table 4 does not need it: `dvc repro experiments/scores/dvc.yaml`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL.Image import Resampling
from torch import nn
from torchvision.models.inception import Inception3

import generator
import pipeline.datasets.images
import pipeline.shared.pose_judge
from common.processes import launched_processes
from common.seeding import make_rng, make_seed
from generator import metrics
from generator.encoders import ImageEncoder, load_image_encoder
from generator.keypoints import resize_keypoints
from pipeline.artifacts import POSES, SCORES, generator_folder, read_index, read_poses
from pipeline.datasets.images import read_image
from pipeline.params import Params, ScoresSettings, load_params
from pipeline.runtime.checkpoints import Checkpoints
from pipeline.runtime.hashes import md5, model_hash
from pipeline.runtime.memory import keep_memory
from pipeline.runtime.outputs import write_json
from pipeline.runtime.scratch import scratch
from pipeline.runtime.stage import command_line, progress, stage_main
from pipeline.shared.imagpose import generate, scratch_images
from pipeline.shared.judges import agreement, encoder_judge
from pipeline.shared.pose_judge import PoseJudge, pose_errors, train_pose_judge

SCENARIOS = ("T1", "T2", "T3", "IMAGPose*")

_SPLITS = {"validation": ("val_query", "val_gallery"), "test": ("query", "gallery")}
_TARGETS = 3  # target poses of a source: as many as IMAGPose* makes at once
_JUDGE_IMAGES = 10_000  # training images of the judge of poses, at most

Values = dict[str, NDArray[np.float64]]  # measure -> a value or a row of features per image
Measure = Callable[[metrics.Images, slice], Values]  # a batch of images and their rows -> their values


# --- the pairs ----------------------------------------------------------------------------------------------


def draw_pairs(images: pd.DataFrame, settings: ScoresSettings) -> pd.DataFrame:
    """Draw sources, spread evenly over the identities, and up to three other images of each as targets.

    Args:
        images: Columns image and pid, of people whom the generator never saw.
        settings: Number of sources and the seed.

    Returns:
        Columns pid, source, target; the targets of a source are adjacent.

    Raises:
        ValueError: No identity has two images.
    """
    rng = make_rng(settings.seed, "scores")
    shuffled = images.sort_values("image").iloc[rng.permutation(len(images))]
    images_of = {pid: group.tolist() for pid, group in shuffled.groupby("pid").image if len(group) > 1}
    if not images_of:
        raise ValueError(
            f"scores.identities is {settings.identities}; expected identities with two images to compare, "
            "but there are none (index.validation_identities makes those for validation)"
        )

    # The first image of each identity, then the second of each, and so on, until there are enough.
    turns = [(turn, pid) for pid, own in images_of.items() for turn in range(len(own))]
    rows = []
    for turn, pid in sorted(turns, key=lambda item: item[0])[: settings.sources]:
        own = images_of[pid]
        others = [own[(turn + k) % len(own)] for k in range(1, len(own))]
        rows += [{"pid": pid, "source": own[turn], "target": target} for target in others[:_TARGETS]]
    return pd.DataFrame(rows, columns=["pid", "source", "target"])


def read_pairs(file: Path, images: pd.DataFrame) -> pd.DataFrame:
    """Read a public list of pairs, such as DeepFashion's fasion-resize-pairs-test.csv.

    Args:
        file: Table with the columns from and to: names of images with their folder, or without it where one
            image alone has the name.
        images: Columns image and pid, of people whom the generator never saw.

    Returns:
        Columns pid, source, target, by source in the list's order.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: A name is none of these images, or a pair shows two identities.
    """
    if not file.is_file():
        raise FileNotFoundError(f"scores.pairs is {file}; there is no such file")
    # Not `read_csv` of the stages: its messages would send the user to a stage.
    pairs = pd.read_csv(file, dtype=str)
    if not {"from", "to"} <= set(pairs.columns):
        raise ValueError(f"{file}: it has no columns from and to")
    names = images.image.str.rsplit("/", n=1).str[-1]
    alone = images.assign(name=names)[~names.duplicated(keep=False)]
    by_name = pd.concat([images.assign(name=images.image), alone]).drop_duplicates("name").set_index("name")
    for name in pd.concat([pairs["from"], pairs["to"]]):
        if name not in by_name.index:
            raise ValueError(f"{file}: {name} is no image of the identities that scores.identities names")
    source, target = by_name.loc[pairs["from"]], by_name.loc[pairs["to"]]
    mixed = np.flatnonzero(source.pid.to_numpy() != target.pid.to_numpy())
    if len(mixed):
        raise ValueError(f"{file}: line {mixed[0] + 2} pairs two identities")

    # Bring the pairs of a source together, in the order in which sources come first.
    table = pd.DataFrame(
        {"pid": source.pid.to_numpy(), "source": source.image.to_numpy(), "target": target.image.to_numpy()}
    )
    first = table.groupby("source", sort=False).ngroup()
    return table.iloc[np.argsort(first, kind="stable")].reset_index(drop=True)


# --- the plan -----------------------------------------------------------------------------------------------


def make_plan(pairs: pd.DataFrame, images: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Plan the joint images of all four scenarios, with the same pairs and the same noise in each.

    T1: source and target pose x3. T2: source x3 and target pose. T3: the source, up to two other images of
    the identity that are not the target, and the target pose; an identity with no other image repeats the
    source, as T2 does. IMAGPose*: the source and its targets, three at a time.

    Args:
        pairs: Columns pid, source, target; rows of one source are adjacent.
        images: Columns image and pid; T3 takes its other sources from them.
        seed: Seed of the noise and of T3's other sources.

    Returns:
        The columns that `pipeline.shared.imagpose.generate` reads, and `score`, the scenario that a row
        counts for; the rows of one scenario are in the order of the pairs.
    """
    own = images.sort_values("image").groupby("pid").image.apply(list)
    # IMAGPose* makes the targets of a source three at a time: number of such a group within the source.
    group = pairs.groupby("source").cumcount() // _TARGETS
    rows: list[dict[str, Any]] = []
    joints: dict[tuple[str, Any], int] = {}  # (scenario, what makes up a joint image) -> its number
    for score in SCENARIOS:
        for number, (pid, source, target) in enumerate(pairs.itertuples(index=False)):
            noise = make_seed(seed, source, target)
            sources = [source]
            if score == "T3":
                shuffled = make_rng(noise, "T3").permutation(own[pid]).tolist()
                sources += [image for image in shuffled if image not in (source, target)][:2]

            # How the four views of the joint image are laid out, and which rows share one.
            scenario = "multi" if score == "IMAGPose*" else score
            if score == "T3" and len(sources) == 1:
                scenario = "T2"
            shared = (source, group[number]) if score == "IMAGPose*" else number
            rows.append(
                {
                    "score": score,
                    "name": f"{score.rstrip('*')}_{number:05d}.jpg",
                    "sources": "|".join(sources),
                    "pose": target,
                    "joint": joints.setdefault((score, shared), len(joints)),
                    "scenario": scenario,
                    "seed": noise,
                }
            )
    return pd.DataFrame(rows)


# --- the networks -------------------------------------------------------------------------------------------


class Networks(NamedTuple):
    """The networks that compare images; None if a metric has none, and `missing` says why."""

    lpips: nn.Module | None
    inception: Inception3 | None
    fid_network: str | None  # where Inception's weights come from
    missing: dict[str, str]


def load_networks(settings: ScoresSettings) -> Networks:
    """Load the networks of LPIPS and FID, on the CPU; a metric whose weights are null is missing.

    Raises:
        FileNotFoundError: A file of weights is missing.
        ValueError: It holds another network.
    """
    missing = {}
    for metric, file in (("lpips", settings.lpips_weights), ("fid", settings.fid_weights)):
        key = f"scores.{metric}_weights"
        if file is None:
            missing[metric] = f"{key} is null; expected a local file, nothing is downloaded"
        elif not file.is_file():
            raise FileNotFoundError(f"{key} is {file}; there is no such file (null leaves the score out)")
    lpips = inception = network = None
    if settings.lpips_weights is not None:
        try:
            lpips = metrics.load_lpips(settings.lpips_backbone, settings.lpips_weights)
        except ModuleNotFoundError:
            missing["lpips"] = "the package lpips is not installed; pip install lpips"
    if settings.fid_weights is not None:
        inception, network = metrics.load_inception(settings.fid_weights)
    return Networks(lpips, inception, network, missing)


# --- looking at images --------------------------------------------------------------------------------------


def read_images(files: list[Path], settings: ScoresSettings) -> metrics.Images:
    """Decode images to uint8 [N, height, width, 3] at the size at which they are compared."""
    images = np.empty((len(files), settings.height, settings.width, 3), np.uint8)
    for i, file in enumerate(files):
        images[i] = np.asarray(read_image(file).resize((settings.width, settings.height), Resampling.BICUBIC))
    return images


def look(files: list[Path], measures: list[Measure], settings: ScoresSettings, desc: str) -> Values:
    """Read images batch by batch and measure them; each value [N, ...] is in the order of the files."""
    size = settings.batch_size
    parts: dict[str, list[NDArray[np.float64]]] = {}
    for start in progress(range(0, len(files), size), -(-len(files) // size), desc):
        rows = slice(start, start + size)
        images = read_images(files[rows], settings)
        for measure in measures:
            for name, values in measure(images, rows).items():
                parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def feature_measure(networks: Networks, params: Params, model: Path, device: torch.device) -> Measure:
    """Measure the features that Frechet distances compare, [N, D]: `frechet_image_encoder` and `fid`.

    Those of the generator's own image encoder are comparable within this data set and this encoder, and
    their distance is no FID.
    """
    encoder = cast(ImageEncoder, load_image_encoder(model / "image_encoder").to(device))
    inception = networks.inception.to(device) if networks.inception is not None else None
    token_size = (params.generator.token_height, params.generator.token_width)
    size = params.scores.batch_size

    def measure(images: metrics.Images, rows: slice) -> Values:
        values = {"frechet_image_encoder": metrics.encoder_features(encoder, images, token_size, size)}
        if inception is not None:
            values["fid"] = metrics.inception_features(inception, images, size)
        return values

    return measure


def likeness_measure(
    photos: list[Path], networks: Networks, settings: ScoresSettings, device: torch.device
) -> Measure:
    """Measure how alike each image and its photograph are, [N]: `ssim` and `lpips`."""
    lpips = networks.lpips.to(device) if networks.lpips is not None else None

    def measure(images: metrics.Images, rows: slice) -> Values:
        originals = read_images(photos[rows], settings)
        values = {"ssim": metrics.ssim(images, originals)}
        if lpips is not None:
            values["lpips"] = metrics.lpips_distances(lpips, images, originals, settings.batch_size)
        return values

    return measure


# --- the judge of poses -------------------------------------------------------------------------------------


def pose_measure(train: pd.DataFrame, targets: list[str], params: Params, device: torch.device) -> Measure:
    """Measure how far each image is from its target pose, [N]: `pose_error`, in percent of the height.

    It is the mean distance between the target's keypoints and those that `pose_judge` finds in the image.
    """
    judge, keypoints = pose_judge(train, params, device), read_keypoints(targets, params)
    size = params.scores.batch_size
    return lambda images, rows: {"pose_error": pose_errors(judge, images, keypoints[rows], size)}


def pose_judge(train: pd.DataFrame, params: Params, device: torch.device) -> PoseJudge:
    """Train the judge of poses on training images (columns image and md5), or load it if it is trained."""
    settings, size = params.scores, (params.scores.height, params.scores.width)
    train = train.iloc[:: -(-len(train) // _JUDGE_IMAGES)]
    folder = scratch(
        "pose_judge",
        __file__,
        generator,
        pipeline.datasets.images,
        pipeline.shared.pose_judge,
        seed=settings.seed,
        size=size,
        dataset=params.dataset,
        images=train.md5.tolist(),
        poses=md5(POSES),
    )
    images = read_images([params.dataset.root / image for image in train.image], settings)
    keypoints = read_keypoints(train.image.tolist(), params)
    return train_pose_judge(images, keypoints, settings.seed, Checkpoints(folder), device)


def read_keypoints(images: list[str], params: Params) -> NDArray[np.float32]:
    """Read the keypoints [N, 18, 3] of images, in pixels of the size at which they are compared."""
    dataset, settings = params.dataset, params.scores
    scale = np.divide((settings.width, settings.height), (dataset.width, dataset.height))
    return resize_keypoints(read_poses(images), scale)


# --- the judge of persons -----------------------------------------------------------------------------------


def person_scores(
    train: pd.DataFrame, held_out: pd.DataFrame, targets: list[str], params: Params, model: Path
) -> Callable[[list[Path]], dict[str, float]] | None:
    """Return a function that scores whether images show the people of `targets`; None if they are one person.

    `identity_agreement` is the share of the other held-out people whom an image resembles less than its own
    person, in the features of the image encoder (1: nobody more; 0.5: chance). `identity_top1` is the
    percentage of images that resemble nobody more.
    """
    references = reference_images(held_out, set(targets))
    if references.pid.nunique() < 2:
        return None
    root = params.dataset.root
    judge, _ = encoder_judge(train, params, model / "image_encoder")
    reference_features = judge([root / image for image in references.image])
    pids = held_out.set_index("image").pid[targets].to_numpy()

    def score(files: list[Path]) -> dict[str, float]:
        agreements = agreement(judge(files), pids, reference_features, references.pid.to_numpy())
        return {
            "identity_agreement": round(float(agreements.mean()), 4),
            "identity_top1": round(100 * float((agreements == 1).mean()), 2),
        }

    return score


def reference_images(held_out: pd.DataFrame, targets: set[str]) -> pd.DataFrame:
    """Select the images that stand for each identity: no targets, unless an identity has nothing else."""
    references = held_out[~held_out.image.isin(targets)]
    return pd.concat([references, held_out[~held_out.pid.isin(references.pid)]])


# --- the summary --------------------------------------------------------------------------------------------


def summarise(values: Values, real: Values, person: dict[str, float] | None) -> dict[str, float | None]:
    """Summarise the values of a set of images; None stands for a score that is missing.

    SSIM, LPIPS and the pose error are means over the images. The Frechet distances compare the images with
    the real training images, as the field does on DeepFashion.

    Args:
        values: Values of the images, from `look`.
        real: Features of the real training images.
        person: Scores from `person_scores`.
    """
    means = {name: round(float(values[name].mean()), 4) for name in ("ssim", "lpips") if name in values}
    distances = {
        # Significant digits: features of one encoder are a thousand times as large as those of another.
        name: float(f"{metrics.frechet_distance(values[name], real[name]):.4g}") if name in real else None
        for name in ("fid", "frechet_image_encoder")
    }
    no_person: dict[str, float | None] = {"identity_agreement": None, "identity_top1": None}
    error = {"pose_error": round(float(np.nanmean(values["pose_error"])), 3)}
    return means | distances | (person or no_person) | error


def measure(
    plan: pd.DataFrame,
    generated: dict[str, Path],
    train: pd.DataFrame,
    held_out: pd.DataFrame,
    params: Params,
    model: Path,
    networks: Networks,
) -> dict[str, Any]:
    """Compare the images of a plan with the photographs of their poses, and with all training images.

    Args:
        plan: Plan from `make_plan`.
        generated: File of each generated image, by its name.
        train: Training images, columns image (relative to the data set) and md5.
        held_out: Images of people whom the generator never saw, columns image and pid.
        params: Sizes, weights and the root of the data set.
        model: Folder of the generator.
        networks: Networks from `load_networks`.

    Returns:
        For each scenario, and for the photographs, the value of every metric, None if it is missing;
        `missing` says why, and `fid_network` whose Inception was used. The photographs' own values are what
        can be reached.
    """
    settings, root, device = params.scores, params.dataset.root, launched_processes().device
    targets = plan.pose[plan.score == SCENARIOS[0]].tolist()
    print(
        f"{len(plan)} generated images, {len(targets)} photographs and {len(train)} training images to "
        f"measure, a judge of poses to train on {_JUDGE_IMAGES} of them at most",
        flush=True,
    )
    photos = [root / image for image in targets]
    features = feature_measure(networks, params, model, device)
    likeness = likeness_measure(photos, networks, settings, device)
    pose = pose_measure(train, targets, params, device)
    score_persons = person_scores(train, held_out, targets, params, model)
    missing = dict(networks.missing)
    if score_persons is None:
        missing["identity_agreement"] = (
            f"{settings.identities} has one identity; expected another that an image could resemble more"
        )

    # Features of the training images, for the Frechet distances; then each scenario and the photographs.
    real = look([root / image for image in train.image], [features], settings, "training images")
    scores: dict[str, Any] = {}
    for score, rows in plan.groupby("score", sort=False):
        files = [generated[name] for name in rows.name]
        values = look(files, [features, likeness, pose], settings, str(score))
        person = score_persons(files) if score_persons else None
        scores[str(score)] = {"ssim": None, "lpips": None, **summarise(values, real, person)}
    values = look(photos, [features, pose], settings, "target photographs")
    person = score_persons(photos) if score_persons else None
    scores["photographs"] = summarise(values, real, person)
    return scores | {"fid_network": networks.fid_network, "missing": missing}


def main() -> None:
    """Run the stage."""
    keep_memory()
    params, index = load_params(), read_index()
    # Images are compared with the photographs that lend the poses, so they must not be shown a part of these.
    alone = params.generate.model_copy(update={"surroundings": False})
    params = params.model_copy(update={"generate": alone})
    settings, model = params.scores, generator_folder("all", 100)
    if not (model / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{model} is missing; run the stage 'train_generator' for generator.train_on all"
        )
    networks = load_networks(settings)  # a wrong file is refused before anything is generated

    # Plan and generate, on all processes of a distributed run.
    held_out = index[index.split.isin(_SPLITS[settings.identities]) & (index.pid > 0)]
    pairs = read_pairs(settings.pairs, held_out) if settings.pairs else draw_pairs(held_out, settings)
    plan = make_plan(pairs, held_out, settings.seed)
    generator_hash = model_hash(model)
    checksums = held_out.set_index("image").md5
    folder = scratch_images("scores", generator_hash, params)
    state = launched_processes()
    generated = generate(plan, model, generator_hash, checksums, params, folder, state)

    # Measure on one of them.
    if not state.is_main_process:
        return
    train = index[index.split == "train"]
    about = {
        "generator": generator_hash,  # `tools.model_card` checks whose scores these are
        "data_set": params.dataset.name,
        "identities": settings.identities,
        "people": int(pairs.pid.nunique()),
        "pairs": len(pairs),
        "training_images": len(train),
        "height": settings.height,
        "width": settings.width,
    }
    write_json(about | measure(plan, generated, train, held_out, params, model, networks), SCORES)


if __name__ == "__main__":
    command_line("scores", __doc__).parse_args()
    stage_main(main)
