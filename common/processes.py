"""The processes that share one piece of work, as `accelerate launch`, torchrun or the like started them."""

import os

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def launched_processes() -> PartialState:
    """Return the processes that `accelerate launch`, torchrun or the like started, or this one alone.

    Raises:
        ValueError: Several were started that do not know of each other; each would do all of the work, into
            the same files.
    """
    # The first state that a process makes stays. Without a GPU, one made without `cpu` is alone.
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != count:
        raise ValueError(
            f"WORLD_SIZE is {count} in the environment, and this process knows of {state.num_processes}; if "
            "you started several, set ACCELERATE_USE_CPU=1 to run them on the CPU, or else unset WORLD_SIZE"
        )
    return state
