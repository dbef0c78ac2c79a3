"""One thread per worker, commands that start quickly, and a params.yaml that no test reads."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

# Before torch is imported: each worker of pytest-xdist computes with one thread, on as many workers as cores.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest

from tests import REPOSITORY
from tests.fixtures import browser, market, workspace  # noqa: F401  pytest finds fixtures here
from tests.stages import SCRIPTS, fork_server

MOST_WORKERS = 8  # of pytest-xdist; each needs a gigabyte of memory


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers for `-n auto`."""
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)))


def pytest_configure(config: pytest.Config) -> None:
    """Let all workers find the clients of one fork server; it imports libraries once a test asks for them."""
    if not hasattr(config, "workerinput"):
        stack = ExitStack()
        clients = stack.enter_context(fork_server(hash_seed=1))
        os.environ["PATH"] = f"{clients}:{SCRIPTS}:{os.environ['PATH']}"
        os.environ["DVC_NO_ANALYTICS"] = "1"
        config.add_cleanup(stack.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files of most slow tests: with `--dist loadfile` a file is the work of one worker."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Forget accelerate's state after each test: it has one precision per process."""
    yield
    if accelerate := sys.modules.get("accelerate.state"):
        accelerate.AcceleratorState._reset_state(reset_partial_state=True)


def keep_off_the_users_parameters(event: str, arguments: tuple[object, ...]) -> None:
    """Fail where a test opens params.yaml of the repository: tests pass whatever a user writes there."""
    if event == "open" and str(arguments[0]).endswith("params.yaml"):
        path = Path(str(arguments[0])).absolute()
        assert path != REPOSITORY / "params.yaml", f"{path} is the user's; use profiles/embedded.yaml"


sys.addaudithook(keep_off_the_users_parameters)
