"""Stage `train_generator`: fine-tune IMAGPose on all training images, or on each subset alone.

`all`, the paper's protocol, makes one model, models/generator/all/100. `subset` makes one per subset,
models/generator/subset/<percent>, which never saw an image outside its subset (leak-free). Each is a folder
that `IMAGPosePipeline.from_pretrained` loads, with its model card, README.md. On n processes:
`accelerate launch --multi_gpu --num_processes n -m pipeline.train_generator all`.
"""

from contextlib import nullcontext
from pathlib import Path

import pandas as pd
from accelerate import Accelerator

import generator
import pipeline.datasets.images
import pipeline.datasets.views
import pipeline.shared.imagpose
from generator.cost import in_words, pipeline_flops, training_flops
from generator.sample import IMAGPosePipeline
from generator.train import make_accelerator, train
from pipeline.artifacts import (
    BASE_PHOTOGRAPH_COLUMNS,
    BASE_PHOTOGRAPHS,
    GENERATOR_CURVES,
    GENERATORS,
    POSES,
    read_index,
    read_subset,
)
from pipeline.params import GeneratorSection, Params, load_params
from pipeline.runtime.checkpoints import Checkpoints
from pipeline.runtime.curve import Curve
from pipeline.runtime.hashes import md5, model_hash
from pipeline.runtime.memory import keep_memory
from pipeline.runtime.outputs import atomic, read_csv, write_csv
from pipeline.runtime.scratch import scratch
from pipeline.runtime.stage import command_line, stage_main
from pipeline.shared.imagpose import encode_images, load_base_model
from pipeline.shared.model_card import CARD, model_card


def base_folders(settings: GeneratorSection) -> list[Path]:
    """Return the folders that are read of the base model: a change of any other file trains nothing anew."""
    return [settings.base / "vae", settings.base / "scheduler", settings.denoiser_folder]


def refuse_known_photographs(base: Path, index: pd.DataFrame) -> None:
    """See that base weights were made without the photographs of the data set.

    Args:
        base: Folder of the base weights; what `foundation.train` makes of photographs lists them.
        index: Table of the data set's images, with their names as index and a column md5.

    Raises:
        ValueError: Some are among them.
    """
    file = base / BASE_PHOTOGRAPHS
    if not file.is_file():
        return
    known = index.index[index.md5.isin(read_csv(file, BASE_PHOTOGRAPH_COLUMNS, "foundation").md5)]
    if len(known):
        raise ValueError(
            f"{base}: these base weights were made with {len(known)} photographs of the data set, the first "
            f"is {known[0]}; make them with people who are in none of its splits (docs/base_weights.md)"
        )


def train_one(percent: int, params: Params, accelerator: Accelerator) -> tuple[IMAGPosePipeline, Curve]:
    """Fine-tune the base model on one subset; return IMAGPose and its learning curve.

    Args:
        percent: Share of the subset; 100 stands for all training images.
        params: Settings of the run.
        accelerator: Processes that train together.
    """
    # The scratch folder belongs to everything that determines the weights.
    settings = params.generator
    images = read_subset(percent)
    index = read_index().set_index("image").loc[images]
    imagpose = load_base_model(params)
    imagpose.to(accelerator.device)
    folder = scratch(
        "train_generator",
        __file__,
        generator,
        pipeline.datasets.images,
        pipeline.datasets.views,
        pipeline.shared.imagpose,
        settings=settings.model_dump(mode="json", exclude={"train_on"}),
        size=imagpose.view_size,
        border=params.dataset.border,
        images=index.md5.to_dict(),
        poses=md5(POSES),
        base=[model_hash(folder) for folder in base_folders(settings)],
        encoder=model_hash(settings.image_encoder),
    )
    if accelerator.is_main_process:
        flops = training_flops(pipeline_flops(imagpose), settings.train)
        print(
            f"{percent} %: {len(images)} images to encode, {settings.train.steps} steps x "
            f"{settings.train.batch_size} joint images to train on, {in_words(flops)}",
            flush=True,
        )

    # VAE and image encoder are frozen: encode every image once, then train the denoiser alone.
    views = encode_images(
        params.dataset,
        images,
        index.pid.to_numpy(copy=True),  # torch warns of memory that pandas keeps read-only
        imagpose,
        settings.encode_batch,
        flip=settings.train.flip > 0,
        surroundings=settings.train.surroundings > 0,
    )
    curve = Curve(folder / "curve.jsonl", f"generator/{percent}", every=max(1, settings.train.steps // 1000))
    imagpose.denoiser = train(
        imagpose.denoiser,
        views,
        imagpose.scheduler,
        settings.train,
        settings.seed,
        Checkpoints(folder),
        accelerator,
        log=curve.log if accelerator.is_main_process else lambda step, values: None,
    )
    curve.close()
    return imagpose, curve


def main() -> None:
    """Run the stage."""
    parser = command_line("train_generator", __doc__)
    parser.add_argument("train_on", choices=["all", "subset"], help="images that the generator may see")
    train_on = parser.parse_args().train_on
    keep_memory()
    params = load_params()
    index = read_index().set_index("image")
    refuse_known_photographs(params.generator.base, index)
    accelerator = make_accelerator(params.generator.train)

    # All processes train; the main one writes.
    curves = []
    with atomic(GENERATORS / train_on) if accelerator.is_main_process else nullcontext() as folder:
        below = [percent for percent in params.subset.percents if percent < 100]
        for percent in [100] if train_on == "all" else below:
            imagpose, curve = train_one(percent, params, accelerator)
            if folder:
                imagpose.save_pretrained(folder / str(percent), safe_serialization=True)
                table = curve.table()
                card = model_card(train_on, percent, index.loc[read_subset(percent)], table, params)
                (folder / str(percent) / CARD).write_text(card, encoding="utf-8")
                curves.append(table.assign(percent=percent))
    if curves:
        write_csv(pd.concat(curves), GENERATOR_CURVES / f"{train_on}.csv", "%.6g")


if __name__ == "__main__":
    stage_main(main)
