"""Stage `cross`: test every trained re-ID model on the people of another data set.

Reads models/reid/<arm>/*.safetensors and a folder in any format, an entry of cross_datasets in params.yaml.
Writes data/reid/cross/<name>.csv, one row per model, which `table4` shows as further columns;
<name>.rejected.csv, the files of the folder that are not used, and why; and <name>.leaked.csv, training
images that are among its test images.
"""

import sys

import pandas as pd

from pipeline.artifacts import CROSS, REID_MODELS, read_index, reid_weights
from pipeline.datasets.indexing import index_dataset
from pipeline.params import IndexSettings, Params, load_params
from pipeline.runtime.memory import keep_memory
from pipeline.runtime.outputs import write_csv
from pipeline.runtime.stage import command_line, progress, stage_main
from pipeline.shared.reid_models import ImageSet, evaluate_model, name_memory_keys

MEASURES = ("rank1", "mAP", "rank1_rerank", "mAP_rerank")


def evaluate_all(name: str, params: Params) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Test the models of all arms, percents and seeds.

    Args:
        name: Name of the data set in cross_datasets.
        params: Settings of the run.

    Returns:
        The results: columns arm, percent, seed, and <measure>_<name> in percent. The rejected files: columns
        image, reason. The training images among the test images: columns train, test.

    Raises:
        FileNotFoundError: A model is missing.
        ValueError: The folder of the data set cannot be used.
    """
    # Its query and gallery, without copies between its own training and test set: nobody trains on it.
    other, no_validation = params.cross_datasets[name], IndexSettings(validation_identities=0, seed=0)
    index, rejected, _ = index_dataset(other.format, other.root, no_validation)
    sets = [index[index.split == split] for split in ("query", "gallery")]

    # Images on which our models were trained, byte for byte.
    own = read_index()
    train = own.loc[own.split == "train", ["image", "md5"]].rename(columns={"image": "train"})
    tested = pd.concat(sets)[["image", "md5"]].rename(columns={"image": "test"})
    leaked = train.merge(tested, on="md5")[["train", "test"]]

    models = [
        (arm, percent, seed)
        for arm in params.all_arms
        for percent in params.percents_of(arm)
        for seed in params.reid.seeds
    ]
    print(
        f"{name}: {len(models)} models to test, {len(sets[0])} queries against {len(sets[1])} images each",
        flush=True,
    )
    rows, size = [], None
    for arm, percent, seed in progress(models, total=len(models), desc=f"testing on {name}"):
        settings = params.reid_of(arm)
        if size != (settings.height, settings.width):  # arms of one judge, and so of one size, are neighbours
            size = settings.height, settings.width
            query, gallery = (
                ImageSet.read(table, [other.root / image for image in table.image], settings)
                for table in sets
            )
        weights = REID_MODELS / arm / reid_weights(percent, seed)
        if not weights.is_file():
            raise FileNotFoundError(f"{weights} is missing; run the stage that trains the arm {arm}")
        with name_memory_keys("testing", params.section_of(arm), settings, "evaluation_batch"):
            values, _ = evaluate_model(weights, query, gallery, settings)
        measures = {f"{key}_{name}": values[key] for key in MEASURES if key in values}
        rows.append({"arm": arm, "percent": percent, "seed": seed, **measures})
    return pd.DataFrame(rows), rejected, leaked


def main() -> None:
    """Run the stage."""
    parser = command_line("cross", __doc__)
    parser.add_argument("name", help="a data set of the section cross_datasets in params.yaml")
    keep_memory()
    name, params = parser.parse_args().name, load_params()
    if name not in params.cross_datasets:
        names = ", ".join(params.cross_datasets) or "none"
        raise ValueError(f"the data set is {name}; params.yaml has under cross_datasets: {names}")
    results, rejected, leaked = evaluate_all(name, params)
    for kind, table, sentence in (
        ("rejected", rejected, "files are not used"),
        ("leaked", leaked, "pairs of a training image and one of its test images are the same file"),
    ):
        file = CROSS / f"{name}.{kind}.csv"
        if len(table):
            print(f"cross: {len(table)} {sentence}, see {file}", file=sys.stderr)
        write_csv(table, file)
    write_csv(results, CROSS / f"{name}.csv")


if __name__ == "__main__":
    stage_main(main)
