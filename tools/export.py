"""Make a training set that other re-ID code reads: real images of one subset and an arm's synthetic images.

Writes a folder with Market-1501-v15.09.15/ and a link `market1501` to it, which the Market1501 loaders of
torchreid, fast-reid and reid-strong-baseline read; its README.md, the data card, says what is synthetic and
from what. Images are hard links where the file system allows, so do not edit them in place. With --archive
the same stands in one .tar beside the folder, whose bytes depend on nothing but the images and the card.
"""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from pipeline.artifacts import SYNTHETIC, generator_folder, read_index, read_subset
from pipeline.datasets.market1501 import FOLDERS, FOOLS_LOADERS
from pipeline.datasets.synthetic import read_arm
from pipeline.params import ArmSettings, Params, load_params
from pipeline.runtime.hashes import model_hash
from pipeline.runtime.outputs import atomic, link_or_copy, write_csv
from pipeline.runtime.stage import command_line, progress, stage_main

EXPORTS = Path("exports")
MARKET, LINK, CARD, LIST = "Market-1501-v15.09.15", "market1501", "README.md", "synthetic.csv"
TRAIN = "bounding_box_train"


def contents(
    index: pd.DataFrame, subset: list[str], root: Path, synthetic: pd.DataFrame, folder: Path
) -> pd.DataFrame:
    """List the files of an export: the subset, the synthetic images, all queries, the whole gallery.

    Validation identities are left out, as they are of every training here. Distractors and junk stay in the
    gallery, where loaders expect them.

    Args:
        index: Table of the data set.
        subset: Names of the real training images to export.
        root: Folder of the data set.
        synthetic: Synthetic images, columns name and pid; may be empty.
        folder: Folder of the synthetic images.

    Returns:
        Columns file (relative to the export's Market-1501 folder), pid, synthetic, path (of the present
        file), in the order of `file`.

    Raises:
        ValueError: A synthetic image has the name of a real one or of another, or a name from which loaders
            read nothing, another identity than the manifest's, or a camera that Market-1501 lacks.
    """
    real = index[index.image.isin(subset) | index.split.isin(["query", "gallery"])]
    rows = pd.DataFrame(
        {
            "file": [*real.image, *(f"{TRAIN}/{name}" for name in synthetic.name)],
            "pid": [*real.pid, *synthetic.pid],
            "synthetic": [False] * len(real) + [True] * len(synthetic),
            "path": [*(root / image for image in real.image), *(folder / name for name in synthetic.name)],
        }
    )
    twice = rows.file[rows.file.duplicated()]
    if len(twice):
        raise ValueError(
            f"{folder}: {Path(twice.iloc[0]).name} stands twice, as a real and a synthetic image or as two "
            "of these; rename it"
        )
    for name, pid in zip(synthetic.name, synthetic.pid, strict=True):
        if not re.fullmatch(rf"{pid:04d}_c[1-6](?!\d)[^/]*\.jpg", name):
            raise ValueError(
                f"{folder / name}: loaders read no image of identity {pid} by camera 1 to 6 from this name; "
                "import them (section imports of params.yaml), which names them"
            )
    return rows.sort_values("file", ignore_index=True)


def write_export(rows: pd.DataFrame, card: str, output: Path) -> None:
    """Write the folder whole: the images of `contents`, their list, the link and the card."""
    with atomic(output) as temporary:
        for (folder,) in FOLDERS.values():
            (temporary / MARKET / folder).mkdir(parents=True)
        for file, path in progress(zip(rows.file, rows.path, strict=True), len(rows), "linking images"):
            link_or_copy(path, temporary / MARKET / file)
        (temporary / LINK).symlink_to(MARKET)
        (temporary / CARD).write_text(card, encoding="utf-8")
        synthetic = rows[rows.synthetic]
        write_csv(synthetic[["file", "pid"]], temporary / LIST)


def write_archive(folder: Path, archive: Path) -> None:
    """Put an export into one .tar: sorted names, no owners, no times, so that equal content is equal bytes.

    JPEGs do not compress, so the archive does not try.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    with atomic(archive) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in progress(files, len(files), "archiving"):
            entry = tarfile.TarInfo(f"{archive.stem}/{path.relative_to(folder).as_posix()}")
            if path.is_symlink():
                entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
                tar.addfile(entry)
            else:
                entry.size, entry.mode = path.stat().st_size, 0o644
                with path.open("rb") as content:
                    tar.addfile(entry, content)


def data_card(name: str, percent: int, rows: pd.DataFrame, synthetic: pd.DataFrame, params: Params) -> str:
    """Say in Markdown what an export holds, what of it is synthetic and from what, and its licences.

    Args:
        name: Name of the arm.
        percent: Share of the real training images.
        rows: Files of the export, as `contents` lists them.
        synthetic: Manifest of the synthetic images.
        params: Parameters of the run that made them.

    Raises:
        ValueError: The images are not of the present generator, which params describe.
    """
    counts = "\n".join(
        f"| `{folder}` | {int((~is_synthetic).sum())} | {int(is_synthetic.sum())} | {identities} |"
        for folder, is_synthetic, identities in _count(rows)
    )
    return f"""# {params.dataset.name}: {percent} % of the training images, arm {name}

A training set in Market-1501 format, made by reid-imagpose (`python -m tools.export`).

| Folder | Real images | Synthetic images | Identities |
| --- | ---: | ---: | ---: |
{counts}

Identities count neither distractors (`0000`) nor junk (`-1`).

## What is synthetic

{_origin(name, percent, synthetic, params)}

## What is real

Every other image: those of the data set "{params.dataset.name}", unchanged. Of its training images a random
{percent} % (seed {params.subset.seed}; each identity has at least one), all queries and the whole
gallery: what is tested on is real.

## Licences

- Real images keep the licence of their data set. Market-1501 is for academic research; it shows people who
  were not asked, and so do images that are generated of them.
- Synthetic images derive from the real images and from their generator's weights, whose licences bind them
  (Stable Diffusion 1.5: CreativeML Open RAIL-M).
- The embedded world and its base weights are made by reid-imagpose itself: Apache 2.0.
"""


def _count(rows: pd.DataFrame) -> Iterator[tuple[str, pd.Series, int]]:
    """Yield each folder, whether its images are synthetic, and its number of identities."""
    for (folder,) in FOLDERS.values():
        inside = rows[rows.file.str.startswith(f"{folder}/")]
        yield folder, inside.synthetic, inside.pid[inside.pid > 0].nunique()


def _origin(name: str, percent: int, synthetic: pd.DataFrame, params: Params) -> str:
    train_on = params.train_on(name)
    if train_on == "none":
        return "Nothing."
    where = f"`{LIST}` lists the synthetic images, all in `{TRAIN}`, with their identities."
    arm = params.arms[name]
    if train_on == "other":
        return f"{where} Another generator made them; they were imported as `{SYNTHETIC / arm.generator}`."
    model = generator_folder(train_on, percent)
    generator = model_hash(model)
    if "generator" not in synthetic or set(synthetic.generator) != {generator}:
        raise ValueError(
            f"{SYNTHETIC / arm.generator}: these images are not of the present generator, {model}, which "
            "the data card would describe; `dvc repro` makes them anew"
        )
    settings, sample = params.generator, params.generate.sample
    saw = {
        "all": f"all real training images, more than the {percent} % that are here (the paper's protocol)",
        "subset": f"the {percent} % that are here and no others",
    }[train_on]
    return f"""{where}
Each is named after the real image that it was made from, with a counter (`_g0001`). They lay in
`{SYNTHETIC / arm.generator}`.

They were generated by IMAGPose (Shen and Tang, NeurIPS 2024) with {sample.steps} DDIM steps and guidance
{sample.guidance_scale}. It was fine-tuned for {settings.train.steps} steps from the base weights
`{settings.base}` and saw {saw}; the MD5 of its files is {generator}.
Sources and target poses are images of the {percent} % subset.{_choice(arm, params)}"""


def _choice(arm: ArmSettings, params: Params) -> str:
    """Say which generated images an export has, if not all."""
    text = ""
    if arm.generator in params.filters:
        text += (
            " Only those are here that the image encoder judged to show their person (agreement of at least "
            f"{params.filters[arm.generator].min_agreement})."
        )
    if arm.ratio is not None:
        text += f" At most {arm.ratio} per real image were taken, at random."
    return text


def main() -> None:
    """Run the command."""
    parser = command_line("export", __doc__, "tools")
    parser.add_argument("arm", help="whose synthetic images: an arm of params.yaml, or standard for none")
    parser.add_argument("percent", type=int, help="percent of the real training images, as 20; 100 for all")
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="where to (default: exports/<arm>-<percent>)"
    )
    parser.add_argument("--archive", action="store_true", help="write FOLDER.tar too")
    arguments = parser.parse_args()
    params = load_params()
    name, percent = arguments.arm, arguments.percent
    if name != "standard" and name not in params.arms:
        raise ValueError(f"the arm is {name}; expected standard or one of {', '.join(params.arms)}")
    if percent not in (*params.subset.percents, 100):
        known = ", ".join(map(str, params.subset.percents))
        raise ValueError(f"the percent is {percent}; expected one of {known} (subset.percents) or 100")
    if percent == 100 and name != "standard":
        raise ValueError(f"the arm {name} has no synthetic images at 100 %; expected standard")
    output = arguments.to or EXPORTS / f"{name}-{percent}"
    if FOOLS_LOADERS.search(str(output.absolute())):
        raise ValueError(f"{output.absolute()}: public loaders read an identity and a camera from this path")
    if output.exists() and not (output / LIST).is_file():
        raise ValueError(f"{output} exists and is no export; name another folder with --to")
    arm = params.arms.get(name)
    if arm and arm.repeat_real:
        raise ValueError(f"the arm {name} has repeated real images and no synthetic ones; expected standard")
    if params.dataset.format != "market1501":
        raise ValueError(
            f"dataset.format is {params.dataset.format}; expected market1501, in whose folders exports are"
        )
    index, subset = read_index(), read_subset(percent)
    folder, synthetic = Path(), pd.DataFrame(columns=["name", "pid"])
    if arm:
        identities = set(index[index.image.isin(subset)].pid)
        folder, synthetic = read_arm(arm, percent, identities, len(subset))
    rows = contents(index, subset, params.dataset.root, synthetic, folder)
    write_export(rows, data_card(name, percent, rows, synthetic, params), output)
    train = rows.file.str.startswith(f"{TRAIN}/")
    print(f"{output}: {int(train.sum())} training images, {int(rows.synthetic.sum())} of them synthetic")
    if arguments.archive:
        archive = output.with_name(f"{output.name}.tar")
        write_archive(output, archive)
        print(f"{archive}: {archive.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    stage_main(main)
