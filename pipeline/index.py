"""Stage `index`: list the images of the data set, and why any other file is not used.

Reads the folder `dataset.root`; writes data/index.csv, data/rejected.csv (files that are not used, and why),
data/leaked.csv (training images that are in the test set too), data/leaked_validation.csv (training images
that are in the validation set too) and the counts in reports/data.json. What public loaders would misread is
printed; nothing here minds.
"""

import sys
from typing import Any

import pandas as pd

from pipeline.artifacts import DATA_SUMMARY, INDEX, LEAKED, LEAKED_VALIDATION, REJECTED
from pipeline.datasets.formats import FORMATS
from pipeline.datasets.indexing import index_dataset
from pipeline.datasets.splits import split_leaks
from pipeline.params import load_params
from pipeline.runtime.outputs import write_csv, write_json
from pipeline.runtime.stage import command_line, stage_main
from reid.cameras import count_cameras


def summarise(index: pd.DataFrame, rejected: pd.DataFrame, leaked: pd.DataFrame) -> dict[str, Any]:
    """Count images, identities (without distractors and junk), known cameras per split, and rejected files.

    Two further counts are leaks: `train_images_in_test`, training images (with those for validation) whose
    pixels are in query or gallery too, and `train_images_in_validation`.
    """
    summary: dict[str, Any] = {}
    for split, rows in index.groupby("split", sort=False):
        identities, cameras = rows.pid[rows.pid > 0].nunique(), count_cameras(rows.camid.to_numpy())
        summary[str(split)] = {"images": len(rows), "identities": identities, "cameras": cameras}
    in_test, in_validation = split_leaks(index, leaked)
    summary["train_images_in_test"] = in_test.train.nunique()
    summary["train_images_in_validation"] = in_validation.train.nunique()
    summary["rejected_files"] = len(rejected)
    return summary


def main() -> None:
    """Run the stage."""
    params = load_params()
    dataset = params.dataset
    index, rejected, leaked = index_dataset(dataset.format, dataset.root, params.index)
    for warning in FORMATS[dataset.format].warnings(dataset.root, index):
        print(f"index: {warning}", file=sys.stderr)
    write_csv(index, INDEX)
    write_json(summarise(index, rejected, leaked), DATA_SUMMARY)

    # What a user should look at: a table each, and a line if it is not empty.
    in_test, in_validation = split_leaks(index, leaked)
    for table, file, sentence in (
        (rejected, REJECTED, "files are not used"),
        (in_test, LEAKED, "pairs of a training and a test image are the same image"),
        (in_validation, LEAKED_VALIDATION, "pairs of a training and a validation image are the same image"),
    ):
        write_csv(table, file)
        if len(table):
            print(f"index: {len(table)} {sentence}, see {file}", file=sys.stderr)


if __name__ == "__main__":
    command_line("index", __doc__).parse_args()
    stage_main(main)
