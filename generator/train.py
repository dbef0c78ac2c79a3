"""Training of the IMAGPose denoiser: one flat loop, resumable to the bit."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from diffusers import DDIMScheduler
from torch import nn
from torch.nn.utils import get_total_norm
from torch.optim import AdamW
from tqdm import tqdm

from common.checkpoints import Checkpoints
from common.precision import resolve
from common.processes import launched_processes
from generator.cost import forward_flops, peak_flops, peak_share
from generator.data import EncodedViews, JointSampler
from generator.identity import IdentityNetwork
from generator.loss import DenoisingLoss
from generator.micro_batches import MicroBatches
from generator.model import IMAGPoseDenoiser
from generator.settings import TrainSettings

LOSS_WINDOW = 100  # steps over which the progress bar averages the loss


def train(
    denoiser: IMAGPoseDenoiser,
    views: EncodedViews,
    scheduler: DDIMScheduler,
    settings: TrainSettings,
    seed: int,
    checkpoints: Checkpoints,
    accelerator: Accelerator | None = None,
    identity: IdentityNetwork | None = None,
    identity_weight: float = 0.0,
    log: Callable[[int, dict[str, float]], object] = lambda step, values: None,
) -> IMAGPoseDenoiser:
    """Train a denoiser on encoded views and return the moving average of its weights.

    Every random draw of a step follows from (seed, step), and the checkpoints hold the whole state (weights,
    average, optimizer). A run that was killed and started again therefore ends in the same weights, to the
    bit on a CPU. With n processes (`accelerate launch`) each takes its slice of the same global batch. When
    an accelerator's memory runs out, a batch is taken in parts that fit (`MicroBatches`).

    The progress bar shows the loss, averaged over about `LOSS_WINDOW` steps, joint images per second, and the
    share of the device's peak (`generator.cost.peak_share`) where the peak is known.

    Args:
        denoiser: Denoiser, which is trained in place.
        views: Training views.
        scheduler: Noise schedule from `load_scheduler`.
        settings: Settings of the training.
        seed: Seed of every random draw.
        checkpoints: Checkpoints of exactly this run, that is, of its settings, seed, data and initial
            weights; it continues from the newest. All processes must see them.
        accelerator: Accelerator to train on; None makes one from the settings.
        identity: Network that tells people apart, for a part of the loss (`DenoisingLoss`).
        identity_weight: Weight of that part.
        log: Called on the main process after every step with the number of steps done and loss, learning_rate
            and grad_norm.

    Returns:
        The averaged denoiser, on the accelerator's device, in evaluation mode.

    Raises:
        ValueError: The batch size is not a multiple of the number of processes, or the loss, its gradient or
            a weight is not finite; nothing of that step is in a checkpoint.
        torch.OutOfMemoryError: Not even one joint image at a time fits into memory.
    """
    # --- where it runs --------------------------------------------------------------------------------------
    accelerator = accelerator or make_accelerator(settings)
    rank, num_processes = accelerator.process_index, accelerator.num_processes
    share = settings.share(num_processes)
    device, is_main = accelerator.device, accelerator.is_main_process
    denoiser.suit_device(device)
    denoiser.to(device).train()
    peak = peak_flops(device)
    _, height, width = views.black.shape
    forward = forward_flops(denoiser, (height, width), views.tokens.shape[2]) if peak else 0

    # --- denoiser, average, optimizer, data -----------------------------------------------------------------
    average = copy.deepcopy(denoiser).eval().requires_grad_(False)
    optimizer = AdamW(
        denoiser.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    if settings.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    if settings.compile:
        denoiser.compile()
    objective = DenoisingLoss(denoiser, scheduler, settings.min_snr_gamma, identity, identity_weight)
    objective.to(device)
    sampler = JointSampler(views.near(device), settings, scheduler.config.num_train_timesteps, seed)

    # --- where an earlier run stopped -----------------------------------------------------------------------
    state: dict[str, Any] = {"denoiser": denoiser, "average": average, "optimizer": optimizer}
    if accelerator.scaler:
        state["scaler"] = accelerator.scaler
    with accelerator.main_process_first():  # the main process sets damaged checkpoints aside
        start = checkpoints.load(**state)
    objective, optimizer = accelerator.prepare(objective, optimizer)
    gradients = MicroBatches(objective, accelerator, share)

    smooth_loss = 0.0
    batch = sampler.draw(start, rank, num_processes).to(device)
    with tqdm(
        total=settings.steps * settings.batch_size,
        initial=start * settings.batch_size,
        unit=" joint images",
        desc="train the denoiser",
        disable=not is_main,
        delay=2,
    ) as bar:
        for step in range(start, settings.steps):
            # --- gradients ----------------------------------------------------------------------------------
            rate = learning_rate(step, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = gradients.backward(batch)
            # The next batch is drawn here, on the CPU, while an accelerator still works on the backward pass.
            batch = sampler.draw(step + 1, rank, num_processes).to(device)
            loss = accelerator.reduce(loss, "mean").item()
            grad_norm = float(accelerator.clip_grad_norm_(denoiser.parameters(), settings.max_grad_norm))
            # With fp16, gradients overflow now and then; the scaler skips such a step and scales less.
            if not math.isfinite(loss) or not (math.isfinite(grad_norm) or accelerator.scaler):
                raise ValueError(
                    f"The loss became {loss}, with a gradient of norm {grad_norm}, at step {step} with "
                    f"learning rate {rate:.3g}; the last good state is {checkpoints}; lower learning_rate."
                )

            # --- step ---------------------------------------------------------------------------------------
            optimizer.step()
            optimizer.zero_grad()
            update_average(average, denoiser, average_decay(step, settings.ema_decay))

            # --- report, save -------------------------------------------------------------------------------
            done = step + 1
            saves = done % settings.checkpoint_every == 0 or done == settings.steps
            if saves and not get_total_norm(denoiser.parameters()).isfinite():
                raise ValueError(
                    f"A weight is no longer finite after step {step} with learning rate {rate:.3g}; the last "
                    f"good state is {checkpoints}; lower learning_rate."
                )
            if is_main:
                # A plain mean of the first steps, then an exponential one
                smooth_loss += (loss - smooth_loss) / min(done - start, LOSS_WINDOW)
                status = f"loss {smooth_loss:.4f}"
                images_per_second = bar.format_dict["rate"]
                if peak and images_per_second:
                    status += f", {peak_share(forward, images_per_second, peak * num_processes):.0%} of peak"
                bar.set_postfix_str(status, refresh=False)
                bar.update(settings.batch_size)
                log(done, {"loss": loss, "learning_rate": rate, "grad_norm": grad_norm})
                if saves:
                    checkpoints.save(done, **state)
    accelerator.wait_for_everyone()
    return average


def make_accelerator(settings: TrainSettings) -> Accelerator:
    """Set up the processes and the precision of a training.

    Raises:
        ValueError: The processes cannot share a batch evenly, or do not know of each other.
    """
    # The denoiser's buffers are constants. Sending them before every forward pass would only bring the
    # processes out of step where one of them runs out of memory and tries again.
    distribution = DistributedDataParallelKwargs(broadcast_buffers=False)
    precision = resolve(settings.mixed_precision, launched_processes().device)
    accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[distribution])
    settings.share(accelerator.num_processes)
    return accelerator


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Return the learning rate of step 0, 1, ...: it rises linearly, stays, and falls linearly to 0."""
    rise = (step + 1) / max(1, settings.warmup_steps)
    fall = (settings.steps - step) / max(1, settings.decay_steps)
    return settings.learning_rate * min(1.0, rise, fall)


def average_decay(step: int, decay: float) -> float:
    """Return the moving average's decay after step 0, 1, ...: low at first, to forget the initial weights."""
    return min(decay, (step + 1) / (step + 10))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the parameters of `average` towards those of `model` by the share 1 - decay."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
