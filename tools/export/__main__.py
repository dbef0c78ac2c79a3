"""Make a training set that other re-ID code reads: real images of one subset and an arm's synthetic images.

The layout market1501 is a folder with Market-1501-v15.09.15/ and a link `market1501` to it, which the
Market1501 loaders of torchreid, fast-reid and reid-strong-baseline read. Images whose names those misread get
names that say identity and camera; what they cannot read at all, such as a seventh camera, is refused. The
layout table takes any data set: real/ and synthetic/ with the names as they are, and images.csv, which the
format table reads. The layout imagefolder is for Hugging Face's datasets and for readers of Croissant.

README.md, the data card, says what is synthetic and from what; synthetic.csv lists the synthetic images.
Images are hard links where the file system allows, so do not edit them in place. With --archive the same
stands in one .tar beside the folder, whose bytes depend on nothing but the images and the card. With --sign
the synthetic images are copies that are signed by the standard of C2PA; `python -m tools.verify --signatures`
looks at them.
"""

from functools import partial
from pathlib import Path
from typing import get_args

import pandas as pd

from pipeline.artifacts import read_index, read_subset
from pipeline.datasets.marks import BASELINE_SOURCE_TYPES, DIGITAL_SOURCE_TYPE
from pipeline.datasets.signatures import load_signer, sign_image
from pipeline.datasets.synthetic import read_arm
from pipeline.params import Params, load_params
from pipeline.runtime.stage import command_line, stage_main
from tools.export.card import data_card
from tools.export.huggingface import CROISSANT, croissant, front_matter, metadata
from tools.export.layouts import (
    CARD,
    LIST,
    Layout,
    check_loaders,
    contents,
    write_archive,
    write_export,
)

EXPORTS = Path("exports")


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
    parser.add_argument(
        "--sign",
        nargs=2,
        type=Path,
        metavar=("CERTIFICATES", "KEY"),
        help="PEM files: the signer's certificate and those above it, and the private key",
    )
    arguments = parser.parse_args()
    params = load_params()
    name, percent, layout = arguments.arm, arguments.percent, arguments.layout
    output = arguments.to or EXPORTS / f"{name}-{percent}"
    _check(name, percent, output, params)
    signer = load_signer(*arguments.sign) if arguments.sign else None

    # The images, and the texts beside them.
    index, subset, arm = read_index(), read_subset(percent), params.arms.get(name)
    folder, synthetic = Path(), pd.DataFrame(columns=["name", "pid", "camid"])
    if arm:
        identities = set(index[index.image.isin(subset)].pid)
        folder, synthetic = read_arm(arm, percent, identities, len(subset), len(read_subset(100)))
    rows = contents(index, subset, params.dataset.root, synthetic, folder, layout)
    if layout == "market1501":
        check_loaders(rows, output)
    texts = {CARD: data_card(name, percent, rows, synthetic, params, layout)}
    if layout == "imagefolder":
        tables = metadata(rows)
        texts = {CARD: front_matter(params) + texts[CARD], **tables}
        texts[CROISSANT] = croissant(f"{params.dataset.name}: {name}, {percent} %", tables, params)

    baseline = params.baselines.get(params.made_by(arm.generator)) if arm else None
    source_type = BASELINE_SOURCE_TYPES[baseline.kind] if baseline else DIGITAL_SOURCE_TYPE
    sign = partial(sign_image, signer=signer, source_type=source_type) if signer else None
    write_export(rows, texts, output, layout, sign)
    train = rows.split == "train"
    print(f"{output}: {int(train.sum())} training images, {int(rows.synthetic.sum())} of them synthetic")
    if arguments.archive:
        archive = output.with_name(f"{output.name}.tar")
        write_archive(output, archive)
        print(f"{archive}: {archive.stat().st_size / 2**20:.1f} MiB")


def _check(name: str, percent: int, output: Path, params: Params) -> None:
    """Raise a ValueError unless there is such a training set and a place for it."""
    if name != "standard" and name not in params.arms:
        raise ValueError(f"the arm is {name}; expected standard or one of {', '.join(params.arms)}")
    if percent not in (*params.subset.percents, 100):
        known = ", ".join(map(str, params.subset.percents))
        raise ValueError(f"the percent is {percent}; expected one of {known} (subset.percents) or 100")
    if percent not in params.percents_of(name):
        raise ValueError(f"the arm {name} has no synthetic images at {percent} %; expected standard")
    if output.exists() and not (output / LIST).is_file():
        raise ValueError(f"{output} exists and is no export; name another folder with --to")
    if name in params.arms and params.arms[name].repeat_real:
        raise ValueError(f"the arm {name} has repeated real images and no synthetic ones; expected standard")


if __name__ == "__main__":
    stage_main(main)
