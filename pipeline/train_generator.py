"""Stage `train_generator`: fine-tune IMAGPose on all training images, or on each subset alone.

`all`, the paper's protocol, makes one model, models/generator/all/100. `subset` makes one per share,
models/generator/subset/<fraction>, which never saw an image outside its subset (leak-free). Each is a
folder that `IMAGPosePipeline.from_pretrained` loads. On n processes: `accelerate launch --num_processes n
-m pipeline.train_generator all`.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from accelerate import Accelerator
from PIL import Image
from tqdm import tqdm

import generator
from generator.data import EncodedViews, encode_views
from generator.encoders import ImageEncoder, load_image_encoder, load_vae, vae_factor
from generator.model import load_denoiser
from generator.sample import IMAGPosePipeline
from generator.scheduler import load_scheduler
from generator.train import train
from pipeline.checkpoints import Checkpoints
from pipeline.curve import Curve
from pipeline.files import atomic, code_hash, md5, model_hash, scratch, stage_main, write_csv
from pipeline.index import read_index
from pipeline.memory import keep_memory
from pipeline.params import Params, load_params
from pipeline.poses import read_poses
from pipeline.subset import read_subset

MODELS = Path("models/generator")
CURVES = Path("reports/generator")


def denoiser_folder(base: Path) -> Path:
    """The denoiser of a base model: denoiser/ of a saved IMAGPose pipeline, unet/ of Stable Diffusion."""
    return base / "denoiser" if (base / "denoiser").is_dir() else base / "unet"


def load_parts(params: Params) -> IMAGPosePipeline:
    """Load the base model and add what the settings ask for; frozen parts stay as they are."""
    settings, base = params.generator, params.generator.base
    encoder = load_image_encoder(settings.image_encoder)
    vae = load_vae(base / "vae")
    denoiser = load_denoiser(
        denoiser_folder(base), settings.denoiser, encoder.config.hidden_size, settings.seed
    )
    denoiser.check_view(params.dataset.height, params.dataset.width, vae_factor(vae))
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


def read_image(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Decode an image to uint8 [height, width, 3] at `size`, to which data/poses.csv refers."""
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC))


def encode_images(
    root: Path, images: list[str], pids: np.ndarray, parts: IMAGPosePipeline, batch_size: int, *, flip: bool
) -> EncodedViews:
    """Read images of the data set and run the frozen encoders over each of them, once."""
    with tqdm(total=len(images), desc="encoding", unit="image", delay=2) as bar:
        return encode_views(
            (read_image(root / image, parts.view_size) for image in images),
            read_poses(images),
            pids,
            parts.vae,
            cast(ImageEncoder, parts.image_encoder),
            view_size=parts.view_size,
            token_size=parts.token_size,
            flip=flip,
            batch_size=batch_size,
            progress=bar.update,
        )


def train_on(fraction: int, params: Params, accelerator: Accelerator) -> tuple[IMAGPosePipeline, Curve]:
    """Fine-tune the base model on one subset; returns the pipeline and its learning curve."""
    settings = params.generator
    images = read_subset(fraction)
    index = read_index().set_index("image").loc[images]
    parts = load_parts(params)
    parts.to(accelerator.device)
    folder = scratch(
        "train_generator",
        settings=settings.model_dump(mode="json", exclude={"train_on"}),
        size=parts.view_size,
        images=index.md5.to_dict(),
        poses=md5("data/poses.csv"),
        base=model_hash(settings.base),
        encoder=model_hash(settings.image_encoder),
        code=code_hash(generator),
    )
    views = encode_images(
        params.dataset.root,
        images,
        index.pid.to_numpy(),
        parts,
        settings.encode_batch,
        flip=settings.train.flip > 0,
    )
    curve = Curve(folder / "curve.jsonl")
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
    return parts, curve


def main() -> None:
    """Run the stage."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.train_generator", description=__doc__)
    parser.add_argument("train_on", choices=["all", "subset"], help="what the generator may see")
    which = parser.parse_args().train_on
    keep_memory()
    params = load_params()
    accelerator = Accelerator(mixed_precision=params.generator.train.mixed_precision)
    curves = []
    with atomic(MODELS / which) if accelerator.is_main_process else nullcontext() as folder:
        for fraction in [100] if which == "all" else params.subset.fractions:
            parts, curve = train_on(fraction, params, accelerator)
            if folder:
                parts.save_pretrained(folder / str(fraction), safe_serialization=True)
                curves.append(curve.table().assign(fraction=fraction))
    if curves:
        write_csv(pd.concat(curves), CURVES / f"{which}.csv", "%.6g")


if __name__ == "__main__":
    stage_main(main)
