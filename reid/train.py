"""BoT training: one flat loop from images in memory to a model, exact under restarts."""

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import get_total_norm
from tqdm import tqdm

from common.checkpoints import Checkpoints
from common.seeding import make_rng, make_torch_seed
from reid.data import IdentitySampler, augment
from reid.losses import CenterLoss, batch_hard_triplet, cross_entropy
from reid.model import BoT
from reid.norms import join_norms, split_norms
from reid.settings import Mix, ReidSettings

REPORT_EVERY = 20  # iterations between looks at the loss; each look makes a GPU wait


def learning_rate(iteration: int, settings: ReidSettings) -> float:
    """Return the learning rate of iteration 0, 1, ...: linear warm-up, then down by steps or a cosine.

    reid-strong-baseline changes the rate at the start of each epoch and counts epochs from 1: epoch t of
    warm-up runs at warmup_factor + (1 - warmup_factor) * t / warmup_epochs of the full rate, and "at 40" is
    the fortieth epoch. The cosine is that of torch's CosineAnnealingLR over all epochs, warm-up included: it
    begins at the full rate and would reach cosine_floor of it after the last epoch.
    """
    epoch = 1 + iteration * settings.epochs // settings.iterations
    if settings.schedule == "steps":
        share = settings.gamma ** bisect_right(settings.milestones, epoch)
    else:
        cosine = (1 + math.cos(math.pi * (epoch - 1) / settings.epochs)) / 2
        share = settings.cosine_floor + (1 - settings.cosine_floor) * cosine
    rate = settings.learning_rate * share
    if epoch < settings.warmup_epochs:
        rate *= settings.warmup_factor + (1 - settings.warmup_factor) * epoch / settings.warmup_epochs
    return rate


def make_optimizer(parameters: list[nn.Parameter], settings: ReidSettings) -> torch.optim.Optimizer:
    """Make the optimizer that the settings name."""
    common: dict[str, Any] = {
        "lr": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "fused": True,
    }
    match settings.optimizer:
        case "adam":
            return torch.optim.Adam(parameters, **common)
        case "amsgrad":
            return torch.optim.Adam(parameters, amsgrad=True, **common)
        case "adamw":
            return torch.optim.AdamW(parameters, **common)
        case "sgd":
            return torch.optim.SGD(parameters, momentum=settings.momentum, **common)


def train(
    images: np.ndarray,
    pids: np.ndarray,
    is_synthetic: np.ndarray,
    settings: ReidSettings,
    seed: int,
    *,
    mix: Mix | None = None,
    device: str = "cpu",
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int = 1000,
    title: str = "train",
    bar_position: int | None = None,
    backbone: tuple[nn.Module, int] | None = None,
    log: Callable[[int, dict[str, float]], object] = lambda iteration, values: None,
) -> BoT:
    """Train one re-identification model.

    The same arguments give the same weights, bit for bit on one CPU machine, with or without interruptions.
    The progress bar shows images per second, and every `REPORT_EVERY` iterations the batch's loss and
    accuracy.

    Args:
        images: Images at the size of the settings, uint8 [N, H, W, 3].
        pids: Identities, int [N].
        is_synthetic: Which images are generated, bool [N].
        settings: Settings of the training.
        seed: Seed of the weights, the batches and the augmentation.
        mix: How real and synthetic images are mixed; None is the default mix.
        device: Torch's name of the device.
        checkpoints: Checkpoints of exactly these arguments; an interrupted run continues from the newest.
        checkpoint_every: Iterations between checkpoints.
        title: Name on the progress bar.
        bar_position: Line of the progress bar where several processes train at once; None is the next free
            line.
        backbone: Backbone of `BoT` where the settings say "given"; it is trained in place.
        log: Called every `REPORT_EVERY` iterations and at checkpoints with the number of iterations done and
            the batch's loss and accuracy.

    Returns:
        The model in evaluation mode, on the device.

    Raises:
        ValueError: Arguments do not fit together, or the loss or a weight is no longer finite; no checkpoint
            has it.
    """
    if images.shape[1:] != (settings.height, settings.width, 3):
        raise ValueError(
            f"the images have shape {images.shape[1:]}, but the settings ask for height {settings.height} "
            f"and width {settings.width}; load them at that size."
        )

    # --- batches, model, losses, optimizers -----------------------------------------------------------------
    identities, labels = np.unique(pids, return_inverse=True)
    p, k = settings.identities_per_batch, settings.images_per_identity
    mix = mix or Mix()
    sampler = IdentitySampler(labels, is_synthetic, p, k, seed, mix)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(make_torch_seed(seed, "weights"))
        # Channels last in memory: on a CPU a training step of a ResNet takes 0.8 of the time.
        model = BoT(settings, len(identities), backbone).to(device).train()
        model.to(memory_format=torch.channels_last)
        center = CenterLoss(len(identities), model.dimension).to(device)
    norms = split_norms(model) if mix.own_norms else []
    if mix.own_norms and not norms:
        raise ValueError(
            f"own_norms is true, but {settings.backbone} without bnneck has no batch norm; set bnneck to "
            "true, or own_norms to false."
        )
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(learnt, settings)
    # BoT divides the gradient of the centers by their weight, so that it holds for the network only; for
    # plain SGD a larger rate is the same.
    center_rate = settings.center_learning_rate / (settings.center_weight or 1)
    center_optimizer = torch.optim.SGD(center.parameters(), lr=center_rate)
    state = {"model": model, "center": center, "optimizer": optimizer}  # the center's SGD has no state
    start = checkpoints.load(**state) if checkpoints else 0

    # --- the first iterations may leave the backbone as it is, with what its normalisation has seen ---------
    body = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
    frozen = math.ceil(settings.frozen_epochs * settings.iterations / settings.epochs)  # iterations
    if start < frozen:
        model.backbone.eval()
        for parameter in body:
            parameter.requires_grad_(False)

    # --- all images live on the device; a batch is a gather, not a copy from the host -----------------------
    pixels = torch.from_numpy(images).to(device)
    targets = torch.from_numpy(labels).to(device)

    with tqdm(
        total=settings.iterations * p * k,
        initial=start * p * k,
        desc=title,
        unit=" images",
        delay=2,
        mininterval=1,
        leave=False,
        position=bar_position,
    ) as bar:
        for iteration in range(start, settings.iterations):
            # --- batch: [P K, 3, H, W] ----------------------------------------------------------------------
            places = sampler.batch(iteration)
            if norms:  # real images first
                places = places[np.argsort(is_synthetic[places], kind="stable")]
                for norm in norms:
                    norm.n_real = int((~is_synthetic[places]).sum())
            index = torch.from_numpy(places).to(device)
            rng = make_rng(seed, "augment", iteration)
            batch = augment(pixels[index], settings, rng, model.mean, model.std)
            target = targets[index]
            if 0 < frozen == iteration:
                model.backbone.train()
                for parameter in body:
                    parameter.requires_grad_(True)

            # --- losses -------------------------------------------------------------------------------------
            # Dropout and stochastic depth draw from torch's own generators.
            with torch.random.fork_rng(devices=[device] if device != "cpu" else []):
                torch.manual_seed(make_torch_seed(seed, "network", iteration))
                pooled, feature = model(batch)  # before and after BNNeck, [P K, D]
            logits = model.classifier(feature)  # [P K, identities]
            loss = cross_entropy(logits, target, settings.label_smoothing).mean()
            if settings.triplet_weight:
                triplet = batch_hard_triplet(pooled, target, settings.triplet_margin)
                loss = loss + settings.triplet_weight * triplet.mean()
            if settings.center_weight:
                loss = loss + settings.center_weight * center(pooled, target).mean()

            # --- step ---------------------------------------------------------------------------------------
            rate = learning_rate(iteration, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            center_optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            center_optimizer.step()

            # --- report, save -------------------------------------------------------------------------------
            done = iteration + 1
            bar.update(p * k)
            saves = done % checkpoint_every == 0 or done == settings.iterations
            if saves or done % REPORT_EVERY == 0:
                if not (loss + get_total_norm(model.parameters())).isfinite():
                    raise ValueError(
                        f"the loss of {title} is {loss.item()}, or a weight is not finite, at iteration "
                        f"{done} with learning rate {rate:.3g}; the last good state is "
                        f"{checkpoints or 'no checkpoint'}; lower learning_rate "
                        f"({settings.learning_rate}) or lengthen warmup_epochs ({settings.warmup_epochs})."
                    )
                accuracy = (logits.argmax(dim=1) == target).float().mean()
                bar.set_postfix_str(f"loss {loss.item():.3f}, accuracy {accuracy.item():.2f}", refresh=False)
                log(done, {"loss": loss.item(), "accuracy": accuracy.item()})
            if checkpoints and saves:
                checkpoints.save(done, **state)
    join_norms(model)
    return model.eval()
