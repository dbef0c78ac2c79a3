"""Stage `index`: list the images of a Market-1501-format folder, and why any other file is not used.

Reads the folder `dataset.root`; writes data/index.csv, data/rejected.csv (what is not used, and why),
data/leaked.csv (training images that stand in the test set too), data/leaked_validation.csv (those that stand
in the validation set) and the counts in reports/data.json.
"""

import sys
from typing import Any

import pandas as pd

from pipeline.artifacts import DATA_SUMMARY, INDEX, LEAKED, LEAKED_VALIDATION, REJECTED
from pipeline.datasets.formats import FORMATS
from pipeline.datasets.splits import split_leaks
from pipeline.params import load_params
from pipeline.runtime.outputs import write_csv, write_json
from pipeline.runtime.stage import command_line, stage_main


def summarise(index: pd.DataFrame, rejected: pd.DataFrame, leaked: pd.DataFrame) -> dict[str, Any]:
    """Count images, identities (without distractors and junk) and cameras per split, and what was left out.

    `train_images_in_test` counts training images (those for validation included) whose pixels stand in query
    or gallery too, `train_images_in_validation` those of the rest that stand in validation: leakage.
    """
    summary: dict[str, Any] = {}
    for split, rows in index.groupby("split", sort=False):
        identities = rows.pid[rows.pid > 0].nunique()
        summary[str(split)] = {"images": len(rows), "identities": identities, "cameras": rows.camid.nunique()}
    tested, validated = split_leaks(index, leaked)
    summary["train_images_in_test"] = tested.train.nunique()
    summary["train_images_in_validation"] = validated.train.nunique()
    summary["rejected_files"] = len(rejected)
    return summary


def main() -> None:
    """Run the stage."""
    params = load_params()
    dataset = FORMATS[params.dataset.format]
    index, rejected, leaked = dataset.index_dataset(params.dataset.root, params.index)
    write_csv(index, INDEX)
    write_csv(rejected, REJECTED)
    tested, validated = split_leaks(index, leaked)
    write_csv(tested, LEAKED)
    write_csv(validated, LEAKED_VALIDATION)
    write_json(summarise(index, rejected, leaked), DATA_SUMMARY)
    for table, file, what in (
        (rejected, REJECTED, "files are not used"),
        (tested, LEAKED, "pairs of a training and a test image are the same image"),
        (validated, LEAKED_VALIDATION, "pairs of a training and a validation image are the same image"),
    ):
        if len(table):
            print(f"index: {len(table)} {what}, see {file}", file=sys.stderr)


if __name__ == "__main__":
    command_line("index", __doc__).parse_args()
    stage_main(main)
