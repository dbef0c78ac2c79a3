"""A process knows those that were started with it, or says that it does not."""

import pytest
from accelerate import PartialState

from common.processes import launched_processes


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, and no state of an earlier test: accelerate has one per process."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    PartialState._reset_state()


@pytest.mark.usefixtures("alone")
def test_a_process_without_a_launcher_is_alone() -> None:
    state = launched_processes()
    assert state.is_main_process and state.num_processes == 1


@pytest.mark.usefixtures("alone")
def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would do all of the work, into the same files."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"WORLD_SIZE is 2 .* knows of 1; .* set ACCELERATE_USE_CPU=1"):
        launched_processes()
