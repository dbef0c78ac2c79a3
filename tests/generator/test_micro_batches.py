import pytest
import torch
from accelerate import Accelerator

from generator.data import JointSampler
from generator.loss import DenoisingLoss
from generator.micro_batches import MicroBatches
from tests.generator import tiny


def gradients(size: int, batch):
    denoiser = tiny.denoiser(trained=True, levels=1)
    micro_batches = MicroBatches(DenoisingLoss(denoiser, tiny.scheduler(), 5.0), Accelerator(), size)
    loss = micro_batches.backward(batch)
    return loss, [parameter.grad for parameter in denoiser.parameters()], micro_batches.size


@pytest.fixture
def batch():
    settings = tiny.TRAIN.model_copy(update={"batch_size": 5})
    return JointSampler(tiny.views([1] * 5), settings, 1000, seed=0).draw(0)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_parts_of_any_size_give_the_gradients_of_the_whole(batch, size):
    loss, whole, _ = gradients(5, batch)
    other_loss, summed, _ = gradients(size, batch)
    torch.testing.assert_close(other_loss, loss)
    torch.testing.assert_close(summed, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("largest", "sizes"), [(4, [5, 3, 2]), (2, [5, 3, 2, 2, 1]), (1, [5, 3, 2] + [1] * 5)]
)
def test_parts_are_halved_until_they_fit_and_nothing_of_a_failed_attempt_stays(
    batch, largest, sizes, monkeypatch
):
    loss, whole, _ = gradients(5, batch)
    attempts = tiny.run_out_of_memory(monkeypatch, largest)
    with pytest.warns(UserWarning, match="out of memory"):
        other_loss, summed, size = gradients(5, batch)
    assert attempts == sizes and size == max(size for size in sizes if size <= largest)
    torch.testing.assert_close(other_loss, loss)
    torch.testing.assert_close(summed, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_sample_that_does_not_fit_is_the_end(batch, monkeypatch):
    tiny.run_out_of_memory(monkeypatch, largest=0)
    with pytest.warns(UserWarning), pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        gradients(5, batch)
