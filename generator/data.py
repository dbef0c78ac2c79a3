"""From images to random joint samples: the frozen encoders run once per image, never in the training loop."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from common.seeding import make_rng
from generator.encoders import ImageEncoder, encode_latents, encode_tokens, resize, to_float
from generator.grid import VIEWS, join, joint_mask
from generator.keypoints import flip_keypoints
from generator.pose import draw_skeleton
from generator.settings import TrainSettings


@dataclass(frozen=True)
class _Tensors:
    """A record of tensors that move to a device together."""

    def to(self, device: torch.device | str) -> Self:
        """The same record on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class EncodedViews(_Tensors):
    """N views of people as the denoiser sees them, resident in memory or on the accelerator.

    F is 1, or 2 with the mirrored views: image and keypoints are flipped before they are encoded, which is
    exact, whereas a flipped latent is not the latent of the flipped image and a flipped drawing swaps left
    and right.

    At 128x64 with 129 tokens of width 768, a view takes 25 kB (skeleton) + 2 kB (latent) + 198 kB (tokens),
    times F.

    Attributes:
        latent_mean: half [N, F, C, h, w], mean of the scaled VAE latent.
        latent_std: half [N, F, C, h, w], its standard deviation.
        tokens: half [N, F, T, width], of the image encoder.
        skeletons: uint8 [N, F, 3, H, W].
        pids: int64 [N], identities.
        black: float32 [C, h, w], mean of the latent of a black image, which stands for a masked view.
    """

    latent_mean: Tensor
    latent_std: Tensor
    tokens: Tensor
    skeletons: Tensor
    pids: Tensor
    black: Tensor

    def near(self, device: torch.device) -> Self:
        """The views on an accelerator, or where they are if they take more than half its free memory."""
        if device.type == "cuda":
            size = sum(getattr(self, f.name).nbytes for f in fields(self))
            if size > torch.cuda.mem_get_info(device)[0] / 2:
                return self
        return self.to(device)


def encode_views(
    images: Iterable[NDArray[np.uint8]],
    keypoints: NDArray[np.floating],
    pids: NDArray[np.integer],
    vae: AutoencoderKL,
    encoder: ImageEncoder,
    *,
    view_size: tuple[int, int],
    token_size: tuple[int, int],
    flip: bool,
    batch_size: int,
    progress: Callable[[int], object] = lambda done: None,
) -> EncodedViews:
    """Run the frozen encoders over every image once (twice with `flip`).

    Args:
        images: N images, uint8 [H_i, W_i, 3] RGB; those of another size than `view_size` are resized to it,
            antialiased.
        keypoints: [N, 18, 3] x, y in pixels of the image as it is given, score.
        pids: int [N], identities.
        vae: from `load_vae`.
        encoder: from `load_image_encoder`.
        view_size: (height, width) of a view, in pixels.
        token_size: (height, width) of the image encoder's input, in pixels.
        flip: also encode the mirrored views.
        batch_size: images that an encoder gets at a time.
        progress: called with the number of images that were done, after every batch.

    Returns:
        The encoded views, on the CPU.

    Raises:
        ValueError: images, keypoints and identities are not equally many.
    """
    count, copies = len(keypoints), 2 if flip else 1
    if len(pids) != count:
        raise ValueError(
            f"There are keypoints of {count} images and identities of {len(pids)}: one each is needed."
        )
    out: dict[str, Tensor] = {"pids": torch.tensor(np.asarray(pids, np.int64))}
    done = 0
    for batch in _batches(zip(images, keypoints, strict=True), batch_size):
        pixels, skeletons = _prepare(batch, view_size, flip)
        mean, std = encode_latents(vae, pixels)
        parts = {
            "latent_mean": mean.half(),
            "latent_std": std.half(),
            "tokens": encode_tokens(encoder, pixels, token_size).half(),
            "skeletons": skeletons,
        }
        for name, part in parts.items():
            part = part.cpu().unflatten(0, (len(batch), copies))
            if name not in out:
                out[name] = part.new_empty((count, *part.shape[1:]))
            out[name][done : done + len(batch)] = part
        done += len(batch)
        progress(len(batch))
    black, _ = encode_latents(vae, torch.full((1, 3, *view_size), -1.0))
    return EncodedViews(**out, black=black[0].float().cpu())


def _batches(items: Iterable[tuple], size: int) -> Iterable[list[tuple]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _prepare(batch: list[tuple], view_size: tuple[int, int], flip: bool) -> tuple[Tensor, Tensor]:
    """Images [B F, 3, H, W] in [-1, 1] and skeletons uint8 [B F, 3, H, W] of (image, keypoints) pairs."""
    height, width = view_size
    pixels, skeletons = [], []
    for image, points in batch:
        pixel = resize(to_float(torch.from_numpy(np.array(image))[None]), view_size)
        points = scale_keypoints(points, image.shape[:2], view_size)
        pixels.append(pixel)
        skeletons.append(draw_skeleton(points, height, width))
        if flip:
            pixels.append(pixel.flip(-1))
            skeletons.append(draw_skeleton(flip_keypoints(points, width), height, width))
    return torch.cat(pixels), torch.from_numpy(np.stack(skeletons)).permute(0, 3, 1, 2)


def scale_keypoints(
    keypoints: NDArray[np.floating], size: tuple[int, int], new_size: tuple[int, int]
) -> NDArray[np.floating]:
    """Keypoints [..., 18, 3] of an image that is resized from `size` to `new_size` (height, width)."""
    scaled = np.array(keypoints, np.float32)
    for axis, (old, new) in enumerate(zip(size[::-1], new_size[::-1], strict=True)):
        scaled[..., axis] = (scaled[..., axis] + 0.5) * (new / old) - 0.5  # pixel centres are at integers
    return scaled


@dataclass(frozen=True)
class Conditions(_Tensors):
    """What the denoiser knows of B joint images: nothing of a masked view but its skeleton.

    Attributes:
        mask: float [B, 1, 2h, 2w], 1 where a view is visible.
        visible: float [B, C, 2h, 2w], latents (means) of the visible views, black where masked.
        skeletons: uint8 [B, 3, 2H, 2W], all four poses.
        source_latents: float [B, C, h, w], latent (mean) of the FLC source.
        source_tokens: float [B, T, width], image encoder tokens of the FLC source.
        keep_features: bool [B], False where F_C is dropped.
    """

    mask: Tensor
    visible: Tensor
    skeletons: Tensor
    source_latents: Tensor
    source_tokens: Tensor
    keep_features: Tensor


@dataclass(frozen=True)
class JointBatch(_Tensors):
    """B training samples.

    Attributes:
        latents: float [B, C, 2h, 2w], joint latents of all four views, sampled.
        noise: float [B, C, 2h, 2w].
        timesteps: int64 [B].
        conditions: what the denoiser is given beside the noisy latents.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    conditions: Conditions

    def __len__(self) -> int:
        return len(self.timesteps)

    def part(self, start: int, stop: int) -> "JointBatch":
        """Samples `start` to `stop` - 1."""
        given = {f.name: getattr(self.conditions, f.name)[start:stop] for f in fields(Conditions)}
        latents, noise, timesteps = (x[start:stop] for x in (self.latents, self.noise, self.timesteps))
        return JointBatch(latents, noise, timesteps, Conditions(**given))


class JointSampler:
    """Draws joint training samples; sample i of step t depends on (seed, t * batch_size + i) alone.

    Every process of a distributed run draws its slice of the global batch, so that 1 and n processes see the
    same samples, in the same order, with the same noise.

    A sample is made of

    - four views of one person: the first is uniform over all views, so that every image is seen equally
      often; the others are distinct images of the same person where there are enough, and repeats of them
      where not,
    - one decision whether all four are mirrored (a bag on the left shoulder is then on the right one in all),
    - m masked views, m uniform over `masked_views` (the paper's 1 to 4),
    - the FLC source: one of the visible views; with four masked, an image of the person that is not among the
      four, or one of the four where there is no other,
    - whether F_C and F_I are dropped, independently. A sample without F_I is a joint image with all four
      views masked.

    Args:
        views: the encoded training views; samples are drawn on their device.
        settings: masked_views, drop_features, drop_image, flip and batch_size are used.
        num_timesteps: of the noise schedule.
        seed: of all draws.

    Raises:
        ValueError: `flip` is above 0 and the views were encoded without their mirror images.
    """

    def __init__(self, views: EncodedViews, settings: TrainSettings, num_timesteps: int, seed: int) -> None:
        if settings.flip > 0 and views.tokens.shape[1] < 2:
            raise ValueError(
                f"flip is {settings.flip}, but the views were encoded without their mirror images."
            )
        self.views = views
        self.settings = settings
        self.num_timesteps = num_timesteps
        self.seed = seed
        pids = views.pids.cpu().numpy()
        self._person_of = np.unique(pids, return_inverse=True)[1]
        order = np.argsort(self._person_of, kind="stable")
        self._images_of = np.split(order, np.cumsum(np.bincount(self._person_of))[:-1])

    def draw(self, step: int, rank: int = 0, num_processes: int = 1) -> JointBatch:
        """The part of step `step`'s batch that process `rank` of `num_processes` works on."""
        share = self.settings.share(num_processes)
        first = step * self.settings.batch_size + rank * share
        draws = [self._draw_one(first + i) for i in range(share)]
        return self._gather({name: np.stack([draw[name] for draw in draws]) for name in draws[0]})

    def _draw_one(self, index: int) -> dict[str, NDArray]:
        generator, settings = make_rng(self.seed, "joint", index), self.settings
        anchor = generator.integers(len(self._person_of))
        images = self._images_of[self._person_of[anchor]]
        others = generator.permutation(images[images != anchor])
        four = np.concatenate([[anchor], others[: VIEWS - 1]])
        repeats = generator.choice(four, VIEWS - len(four))
        four = generator.permutation(np.concatenate([four, repeats]))
        masked = generator.permutation(VIEWS) < generator.integers(*settings.masked_views, endpoint=True)
        candidates = four[~masked] if not masked.all() else others[VIEWS - 1 :]
        source = generator.choice(candidates if len(candidates) else four)
        mirrored = generator.random() < settings.flip
        keep_features = generator.random() >= settings.drop_features
        keep_image = generator.random() >= settings.drop_image
        timestep = generator.integers(self.num_timesteps)
        shape = (2, VIEWS, *self.views.black.shape)
        return {
            "four": four,
            "visible": ~masked & keep_image,
            "source": source,
            "mirrored": np.int64(mirrored),
            "keep_features": np.bool_(keep_features),
            "timestep": timestep,
            "noise": generator.standard_normal(shape, np.float32),  # of the VAE's posterior, of the diffusion
        }

    def _gather(self, draws: dict[str, NDArray]) -> JointBatch:
        device = self.views.pids.device
        drawn = {name: torch.from_numpy(values).to(device) for name, values in draws.items()}
        four, mirrored = drawn["four"], drawn["mirrored"]
        posterior_noise, noise = drawn["noise"].unbind(1)
        mean = self.views.latent_mean[four, mirrored[:, None]].float()
        std = self.views.latent_std[four, mirrored[:, None]].float()
        return JointBatch(
            latents=join(mean + std * posterior_noise),
            noise=join(noise),
            timesteps=drawn["timestep"],
            conditions=make_conditions(
                self.views,
                four,
                drawn["visible"],
                self.views.skeletons[four, mirrored[:, None]],
                drawn["source"],
                mirrored,
                drawn["keep_features"],
            ),
        )


def make_conditions(
    views: EncodedViews,
    four: Tensor,
    visible: Tensor,
    skeletons: Tensor,
    source: Tensor,
    mirrored: Tensor,
    keep_features: Tensor,
) -> Conditions:
    """The denoiser's conditions for B joint images.

    Args:
        views: the encoded views.
        four: int [B, 4], the views of each joint image; only those that are visible are read.
        visible: bool [B, 4].
        skeletons: uint8 [B, 4, 3, H, W], the poses of the four.
        source: int [B], the view that FLC reads.
        mirrored: int [B], 1 to take the mirrored views.
        keep_features: bool [B], False to drop F_C.
    """
    mean = views.latent_mean[four, mirrored[:, None]].float()
    shown = torch.where(visible[:, :, None, None, None], mean, views.black)
    return Conditions(
        mask=joint_mask(visible, *views.black.shape[-2:]),
        visible=join(shown),
        skeletons=join(skeletons),
        source_latents=views.latent_mean[source, mirrored].float(),
        source_tokens=views.tokens[source, mirrored].float(),
        keep_features=keep_features,
    )
