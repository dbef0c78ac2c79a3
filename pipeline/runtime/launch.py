"""Processes that a launcher started for a stage."""

import os

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def launched_processes() -> PartialState:
    """Return the processes that `accelerate launch`, torchrun or the like started, or this one alone.

    Raises:
        ValueError: Several were started that do not know of each other; each would do all of the work, into
            the same files.
    """
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != count:
        raise ValueError(
            f"{count} processes were started (WORLD_SIZE), and there is no GPU to share out among them; "
            "set ACCELERATE_USE_CPU=1 to run them on the CPU"
        )
    return state
