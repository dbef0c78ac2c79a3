"""What a training asks of the place where its state is kept."""

from typing import Any, Protocol


class Checkpoints(Protocol):
    """Where the state of a run is kept; how and where is the caller's business.

    Parts are what has `state_dict` and `load_state_dict`. `str()` of the object names the last good state.
    """

    def load(self, **parts: Any) -> int:
        """Restore the parts in place from the newest state; return the number of steps done, 0 at a start."""

    def save(self, done: int, **parts: Any) -> None:
        """Keep the state of the parts after so many steps."""
