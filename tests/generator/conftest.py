import pytest
import torch
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """These models are too small to share, and one thread makes every sum's order the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """Accelerate keeps one precision per process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
