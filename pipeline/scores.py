"""Stage `scores`: how close generated images come to photographs, in T1, T2, T3 and IMAGPose* (Table 1).

Reads models/generator/all/100, data/index.csv, data/poses.csv and the images; writes reports/scores.json. A
pair is a source and a target photograph of one identity that the generator never saw: it makes the source's
person in the target's pose, and the result is compared with the target. Whether the person and the pose are
the right ones is asked of two judges that need no file from outside. Nothing is chosen by the test
identities where `scores.identities` is validation: these are training identities on which no model trains.
A pipeline of its own, since Table 4 does not need it: `dvc repro experiments/scores/dvc.yaml`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL.Image import Resampling
from torch import nn
from torchvision.models.inception import Inception3

import generator
import pipeline.datasets.images
import pipeline.shared.pose_judge
from common.seeding import make_rng, make_seed
from generator import metrics
from generator.data import scale_keypoints
from generator.encoders import ImageEncoder, load_image_encoder
from pipeline.artifacts import GENERATORS as MODELS
from pipeline.artifacts import SCORES, read_index, read_poses
from pipeline.datasets.images import read_image
from pipeline.params import Params, ScoresSettings, load_params
from pipeline.runtime.checkpoints import Checkpoints
from pipeline.runtime.launch import launched_processes
from pipeline.runtime.memory import keep_memory
from pipeline.runtime.outputs import write_json
from pipeline.runtime.scratch import md5, model_hash, scratch
from pipeline.runtime.stage import command_line, progress, stage_main
from pipeline.shared.imagpose import generate, plan_marks, scratch_images
from pipeline.shared.judges import agreement, encoder_judge
from pipeline.shared.pose_judge import PoseJudge, pose_errors, train_pose_judge

SCENARIOS = ("T1", "T2", "T3", "IMAGPose*")

_SPLITS = {"validation": ("val_query", "val_gallery"), "test": ("query", "gallery")}
_TARGETS = 3  # target poses of a source: as many as IMAGPose* makes at once
_JUDGE_IMAGES = 10_000  # training images of the judge of poses, at most

Features = Callable[[metrics.Images], NDArray[np.float64]]


def draw_pairs(images: pd.DataFrame, settings: ScoresSettings) -> pd.DataFrame:
    """Draw sources, spread evenly over the identities, and up to three other images of each as targets.

    Args:
        images: columns image and pid, of people whom the generator never saw.
        settings: number of sources and the seed.

    Returns:
        Columns pid, source, target; the targets of a source are adjacent.

    Raises:
        ValueError: no identity has two images.
    """
    rng = make_rng(settings.seed, "scores")
    shuffled = images.sort_values("image").iloc[rng.permutation(len(images))]
    people = {pid: group.tolist() for pid, group in shuffled.groupby("pid").image if len(group) > 1}
    if not people:
        raise ValueError(
            f"scores.identities is {settings.identities}; expected identities with two images to compare, "
            "but there are none (index.validation_identities makes those for validation)"
        )
    # The first image of each identity, then the second of each, and so on, until there are enough.
    turns = [(turn, pid) for pid, own in people.items() for turn in range(len(own))]
    rows = []
    for turn, pid in sorted(turns, key=lambda item: item[0])[: settings.sources]:
        own = people[pid]
        others = [own[(turn + k) % len(own)] for k in range(1, len(own))]
        rows += [{"pid": pid, "source": own[turn], "target": target} for target in others[:_TARGETS]]
    return pd.DataFrame(rows, columns=["pid", "source", "target"])


def read_pairs(file: Path, images: pd.DataFrame) -> pd.DataFrame:
    """Read a public list of pairs, such as DeepFashion's fasion-resize-pairs-test.csv.

    Args:
        file: columns from and to, names of images without their folder.
        images: columns image and pid, of people whom the generator never saw.

    Returns:
        Columns pid, source, target, by source in the list's order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a name is none of these images, or a pair shows two identities.
    """
    if not file.is_file():
        raise FileNotFoundError(f"scores.pairs is {file}; there is no such file")
    # Its own reader: the messages of read_csv would send the user to a stage.
    pairs = pd.read_csv(file, dtype=str)
    if not {"from", "to"} <= set(pairs.columns):
        raise ValueError(f"{file}: it has no columns from and to")
    known = images.assign(name=images.image.str.rsplit("/", n=1).str[-1]).drop_duplicates("name")
    known = known.set_index("name")
    for name in pd.concat([pairs["from"], pairs["to"]]):
        if name not in known.index:
            raise ValueError(f"{file}: {name} is no image of the identities that scores.identities names")
    source, target = known.loc[pairs["from"]], known.loc[pairs["to"]]
    mixed = np.flatnonzero(source.pid.to_numpy() != target.pid.to_numpy())
    if len(mixed):
        raise ValueError(f"{file}: line {mixed[0] + 2} pairs two identities")
    table = pd.DataFrame(
        {"pid": source.pid.to_numpy(), "source": source.image.to_numpy(), "target": target.image.to_numpy()}
    )
    first = table.groupby("source", sort=False).ngroup()
    return table.iloc[np.argsort(first, kind="stable")].reset_index(drop=True)


def make_plan(pairs: pd.DataFrame, images: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Plan the joint images of all four scenarios, with the same pairs and the same noise in each.

    T1: source and target pose x3. T2: source x3 and target pose. T3: the source, up to two other images of
    the identity that are not the target, and the target pose; an identity with no other image repeats the
    source, as T2. IMAGPose*: the source and its targets, three at a time.

    Args:
        pairs: columns pid, source, target; rows of one source adjacent.
        images: columns image and pid, where T3 finds its other sources.
        seed: of the noise and of that choice.

    Returns:
        The columns that `pipeline.generate.generate` reads, and `score`, the scenario that a row counts for;
        the rows of one scenario are in the order of the pairs.
    """
    own = images.sort_values("image").groupby("pid").image.apply(list)
    # The number of the target among those of its source decides which joint image of IMAGPose* it is in.
    group = pairs.groupby("source").cumcount() // _TARGETS
    rows: list[dict[str, Any]] = []
    joints: dict[tuple[str, Any], int] = {}
    for score in SCENARIOS:
        for number, (pid, source, target) in enumerate(pairs.itertuples(index=False)):
            noise = make_seed(seed, source, target)
            rng = make_rng(noise, "T3")
            others = [image for image in rng.permutation(own[pid]).tolist() if image not in (source, target)]
            sources = [source, *others[:2]] if score == "T3" else [source]
            layout = "multi" if score == "IMAGPose*" else score
            if layout == "T3" and len(sources) == 1:
                layout = "T2"
            together = (source, group[number]) if score == "IMAGPose*" else number
            rows.append(
                {
                    "score": score,
                    "name": f"{score.rstrip('*')}_{number:05d}.jpg",
                    "sources": "|".join(sources),
                    "pose": target,
                    "joint": joints.setdefault((score, together), len(joints)),
                    "scenario": layout,
                    "seed": noise,
                }
            )
    return pd.DataFrame(rows)


def pose_judge(train: pd.DataFrame, params: Params) -> PoseJudge:
    """Train the judge of poses on training images (columns image and md5), or find it trained."""
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
        poses=md5("data/poses.csv"),
    )
    images = read_images([params.dataset.root / image for image in train.image], settings)
    keypoints = target_keypoints(train.image.tolist(), params)
    return train_pose_judge(
        images, keypoints, settings.seed, Checkpoints(folder), launched_processes().device
    )


def target_keypoints(images: list[str], params: Params) -> NDArray[np.float32]:
    """Keypoints [N, 18, 3] of images at the size at which they are compared."""
    dataset, settings = params.dataset, params.scores
    return scale_keypoints(
        read_poses(images), (dataset.height, dataset.width), (settings.height, settings.width)
    )


def known_faces(held_out: pd.DataFrame, targets: set[str]) -> pd.DataFrame:
    """The images by which a judge knows the identities: no targets, unless an identity has nothing else."""
    known = held_out[~held_out.image.isin(targets)]
    return pd.concat([known, held_out[~held_out.pid.isin(known.pid)]])


def read_images(files: list[Path], settings: ScoresSettings) -> metrics.Images:
    """Decode images to uint8 [N, height, width, 3] at the size at which they are compared."""
    out = np.empty((len(files), settings.height, settings.width, 3), np.uint8)
    for i, file in enumerate(files):
        out[i] = np.asarray(read_image(file).resize((settings.width, settings.height), Resampling.BICUBIC))
    return out


class Networks(NamedTuple):
    """The networks that compare images, None where a metric has none; `missing` says why."""

    lpips: nn.Module | None
    inception: Inception3 | None
    fid_network: str | None  # where Inception's weights come from
    missing: dict[str, str]


def load_networks(settings: ScoresSettings) -> Networks:
    """Load the networks of LPIPS and FID, on the CPU; a metric whose weights are null is missing.

    Raises:
        FileNotFoundError: a file that is named is not there.
        ValueError: it holds another network.
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


def measure(
    plan: pd.DataFrame,
    folder: Path,
    train: pd.DataFrame,
    held_out: pd.DataFrame,
    params: Params,
    model: Path,
    networks: Networks,
) -> dict[str, Any]:
    """Compare the images of a plan with the photographs of their poses, and with all training images.

    SSIM and LPIPS are means over the pairs. The Frechet distances compare the generated images with the real
    training images, as the field does on DeepFashion; those of the target photographs themselves stand
    beside, since few images alone make a distance. `frechet_image_encoder` is in the features of the
    generator's own image encoder: comparable within this data set and this encoder, and with no FID.

    `identity_agreement` is the share of the other held-out people whom an image resembles less than its own
    person, in the features of the image encoder (1: nobody more; 0.5: chance), and `identity_top1` the
    percentage of images that resemble nobody more. `pose_error` is the mean distance between the keypoints
    that were asked for and those that `pose_judge` finds, in percent of the image's height. The target
    photographs' own values are what can be reached.

    Args:
        plan: from `make_plan`.
        folder: with the generated images.
        train: training images, columns image (relative to the data set) and md5.
        held_out: images of people whom the generator never saw, columns image and pid.
        params: sizes, weights and the root of the data set.
        model: the generator's folder.
        networks: from `load_networks`.

    Returns:
        For each scenario, and for the photographs, the value of every metric, None where it is missing;
        `missing` says why, and `fid_network` whose Inception was used.
    """
    settings, root, state = params.scores, params.dataset.root, launched_processes()
    targets = plan.pose[plan.score == SCENARIOS[0]].tolist()
    print(
        f"{len(plan)} generated images, {len(targets)} photographs and {len(train)} training images to "
        f"measure, a judge of poses to train on {_JUDGE_IMAGES} of them at most",
        flush=True,
    )
    missing = dict(networks.missing)
    lpips, inception = (net and net.to(state.device) for net in (networks.lpips, networks.inception))
    encoder = cast(ImageEncoder, load_image_encoder(model / "image_encoder").to(state.device))
    token_size = (params.generator.token_height, params.generator.token_width)
    size = settings.batch_size
    features: dict[str, Features] = {
        "frechet_image_encoder": lambda images: metrics.encoder_features(encoder, images, token_size, size)
    }
    pids = held_out.set_index("image").pid[targets].to_numpy()
    photos, wanted = [root / image for image in targets], target_keypoints(targets, params)
    known = known_faces(held_out, set(targets))
    if known.pid.nunique() < 2:
        missing["identity_agreement"] = (
            f"{settings.identities} has one identity; expected another that an image could resemble more"
        )
    judge, _ = encoder_judge(train, params, model / "image_encoder")
    faces = judge([root / image for image in known.image])
    poses = pose_judge(train, params)
    if inception is not None:
        features["fid"] = lambda images: metrics.inception_features(inception, images, size)

    def look(files: list[Path], originals: list[Path], desc: str) -> dict[str, NDArray[np.float64]]:
        """Features of images and, where there are photographs to compare with, their likeness to them."""
        found: dict[str, list[NDArray[np.float64]]] = {}
        for start in progress(range(0, len(files), size), -(-len(files) // size), desc):
            images = read_images(files[start : start + size], settings)
            parts = {name: extract(images) for name, extract in features.items()}
            if originals:
                real_images = read_images(originals[start : start + size], settings)
                parts["ssim"] = metrics.ssim(images, real_images)
                if lpips is not None:
                    parts["lpips"] = metrics.lpips_distances(lpips, images, real_images, size)
            if files is not train_files:
                parts["pose_error"] = pose_errors(poses, images, wanted[start : start + size], size)
            for name, part in parts.items():
                found.setdefault(name, []).append(part)
        return {name: np.concatenate(parts) for name, parts in found.items()}

    train_files = [root / image for image in train.image]
    real = look(train_files, [], "training images")

    def summarise(files: list[Path], found: dict[str, NDArray[np.float64]]) -> dict[str, float | None]:
        person: dict[str, float | None] = {"identity_agreement": None, "identity_top1": None}
        if "identity_agreement" not in missing:
            agrees = agreement(judge(files), pids, faces, known.pid.to_numpy())
            person = {
                "identity_agreement": round(float(agrees.mean()), 4),
                "identity_top1": round(100 * float((agrees == 1).mean()), 2),
            }
        apart = {
            # Significant digits: features of one encoder are a thousand times as large as those of another.
            name: float(f"{metrics.frechet_distance(found[name], real[name]):.4g}") if name in real else None
            for name in ("fid", "frechet_image_encoder")
        }
        means = {name: round(float(found[name].mean()), 4) for name in ("ssim", "lpips") if name in found}
        return means | apart | person | {"pose_error": round(float(np.nanmean(found["pose_error"])), 3)}

    scores: dict[str, Any] = {}
    for score, rows in plan.groupby("score", sort=False):
        made = [folder / name for name in rows.name]
        found = look(made, photos, str(score))
        scores[str(score)] = {"ssim": None, "lpips": None, **summarise(made, found)}
    scores["photographs"] = summarise(photos, look(photos, [], "target photographs"))
    return scores | {"fid_network": networks.fid_network, "missing": missing}


def main() -> None:
    """Run the stage."""
    keep_memory()
    params, index = load_params(), read_index()
    model = MODELS / "all" / "100"
    if not (model / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{model} is missing; run the stage 'train_generator' for generator.train_on all"
        )
    settings = params.scores
    networks = load_networks(settings)  # a wrong file is refused before anything is generated
    held_out = index[index.split.isin(_SPLITS[settings.identities]) & (index.pid > 0)]
    pairs = read_pairs(settings.pairs, held_out) if settings.pairs else draw_pairs(held_out, settings)
    plan = make_plan(pairs, held_out, settings.seed)
    generator_hash = model_hash(model)
    checksums = held_out.set_index("image").md5
    folder = scratch_images("scores", plan, checksums, generator_hash, params)
    state = launched_processes()
    generate(plan, model, plan_marks(plan, generator_hash), params, folder, state)
    if not state.is_main_process:
        return
    train = index[index.split == "train"]
    about = {
        "generator": generator_hash,  # whose scores these are: `pipeline.shared.model_card` asks
        "data_set": params.dataset.name,
        "identities": settings.identities,
        "people": int(pairs.pid.nunique()),
        "pairs": len(pairs),
        "training_images": len(train),
        "height": settings.height,
        "width": settings.width,
    }
    write_json(about | measure(plan, folder, train, held_out, params, model, networks), SCORES)


if __name__ == "__main__":
    command_line("scores", __doc__).parse_args()
    stage_main(main)
