"""Train the network that tells people apart by their latents, for a part of the denoiser's loss."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from tqdm import tqdm

from common.checkpoints import Checkpoints
from common.seeding import make_rng, make_torch_seed
from foundation.settings import IdentitySettings
from generator.data import EncodedViews
from generator.identity import IdentityNetwork
from reid.data import IdentitySampler
from reid.losses import batch_hard_triplet, cross_entropy
from reid.settings import Mix

LOG_EVERY = 20  # steps


def learning_rate(step: int, settings: IdentitySettings) -> float:
    """Learning rate of step 0, 1, ...: linear warm-up times a cosine that falls to 0."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return settings.learning_rate * cosine * min(1.0, (step + 1) / settings.warmup_steps)


def train_identity(
    views: EncodedViews,
    settings: IdentitySettings,
    seed: int,
    checkpoints: Checkpoints,
    log: Callable[[int, dict[str, float]], object] = lambda step, values: None,
) -> IdentityNetwork:
    """Train an identity network as BoT trains a re-ID model: PK batches, cross-entropy and triplet loss.

    Latents of a denoiser are not perfect. So each one gets noise of a random strength, and a part of some is
    black, as BoT erases parts of images.

    Args:
        views: Encoded views of the people to tell apart; those that are not mirrored are used.
        settings: Architecture and schedule.
        seed: Seed of the weights and of the draws of every step.
        checkpoints: Checkpoints of exactly this run; it continues from the newest.
        log: Called with the number of steps done and the batch's loss and accuracy every 20 steps
            and at checkpoints.

    Returns:
        The network, float32, frozen, in evaluation mode.

    Raises:
        ValueError: There are fewer people than a batch needs, or the loss or a weight is not finite; no
            checkpoint has it.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    identities, labels = np.unique(views.pids.cpu().numpy(), return_inverse=True)
    people, each = settings.identities_per_batch, settings.images_per_identity
    sampler = IdentitySampler(labels, np.zeros(len(labels), bool), people, each, seed, Mix())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(make_torch_seed(seed, "identity network"))
        network = IdentityNetwork(len(views.black), settings.channels).to(device).train()
        classifier = nn.Linear(network.width, len(identities), bias=False).to(device)
    optimizer = torch.optim.AdamW(
        [*network.parameters(), *classifier.parameters()],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    state = {"network": network, "classifier": classifier, "optimizer": optimizer}
    first = checkpoints.load(**state)

    with tqdm(
        total=settings.steps, initial=first, unit=" steps", desc="train the identity network", delay=2
    ) as bar:
        for step in range(first, settings.steps):
            # --- batch: latents [P K, C, h, w] ----------------------------------------------------------
            index = sampler.batch(step)
            rng = make_rng(seed, "identity network", step)
            latents = _draw_latents(views, torch.from_numpy(index), settings, rng).to(device)
            target = torch.from_numpy(labels[index]).to(device)
            rate = learning_rate(step, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate

            # --- loss and step --------------------------------------------------------------------------
            pooled, feature = network(latents)
            logits = classifier(feature)
            loss = cross_entropy(logits, target, settings.label_smoothing).mean()
            loss = loss + batch_hard_triplet(pooled, target, settings.triplet_margin).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

            # --- report, save ---------------------------------------------------------------------------
            done = step + 1
            bar.update()
            is_last = done == settings.steps
            saves = is_last or done % settings.checkpoint_every == 0
            if saves or done % LOG_EVERY == 0:
                if not (loss + get_total_norm(network.parameters())).isfinite():
                    raise ValueError(
                        f"the identity network's loss is {loss.item()}, or a weight is not finite, at step "
                        f"{done} with learning rate {rate:.3g}; the last good state is {checkpoints}; lower "
                        "identity.learning_rate"
                    )
                accuracy = (logits.argmax(dim=1) == target).float().mean().item()
                bar.set_postfix_str(f"loss {loss.item():.3f}, accuracy {accuracy:.2f}", refresh=False)
                log(done, {"loss": loss.item(), "accuracy": accuracy, "learning_rate": rate})
            if saves:
                checkpoints.save(done, **state)
    return network.cpu().eval().requires_grad_(False)


def _draw_latents(
    views: EncodedViews, index: Tensor, settings: IdentitySettings, rng: np.random.Generator
) -> Tensor:
    """Draw latents of views from the VAE's posterior, with noise, and black in a part of some."""
    mean, std = views.latent_mean[index, 0].float(), views.latent_std[index, 0].float()
    noise = rng.standard_normal((2, *mean.shape), np.float32)
    strength = rng.uniform(0, settings.noise, (len(index), 1, 1, 1)).astype(np.float32)
    latents = mean + std * torch.from_numpy(noise[0]) + torch.from_numpy(strength * noise[1])

    # A quarter of the height and nearly half of the width, anywhere
    height, width = mean.shape[-2:]
    tall, wide = max(1, height // 4), max(1, 3 * width // 8)
    is_erased = rng.random(len(index)) < settings.erasing_probability
    top, left = rng.integers(0, height - tall + 1, len(index)), rng.integers(0, width - wide + 1, len(index))
    for image in np.flatnonzero(is_erased):
        rows, columns = slice(top[image], top[image] + tall), slice(left[image], left[image] + wide)
        latents[image, :, rows, columns] = views.black[:, rows, columns]
    return latents


@torch.inference_mode()
def nearest_is_right(network: IdentityNetwork, latents: Tensor, pids: np.ndarray) -> float:
    """Percent of the latents [N, C, h, w] whose nearest other one, by features, is of the same person."""
    features = torch.cat([network.features(part.float()) for part in latents.split(256)])
    likeness = features @ features.T
    likeness.fill_diagonal_(-torch.inf)
    return 100 * float((pids[likeness.argmax(dim=1).numpy()] == pids).mean())
