"""Every image of an arm gets the agreement of the frozen image encoder, the same judge for every subset."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from pipeline import identity, index, subset
from pipeline.artifacts import IDENTITY, read_index
from pipeline.runtime.outputs import write_csv
from tests import REPOSITORY


@pytest.fixture
def project(market: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder with an index, and for two subsets: a person's own photograph, then another's."""
    monkeypatch.chdir(market.parent)
    text = (REPOSITORY / "profiles/embedded.yaml").read_text().replace("data/world", str(market))
    text = text.replace("weights/embedded", f"{REPOSITORY}/weights/embedded")
    text = text.replace("validation_identities: 20", "validation_identities: 0")
    text = text.replace("identities_per_batch: 12", "identities_per_batch: 2")
    Path("params.yaml").write_text(text.replace("[20, 40, 60, 80]", "[40, 60]"))
    index.main()
    subset.main()
    train = read_index().query("split == 'train'")
    photographs = [market / image for image in train.drop_duplicates("pid").image[:2]]
    for percent, shown in ((40, photographs), (60, photographs[::-1])):
        folder = Path(f"data/synthetic/all/{percent}")
        folder.mkdir(parents=True)
        names = [f"{named.stem}_g0001.jpg" for named in photographs]
        for name, file in zip(names, shown, strict=True):
            (folder / name).write_bytes(file.read_bytes())
        pids = [int(name[:4]) for name in names]
        manifest = pd.DataFrame({"name": names, "pid": pids, "order": [0, 1], "md5": "-"})
        write_csv(manifest, folder / "manifest.csv")
    return market


def run(monkeypatch: pytest.MonkeyPatch, arm: str) -> pd.DataFrame:
    monkeypatch.setattr(sys, "argv", ["identity", arm])
    identity.main()
    return pd.read_csv(IDENTITY / f"{arm}.csv")


def test_a_person_s_photograph_agrees_more_than_another_s(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = run(monkeypatch, "imagpose")
    assert list(table) == ["percent", "name", "agreement"]
    assert table.percent.tolist() == [40, 40, 60, 60]
    agreement = table.groupby("percent").agreement.mean()
    assert agreement[40] > agreement[60]
    assert table.agreement.between(0, 1).all()


def test_an_unknown_arm_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="the arm is pidm; expected one of imagpose"):
        run(monkeypatch, "pidm")
