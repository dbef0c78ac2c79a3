"""Stage `generate`: make the synthetic images of one subset's plan.

Reads data/plans/<train_on>/<percent>.csv and the generator that may be used for it; writes
data/synthetic/<train_on>/<percent>/ with the images, under Market-1501 names, and manifest.csv. On n
processes: `accelerate launch --multi_gpu --num_processes n -m pipeline.generate all 20`; the files are the
same, byte for byte.
"""

import shutil

from common.processes import launched_processes
from pipeline.artifacts import MANIFEST, SYNTHETIC, generator_folder, read_index, read_plan
from pipeline.datasets.marks import DIGITAL_SOURCE_TYPE
from pipeline.params import load_params
from pipeline.runtime.hashes import md5, model_hash
from pipeline.runtime.memory import keep_memory
from pipeline.runtime.outputs import atomic, write_csv
from pipeline.runtime.stage import command_line, stage_main
from pipeline.shared.imagpose import generate, scratch_images


def main() -> None:
    """Run the stage."""
    parser = command_line("generate", __doc__)
    parser.add_argument("train_on", choices=["all", "subset"], help="what the generator was trained on")
    parser.add_argument("percent", type=int, help="share of the training images in the subset")
    arguments = parser.parse_args()
    keep_memory()
    params, train_on, percent = load_params(), arguments.train_on, arguments.percent
    plan = read_plan(train_on, percent)
    manifest, files = plan.assign(generator="", digital_source_type="", md5=""), {}
    state = launched_processes()
    if plan.empty:
        print(f"no arm has images of generator {train_on} at {percent} %", flush=True)
    else:
        model = generator_folder(train_on, percent)
        if not (model / "model_index.json").is_file():
            raise FileNotFoundError(f"{model} is missing; run the stage 'train_generator', which writes it")

        # Every process of a distributed run generates its batches into one scratch folder ...
        generator_hash = model_hash(model)
        checksums = read_index().set_index("image").md5
        folder = scratch_images("generate", generator_hash, params)
        files = generate(plan, model, generator_hash, checksums, params, folder, state)
        manifest = plan.assign(
            generator=generator_hash,
            digital_source_type=DIGITAL_SOURCE_TYPE,
            md5=[md5(files[name]) for name in plan.name],
        )

    # ... and one of them copies the images to the output.
    if state.is_main_process:
        with atomic(SYNTHETIC / train_on / str(percent)) as output:
            output.mkdir(parents=True)
            for name, file in files.items():
                shutil.copy(file, output / name)
            write_csv(manifest, output / MANIFEST)


if __name__ == "__main__":
    stage_main(main)
