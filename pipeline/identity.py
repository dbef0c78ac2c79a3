"""Stage `identity`: how surely each synthetic image of an arm shows its person, for the report.

The judge is the generator's frozen image encoder, and knows each person from all their real training images:
the same for every arm and subset, so that they can be compared. Nothing is chosen by it. Reads data/index.csv
and the images; writes data/identity/<arm>.csv, one row per image of each subset, with its agreement: the
share of the other identities that it resembles less than its own.
"""

import pandas as pd

from pipeline.cli import command_line
from pipeline.files import progress, stage_main, write_csv
from pipeline.filter import agreement, encoder_judge
from pipeline.index import read_index
from pipeline.memory import keep_memory
from pipeline.params import IDENTITY, Params, load_params
from pipeline.synthetic import read_synthetic


def score_arm(name: str, params: Params) -> pd.DataFrame:
    """Score all images in an arm's folder: columns fraction, name, agreement."""
    index = read_index()
    real = index[index.split == "train"]
    folders = {
        fraction: read_synthetic(params.arms[name].synthetic, fraction, set(real.pid))
        for fraction in params.subset.fractions
    }
    count = sum(len(table) for _, table in folders.values())
    print(f"{len(real)} real and {count} synthetic images for the image encoder to look at", flush=True)
    judge, known = encoder_judge(real, params, params.generator.image_encoder)
    tables = []
    for fraction, (folder, table) in progress(folders.items(), len(folders), f"images of {name}"):
        made = judge([folder / image for image in table.name])
        agrees = agreement(made, table.pid.to_numpy(), known, real.pid.to_numpy())
        tables.append(pd.DataFrame({"fraction": fraction, "name": table.name, "agreement": agrees}))
    return pd.concat(tables)


def main() -> None:
    """Run the stage."""
    parser = command_line("identity", __doc__)
    parser.add_argument("arm", help="a recipe in the section arms of params.yaml")
    name, params = parser.parse_args().arm, load_params()
    if name not in params.arms:
        raise ValueError(f"the arm is {name}; expected one of {', '.join(params.arms)}")
    keep_memory()
    write_csv(score_arm(name, params), IDENTITY / f"{name}.csv", "%.4f")


if __name__ == "__main__":
    stage_main(main)
