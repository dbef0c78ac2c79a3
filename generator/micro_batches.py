"""Batches that do not fit into memory at once: smaller parts, and the gradients of a batch from its parts."""

import warnings
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import release_memory
from torch import Tensor, nn

from generator.data import JointBatch


class SmallerParts(UserWarning):
    """Memory ran out; from here on each batch is taken in parts of `size` joint images."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size

    def __str__(self) -> str:
        return f"out of memory: each batch is taken in parts of {self.size} joint images from here on"


def halve(size: int) -> int:
    """Free unused memory, warn, and return half of a size that did not fit, rounded up.

    Call it after the handler of the error and not in it, where the error still holds the tensors of the
    attempt.
    """
    release_memory()
    size = -(-size // 2)
    warnings.warn(SmallerParts(size), stacklevel=3)
    return size


class MicroBatches:
    """Computes the gradients of a batch in parts, and halves the parts whenever memory runs out.

    The batch, its draws and its mean loss stay the same: the gradients of the parts add up to those of the
    whole, up to rounding. At first the part is the whole.

    Several processes must agree on the part before they exchange gradients, or the others would wait for the
    one that failed. They rehearse the first two steps without an exchange (in the second, the optimizer's
    state takes memory too). Memory that runs out later stops the run, and the next run rehearses again.

    Args:
        objective: Module that maps a batch to its mean loss, as `accelerator.prepare` returns it.
        accelerator: Accelerator of the run.
        size: Number of samples of a batch on this process.
    """

    def __init__(self, objective: nn.Module, accelerator: Accelerator, size: int) -> None:
        self.objective = objective
        self.accelerator = accelerator
        self.size = size
        self._rehearsals = 2 if accelerator.num_processes > 1 else 0

    def backward(self, batch: JointBatch) -> Tensor:
        """Add the gradients of a batch's mean loss to those of the parameters; return that loss, detached.

        Raises:
            torch.OutOfMemoryError: A single sample does not fit.
        """
        # Several processes: halve until the whole batch fits into the memory of every one of them
        if self._rehearsals:
            self._rehearsals -= 1
            while not self._fits_everywhere(batch):
                if self.size == 1:
                    raise torch.OutOfMemoryError("a single joint image does not fit")
                self._halve()

        # The step itself; a process that is alone can still halve, and take the whole batch again
        while True:
            try:
                return self._accumulate(batch)
            except torch.OutOfMemoryError:
                if self.size == 1 or self.accelerator.num_processes > 1:
                    raise
            self._halve()

    def _accumulate(self, batch: JointBatch) -> Tensor:
        """Run both passes part by part; processes exchange their gradients after the last part."""
        count, total = len(batch), torch.zeros((), device=self.accelerator.device)
        for start in range(0, count, self.size):
            part = batch.part(start, start + self.size)
            is_last = start + self.size >= count
            with nullcontext() if is_last else self.accelerator.no_sync(self.objective):
                loss = self.objective(part) * (len(part) / count)
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _fits_everywhere(self, batch: JointBatch) -> bool:
        """Try both passes without an exchange, and tell whether memory sufficed on all processes."""
        failures = torch.zeros((), device=self.accelerator.device)
        try:
            with self.accelerator.no_sync(self.objective):
                self._accumulate(batch)
        except torch.OutOfMemoryError:
            failures += 1
        self.objective.zero_grad()
        return not self.accelerator.reduce(failures, "sum").item()

    def _halve(self) -> None:
        self.objective.zero_grad()
        self.size = halve(self.size)
