"""From images to random joint samples: the frozen encoders run once per image, never in the training loop."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool2d

from common.seeding import make_rng
from generator.encoders import ImageEncoder, Vae, encode_latents, encode_tokens, resize, to_float
from generator.grid import VIEWS, join
from generator.keypoints import flip_keypoints, resize_keypoints
from generator.pose import draw_silhouette, draw_skeleton
from generator.settings import TrainSettings

# Around the keypoints, as a share of their height, a person's surroundings are left out. It is wide, so that
# nothing of the person who stood there shows.
_HIDDEN_MARGIN = 0.12


@dataclass(frozen=True)
class _Tensors:
    """A record of tensors, some of which may be None, that move to a device together."""

    def to(self, device: torch.device | str) -> Self:
        """Return the same record on another device."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are there, by their names."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


# --- views, encoded once ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedViews(_Tensors):
    """N views of people as the denoiser sees them, resident in memory or on the accelerator.

    F is 1, or 2 with the mirrored views. Image and keypoints are mirrored before they are encoded, which is
    exact: the mirrored latent is not the latent of the mirrored image, and a mirrored drawing would swap left
    and right.

    At 128x64 with 129 tokens of width 768, a view takes 25 kB (skeleton) + 2 kB (latent) + 198 kB (tokens),
    times F.

    Attributes:
        latent_mean: Mean of the scaled VAE latents, half [N, F, C, h, w].
        latent_std: Standard deviation of the scaled VAE latents, half [N, F, C, h, w].
        tokens: Tokens of the image encoder, half [N, F, T, width].
        skeletons: Drawings of the keypoints, uint8 [N, F, 3, H, W].
        pids: Identities, int64 [N].
        black: Latent (mean) of a black image, which stands for a masked view, float32 [C, h, w].
        surroundings: Latents (means) of the views with black in the person's place, half [N, F, C, h, w];
            None if they were not asked for.
        outside: Where these latents show nothing of the person's place, bool [N, F, 1, h, w]; None likewise.
    """

    latent_mean: Tensor
    latent_std: Tensor
    tokens: Tensor
    skeletons: Tensor
    pids: Tensor
    black: Tensor
    surroundings: Tensor | None = None
    outside: Tensor | None = None

    def near(self, device: torch.device) -> Self:
        """Return the views on a device, or where they are if they take half of an accelerator's memory."""
        if device.type == "cuda":
            size = sum(tensor.nbytes for tensor in self.tensors().values())
            if size > torch.cuda.mem_get_info(device)[0] / 2:
                return self
        return self.to(device)


def encode_views(
    images: Iterable[NDArray[np.uint8]],
    keypoints: NDArray[np.floating],
    pids: NDArray[np.integer],
    vae: Vae,
    encoder: ImageEncoder,
    *,
    view_size: tuple[int, int],
    token_size: tuple[int, int],
    flip: bool,
    batch_size: int,
    surroundings: bool = False,
    progress: Callable[[int], object] = lambda done: None,
) -> EncodedViews:
    """Run the frozen encoders over every image once (twice with `flip`).

    Args:
        images: N images, uint8 [H_i, W_i, 3] RGB. An image of another size than `view_size` is resized to it,
            antialiased.
        keypoints: Keypoints in pixels of the images as they are given, [N, 18, 3].
        pids: Identities, int [N].
        vae: VAE from `load_vae`.
        encoder: Image encoder from `load_image_encoder`.
        view_size: (height, width) of a view, in pixels.
        token_size: (height, width) of the image encoder's input, in pixels.
        flip: Whether to encode the mirrored views too.
        batch_size: Number of images that an encoder gets at a time.
        surroundings: Whether to encode the views without their person, too.
        progress: Called after every batch with the number of its images.

    Returns:
        The encoded views, on the CPU.

    Raises:
        ValueError: Images, keypoints and identities are not equally many.
    """
    count, copies = len(keypoints), 2 if flip else 1
    if len(pids) != count:
        raise ValueError(
            f"There are keypoints of {count} images and identities of {len(pids)}: one each is needed."
        )
    tensors: dict[str, Tensor] = {"pids": torch.tensor(np.asarray(pids, np.int64))}
    done = 0
    for batch in _batches(zip(images, keypoints, strict=True), batch_size):
        # B images in F copies each: pixels and skeletons [B F, 3, H, W], the person's place [B F, 1, H, W]
        pixels, skeletons, place = _prepare(batch, view_size, flip)
        mean, std = encode_latents(vae, pixels)
        encodings = {
            "latent_mean": mean.half(),
            "latent_std": std.half(),
            "tokens": encode_tokens(encoder, pixels, token_size).half(),
            "skeletons": skeletons,
        }
        if surroundings:
            without, _ = encode_latents(vae, torch.where(place > 0, -1.0, pixels))
            cell = view_size[0] // without.shape[-2]  # pixels of a latent pixel
            encodings |= {"surroundings": without.half(), "outside": max_pool2d(place.float(), cell) == 0}
        # Into the tensors [N, F, ...], which are allocated at the first batch: a list of all batches and
        # their concatenation would take twice the memory.
        for name, encoding in encodings.items():
            encoding = encoding.cpu().unflatten(0, (len(batch), copies))
            if name not in tensors:
                tensors[name] = encoding.new_empty((count, *encoding.shape[1:]))
            tensors[name][done : done + len(batch)] = encoding
        done += len(batch)
        progress(len(batch))
    black, _ = encode_latents(vae, torch.full((1, 3, *view_size), -1.0))
    return EncodedViews(**tensors, black=black[0].float().cpu())


def _batches(items: Iterable[tuple], size: int) -> Iterable[list[tuple]]:
    """Cut an iterable into lists of `size` items; the last one may be shorter."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _prepare(batch: list[tuple], view_size: tuple[int, int], flip: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Turn (image, keypoints) pairs into views, skeletons, and the places of the people.

    Returns:
        Pixels [B F, 3, H, W] in [-1, 1], skeletons uint8 [B F, 3, H, W], and 1 where the person may be, uint8
        [B F, 1, H, W]; with `flip` each is followed by its mirror image.
    """
    height, width = view_size
    pixels, skeletons, places = [], [], []
    for image, keypoints in batch:
        view = resize(to_float(torch.from_numpy(np.array(image))[None]), view_size)  # [1, 3, H, W]
        keypoints = resize_keypoints(keypoints, np.divide((width, height), image.shape[1::-1]))
        pixels.append(view)
        drawn = [keypoints]
        if flip:
            pixels.append(view.flip(-1))
            drawn.append(flip_keypoints(keypoints, width))
        skeletons += [draw_skeleton(points, height, width) for points in drawn]
        places += [draw_silhouette(points, height, width, _HIDDEN_MARGIN) for points in drawn]
    return (
        torch.cat(pixels),
        torch.from_numpy(np.stack(skeletons)).permute(0, 3, 1, 2),
        torch.from_numpy(np.stack(places))[:, None],
    )


# --- joint samples ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conditions(_Tensors):
    """What the denoiser knows of B joint images: of a masked view its skeleton, and maybe its surroundings.

    Attributes:
        mask: 1 where a view or the surroundings of a masked one are visible, else 0, float [B, 1, 2h, 2w].
        visible: Latents (means) of what is visible, black where masked, float [B, C, 2h, 2w].
        skeletons: All four poses, uint8 [B, 3, 2H, 2W].
        source_latents: Latents (means) of the FLC source, float [B, C, h, w].
        source_tokens: Image encoder tokens of the FLC source, float [B, T, width].
        keep_features: False where F_C is dropped, bool [B].
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
        latents: Joint latents of all four views, sampled from the VAE's posterior, float [B, C, 2h, 2w].
        noise: Noise of the diffusion, float [B, C, 2h, 2w].
        timesteps: Timesteps of the diffusion, int64 [B].
        conditions: What the denoiser knows of the samples besides their noisy latents.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    conditions: Conditions

    def __len__(self) -> int:
        return len(self.timesteps)

    def part(self, start: int, stop: int) -> "JointBatch":
        """Return samples `start` to `stop` - 1."""
        conditions = {f.name: getattr(self.conditions, f.name)[start:stop] for f in fields(Conditions)}
        latents, noise, timesteps = (x[start:stop] for x in (self.latents, self.noise, self.timesteps))
        return JointBatch(latents, noise, timesteps, Conditions(**conditions))


class JointSampler:
    """Draws joint training samples; sample i of step t depends on (seed, t * batch_size + i) alone.

    Every process of a distributed run draws its slice of the global batch. One process and n processes
    therefore see the same samples, in the same order, with the same noise.

    A sample is made of

    - four views of one person: the first is uniform over all views, so that every image is seen equally
      often; the others are different images of the same person, or repeats where there are too few,
    - one decision whether all four are mirrored: a bag on the left shoulder is then on the right one in all,
    - m masked views, m uniform over `masked_views` (the paper's 1 to 4),
    - whether masked views show their surroundings: the mask then hides no more than the person's place,
    - the FLC source: one of the visible views; with four masked views, an image of the person that is not
      among the four, or one of the four where there is no other,
    - whether F_C and F_I are dropped, independently. A sample without F_I is a joint image with all four
      views masked,
    - timestep and noise. A noise offset adds one number to each channel of the whole joint latent.

    Args:
        views: Encoded training views; samples are drawn on their device.
        settings: Settings of the training, of which masked_views, drop_features, drop_image, flip,
            noise_offset and batch_size are used.
        num_timesteps: Number of timesteps of the noise schedule.
        seed: Seed of all draws.

    Raises:
        ValueError: `flip` or `surroundings` is above 0, and the views were encoded without their mirror
            images or their surroundings.
    """

    def __init__(self, views: EncodedViews, settings: TrainSettings, num_timesteps: int, seed: int) -> None:
        if settings.flip > 0 and views.tokens.shape[1] < 2:
            raise ValueError(
                f"flip is {settings.flip}, but the views were encoded without their mirror images."
            )
        if settings.surroundings > 0 and views.surroundings is None:
            raise ValueError(
                f"surroundings is {settings.surroundings}, but the views were encoded without them."
            )
        self.views = views
        self.settings = settings
        self.num_timesteps = num_timesteps
        self.seed = seed
        # The person of each view, numbered from 0, and the views of each person
        pids = views.pids.cpu().numpy()
        self._person_of = np.unique(pids, return_inverse=True)[1]
        order = np.argsort(self._person_of, kind="stable")
        self._images_of = np.split(order, np.cumsum(np.bincount(self._person_of))[:-1])

    def draw(self, step: int, rank: int = 0, num_processes: int = 1) -> JointBatch:
        """Draw the part of step `step`'s batch that process `rank` of `num_processes` works on."""
        share = self.settings.share(num_processes)
        first = step * self.settings.batch_size + rank * share
        draws = [self._draw_one(first + i) for i in range(share)]
        return self._gather({name: np.stack([draw[name] for draw in draws]) for name in draws[0]})

    def _draw_one(self, index: int) -> dict[str, NDArray]:
        """Draw sample `index` as numbers of views, decisions and noise, without looking at a tensor."""
        rng, settings = make_rng(self.seed, "joint", index), self.settings

        # 1. Four views of one person, in random order
        anchor = rng.integers(len(self._person_of))
        images = self._images_of[self._person_of[anchor]]
        others = rng.permutation(images[images != anchor])
        four = np.concatenate([[anchor], others[: VIEWS - 1]])
        repeats = rng.choice(four, VIEWS - len(four))
        four = rng.permutation(np.concatenate([four, repeats]))

        # 2. Which of them are masked, bool [4], and the view that FLC reads
        is_masked = rng.permutation(VIEWS) < rng.integers(*settings.masked_views, endpoint=True)
        candidates = four[~is_masked] if not is_masked.all() else others[VIEWS - 1 :]
        source = rng.choice(candidates if len(candidates) else four)

        # 3. What is mirrored and dropped, and how noisy the sample is
        mirror = rng.random() < settings.flip
        keep_features = rng.random() >= settings.drop_features
        keep_image = rng.random() >= settings.drop_image
        timestep = rng.integers(self.num_timesteps)
        shape = (2, VIEWS, *self.views.black.shape)  # for the VAE's posterior, and for the diffusion
        noise = rng.standard_normal(shape, np.float32)
        if settings.noise_offset:  # one number per channel [C, 1, 1], for all four views of the diffusion
            offset_rng = make_rng(self.seed, "noise offset", index)
            noise[1] += settings.noise_offset * offset_rng.standard_normal((shape[2], 1, 1), np.float32)
        # From a stream of its own, so that no other draw depends on it
        has_surroundings = make_rng(self.seed, "surroundings", index).random() < settings.surroundings
        return {
            "four": four,
            "visible": ~is_masked & keep_image,
            "surrounded": is_masked & keep_image & has_surroundings,
            "source": source,
            "mirror": np.int64(mirror),
            "keep_features": np.bool_(keep_features),
            "timestep": timestep,
            "noise": noise,
        }

    def _gather(self, draws: dict[str, NDArray]) -> JointBatch:
        """Look up the tensors of B samples, whose draws are stacked to [B, ...], on the views' device."""
        device = self.views.pids.device
        draw = {name: torch.from_numpy(values).to(device) for name, values in draws.items()}
        four, mirror = draw["four"], draw["mirror"]  # [B, 4], [B]
        posterior_noise, noise = draw["noise"].unbind(1)  # [B, 4, C, h, w] each
        mean = self.views.latent_mean[four, mirror[:, None]].float()
        std = self.views.latent_std[four, mirror[:, None]].float()
        return JointBatch(
            latents=join(mean + std * posterior_noise),  # [B, C, 2h, 2w]
            noise=join(noise),
            timesteps=draw["timestep"],
            conditions=make_conditions(
                self.views,
                four,
                draw["visible"],
                draw["surrounded"],
                self.views.skeletons[four, mirror[:, None]],
                draw["source"],
                mirror,
                draw["keep_features"],
            ),
        )


def make_conditions(
    views: EncodedViews,
    four: Tensor,
    visible: Tensor,
    surrounded: Tensor,
    skeletons: Tensor,
    source: Tensor,
    mirror: Tensor,
    keep_features: Tensor,
) -> Conditions:
    """Make the denoiser's conditions for B joint images.

    Args:
        views: Encoded views.
        four: Numbers of the four views of each joint image, int [B, 4]; masked ones without surroundings are
            not read.
        visible: Which of the four are visible, bool [B, 4].
        surrounded: Which of the masked views show their surroundings, bool [B, 4].
        skeletons: Poses of the four, uint8 [B, 4, 3, H, W].
        source: Number of the view that FLC reads, int [B].
        mirror: 1 to take the mirrored views, else 0, int [B].
        keep_features: False to drop F_C, bool [B].
    """
    # Where a view is masked it is black: [B, 4, C, h, w] -> [B, C, 2h, 2w]
    both = four, mirror[:, None]
    mean = views.latent_mean[both].float()
    shown = visible[:, :, None, None, None].expand(-1, -1, 1, *views.black.shape[-2:])
    if views.surroundings is not None and views.outside is not None:
        around = surrounded[:, :, None, None, None] & views.outside[both]
        mean = torch.where(around, views.surroundings[both].float(), mean)
        shown = shown | around
    return Conditions(
        mask=join(shown.float()),
        visible=join(torch.where(shown, mean, views.black)),
        skeletons=join(skeletons),
        source_latents=views.latent_mean[source, mirror].float(),
        source_tokens=views.tokens[source, mirror].float(),
        keep_features=keep_features,
    )
