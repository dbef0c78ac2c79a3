"""Training of the IMAGPose denoiser: one flat loop, resumable to the bit."""

import copy
import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from diffusers import DDIMScheduler
from torch import nn
from torch.nn.utils import get_total_norm
from torch.optim import AdamW
from tqdm import tqdm

from generator.data import EncodedViews, JointSampler
from generator.loss import DenoisingLoss
from generator.micro_batches import MicroBatches
from generator.model import IMAGPoseDenoiser
from generator.settings import TrainSettings


class Checkpoints(Protocol):
    """Where the state of a run is kept; how and where is the caller's business."""

    def load(self, **parts: Any) -> int:
        """Restore the parts (what has a state_dict) in place; the number of steps done, 0 at a start."""

    def save(self, done: int, **parts: Any) -> None:
        """Keep the state of the parts after so many steps."""


def train(
    denoiser: IMAGPoseDenoiser,
    views: EncodedViews,
    scheduler: DDIMScheduler,
    settings: TrainSettings,
    seed: int,
    checkpoints: Checkpoints,
    accelerator: Accelerator | None = None,
    log: Callable[[int, dict[str, float]], object] = lambda step, values: None,
) -> IMAGPoseDenoiser:
    """Train a denoiser on encoded views and return the moving average of its weights.

    Every random draw of a step follows from (seed, step), and the whole state (weights, average, optimiser)
    is in the checkpoints, so that a run which was killed and started again ends in the same weights, to the
    bit on a CPU. With n processes (`accelerate launch`) each takes its slice of the same global batch. When
    an accelerator's memory runs out, a batch is taken in parts that fit (`MicroBatches`).

    Args:
        denoiser: is trained in place.
        views: the training views.
        scheduler: from `load_scheduler`.
        settings: of the run.
        seed: of every draw.
        checkpoints: belong to exactly this run, i.e. to its settings, seed, data and initial weights; it
            continues from the newest. All processes must see them.
        accelerator: made from the settings when not given.
        log: called on the main process after every step with the number of steps done and loss, learning_rate
            and grad_norm.

    Returns:
        The averaged denoiser, on the accelerator's device, in evaluation mode.

    Raises:
        ValueError: the batch size is not a multiple of the number of processes, or the loss, its gradient or
            a weight is not finite; nothing of that step is in a checkpoint.
        torch.OutOfMemoryError: not even one joint image at a time fits into memory.
    """
    # 1. Where it runs
    accelerator = accelerator or make_accelerator(settings)
    rank, num_processes = accelerator.process_index, accelerator.num_processes
    share = settings.share(num_processes)
    denoiser.suit_device(accelerator.device)
    denoiser.to(accelerator.device).train()

    # 2. What is trained, on what
    average = copy.deepcopy(denoiser).eval().requires_grad_(False)
    optimiser = AdamW(
        denoiser.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    if settings.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    if settings.compile:
        denoiser.compile()
    objective = DenoisingLoss(denoiser, scheduler, settings.min_snr_gamma)
    sampler = JointSampler(
        views.near(accelerator.device), settings, scheduler.config.num_train_timesteps, seed
    )
    state: dict[str, Any] = {"denoiser": denoiser, "average": average, "optimiser": optimiser}
    if accelerator.scaler:
        state["scaler"] = accelerator.scaler
    with accelerator.main_process_first():  # the main process sets damaged checkpoints aside
        done = checkpoints.load(**state)
    objective, optimiser = accelerator.prepare(objective, optimiser)
    gradients = MicroBatches(objective, accelerator, share)

    # 3. The loop
    batch = sampler.draw(done, rank, num_processes).to(accelerator.device)
    with tqdm(
        total=settings.steps * settings.batch_size,
        initial=done * settings.batch_size,
        unit=" joint images",
        desc="train the denoiser",
        disable=not accelerator.is_main_process,
        delay=2,
    ) as bar:
        for step in range(done, settings.steps):
            rate = learning_rate(step, settings)
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss = gradients.backward(batch)
            # Drawn here, on the CPU, while an accelerator still works on the backward pass.
            batch = sampler.draw(step + 1, rank, num_processes).to(accelerator.device)
            loss = accelerator.reduce(loss, "mean").item()
            grad_norm = float(accelerator.clip_grad_norm_(denoiser.parameters(), settings.max_grad_norm))
            # With fp16, gradients overflow now and then; the scaler skips such a step and scales less.
            if not math.isfinite(loss) or not (math.isfinite(grad_norm) or accelerator.scaler):
                raise ValueError(
                    f"The loss became {loss}, with a gradient of norm {grad_norm}, at step {step} with "
                    f"learning rate {rate:.3g}; the last good state is {checkpoints}."
                )
            optimiser.step()
            optimiser.zero_grad()
            update_average(average, denoiser, average_decay(step, settings.ema_decay))

            done = step + 1
            saves = done % settings.checkpoint_every == 0 or done == settings.steps
            if saves and not get_total_norm(denoiser.parameters()).isfinite():
                raise ValueError(
                    f"A weight is no longer finite after step {step} with learning rate {rate:.3g}; the last "
                    f"good state is {checkpoints}."
                )
            if accelerator.is_main_process:
                bar.update(settings.batch_size)
                log(done, {"loss": loss, "learning_rate": rate, "grad_norm": grad_norm})
                if saves:
                    checkpoints.save(done, **state)
    accelerator.wait_for_everyone()
    return average


def make_accelerator(settings: TrainSettings) -> Accelerator:
    """The processes and the precision of a training.

    Raises:
        ValueError: the processes cannot share a batch evenly.
    """
    # The denoiser's buffers are constants. To send them before every forward pass would only set the
    # processes apart where one of them runs out of memory in it and tries again.
    constants = DistributedDataParallelKwargs(broadcast_buffers=False)
    accelerator = Accelerator(mixed_precision=settings.mixed_precision, kwargs_handlers=[constants])
    settings.share(accelerator.num_processes)
    return accelerator


def learning_rate(step: int, settings: TrainSettings) -> float:
    """The learning rate of step 0, 1, ...: it rises linearly, stays, and falls linearly to 0."""
    rise = (step + 1) / max(1, settings.warmup_steps)
    fall = (settings.steps - step) / max(1, settings.decay_steps)
    return settings.learning_rate * min(1.0, rise, fall)


def average_decay(step: int, decay: float) -> float:
    """The decay of the moving average after step 0, 1, ...: lower at first, to forget the initial weights."""
    return min(decay, (step + 1) / (step + 10))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the parameters of `average` towards those of `model` by the share 1 - decay."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
