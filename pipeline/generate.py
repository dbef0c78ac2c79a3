"""Stage `generate`: make the synthetic images of one subset's plan.

Reads data/plans/<fraction>.csv and the generator that may be used for it; writes
data/synthetic/<train_on>/<fraction>/ with the images, under Market-1501 names, and manifest.csv. With
`all-planned` or `subset-planned` in the place of <train_on> it follows data/plans/planned/<fraction>.csv.
On n processes: `accelerate launch --num_processes n -m pipeline.generate all 20`; the files are the same,
byte for byte.
"""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import PartialState
from tqdm import tqdm

import generator
import pipeline.images
import pipeline.marks
import pipeline.views
from generator.cost import in_words, pipeline_flops, sampling_flops
from generator.sample import JointRequest, load_pipeline
from pipeline.cli import command_line
from pipeline.files import atomic, code_hash, md5, model_hash, scratch, stage_main, write_csv, write_json
from pipeline.index import read_index
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


def is_done(seal: Path) -> bool:
    """Whether a batch was made before; `seal` lists its images with their MD5, and all must still be so."""
    if not seal.is_file():
        return False
    try:
        for name, checksum in json.loads(seal.read_text()).items():
            if md5(seal.parent / name) != checksum:
                raise ValueError(f"{name} is not as it was written")
    except (ValueError, OSError) as error:
        warnings.warn(f"{seal.parent}: {error}; its batch is made again", stacklevel=2)
        return False
    return True


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
    names = sorted(set("|".join(plan.sources).split("|")))
    views = encode_images(
        params.dataset,
        names,
        np.zeros(len(names), int),
        parts,
        params.generator.encode_batch,
        flip=False,
    )
    poses = dict(zip(plan.pose, read_poses(plan.pose.tolist()), strict=True))
    requests = joint_requests(plan, {name: i for i, name in enumerate(names)}, poses)
    files = [[folder / name for name in rows.name] for _, rows in plan.groupby("joint", sort=False)]
    if state.is_main_process:
        flops = sampling_flops(pipeline_flops(parts), len(requests), settings)
        print(
            f"{len(plan)} images to generate in {len(requests)} joint images, {settings.steps} steps each, "
            f"{in_words(flops)}",
            flush=True,
        )
    size = settings.batch_size
    batches = range(state.process_index * size, len(requests), state.num_processes * size)
    with tqdm(
        total=len(plan), desc="generating", unit="image", delay=2, disable=not state.is_main_process
    ) as bar:
        for start in batches:
            wanted = files[start : start + size]
            seal = folder / f"batch-{start:08d}.json"
            if not is_done(seal):
                made = parts.generate(views, requests[start : start + size], settings)
                for group, images in zip(wanted, made, strict=True):
                    for file, image in zip(group, images, strict=True):
                        with atomic(file) as temporary:
                            picture = from_view(image, params.dataset.border)
                            save_image(picture, temporary, params.generate.jpeg_quality, marks[file.name])
                write_json({file.name: md5(file) for group in wanted for file in group}, seal)
            bar.update(state.num_processes * sum(map(len, wanted)))
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
    md5_of = read_index().set_index("image").md5
    used = sorted(set("|".join(plan.sources).split("|")))
    generator_hash = model_hash(model)
    folder = scratch(
        "generate",
        settings=params.generate,
        encode_batch=params.generator.encode_batch,
        border=params.dataset.border,
        plan=plan.to_csv(),
        sources=md5_of[used].to_dict(),
        poses=md5("data/poses.csv"),
        model=generator_hash,
        code=code_hash(generator, pipeline.images, pipeline.marks, pipeline.views),
    )
    state = PartialState()
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
