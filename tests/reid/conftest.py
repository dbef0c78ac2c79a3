from collections.abc import Callable, Iterator

import pytest
import torch

from reid.settings import ReidSettings

# reid-strong-baseline's configs/softmax_triplet_with_center.yml; iterations are those of Market-1501.
BOT = {
    "backbone": "resnet50",
    "channels": 64,
    "weights": None,
    "last_stride": 1,
    "bnneck": True,
    "height": 256,
    "width": 128,
    "flip_probability": 0.5,
    "padding": 10,
    "erasing_probability": 0.5,
    "erasing_area": (0.02, 0.4),
    "erasing_ratio": 0.3,
    "identities_per_batch": 16,
    "images_per_identity": 4,
    "iterations": 120 * 183,
    "epochs": 120,
    "warmup_epochs": 10,
    "warmup_factor": 0.01,
    "milestones": (40, 70),
    "gamma": 0.1,
    "learning_rate": 3.5e-4,
    "weight_decay": 5e-4,
    "label_smoothing": 0.1,
    "triplet_weight": 1.0,
    "triplet_margin": 0.3,
    "center_weight": 5e-4,
    "center_learning_rate": 0.5,
    "mixed_precision": "bf16",
    "evaluation_batch": 128,
}
SMALL = BOT | {
    "backbone": "resnet10",
    "channels": 8,
    "height": 64,
    "width": 32,
    "padding": 2,
    "identities_per_batch": 4,
    "iterations": 12,
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """A second thread costs networks this small more than it brings, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def bot() -> Callable[..., ReidSettings]:
    """Published settings, with changes."""
    return lambda **changes: ReidSettings(**BOT | changes)


@pytest.fixture(scope="session")
def small() -> Callable[..., ReidSettings]:
    """Settings of a network that trains in a second, with changes."""
    return lambda **changes: ReidSettings(**SMALL | changes)
