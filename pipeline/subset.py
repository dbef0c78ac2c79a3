"""Stage `subset`: nested random shares of the real training images that still know everybody.

Reads data/index.csv; writes data/subsets/<percent>.csv, and 100.csv with all training images.
"""

import pandas as pd

from common.seeding import make_rng
from pipeline.artifacts import SUBSETS, read_index
from pipeline.params import SubsetSettings, load_params
from pipeline.runtime.outputs import atomic
from pipeline.runtime.stage import command_line, stage_main
from reid.settings import ReidSettings


def draw_subsets(train: pd.DataFrame, settings: SubsetSettings) -> dict[int, list[str]]:
    """Draw the images of each share; a larger share holds every smaller one.

    The training images are put into one random order, in which a random image of every identity comes first,
    and a share is its beginning: so shares are nested and have at least one image of each identity. A share
    of p percent of N images has p N / 100 of them, rounded half up.

    Args:
        train: training images, columns image and pid, without validation identities.
        settings: the shares and the seed.

    Returns:
        For each percent, in percent, and for 100 the images in the order of their names.

    Raises:
        ValueError: a share has fewer images than there are identities.
    """
    # The draw depends on the set of images, not on the order in which they come.
    train = train.sort_values("image")
    rng = make_rng(settings.seed, "subset")
    shuffled = train.iloc[rng.permutation(len(train))]
    repeated = shuffled.pid.duplicated()
    order = [*shuffled.image[~repeated], *shuffled.image[repeated]]
    identities = int((~repeated).sum())
    subsets = {}
    for percent in (*settings.percents, 100):
        count = (percent * len(order) + 50) // 100
        if count < identities:
            least = -(-(100 * identities - 50) // len(order))
            raise ValueError(
                f"subset.percents has {percent}; expected at least {least}, "
                f"for {percent} % of {len(order)} images are fewer than the {identities} identities"
            )
        subsets[percent] = sorted(order[:count])
    return subsets


def check_batch(train: pd.DataFrame, subsets: dict[int, list[str]], settings: ReidSettings) -> None:
    """See that the smallest subset fills a batch of P identities with K images each.

    Args:
        train: training images, column pid.
        subsets: images of each share in percent; all of them show all identities.
        settings: `identities_per_batch` (P) and `images_per_identity` (K). A person with fewer than K images
            is shown several times, which is valid.

    Raises:
        ValueError: there are fewer than P identities, or fewer than P x K images in a subset.
    """
    p, k, identities = settings.identities_per_batch, settings.images_per_identity, train.pid.nunique()
    if p > identities:
        raise ValueError(
            f"reid.identities_per_batch is {p}; expected at most {identities}, the training identities"
        )
    percent, images = min(subsets.items())
    if p * k > len(images):
        raise ValueError(
            f"reid.images_per_identity is {k}; expected at most {len(images) // p}, for a batch of "
            f"{p} x {k} images is larger than the {percent} % subset, which has {len(images)}"
        )


def check_validation(index: pd.DataFrame) -> None:
    """See that models can be scored on the validation identities: a query has a match in another camera.

    Raises:
        ValueError: none has.
    """
    queries, gallery = (index[index.split == split] for split in ("val_query", "val_gallery"))
    ranked = queries.merge(gallery, on="pid")
    if not (ranked.camid_x != ranked.camid_y).any():
        raise ValueError(
            f"index.validation_identities is {queries.pid.nunique()}; expected more, since reid.evaluate_on "
            "is validation and no query of theirs has an image of its identity from another camera"
        )


def main() -> None:
    """Run the stage."""
    index = read_index()
    train, params = index[index.split == "train"], load_params()
    print(f"{len(params.subset.percents)} subsets to draw from {len(train)} images", flush=True)
    subsets = draw_subsets(train, params.subset)
    check_batch(train, subsets, params.reid)
    if params.reid.evaluate_on == "validation":
        check_validation(index)
    with atomic(SUBSETS) as folder:
        folder.mkdir()
        for percent, images in subsets.items():
            pd.DataFrame({"image": images}).to_csv(folder / f"{percent}.csv", index=False)


if __name__ == "__main__":
    command_line("subset", __doc__).parse_args()
    stage_main(main)
