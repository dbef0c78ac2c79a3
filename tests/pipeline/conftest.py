"""A small data set in Market-1501 format."""

from pathlib import Path

import pytest

from tests.pipeline.market import make_market


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """The data set of `make_market`."""
    return make_market(tmp_path / "market")
