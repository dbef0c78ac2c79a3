"""Stage `identity`: how surely each synthetic image of an arm shows its person, for the report.

The judge is the generator's frozen image encoder, and knows each person from all their real training images:
the same for every arm and subset, so that they can be compared. Nothing is chosen by it. Reads data/index.csv
and the images; writes data/identity/<arm>.csv, one row per image of each subset, with its agreement: the
share of the other identities that it resembles less than its own.
"""

import pandas as pd

from pipeline.artifacts import IDENTITY, read_index, read_subset
from pipeline.datasets.synthetic import read_arm
from pipeline.params import Params, load_params
from pipeline.runtime.memory import keep_memory
from pipeline.runtime.outputs import write_csv
from pipeline.runtime.stage import command_line, progress, stage_main
from pipeline.shared.judges import agreement, encoder_judge


def score_arm(name: str, params: Params) -> pd.DataFrame:
    """Score all images of an arm: columns percent, name, agreement."""
    index = read_index()
    real = index[index.split == "train"]
    arm, all_real = params.arms[name], len(read_subset(100))
    images = {
        percent: read_arm(arm, percent, set(real.pid), len(read_subset(percent)), all_real)
        for percent in params.percents_of(name)
    }
    count = sum(len(table) for _, table in images.values())
    print(f"{len(real)} real and {count} synthetic images for the image encoder to look at", flush=True)
    judge, real_features = encoder_judge(real, params, params.generator.image_encoder)
    tables = []
    for percent, (folder, table) in progress(images.items(), len(images), f"images of {name}"):
        features = judge([folder / image for image in table.name])
        scores = agreement(features, table.pid.to_numpy(), real_features, real.pid.to_numpy())
        tables.append(pd.DataFrame({"percent": percent, "name": table.name, "agreement": scores}))
    return pd.concat(tables)


def main() -> None:
    """Run the stage."""
    parser = command_line("identity", __doc__)
    parser.add_argument("arm", help="key of the section arms of params.yaml")
    name, params = parser.parse_args().arm, load_params()
    if name not in params.arms:
        raise ValueError(f"the arm is {name}; expected one of {', '.join(params.arms)}")
    keep_memory()
    write_csv(score_arm(name, params), IDENTITY / f"{name}.csv", "%.4f")


if __name__ == "__main__":
    stage_main(main)
