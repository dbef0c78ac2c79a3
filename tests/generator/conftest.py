import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """These models are too small to share, and one thread makes every sum's order the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
