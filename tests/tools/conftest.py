"""The fixtures of the pipeline's tests: a small data set, a run on it, a browser."""

from tests.pipeline.conftest import browser, market, workspace

__all__ = ["browser", "market", "workspace"]
