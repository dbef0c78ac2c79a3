"""A small data set in Market-1501 format, a run on it, and a browser to look at pages with."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import plan, poses, subset
from pipeline.artifacts import NEEDS, PLANS, SYNTHETIC, read_subset
from pipeline.datasets.indexing import index_dataset
from pipeline.params import IndexSettings, Params, load_params
from pipeline.runtime.outputs import write_csv, write_json
from tests import REPOSITORY
from tests.pipeline.market import make_market, save_method

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """The data set of `make_market`."""
    return make_market(tmp_path / "market")


@pytest.fixture
def workspace(market: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The present folder after the stages index, poses, subset and generate, at 50 % alone."""
    monkeypatch.chdir(market.parent)
    shutil.copytree(REPOSITORY / "profiles", "profiles")
    text = Path("profiles/embedded.yaml").read_text()
    for old, new in (
        ("root: data/world", f"root: {market}"),
        ("path: data/world/keypoints.csv", f"path: {market}/keypoints.csv"),
        ("percents: [20, 40, 60, 80]", "percents: [50]"),
        ("identities_per_batch: 12", "identities_per_batch: 2"),
        ("real: 20", "real: 3"),
        ("generated: 20", "generated: 2"),
        ("comparisons: 20", "comparisons: 2"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    Path("params.yaml").write_text(text)
    params = load_params()
    index, rejected, leaked = index_dataset(
        "market1501", market, IndexSettings(validation_identities=0, seed=0)
    )
    write_csv(index, "data/index.csv")
    write_csv(rejected, "data/rejected.csv")
    write_csv(leaked, "data/leaked.csv")
    poses.main()
    subset.main()
    half = index[index.image.isin(read_subset(50))]
    settings = params.plan.model_copy(update={"min_keypoints": 1})
    manifest = plan.make_plan(half, np.full(len(half), 18), 12, 50, settings)
    save_method(SYNTHETIC / "all" / "50", manifest[manifest.order < 12].assign(md5="-"), 1000)
    write_json({"50": 12}, PLANS / "all" / NEEDS)
    return params


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium; tests that need it are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine; apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()
