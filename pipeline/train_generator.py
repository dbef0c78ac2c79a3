"""Stage `train_generator`: fine-tune IMAGPose on all training images, or on each subset alone.

`all`, the paper's protocol, makes one model, models/generator/all/100. `subset` makes one per share,
models/generator/subset/<percent>, which never saw an image outside its subset (leak-free). Each is a
folder that `IMAGPosePipeline.from_pretrained` loads, with its model card, README.md. On n processes:
`accelerate launch --multi_gpu --num_processes n -m pipeline.train_generator all`.
"""

from contextlib import nullcontext

import pandas as pd
from accelerate import Accelerator

import generator
import pipeline.datasets.images
import pipeline.datasets.views
from generator.cost import in_words, pipeline_flops, training_flops
from generator.sample import IMAGPosePipeline
from generator.train import make_accelerator, train
from pipeline.artifacts import GENERATOR_CURVES, read_index, read_subset
from pipeline.artifacts import GENERATORS as MODELS
from pipeline.params import Params, load_params
from pipeline.runtime.checkpoints import Checkpoints
from pipeline.runtime.curve import Curve
from pipeline.runtime.launch import launched_processes
from pipeline.runtime.memory import keep_memory
from pipeline.runtime.outputs import atomic, write_csv
from pipeline.runtime.scratch import md5, model_hash, scratch
from pipeline.runtime.stage import command_line, stage_main
from pipeline.shared.imagpose import encode_images, load_parts
from pipeline.shared.model_card import CARD, model_card


def train_on(percent: int, params: Params, accelerator: Accelerator) -> tuple[IMAGPosePipeline, Curve]:
    """Fine-tune the base model on one subset; returns the pipeline and its learning curve."""
    settings = params.generator
    images = read_subset(percent)
    index = read_index().set_index("image").loc[images]
    parts = load_parts(params)
    parts.to(accelerator.device)
    folder = scratch(
        "train_generator",
        __file__,
        generator,
        pipeline.datasets.images,
        pipeline.datasets.views,
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
            f"{percent} %: {len(images)} images to encode, {settings.train.steps} steps x "
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
    curve = Curve(folder / "curve.jsonl", f"generator/{percent}", every=max(1, settings.train.steps // 1000))
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
        for percent in [100] if which == "all" else params.subset.percents:
            parts, curve = train_on(percent, params, accelerator)
            if folder:
                parts.save_pretrained(folder / str(percent), safe_serialization=True)
                table = curve.table()
                card = model_card(which, percent, index.loc[read_subset(percent)], table, params)
                (folder / str(percent) / CARD).write_text(card, encoding="utf-8")
                curves.append(table.assign(percent=percent))
    if curves:
        write_csv(pd.concat(curves), GENERATOR_CURVES / f"{which}.csv", "%.6g")


if __name__ == "__main__":
    stage_main(main)
