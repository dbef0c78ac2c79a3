"""Make a training set that other re-ID code reads: real images of one subset and an arm's synthetic images.

The layout market1501 is a folder with Market-1501-v15.09.15/ and a link `market1501` to it, which the
Market1501 loaders of torchreid, fast-reid and reid-strong-baseline read. Images whose names those misread get
names that say identity and camera; what they cannot read at all, such as a seventh camera, is refused. The
layout table takes any data set: real/ and synthetic/ with the names as they are, and images.csv, which the
format table reads. README.md, the data card, says what is synthetic and from what. Images are hard links
where the file system allows, so do not edit them in place. With --archive the same stands in one .tar beside
the folder, whose bytes depend on nothing but the images and the card.
"""

import tarfile
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path
from typing import Literal, get_args

import pandas as pd

from pipeline.artifacts import SYNTHETIC, generator_folder, read_index, read_subset
from pipeline.datasets.loaders import LOADERS, misreadings, read_as_loaders
from pipeline.datasets.market1501 import FOLDERS
from pipeline.datasets.names import speaking_stem
from pipeline.datasets.synthetic import read_arm
from pipeline.datasets.table import TABLE
from pipeline.params import ArmSettings, BaselineKind, Params, load_params
from pipeline.runtime.hashes import model_hash
from pipeline.runtime.outputs import atomic, link_or_copy, write_csv
from pipeline.runtime.stage import command_line, progress, stage_main
from reid.cameras import NO_CAMERA, cameras_separate

Layout = Literal["market1501", "table"]

EXPORTS = Path("exports")
MARKET, LINK, CARD, LIST = "Market-1501-v15.09.15", "market1501", "README.md", "synthetic.csv"
_BASELINES: dict[BaselineKind, str] = {
    "pasted": "people were cut out of their source image and pasted into the surroundings of another one",
    "rendered": "the people of the embedded world were rendered again",
}
_ANY_CAMERA = 1  # of training images without a camera: loaders want one, and no training looks at it


def contents(
    index: pd.DataFrame,
    subset: list[str],
    root: Path,
    synthetic: pd.DataFrame,
    folder: Path,
    layout: Layout = "market1501",
) -> pd.DataFrame:
    """List the files of an export: the subset, the synthetic images, all queries, the whole gallery.

    Validation identities are left out, as they are of every training here. Distractors and junk stay in the
    gallery, where loaders expect them.

    Args:
        index: Table of the data set.
        subset: Names of the real training images to export.
        root: Folder of the data set.
        synthetic: Synthetic images, columns name, pid and camid; may be empty.
        folder: Folder of the synthetic images.
        layout: Whether Market-1501's loaders are to read it.

    Returns:
        Columns file (relative to the folder of the layout's images), pid, camid, split, synthetic, path (of
        the present file), in the order of `file`.
    """
    real = index[index.image.isin(subset) | index.split.isin(["query", "gallery"])]
    rows = pd.DataFrame(
        {
            "file": [*real.image, *synthetic.name],
            "pid": [*real.pid, *synthetic.pid],
            "camid": [*real.camid, *synthetic.camid],
            "split": [*real.split, *["train"] * len(synthetic)],
            "synthetic": [False] * len(real) + [True] * len(synthetic),
            "path": [*(root / image for image in real.image), *(folder / name for name in synthetic.name)],
        }
    )
    if layout == "table":
        rows["file"] = rows.synthetic.map({False: "real/", True: "synthetic/"}) + rows.file
    else:
        rows.loc[(rows.split == "train") & (rows.camid == NO_CAMERA), "camid"] = _ANY_CAMERA
        rows["file"] = list(_loader_names(rows))
    return rows.sort_values("file", ignore_index=True)


def _loader_names(rows: pd.DataFrame) -> Iterator[str]:
    """Yield a path in Market-1501's folders for each image: its own name, if loaders read it right."""
    taken: set[str] = set()
    for file, pid, camid, split in zip(rows.file, rows.pid, rows.camid, rows.split, strict=True):
        name = Path(file).name
        if not name.endswith(".jpg") or read_as_loaders(name) != (pid, camid):
            name = f"{speaking_stem(name, pid, camid)}.jpg"
        further = (f"{Path(name).stem}_{number}.jpg" for number in count(2))  # where images share a name
        free = next(one for one in chain([name], further) if f"{FOLDERS[split]}/{one}" not in taken)
        taken.add(f"{FOLDERS[split]}/{free}")
        yield f"{FOLDERS[split]}/{free}"


def check_loaders(rows: pd.DataFrame, output: Path) -> None:
    """Raise a ValueError unless the loaders would read an export as it is meant.

    Args:
        rows: Files of the export, as `contents` lists them.
        output: Folder of the export.
    """
    query, gallery = (rows.camid[rows.split == split].to_numpy() for split in ("query", "gallery"))
    mend = "; --layout table exports it as it is"
    if not cameras_separate(query, gallery):
        raise ValueError(
            f"the data set has no two cameras in its test, and {LOADERS} look for images from another camera "
            f"than the query's: they would find nobody{mend}"
        )
    if sentences := misreadings(output, rows.rename(columns={"file": "image"})):
        raise ValueError(sentences[0] + mend)


def write_export(rows: pd.DataFrame, card: str, output: Path, layout: Layout) -> None:
    """Write the folder whole: the images of `contents`, their lists and the card."""
    with atomic(output) as temporary:
        images = temporary / MARKET if layout == "market1501" else temporary
        for file, path in progress(zip(rows.file, rows.path, strict=True), len(rows), "linking images"):
            (images / file).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, images / file)
        if layout == "market1501":
            (temporary / LINK).symlink_to(MARKET)
        else:
            table = rows.rename(columns={"file": "image"})[["image", "pid", "camid", "split", "synthetic"]]
            table["camid"] = table.camid.where(table.camid != NO_CAMERA).astype("Int64")  # empty: unknown
            write_csv(table, temporary / TABLE)
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


def data_card(
    name: str, percent: int, rows: pd.DataFrame, synthetic: pd.DataFrame, params: Params, layout: Layout
) -> str:
    """Say in Markdown what an export holds, what of it is synthetic and from what, and its licences.

    Args:
        name: Name of the arm.
        percent: Share of the real training images.
        rows: Files of the export, as `contents` lists them.
        synthetic: Manifest of the synthetic images.
        params: Parameters of the run that made them.
        layout: Layout of the export.

    Raises:
        ValueError: The images are not of the present generator, which params describe.
    """
    counts = "\n".join(
        f"| {name} | {int((~is_synthetic).sum())} | {int(is_synthetic.sum())} | {identities} |"
        for name, is_synthetic, identities in _count(rows)
    )
    return f"""# {params.dataset.name}: {percent} % of the training images, arm {name}

A training set made by reid-imagpose (`python -m tools.export`), {_layout_in_words(layout)}.

| Split | Real images | Synthetic images | Identities |
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


def _layout_in_words(layout: Layout) -> str:
    return {
        "market1501": "in Market-1501 format: the splits are "
        + ", ".join(f"`{f}`" for f in FOLDERS.values()),
        "table": f"with the table `{TABLE}`, which says whom each image shows",
    }[layout]


def _count(rows: pd.DataFrame) -> Iterator[tuple[str, pd.Series, int]]:
    """Yield each split, whether its images are synthetic, and its number of identities."""
    for split in FOLDERS:
        inside = rows[rows.split == split]
        yield split, inside.synthetic, inside.pid[inside.pid > 0].nunique()


def _origin(name: str, percent: int, synthetic: pd.DataFrame, params: Params) -> str:
    train_on = params.train_on(name)
    if train_on == "none":
        return "Nothing."
    where = f"`{LIST}` lists the synthetic images, all for training, with their identities."
    arm = params.arms[name]
    made_by = params.made_by(arm.generator)
    if made_by in params.baselines:
        return f"{where} No learned generator made them: {_BASELINES[params.baselines[made_by].kind]}."
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
    return text


def main() -> None:
    """Run the command."""
    parser = command_line("export", __doc__, "tools")
    parser.add_argument("arm", help="whose synthetic images: an arm of params.yaml, or standard for none")
    parser.add_argument("percent", type=int, help="percent of the real training images, as 20; 100 for all")
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="where to (default: exports/<arm>-<percent>)"
    )
    parser.add_argument(
        "--layout",
        choices=get_args(Layout),
        default="market1501",
        help="who is to read it (default: %(default)s)",
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
    if percent not in params.percents_of(name):
        raise ValueError(f"the arm {name} has no synthetic images at {percent} %; expected standard")
    output = arguments.to or EXPORTS / f"{name}-{percent}"
    if output.exists() and not (output / LIST).is_file():
        raise ValueError(f"{output} exists and is no export; name another folder with --to")
    arm = params.arms.get(name)
    if arm and arm.repeat_real:
        raise ValueError(f"the arm {name} has repeated real images and no synthetic ones; expected standard")
    index, subset = read_index(), read_subset(percent)
    folder, synthetic = Path(), pd.DataFrame(columns=["name", "pid", "camid"])
    if arm:
        identities = set(index[index.image.isin(subset)].pid)
        folder, synthetic = read_arm(arm, percent, identities, len(subset), len(read_subset(100)))
    layout: Layout = arguments.layout
    rows = contents(index, subset, params.dataset.root, synthetic, folder, layout)
    if layout == "market1501":
        check_loaders(rows, output)
    write_export(rows, data_card(name, percent, rows, synthetic, params, layout), output, layout)
    train = rows.split == "train"
    print(f"{output}: {int(train.sum())} training images, {int(rows.synthetic.sum())} of them synthetic")
    if arguments.archive:
        archive = output.with_name(f"{output.name}.tar")
        write_archive(output, archive)
        print(f"{archive}: {archive.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    stage_main(main)
