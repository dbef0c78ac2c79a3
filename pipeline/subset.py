"""Stage `subset`: nested random subsets of the real training images, each with every identity.

Reads data/index.csv; writes data/subsets/<percent>.csv, and 100.csv with all training images.
"""

import pandas as pd

from common.seeding import make_rng
from pipeline.artifacts import SUBSETS, read_index
from pipeline.datasets.splits import has_match
from pipeline.params import SubsetSettings, load_params
from pipeline.runtime.outputs import atomic
from pipeline.runtime.stage import command_line, stage_main
from reid.cameras import match_in_words
from reid.settings import ReidSettings


def draw_subsets(train: pd.DataFrame, settings: SubsetSettings) -> dict[int, list[str]]:
    """Draw the images of each subset; a larger subset contains every smaller one.

    The training images are put into one random order, in which a random image of every identity comes first.
    A subset is its beginning: so subsets are nested and have at least one image of each identity. A subset of
    p percent of N images has p N / 100 of them, rounded half up.

    Args:
        train: Training images, columns image and pid, without validation identities.
        settings: Percents and the seed.

    Returns:
        For each percent, and for 100, the images in the order of their names.

    Raises:
        ValueError: A subset has fewer images than there are identities.
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


def check_batch(
    train: pd.DataFrame, subsets: dict[int, list[str]], settings: ReidSettings, section: str = "reid"
) -> None:
    """Check that the smallest subset fills a batch of P identities with K images each.

    A person with fewer than K images is shown several times, which is valid.

    Args:
        train: Training images, column pid.
        subsets: Images of each subset, by its percent; each has all identities.
        settings: `identities_per_batch` (P) and `images_per_identity` (K).
        section: Section of params.yaml that they are from, for the sentences.

    Raises:
        ValueError: There are fewer than P identities, or fewer than P x K images in a subset.
    """
    p, k, identities = settings.identities_per_batch, settings.images_per_identity, train.pid.nunique()
    if p > identities:
        raise ValueError(
            f"{section}.identities_per_batch is {p}; expected at most {identities}, the training identities"
        )
    percent, images = min(subsets.items())
    if p * k > len(images):
        raise ValueError(
            f"{section}.images_per_identity is {k}; expected at most {len(images) // p}, for a batch of "
            f"{p} x {k} images is larger than the {percent} % subset, which has {len(images)}"
        )


def check_validation(index: pd.DataFrame) -> None:
    """Check that models can be scored on the validation identities.

    Raises:
        ValueError: No query has a match.
    """
    queries, gallery = (index[index.split == split] for split in ("val_query", "val_gallery"))
    if not has_match(queries, gallery):
        match = match_in_words(queries.camid.to_numpy(), gallery.camid.to_numpy())
        raise ValueError(
            f"index.validation_identities is {queries.pid.nunique()}; expected more, since reid.evaluate_on "
            f"is validation and no query of theirs has {match}"
        )


def main() -> None:
    """Run the stage."""
    index, params = read_index(), load_params()
    train = index[index.split == "train"]
    print(f"{len(params.subset.percents)} subsets to draw from {len(train)} images", flush=True)
    subsets = draw_subsets(train, params.subset)

    # What re-ID training and testing will need is checked before anything is trained.
    for section, settings in params.judge_settings.items():
        check_batch(train, subsets, settings, section)
    if params.reid.evaluate_on == "validation":
        check_validation(index)
    with atomic(SUBSETS) as folder:
        folder.mkdir()
        for percent, images in subsets.items():
            pd.DataFrame({"image": images}).to_csv(folder / f"{percent}.csv", index=False)


if __name__ == "__main__":
    command_line("subset", __doc__).parse_args()
    stage_main(main)
