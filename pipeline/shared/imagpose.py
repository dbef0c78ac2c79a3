"""IMAGPose in the hands of the stages: loaded by the settings, fed with images, its output written."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from accelerate import PartialState
from accelerate.utils import find_executable_batch_size
from numpy.typing import NDArray
from tqdm import tqdm

import generator
import pipeline.datasets.images as images_module
import pipeline.datasets.marks as marks_module
import pipeline.datasets.views as views_module
from generator.cost import in_words, pipeline_flops, sampling_flops
from generator.data import EncodedViews, encode_views
from generator.encoders import ImageEncoder, Vae, load_image_encoder, load_vae
from generator.fit import MisfitError
from generator.model import IMAGPoseDenoiser, load_denoiser
from generator.sample import IMAGPosePipeline, JointRequest, load_pipeline
from generator.scheduler import load_scheduler
from pipeline.artifacts import POSES, read_poses
from pipeline.datasets.images import read_image
from pipeline.datasets.marks import Mark, save_image
from pipeline.datasets.views import from_view, to_view
from pipeline.params import DatasetSettings, GenerateSection, Params, with_keys
from pipeline.runtime.hashes import md5
from pipeline.runtime.outputs import atomic
from pipeline.runtime.scratch import is_sealed, scratch, seal

_SEAL = "seal.json"  # in the folder of a batch


def check_models(params: Params, vae: Vae, encoder: ImageEncoder, denoiser: IMAGPoseDenoiser) -> None:
    """Raise a ValueError, one sentence per key, unless the models fit each other and the settings."""
    sentences = params.misfits(
        vae=vae.config, unet=denoiser.unet.config, image_encoder=encoder.config.to_dict()
    )
    if sentences:
        raise ValueError("\n".join(sentences))


def load_base_model(params: Params) -> IMAGPosePipeline:
    """Load the base model and add what the settings ask for; frozen models stay as they are.

    Raises:
        ValueError: A model cannot be used (`load_vae`, `load_image_encoder`, `load_denoiser`,
            `load_scheduler`), or they do not fit together.
    """
    settings, base = params.generator, params.generator.base
    encoder = load_image_encoder(settings.image_encoder)
    vae = load_vae(base / "vae")
    width, folder = encoder.config.hidden_size, settings.denoiser_folder
    try:
        denoiser = load_denoiser(folder, settings.denoiser, width, settings.seed)
    except MisfitError as error:
        raise ValueError("\n".join(with_keys(error.misfits))) from None
    check_models(params, vae, encoder, denoiser)
    return IMAGPosePipeline(
        vae,
        encoder,
        denoiser,
        load_scheduler(base / "scheduler", settings.scheduler),
        view_height=params.dataset.height,
        view_width=params.dataset.width,
        token_height=settings.token_height,
        token_width=settings.token_width,
    )


def encode_images(
    dataset: DatasetSettings,
    images: list[str],
    pids: np.ndarray,
    imagpose: IMAGPosePipeline,
    batch_size: int,
    *,
    flip: bool,
    surroundings: bool = False,
) -> EncodedViews:
    """Read images of the data set at the size to which data/poses.csv refers, and encode each once.

    Args:
        dataset: Section of the settings that says where images lie and how large a view is.
        images: Names of the N images, paths relative to the data set.
        pids: Their identities, int [N].
        imagpose: Pipeline whose frozen encoders are used.
        batch_size: Images at once through an encoder. Where they do not fit into the accelerator's memory, a
            tenth less is tried, and so on.
        flip: Encode the mirrored images too.
        surroundings: Encode what is around the people, too.
    """
    poses = read_poses(images)

    @find_executable_batch_size(starting_batch_size=batch_size)
    def encode(batch_size: int) -> EncodedViews:
        with tqdm(total=len(images), desc="encoding", unit="image", delay=2) as bar:
            return encode_views(
                (to_view(read_image(dataset.root / image), dataset) for image in images),
                poses,
                pids,
                imagpose.vae,
                cast(ImageEncoder, imagpose.image_encoder),
                view_size=imagpose.view_size,
                token_size=imagpose.token_size,
                flip=flip,
                batch_size=batch_size,
                surroundings=surroundings,
                progress=bar.update,
            )

    return encode()


def joint_requests(
    plan: pd.DataFrame, sources: dict[str, int], poses: dict[str, np.ndarray], surroundings: bool = False
) -> list[JointRequest]:
    """Make one request per joint image of a plan, in its order.

    Args:
        plan: Rows of synthetic images; those of one joint image follow each other.
        sources: Row of each image that is read among the encoded views.
        poses: Keypoints [18, 3] in pixels of a view, by the image that they were taken from.
        surroundings: Whether the image that lends the pose lends its surroundings, too.
    """
    return [
        JointRequest(
            sources=tuple(sources[image] for image in rows.sources.iloc[0].split("|")),
            poses=np.stack([poses[image] for image in rows.pose]),
            seeds=tuple(rows.seed),
            fill="source" if rows.scenario.iloc[0] == "T2" else "target",
            surroundings=tuple(sources[image] for image in rows.pose) if surroundings else (),
        )
        for _, rows in plan.groupby("joint", sort=False)
    ]


def plan_marks(plan: pd.DataFrame, model: str, guidance_scale: float) -> dict[str, Mark]:
    """Return the mark of each image of a plan, by its name; `model` is the generator's `model_hash`."""
    columns = (plan[column].tolist() for column in ("name", "sources", "pose", "seed"))
    return {
        name: Mark(model, sources, pose, seed, guidance_scale)
        for name, sources, pose, seed in zip(*columns, strict=True)
    }


def scratch_images(stage: str, generator_hash: str, params: Params) -> Path:
    """Return the scratch folder for a generator's images, which belongs to all that determines them.

    Args:
        stage: Name of the stage that makes them.
        generator_hash: `model_hash` of the generator.
        params: Settings of the run.
    """
    return scratch(
        stage,
        __file__,
        generator,
        images_module,
        marks_module,
        views_module,
        settings=params.generate,
        encode_batch=params.generator.encode_batch,
        border=params.dataset.border,
        poses=md5(POSES),
        model=generator_hash,
    )


def _images_of(plan: pd.DataFrame, settings: GenerateSection) -> list[str]:
    """Return the images whose pixels a plan needs: sources, and those that lend their surroundings."""
    return sorted({*"|".join(plan.sources).split("|"), *(plan.pose if settings.surroundings else [])})


def write_batch(
    images: dict[str, NDArray[np.uint8]], batch: Path, marks: dict[str, Mark], params: Params
) -> None:
    """Write the images of a batch and their seal to the folder `batch`, which is there whole or not at all.

    Args:
        images: Images uint8 [H, W, 3] of a view's size, by their names.
        batch: Folder of the batch; an old one is replaced.
        marks: Marks of the images, by their names.
        params: Settings of the run: the border to cut off, and the quality of the JPEGs.
    """
    with atomic(batch) as folder:
        folder.mkdir()

        def save(name: str) -> None:
            picture = from_view(images[name], params.dataset.border)
            save_image(picture, folder / name, params.generate.jpeg_quality, marks[name])

        with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter while it encodes
            for _ in pool.map(save, images):
                pass
        seal(folder / _SEAL, *(folder / name for name in images))


def generate(
    plan: pd.DataFrame,
    model: Path,
    generator_hash: str,
    checksums: pd.Series,
    params: Params,
    folder: Path,
    state: PartialState,
) -> dict[str, Path]:
    """Generate the images of a plan; batches that are done are not generated again.

    Batches are cut from the whole plan before the processes share them out, and all have the same size, so
    that neither the number of processes nor a restart nor the end of the plan changes the last bit of an
    image. A plan that continues another one finds that one's batches.

    Args:
        plan: Rows of synthetic images with the columns joint, name, scenario, sources, pose and seed.
        model: Folder of the generator.
        generator_hash: Its `model_hash`, for the marks of the images.
        checksums: MD5 of images, those of the plan's sources among them, by their names.
        params: Settings of the run.
        folder: Folder of `scratch_images`, to which a folder for each batch is written.
        state: Processes that share the work.

    Returns:
        The file of each image, by its name in the order of the plan.
    """
    joints = [rows for _, rows in plan.groupby("joint", sort=False)]
    size = params.generate.sample.batch_size
    batches = [pd.concat(joints[start : start + size]) for start in range(0, len(joints), size)]
    folders = [folder / f"batch-{_batch_hash(rows, checksums, params.generate)}" for rows in batches]
    own = range(state.process_index, len(batches), state.num_processes)
    missing = {folders[i]: batches[i] for i in own if not is_sealed(folders[i] / _SEAL)}
    if state.is_main_process and len(missing) < len(own):
        print(f"{len(own) - len(missing)} of {len(own)} batches are there", flush=True)
    if missing:
        marks = plan_marks(plan, generator_hash, params.generate.sample.guidance_scale)
        _generate_batches(missing, model, marks, params, state)
    state.wait_for_everyone()
    pairs = zip(folders, batches, strict=True)
    return {name: batch / name for batch, rows in pairs for name in rows.name}


def _batch_hash(rows: pd.DataFrame, checksums: pd.Series, settings: GenerateSection) -> str:
    """Hash of all that is particular to a batch: its part of the plan, and the content of its images."""
    text = rows.to_csv(index=False) + checksums[_images_of(rows, settings)].to_csv()
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:16]


def _generate_batches(
    batches: dict[Path, pd.DataFrame],
    model: Path,
    marks: dict[str, Mark],
    params: Params,
    state: PartialState,
) -> None:
    """Generate the images of some batches, by the folder of each."""
    settings = params.generate.sample
    imagpose = load_pipeline(model)
    imagpose.to(state.device)
    imagpose.denoiser.suit_device(state.device)
    # One request per joint image; the images that it needs are rows of the encoded views below.
    plan = pd.concat(batches.values())
    images = _images_of(plan, params.generate)
    rows_of = {image: i for i, image in enumerate(images)}
    poses = dict(zip(plan.pose, read_poses(plan.pose.tolist()), strict=True))
    if state.is_main_process:
        count, others = plan.joint.nunique(), state.num_processes - 1
        flops = sampling_flops(pipeline_flops(imagpose), count, settings)
        print(
            f"{len(plan)} images to generate in {count} joint images, {settings.steps} steps each, "
            f"{in_words(flops)}; {len(images)} images to encode"
            + (f"; as many on each of {others} other processes" if others else ""),
            flush=True,
        )
    views = encode_images(
        params.dataset,
        images,
        np.zeros(len(images), int),  # identities are of no use here
        imagpose,
        params.generator.encode_batch,
        flip=False,
        surroundings=params.generate.surroundings,
    ).near(state.device)
    with tqdm(
        total=len(plan), desc="generating", unit="image", delay=2, disable=not state.is_main_process
    ) as bar:
        for folder, rows in batches.items():
            requests = joint_requests(rows, rows_of, poses, params.generate.surroundings)
            whole = list(islice(cycle(requests), settings.batch_size))  # the last one may be short
            groups = islice(imagpose.generate(views, whole, settings), len(requests))
            made = (image for group in groups for image in group)
            write_batch(dict(zip(rows.name, made, strict=True)), folder, marks, params)
            bar.update(len(rows))
