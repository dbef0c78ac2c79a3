"""Processes of a distributed run know of each other, or the stage ends."""

import pytest
from accelerate import PartialState

from pipeline.runtime.launch import launched_processes


@pytest.fixture(autouse=True)
def fresh_state() -> None:
    """accelerate has one state per process."""
    PartialState._reset_state()


def test_a_stage_without_a_launcher_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    state = launched_processes()
    assert state.is_main_process and state.num_processes == 1


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would do all of the work, into the same files."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="set ACCELERATE_USE_CPU=1 to run them on the CPU"):
        launched_processes()
