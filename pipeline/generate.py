"""Stage `generate`: make the synthetic images of one subset's plan.

Reads data/plans/<fraction>.csv and the generator that may be used for it; writes
data/synthetic/<train_on>/<fraction>/ with the images, under Market-1501 names, and manifest.csv. With
`all-planned` or `subset-planned` in the place of <train_on> it follows data/plans/planned/<fraction>.csv.
On n processes: `accelerate launch --multi_gpu --num_processes n -m pipeline.generate all 20`; the files are
the same, byte for byte.
"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import PartialState
from numpy.typing import NDArray
from tqdm import tqdm

import generator
import pipeline.images
import pipeline.marks
import pipeline.train_generator
import pipeline.views
from generator.cost import in_words, pipeline_flops, sampling_flops
from generator.sample import JointRequest, load_pipeline
from pipeline.cli import command_line
from pipeline.files import atomic, is_sealed, md5, model_hash, scratch, seal, stage_main, write_csv
from pipeline.index import read_index
from pipeline.launch import launched_processes
from pipeline.marks import DIGITAL_SOURCE_TYPE, Mark, save_image
from pipeline.memory import keep_memory
from pipeline.params import PLANNED, SYNTHETIC, Params, load_params
from pipeline.plan import read_plan
from pipeline.poses import read_poses
from pipeline.train_generator import MODELS, encode_images
from pipeline.views import from_view


def joint_requests(
    plan: pd.DataFrame, sources: dict[str, int], poses: dict[str, np.ndarray]
) -> list[JointRequest]:
    """One request per joint image of a plan, in its order; `sources` numbers the encoded views."""
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
    """The mark of each image of a plan, by its name; `model` is the generator's `model_hash`."""
    columns = (plan[column].tolist() for column in ("name", "sources", "pose", "seed"))
    return {name: Mark(model, *made_of) for name, *made_of in zip(*columns, strict=True)}


def scratch_images(
    stage: str, plan: pd.DataFrame, checksums: pd.Series, generator_hash: str, params: Params
) -> Path:
    """The scratch folder for a plan's images.

    Args:
        stage: that wants them.
        plan: as `generate` takes it.
        checksums: MD5 of images, those of the plan's sources among them, by their name.
        generator_hash: `model_hash` of the generator.
        params: of the run.
    """
    return scratch(
        stage,
        __file__,
        generator,
        pipeline.images,
        pipeline.marks,
        pipeline.train_generator,
        pipeline.views,
        settings=params.generate,
        encode_batch=params.generator.encode_batch,
        border=params.dataset.border,
        plan=plan.to_csv(),
        sources=checksums[_sources(plan)].to_dict(),
        poses=md5("data/poses.csv"),
        model=generator_hash,
    )


def _sources(plan: pd.DataFrame) -> list[str]:
    return sorted(set("|".join(plan.sources).split("|")))


def write_batch(
    images: dict[str, NDArray[np.uint8]], done: Path, marks: dict[str, Mark], params: Params
) -> None:
    """Write the images of a batch beside `done`, by their names, and last `done`, their seal.

    A folder of their own makes them whole at once: a temporary for each would cost a look through a folder
    that grows with the plan. They move out of it one by one, and what a kill leaves there is made again.
    """
    batch = done.with_suffix("")
    with atomic(batch) as folder:
        folder.mkdir()

        def save(name: str) -> None:
            picture = from_view(images[name], params.dataset.border)
            save_image(picture, folder / name, params.generate.jpeg_quality, marks[name])

        with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter while it encodes
            for _ in pool.map(save, images):
                pass
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
    """Write the images of a plan to `folder`; batches that a killed run finished are not made again.

    Batches are cut from the whole plan before the processes share them out, so that neither their number
    nor a restart changes what is in a batch, and with it the last bit of an image.
    """
    settings = params.generate.sample
    parts = load_pipeline(model)
    parts.to(state.device)
    parts.denoiser.suit_device(state.device)
    sources = _sources(plan)
    poses = dict(zip(plan.pose, read_poses(plan.pose.tolist()), strict=True))
    requests = joint_requests(plan, {image: i for i, image in enumerate(sources)}, poses)
    names = [rows.name.tolist() for _, rows in plan.groupby("joint", sort=False)]
    if state.is_main_process:
        flops = sampling_flops(pipeline_flops(parts), len(requests), settings)
        print(
            f"{len(plan)} images to generate in {len(requests)} joint images, {settings.steps} steps each, "
            f"{in_words(flops)}; {len(sources)} sources to encode",
            flush=True,
        )
    views = encode_images(
        params.dataset,
        sources,
        np.zeros(len(sources), int),
        parts,
        params.generator.encode_batch,
        flip=False,
    ).near(state.device)
    size = settings.batch_size
    batches = range(state.process_index * size, len(requests), state.num_processes * size)
    with tqdm(
        total=len(plan), desc="generating", unit="image", delay=2, disable=not state.is_main_process
    ) as bar:
        for start in batches:
            wanted = [name for group in names[start : start + size] for name in group]
            done = folder / f"batch-{start:08d}.json"
            if not is_sealed(done):
                made = parts.generate(views, requests[start : start + size], settings)
                images = (image for group in made for image in group)
                write_batch(dict(zip(wanted, images, strict=True)), done, marks, params)
            bar.update(state.num_processes * len(wanted))
    state.wait_for_everyone()


def main() -> None:
    """Run the stage."""
    parser = command_line("generate", __doc__)
    folders = ["all", "subset", f"all{PLANNED}", f"subset{PLANNED}"]
    parser.add_argument("folder", choices=folders, help="what the generator was trained on, and the plan")
    parser.add_argument("fraction", type=int, help="percent of the training images in the subset")
    arguments = parser.parse_args()
    keep_memory()
    params = load_params()
    plan = read_plan(arguments.fraction, planned=arguments.folder.endswith(PLANNED))
    train_on = arguments.folder.removesuffix(PLANNED)
    model = MODELS / train_on / ("100" if train_on == "all" else str(arguments.fraction))
    if not (model / "model_index.json").is_file():
        raise FileNotFoundError(f"{model} is missing; run the stage 'train_generator', which writes it")
    generator_hash = model_hash(model)
    checksums = read_index().set_index("image").md5
    folder = scratch_images("generate", plan, checksums, generator_hash, params)
    state = launched_processes()
    generate(plan, model, plan_marks(plan, generator_hash), params, folder, state)
    if state.is_main_process:
        manifest = plan.assign(
            generator=generator_hash,
            digital_source_type=DIGITAL_SOURCE_TYPE,
            md5=[md5(folder / name) for name in plan.name],
        )
        with atomic(SYNTHETIC / arguments.folder / str(arguments.fraction)) as output:
            output.mkdir()
            for name in plan.name:
                shutil.copy(folder / name, output / name)
            write_csv(manifest, output / "manifest.csv")


if __name__ == "__main__":
    stage_main(main)
