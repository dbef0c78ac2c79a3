"""Training of the IMAGPose denoiser: one flat loop, resumable to the bit."""

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from tqdm import tqdm

from generator.checkpoint import load_checkpoint, save_checkpoint
from generator.data import EncodedViews, JointSampler
from generator.loss import DenoisingLoss
from generator.model import IMAGPoseDenoiser
from generator.settings import TrainSettings


def train(
    denoiser: IMAGPoseDenoiser,
    views: EncodedViews,
    scheduler: DDIMScheduler,
    settings: TrainSettings,
    seed: int,
    checkpoint_dir: Path,
    accelerator: Accelerator | None = None,
    log: Callable[[int, dict[str, float]], object] = lambda step, values: None,
) -> IMAGPoseDenoiser:
    """Train a denoiser on encoded views and return the moving average of its weights.

    Every random draw of a step follows from (seed, step), and the whole state (weights, average, optimiser)
    is in the checkpoints, so that a run which was killed and started again ends in the same weights, to the
    bit on a CPU. With n processes (`accelerate launch`) each takes its slice of the same global batch.

    Args:
        denoiser: is trained in place.
        views: the training views.
        scheduler: from `load_scheduler`.
        settings: of the run.
        seed: of every draw.
        checkpoint_dir: belongs to exactly this run, i.e. to its settings, seed, data and initial weights; a
            run that finds checkpoints there continues from the newest sound one. All processes must see it.
        accelerator: made from the settings when not given.
        log: called on the main process after every step with the number of steps done and loss, learning_rate
            and grad_norm.

    Returns:
        The averaged denoiser, on the accelerator's device, in evaluation mode.

    Raises:
        ValueError: the batch size is not a multiple of the number of processes, or the loss is not finite.
    """
    # 1. Where it runs
    accelerator = accelerator or Accelerator(mixed_precision=settings.mixed_precision)
    rank, num_processes = accelerator.process_index, accelerator.num_processes
    if settings.batch_size % num_processes:
        raise ValueError(
            f"batch_size is {settings.batch_size}, which {num_processes} processes cannot share evenly."
        )
    denoiser.choose_attention(accelerator.device)
    denoiser.to(accelerator.device).train()

    # 2. What is trained, on what
    average = copy.deepcopy(denoiser).eval().requires_grad_(False)
    optimiser = AdamW(
        denoiser.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    objective = DenoisingLoss(denoiser, scheduler, settings.min_snr_gamma)
    sampler = JointSampler(views.to(accelerator.device), settings, scheduler.config.num_train_timesteps, seed)
    done = _resume(checkpoint_dir, denoiser, average, optimiser, accelerator)
    objective, optimiser = accelerator.prepare(objective, optimiser)

    # 3. The loop
    bar = tqdm(
        total=settings.steps * settings.batch_size,
        initial=done * settings.batch_size,
        unit=" joint images",
        desc="train the denoiser",
        disable=not accelerator.is_main_process,
        delay=2,
    )
    batch = sampler.draw(done, rank, num_processes) if done < settings.steps else None
    for step in range(done, settings.steps):
        rate = learning_rate(step, settings.learning_rate, settings.warmup_steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = objective(batch)
        accelerator.backward(loss)
        # Drawn here, on the CPU, while an accelerator still works on the backward pass.
        batch = sampler.draw(step + 1, rank, num_processes)
        loss = accelerator.reduce(loss.detach(), "mean").item()
        if not math.isfinite(loss):
            raise ValueError(
                f"The loss became {loss} at step {step} with learning rate {rate:.3g}; the last good "
                f"checkpoint in {checkpoint_dir} is of step {step - step % settings.checkpoint_every}."
            )
        grad_norm = accelerator.clip_grad_norm_(denoiser.parameters(), settings.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad()
        update_average(average, denoiser, average_decay(step, settings.ema_decay))

        done = step + 1
        if accelerator.is_main_process:
            bar.update(settings.batch_size)
            log(done, {"loss": loss, "learning_rate": rate, "grad_norm": float(grad_norm)})
            if done % settings.checkpoint_every == 0 or done == settings.steps:
                save_checkpoint(checkpoint_dir, done, *_state(denoiser, average, optimiser, accelerator))
    bar.close()
    accelerator.wait_for_everyone()
    return average


def learning_rate(step: int, peak: float, warmup_steps: int) -> float:
    """The learning rate of step 0, 1, ...: it rises linearly over `warmup_steps` steps, then stays."""
    return peak * min(1.0, (step + 1) / max(1, warmup_steps))


def average_decay(step: int, decay: float) -> float:
    """The decay of the moving average after step 0, 1, ...: lower at first, to forget the initial weights."""
    return min(decay, (step + 1) / (step + 10))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the parameters of `average` towards those of `model` by the share 1 - decay."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def _state(
    denoiser: nn.Module, average: nn.Module, optimiser: Optimizer, accelerator: Accelerator
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that a run consists of: the flat tensors and the JSON of a checkpoint."""
    tensors = {f"model.{name}": tensor for name, tensor in denoiser.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in moments.items()}
    return tensors, {"scaler": accelerator.scaler.state_dict() if accelerator.scaler else None}


def _resume(
    folder: Path, denoiser: nn.Module, average: nn.Module, optimiser: Optimizer, accelerator: Accelerator
) -> int:
    """Restore the newest sound checkpoint, if there is one; the number of steps that it holds."""
    with accelerator.main_process_first():  # the main process sets damaged ones aside
        checkpoint = load_checkpoint(folder)
    if checkpoint is None:
        return 0
    done, tensors, extra = checkpoint
    denoiser.load_state_dict(_under("model.", tensors))
    average.load_state_dict(_under("average.", tensors))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimiser.", tensors).items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    if accelerator.scaler:
        accelerator.scaler.load_state_dict(extra["scaler"])
    return done


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
