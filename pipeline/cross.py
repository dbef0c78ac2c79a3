"""Stage `cross`: test every trained re-ID model on the people of another data set.

Reads models/reid/<arm>/*.safetensors and a folder in Market-1501 format, an entry of cross_datasets in
params.yaml; writes data/reid/cross/<its name>.csv, one row per model, which `table4` shows as further
columns, and beside it <its name>.rejected.csv, the files of the folder that are not used, and why, and
<its name>.leaked.csv, the training images that it tests with.
"""

import sys

import pandas as pd

from pipeline.artifacts import CROSS, REID_MODELS, read_index, reid_weights
from pipeline.datasets.market1501 import index_dataset
from pipeline.params import IndexSettings, Params, load_params
from pipeline.runtime.memory import keep_memory
from pipeline.runtime.outputs import write_csv
from pipeline.runtime.stage import command_line, progress, stage_main
from pipeline.shared.reid_models import ImageSet, evaluate_model

MEASURES = ("rank1", "mAP", "rank1_rerank", "mAP_rerank")


def evaluate_all(name: str, params: Params) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Test the models of all arms, percents and seeds.

    Returns:
        Columns arm, percent, seed, and the measures (percent) with the name of the data set behind; the
        rejected files (image, reason); and the training images that are tested with (train, test).

    Raises:
        FileNotFoundError: a model is missing.
        ValueError: the folder of the data set cannot be used.
    """
    root = params.cross_datasets[name]
    # Nobody trains on this data set, so that its own copies in training and test leak nothing.
    index, rejected, _ = index_dataset(root, IndexSettings(validation_identities=0, seed=0))
    tested = [index[index.split == split] for split in ("query", "gallery")]
    own = read_index()
    trained = own.loc[own.split == "train", ["image", "md5"]].rename(columns={"image": "train"})
    leaked = trained.merge(pd.concat(tested).rename(columns={"image": "test"}), on="md5")[["train", "test"]]
    models = [
        (arm, percent, seed)
        for arm in ("standard", *params.arms)
        for percent in (*params.subset.percents, *([100] if arm == "standard" else []))
        for seed in params.reid.seeds
    ]
    print(
        f"{name}: {len(models)} models to test, "
        f"{len(tested[0])} queries against {len(tested[1])} images each",
        flush=True,
    )
    query, gallery = (
        ImageSet.read(rows, [root / image for image in rows.image], params.reid) for rows in tested
    )
    rows = []
    for arm, percent, seed in progress(models, total=len(models), desc=f"testing on {name}"):
        weights = REID_MODELS / arm / reid_weights(percent, seed)
        if not weights.is_file():
            raise FileNotFoundError(f"{weights} is missing; run the stage that trains the arm {arm}")
        values, _ = evaluate_model(weights, query, gallery, params.reid)
        measures = {f"{key}_{name}": values[key] for key in MEASURES if key in values}
        rows.append({"arm": arm, "percent": percent, "seed": seed, **measures})
    return pd.DataFrame(rows), rejected, leaked


def main() -> None:
    """Run the stage."""
    parser = command_line("cross", __doc__)
    parser.add_argument("name", help="of a data set in the section cross_datasets of params.yaml")
    keep_memory()
    name, params = parser.parse_args().name, load_params()
    if name not in params.cross_datasets:
        known = ", ".join(params.cross_datasets) or "none"
        raise ValueError(f"the data set is {name}; params.yaml has under cross_datasets: {known}")
    rows, *lists = evaluate_all(name, params)
    for what, said, table in zip(
        ("rejected", "leaked"),
        ("files are not used", "pairs of a training image and one of its test images are the same file"),
        lists,
        strict=True,
    ):
        file = CROSS / f"{name}.{what}.csv"
        if len(table):
            print(f"cross: {len(table)} {said}, see {file}", file=sys.stderr)
        write_csv(table, file)
    write_csv(rows, CROSS / f"{name}.csv")


if __name__ == "__main__":
    stage_main(main)
