"""A judge of poses: a small network that finds keypoints, to compare them with the target pose.

OpenPose is not available everywhere, and it finds little in small crops. This judge is trained on the data
set's own training images and keypoints, whatever their source. It is no keypoint detector for other uses: its
error on photographs of people it never saw is measured beside its error on generated images.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from tqdm import tqdm
from transformers.models.resnet.modeling_resnet import ResNetConfig, ResNetModel

from common.precision import autocast
from common.seeding import make_rng, make_torch_seed
from generator.encoders import to_float
from generator.keypoints import KEYPOINT_NAMES, flip_keypoints
from pipeline.runtime.checkpoints import Checkpoints

ITERATIONS = 500
_BATCH = 48
_RATE = 2e-3  # learning rate of AdamW at the start; it falls to 0 along a cosine
_SHIFT = 0.06  # images are moved by up to this share of their height
_CHANNELS = (32, 64, 128)
_CHECKPOINT_EVERY = 100


class PoseJudge(nn.Module):
    """A ResNet with a map per keypoint, whose mean is its place (integral regression, Sun et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        shape = ResNetConfig(
            embedding_size=_CHANNELS[0], hidden_sizes=[*_CHANNELS], depths=[1, 1, 1], layer_type="basic"
        )
        self.backbone = ResNetModel(shape)
        self.head = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(_CHANNELS[-1], _CHANNELS[-1], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_CHANNELS[-1], len(KEYPOINT_NAMES), 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Find keypoints in images [B, 3, H, W] in [-1, 1]: float [B, 18, 2], shares of width and height."""
        # A map is a distribution over the places of a coarse grid: [B, 18, h, w], each with the sum 1.
        maps = self.head(self.backbone(images).last_hidden_state).float()
        height, width = maps.shape[-2:]
        share = maps.flatten(2).softmax(dim=2).unflatten(2, (height, width))
        x = (torch.arange(width, device=maps.device) + 0.5) / width
        y = (torch.arange(height, device=maps.device) + 0.5) / height
        return torch.stack([(share.sum(dim=2) * x).sum(dim=2), (share.sum(dim=3) * y).sum(dim=2)], dim=2)


def train_pose_judge(
    images: NDArray[np.uint8],
    keypoints: NDArray[np.floating],
    seed: int,
    checkpoints: Checkpoints,
    device: str | torch.device = "cpu",
) -> PoseJudge:
    """Train a judge.

    Args:
        images: Real images, uint8 [N, H, W, 3].
        keypoints: Their keypoints, float [N, 18, 3]: x and y in pixels, and score (0: not visible).
        seed: Seed of the first weights and of every draw.
        checkpoints: Checkpoints that belong to exactly these arguments.
        device: Torch's name of the device.

    Returns:
        The judge in evaluation mode.

    Raises:
        ValueError: The loss or a weight is not finite; no checkpoint has it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(make_torch_seed(seed, "pose judge"))
        judge = PoseJudge().to(device).train()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=_RATE)
    done = checkpoints.load(judge=judge, optimizer=optimizer)
    with tqdm(total=ITERATIONS, initial=done, desc="pose judge", unit="it", delay=2, leave=False) as bar:
        for iteration in range(done, ITERATIONS):
            rng = make_rng(seed, "pose judge", iteration)
            batch, points = _draw_batch(images, keypoints, rng, device)
            targets, visible = _shares(points, *images.shape[1:3])

            # The loss is the L1 distance [batch, 18] to the visible keypoints.
            with autocast("auto", device):
                outputs = judge(batch)
            error = (outputs - torch.from_numpy(targets).to(device)).abs().sum(dim=2)
            mask = torch.from_numpy(visible).to(device)
            loss = error[mask].mean() if visible.any() else error.sum() * 0
            for group in optimizer.param_groups:
                group["lr"] = _RATE * 0.5 * (1 + np.cos(np.pi * iteration / ITERATIONS))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bar.update()

            # A state that is not finite is worth no checkpoint.
            if (iteration + 1) % _CHECKPOINT_EVERY == 0 or iteration + 1 == ITERATIONS:
                if not (loss + get_total_norm(judge.parameters())).isfinite():
                    raise ValueError(
                        f"the loss of the judge of poses is {loss.item()}, or a weight is not finite, at "
                        f"iteration {iteration + 1}; the last good state is {checkpoints}; change scores.seed"
                    )
                checkpoints.save(iteration + 1, judge=judge, optimizer=optimizer)
    return judge.eval()


def _draw_batch(
    images: NDArray[np.uint8],
    keypoints: NDArray[np.floating],
    rng: np.random.Generator,
    device: str | torch.device,
) -> tuple[Tensor, NDArray[np.floating]]:
    """Draw images, mirrored and moved at random: float [batch, 3, H, W] in [-1, 1]; and their keypoints."""
    height, width = images.shape[1:3]
    reach = round(_SHIFT * height)
    rows = rng.integers(len(images), size=_BATCH)
    flip = rng.random(_BATCH) < 0.5
    x, y = rng.integers(-reach, reach, (2, _BATCH), endpoint=True)

    # Images are moved in a border that repeats their edges.
    batch = to_float(torch.from_numpy(images[rows]).to(device))
    batch = torch.where(torch.from_numpy(flip).to(device)[:, None, None, None], batch.flip(-1), batch)
    padded = nn.functional.pad(batch, (reach,) * 4, mode="replicate")
    batch = torch.stack(
        [
            image[:, reach - dy : reach - dy + height, reach - dx : reach - dx + width]
            for image, dx, dy in zip(padded, x, y, strict=True)
        ]
    )
    points = np.where(flip[:, None, None], flip_keypoints(keypoints[rows], width), keypoints[rows])
    points[..., 0] += x[:, None]
    points[..., 1] += y[:, None]
    return batch, points


@torch.inference_mode()
def pose_errors(
    judge: PoseJudge, images: NDArray[np.uint8], keypoints: NDArray[np.floating], batch_size: int
) -> NDArray[np.float64]:
    """Measure the mean distance between the keypoints in each image and its target pose.

    Args:
        judge: Judge from `train_pose_judge`.
        images: Images, uint8 [N, H, W, 3].
        keypoints: Target poses, float [N, 18, 3] in pixels; only visible keypoints count.
        batch_size: Images at once.

    Returns:
        float64 [N] in percent of the image's height; NaN if no keypoint is visible.
    """
    device = next(judge.parameters()).device
    outputs = torch.cat(
        [judge(to_float(part.to(device))).cpu() for part in torch.from_numpy(images).split(batch_size)]
    )
    height, width = images.shape[1:3]
    targets, visible = _shares(keypoints, height, width)
    distance = np.linalg.norm((outputs.numpy().astype(np.float64) - targets) * (width / height, 1.0), axis=2)
    with np.errstate(invalid="ignore"):
        return 100 * np.where(visible, distance, 0).sum(axis=1) / visible.sum(axis=1)


def _shares(
    keypoints: NDArray[np.floating], height: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return positions [N, 18, 2] as shares of width and height, and which are visible, bool [N, 18]."""
    # Pixel centres lie at integers.
    return ((keypoints[..., :2] + 0.5) / (width, height)).astype(np.float32), keypoints[..., 2] > 0
