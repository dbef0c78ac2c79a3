"""Batches that do not fit into memory at once: smaller parts, and the gradients of a batch from its parts."""

import warnings
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import release_memory
from torch import Tensor, nn

from generator.data import JointBatch


class SmallerParts(UserWarning):
    """Memory ran out, and each batch is taken in parts of `size` joint images from here on."""

    def __init__(self, size: int) -> None:
        super().__init__(f"out of memory: each batch is taken in parts of {size} joint images from here on")
        self.size = size


def halve(size: int) -> int:
    """Let go of unused memory, and return half of a size that did not fit, rounded up, with a warning.

    To be called after the handler of the error and not in it, where the error still holds the tensors of the
    attempt.
    """
    release_memory()
    size = -(-size // 2)
    warnings.warn(SmallerParts(size), stacklevel=3)
    return size


class MicroBatches:
    """Computes the gradients of a batch in parts, and halves the parts whenever memory runs out.

    The batch, its draws and its mean loss stay what they are: the parts' gradients add up to those of the
    whole, up to rounding. At first the part is the whole.

    Several processes must agree on the part before they exchange gradients, or the others would wait for the
    one that failed. They rehearse the first two steps (the second is the first with the optimiser's state)
    without an exchange; memory that runs out later stops the run, and the next one rehearses again.

    Args:
        objective: maps a batch to its mean loss; as `accelerator.prepare` returns it.
        accelerator: of the run.
        size: samples of a batch on this process.
    """

    def __init__(self, objective: nn.Module, accelerator: Accelerator, size: int) -> None:
        self.objective = objective
        self.accelerator = accelerator
        self.size = size
        self._rehearsals = 2 if accelerator.num_processes > 1 else 0

    def backward(self, batch: JointBatch) -> Tensor:
        """Add the gradients of a batch's mean loss to the parameters' own; returns that loss, detached.

        Raises:
            torch.OutOfMemoryError: a single sample does not fit.
        """
        if self._rehearsals:
            self._rehearsals -= 1
            while not self._fits_everywhere(batch):
                if self.size == 1:
                    raise torch.OutOfMemoryError("a single joint image does not fit")
                self._halve()
        while True:
            try:
                return self._accumulate(batch)
            except torch.OutOfMemoryError:
                if self.size == 1 or self.accelerator.num_processes > 1:
                    raise
            self._halve()

    def _accumulate(self, batch: JointBatch) -> Tensor:
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
        failed = torch.zeros((), device=self.accelerator.device)
        try:
            with self.accelerator.no_sync(self.objective):
                self._accumulate(batch)
        except torch.OutOfMemoryError:
            failed += 1
        self.objective.zero_grad()
        return not self.accelerator.reduce(failed, "sum").item()

    def _halve(self) -> None:
        self.objective.zero_grad()
        self.size = halve(self.size)
