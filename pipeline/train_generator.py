"""Stage `train_generator`: fine-tune IMAGPose on all training images, or on each subset alone.

`all`, the paper's protocol, makes one model, models/generator/all/100. `subset` makes one per share,
models/generator/subset/<fraction>, which never saw an image outside its subset (leak-free). Each is a
folder that `IMAGPosePipeline.from_pretrained` loads, with its model card, README.md. On n processes:
`accelerate launch --multi_gpu --num_processes n -m pipeline.train_generator all`.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from accelerate import Accelerator
from accelerate.utils import find_executable_batch_size
from diffusers import AutoencoderKL
from tqdm import tqdm

import generator
import pipeline.images
import pipeline.views
from generator.cost import in_words, pipeline_flops, training_flops
from generator.data import EncodedViews, encode_views
from generator.encoders import ImageEncoder, load_image_encoder, load_vae, vae_factor
from generator.model import IMAGPoseDenoiser, load_denoiser
from generator.sample import IMAGPosePipeline
from generator.scheduler import load_scheduler
from generator.train import make_accelerator, train
from pipeline.checkpoints import Checkpoints
from pipeline.cli import command_line
from pipeline.curve import Curve
from pipeline.files import atomic, md5, model_hash, scratch, stage_main, write_csv
from pipeline.images import read_image
from pipeline.index import read_index
from pipeline.launch import launched_processes
from pipeline.memory import keep_memory
from pipeline.model_card import CARD, MODELS, model_card
from pipeline.params import DatasetSettings, Params, load_params
from pipeline.poses import read_poses
from pipeline.subset import read_subset
from pipeline.views import to_view

CURVES = Path("reports/generator")


def check_parts(
    params: Params, vae: AutoencoderKL, encoder: ImageEncoder, denoiser: IMAGPoseDenoiser
) -> None:
    """Raise a ValueError, with the keys, unless the parts fit each other and the sizes of the images."""
    settings, height, width = params.generator, params.dataset.height, params.dataset.width
    made, taken = vae.config.latent_channels, denoiser.unet.config.out_channels
    if made != taken:
        raise ValueError(
            f"generator.base is {settings.base}; expected parts of one model, but the latents of its vae "
            f"have {made} channels and its denoiser takes {taken}"
        )
    patch = encoder.config.patch_size
    for name, side in (("height", settings.token_height), ("width", settings.token_width)):
        if side % patch:
            raise ValueError(
                f"generator.token_{name} is {side}; expected a multiple of {patch}, the patch of "
                f"{settings.image_encoder}"
            )
    try:
        denoiser.check_view(height, width, vae_factor(vae))
    except ValueError as error:
        sizes = f"dataset.height is {height}, dataset.width is {width}"
        raise ValueError(f"{sizes}, generator.base is {settings.base}: {error}") from None


def load_parts(params: Params) -> IMAGPosePipeline:
    """Load the base model and add what the settings ask for; frozen parts stay as they are."""
    settings, base = params.generator, params.generator.base
    encoder = load_image_encoder(settings.image_encoder)
    vae = load_vae(base / "vae")
    denoiser = load_denoiser(
        settings.denoiser_folder, settings.denoiser, encoder.config.hidden_size, settings.seed
    )
    check_parts(params, vae, encoder, denoiser)
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
    parts: IMAGPosePipeline,
    batch_size: int,
    *,
    flip: bool,
) -> EncodedViews:
    """Read images of the data set at the size to which data/poses.csv refers, and encode each once.

    Where `batch_size` does not fit into the accelerator's memory, a tenth less is tried, and so on.
    """
    poses = read_poses(images)

    @find_executable_batch_size(starting_batch_size=batch_size)
    def encode(batch_size: int) -> EncodedViews:
        with tqdm(total=len(images), desc="encoding", unit="image", delay=2) as bar:
            return encode_views(
                (to_view(read_image(dataset.root / image), dataset) for image in images),
                poses,
                pids,
                parts.vae,
                cast(ImageEncoder, parts.image_encoder),
                view_size=parts.view_size,
                token_size=parts.token_size,
                flip=flip,
                batch_size=batch_size,
                progress=bar.update,
            )

    return encode()


def train_on(fraction: int, params: Params, accelerator: Accelerator) -> tuple[IMAGPosePipeline, Curve]:
    """Fine-tune the base model on one subset; returns the pipeline and its learning curve."""
    settings = params.generator
    images = read_subset(fraction)
    index = read_index().set_index("image").loc[images]
    parts = load_parts(params)
    parts.to(accelerator.device)
    folder = scratch(
        "train_generator",
        __file__,
        generator,
        pipeline.images,
        pipeline.views,
        settings=settings.model_dump(mode="json", exclude={"train_on"}),
        size=parts.view_size,
        border=params.dataset.border,
        images=index.md5.to_dict(),
        poses=md5("data/poses.csv"),
        base=model_hash(settings.base),
        encoder=model_hash(settings.image_encoder),
    )
    if accelerator.is_main_process:
        flops = training_flops(pipeline_flops(parts), settings.train)
        print(
            f"{fraction} %: {len(images)} images to encode, {settings.train.steps} steps x "
            f"{settings.train.batch_size} joint images to train on, {in_words(flops)}",
            flush=True,
        )
    views = encode_images(
        params.dataset,
        images,
        index.pid.to_numpy(copy=True),  # torch warns of memory that pandas keeps read-only
        parts,
        settings.encode_batch,
        flip=settings.train.flip > 0,
    )
    curve = Curve(folder / "curve.jsonl", f"generator/{fraction}", every=max(1, settings.train.steps // 1000))
    parts.denoiser = train(
        parts.denoiser,
        views,
        parts.scheduler,
        settings.train,
        settings.seed,
        Checkpoints(folder),
        accelerator,
        log=curve.log if accelerator.is_main_process else lambda step, values: None,
    )
    curve.close()
    return parts, curve


def main() -> None:
    """Run the stage."""
    parser = command_line("train_generator", __doc__)
    parser.add_argument("train_on", choices=["all", "subset"], help="what the generator may see")
    which = parser.parse_args().train_on
    keep_memory()
    params = load_params()
    index = read_index().set_index("image")
    launched_processes()
    accelerator = make_accelerator(params.generator.train)
    curves = []
    with atomic(MODELS / which) if accelerator.is_main_process else nullcontext() as folder:
        for fraction in [100] if which == "all" else params.subset.fractions:
            parts, curve = train_on(fraction, params, accelerator)
            if folder:
                parts.save_pretrained(folder / str(fraction), safe_serialization=True)
                table = curve.table()
                card = model_card(which, fraction, index.loc[read_subset(fraction)], table, params)
                (folder / str(fraction) / CARD).write_text(card, encoding="utf-8")
                curves.append(table.assign(fraction=fraction))
    if curves:
        write_csv(pd.concat(curves), CURVES / f"{which}.csv", "%.6g")


if __name__ == "__main__":
    stage_main(main)
