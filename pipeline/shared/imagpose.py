"""IMAGPose in the hands of the stages: loaded by the settings, fed with images, its output written."""

from concurrent.futures import ThreadPoolExecutor
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
from pipeline.params import DatasetSettings, Params, with_keys
from pipeline.runtime.hashes import md5
from pipeline.runtime.outputs import atomic
from pipeline.runtime.scratch import is_sealed, scratch, seal


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
                progress=bar.update,
            )

    return encode()


def joint_requests(
    plan: pd.DataFrame, sources: dict[str, int], poses: dict[str, np.ndarray]
) -> list[JointRequest]:
    """Make one request per joint image of a plan, in its order.

    Args:
        plan: Rows of synthetic images; those of one joint image follow each other.
        sources: Row of each source image among the encoded views.
        poses: Keypoints [18, 3] in pixels of a view, by the image that they were taken from.
    """
    return [
        JointRequest(
            sources=tuple(sources[image] for image in rows.sources.iloc[0].split("|")),
            poses=np.stack([poses[image] for image in rows.pose]),
            seeds=tuple(rows.seed),
            fill="source" if rows.scenario.iloc[0] == "T2" else "target",
        )
        for _, rows in plan.groupby("joint", sort=False)
    ]


def plan_marks(plan: pd.DataFrame, model: str) -> dict[str, Mark]:
    """Return the mark of each image of a plan, by its name; `model` is the generator's `model_hash`."""
    columns = (plan[column].tolist() for column in ("name", "sources", "pose", "seed"))
    return {name: Mark(model, *origin) for name, *origin in zip(*columns, strict=True)}


def scratch_images(
    stage: str, plan: pd.DataFrame, checksums: pd.Series, generator_hash: str, params: Params
) -> Path:
    """Return the scratch folder for a plan's images, which belongs to all that determines them.

    Args:
        stage: Name of the stage that makes them.
        plan: Rows of synthetic images, as `generate` takes them.
        checksums: MD5 of images, those of the plan's sources among them, by their names.
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
        plan=plan.to_csv(),
        sources=checksums[_sources(plan)].to_dict(),
        poses=md5(POSES),
        model=generator_hash,
    )


def _sources(plan: pd.DataFrame) -> list[str]:
    return sorted(set("|".join(plan.sources).split("|")))


def write_batch(
    images: dict[str, NDArray[np.uint8]], done: Path, marks: dict[str, Mark], params: Params
) -> None:
    """Write the images of a batch beside `done`, by their names, and last `done`, their seal.

    Args:
        images: Images uint8 [H, W, 3] of a view's size, by their names.
        done: File that says, once it is there, that the batch is whole.
        marks: Marks of the images, by their names.
        params: Settings of the run: the border to cut off, and the quality of the JPEGs.
    """
    # A folder of their own makes them whole at once: a temporary for each would cost a look through a folder
    # that grows with the plan.
    batch = done.with_suffix("")
    with atomic(batch) as folder:
        folder.mkdir()

        def save(name: str) -> None:
            picture = from_view(images[name], params.dataset.border)
            save_image(picture, folder / name, params.generate.jpeg_quality, marks[name])

        with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter while it encodes
            for _ in pool.map(save, images):
                pass
    # They move out of it one by one; what a kill leaves there is generated again.
    for name in images:
        (batch / name).replace(done.parent / name)
    batch.rmdir()
    seal(done, *(done.parent / name for name in images))


def generate(
    plan: pd.DataFrame,
    model: Path,
    marks: dict[str, Mark],
    params: Params,
    folder: Path,
    state: PartialState,
) -> None:
    """Generate the images of a plan; batches that a killed run finished are not generated again.

    Batches are cut from the whole plan before the processes share them out, so that neither their number
    nor a restart changes what is in a batch, and with it the last bit of an image.

    Args:
        plan: Rows of synthetic images with the columns joint, name, scenario, sources, pose and seed.
        model: Folder of the generator.
        marks: Marks of the images, by their names.
        params: Settings of the run.
        folder: Folder to write the images to; the files that seal its batches stay in it.
        state: Processes that share the work.
    """
    settings = params.generate.sample
    imagpose = load_pipeline(model)
    imagpose.to(state.device)
    imagpose.denoiser.suit_device(state.device)
    # One request per joint image; its sources are rows of the encoded views below.
    sources = _sources(plan)
    poses = dict(zip(plan.pose, read_poses(plan.pose.tolist()), strict=True))
    requests = joint_requests(plan, {image: i for i, image in enumerate(sources)}, poses)
    names = [rows.name.tolist() for _, rows in plan.groupby("joint", sort=False)]
    if state.is_main_process:
        flops = sampling_flops(pipeline_flops(imagpose), len(requests), settings)
        print(
            f"{len(plan)} images to generate in {len(requests)} joint images, {settings.steps} steps each, "
            f"{in_words(flops)}; {len(sources)} sources to encode",
            flush=True,
        )
    views = encode_images(
        params.dataset,
        sources,
        np.zeros(len(sources), int),  # identities are of no use here
        imagpose,
        params.generator.encode_batch,
        flip=False,
    ).near(state.device)
    # This process takes every n-th batch of `size` joint images.
    size = settings.batch_size
    batches = range(state.process_index * size, len(requests), state.num_processes * size)
    with tqdm(
        total=len(plan), desc="generating", unit="image", delay=2, disable=not state.is_main_process
    ) as bar:
        for start in batches:
            batch = [name for group in names[start : start + size] for name in group]
            done = folder / f"batch-{start:08d}.json"
            if not is_sealed(done):
                groups = imagpose.generate(views, requests[start : start + size], settings)
                images = (image for group in groups for image in group)
                write_batch(dict(zip(batch, images, strict=True)), done, marks, params)
            bar.update(state.num_processes * len(batch))
    state.wait_for_everyone()
