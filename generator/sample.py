"""The diffusers pipeline that turns images of a person and target poses into new images of that person."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from common.seeding import make_rng
from generator.data import Conditions, EncodedViews, encode_views, make_conditions
from generator.encoders import ImageEncoder, decode_latents, load_image_encoder, load_vae, to_bytes
from generator.grid import VIEWS, join, split
from generator.micro_batches import halve
from generator.model import IMAGPoseDenoiser
from generator.model_files import read_json
from generator.pose import draw_skeleton
from generator.scheduler import load_scheduler
from generator.settings import Condition, SampleSettings, SchedulerSettings
from generator.weights import load_model

Fill = Literal["target", "source"]
_SIZES = ("view_height", "view_width", "token_height", "token_width")


@dataclass(frozen=True)
class JointRequest:
    """One joint image to generate: its sources, its target poses, and what fills the slots that are left.

    The paper's scenarios: T1 is one source and one pose with `fill` target (the pose three times), T2 is one
    source and one pose with `fill` source (the source three times), T3 is two or three different sources and
    one pose, and IMAGPose* is one source and three poses. Any other numbers of at least one each and at most
    four in all do as well.

    Attributes:
        sources: indices of the source views; FLC reads the first.
        poses: [n, 18, 3] target keypoints: x, y in pixels of a view, score.
        seeds: n seeds, one per target view. A target's own noise depends on its seed alone; that of the
            source views on the first seed.
        fill: what is repeated in the slots that are left over.

    Raises:
        ValueError: there is no source, no pose, more than four in all, or not one seed per pose.
    """

    sources: tuple[int, ...]
    poses: NDArray[np.floating]
    seeds: tuple[int, ...]
    fill: Fill = "target"

    def __post_init__(self) -> None:
        sources, targets = len(self.sources), len(self.poses)
        if not sources or not targets or sources + targets > VIEWS:
            raise ValueError(
                f"A joint image has {sources} sources and {targets} target poses, where at least one of each "
                f"and at most {VIEWS} together are needed."
            )
        if len(self.seeds) != targets:
            raise ValueError(
                f"A joint image has {len(self.seeds)} seeds for {targets} target poses: one each is needed."
            )

    def slots(self) -> list[tuple[Fill, int, int]]:
        """What each of the four views holds: ("source" or "target", its index, which copy of it this is)."""
        named: list[tuple[Fill, int]] = [("source", i) for i in range(len(self.sources))]
        named += [("target", i) for i in range(len(self.poses))]
        repeated = islice(cycle([slot for slot in named if slot[0] == self.fill]), VIEWS - len(named))
        slots: list[tuple[Fill, int, int]] = []
        for slot in [*named, *repeated]:
            slots.append((*slot, sum(slot == earlier[:2] for earlier in slots)))
        return slots


@dataclass
class IMAGPoseOutput(BaseOutput):
    """The result of the pipeline.

    Attributes:
        images: per target pose a PIL image or a uint8 array [H, W, 3]; a list of such lists for a batch.
    """

    images: list


class IMAGPosePipeline(DiffusionPipeline):
    """Images of a person in new poses; saved and loaded with `save_pretrained` and `from_pretrained`.

    Args:
        vae: from `load_vae`.
        image_encoder: from `load_image_encoder`.
        denoiser: trained.
        scheduler: the one that it was trained with.
        view_height, view_width: of a view, in pixels.
        token_height, token_width: of the image encoder's input, in pixels; as in training.
    """

    model_cpu_offload_seq = "image_encoder->denoiser->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        image_encoder: ImageEncoder,
        denoiser: IMAGPoseDenoiser,
        scheduler: DDIMScheduler,
        view_height: int = 128,
        view_width: int = 64,
        token_height: int = 224,
        token_width: int = 112,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, image_encoder=image_encoder, denoiser=denoiser, scheduler=scheduler)
        # Four numbers and not two pairs: diffusers takes every list in model_index.json for a component.
        self.register_to_config(
            view_height=view_height, view_width=view_width, token_height=token_height, token_width=token_width
        )
        self._part: int | None = None  # joint images that are made at once, where a batch does not fit

    @property
    def view_size(self) -> tuple[int, int]:
        """(height, width) of a view, in pixels."""
        return self.config.view_height, self.config.view_width

    @property
    def token_size(self) -> tuple[int, int]:
        """(height, width) of the image encoder's input, in pixels."""
        return self.config.token_height, self.config.token_width

    def __call__(
        self,
        sources: list[Image.Image] | list[list[Image.Image]],
        source_poses: Any,
        target_poses: Any,
        seeds: Any = None,
        fill: Fill = "target",
        num_inference_steps: int = 20,
        guidance_scale: float = 2.0,
        guidance_drop: tuple[Condition, ...] = ("features", "image"),
        guidance_share: float = 1.0,
        batch_size: int = 16,
        output_type: Literal["pil", "np"] = "pil",
    ) -> IMAGPoseOutput:
        """Generate the person of the source images in the target poses.

        For one person, `sources` is a list of images and `source_poses`, `target_poses` and `seeds` belong to
        it; for a batch, each is a list of such lists.

        Args:
            sources: 1 to 3 images of one person, of any size; FLC reads the first.
            source_poses: one [18, 3] array of keypoints per source (x, y in pixels of that image, score).
            target_poses: one [18, 3] array per image to generate, in pixels of an image of `view_size`;
                sources and targets together are at most 4.
            seeds: one per target pose; 0, 1, ... when not given.
            fill: what fills a grid with slots left over: more copies of the targets (T1) or of the sources
                (T2).
            num_inference_steps: DDIM steps.
            guidance_scale: w of Eq. 5; 1 is no guidance.
            guidance_drop: the conditions that the null branch goes without.
            guidance_share: share of the steps that are guided, from the noisiest on.
            batch_size: joint images per batch.
            output_type: PIL images or uint8 arrays [H, W, 3].

        Returns:
            One image per target pose, in their order.

        Raises:
            ValueError: the numbers of images, poses and seeds do not fit together.
        """
        single = isinstance(sources[0], Image.Image)
        people = cast(list[list[Image.Image]], [sources] if single else sources)
        if single:
            source_poses, target_poses = [source_poses], [target_poses]
            seeds = None if seeds is None else [seeds]
        if seeds is None:
            seeds = [range(len(poses)) for poses in target_poses]
        if not len(people) == len(source_poses) == len(target_poses) == len(seeds):
            raise ValueError(
                f"There are sources of {len(people)} persons, source poses of {len(source_poses)}, target "
                f"poses of {len(target_poses)} and seeds of {len(seeds)}, where all must agree."
            )

        # 1. Encode every source once
        images = [np.array(image.convert("RGB")) for person in people for image in person]
        poses = np.array([pose for person in source_poses for pose in person], np.float32)
        views = encode_views(
            images,
            poses,
            np.zeros(len(images), np.int64),
            self.vae,
            self.image_encoder,
            view_size=self.view_size,
            token_size=self.token_size,
            flip=False,
            batch_size=batch_size,
        )

        # 2. Generate
        first = np.cumsum([0, *(len(person) for person in people)])
        requests = [
            JointRequest(
                tuple(range(first[i], first[i + 1])), np.array(poses, np.float32), tuple(seeds[i]), fill
            )
            for i, poses in enumerate(target_poses)
        ]
        settings = SampleSettings(
            steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_drop=guidance_drop,
            guidance_share=guidance_share,
            batch_size=batch_size,
            mixed_precision="no",
        )
        results: list[list[Any]] = [list(result) for result in self.generate(views, requests, settings)]

        # 3. Hand over
        if output_type == "pil":
            results = [[Image.fromarray(image) for image in result] for result in results]
        return IMAGPoseOutput(images=results[0] if single else results)

    @torch.no_grad()
    def generate(
        self, views: EncodedViews, requests: Sequence[JointRequest], settings: SampleSettings
    ) -> Iterator[NDArray[np.uint8]]:
        """Generate from views that are encoded already: the core of the pipeline, for many joint images.

        When an accelerator's memory runs out, a batch is made again in parts of half the size, and so are all
        batches after it. No draw depends on the parts; rounding does, by a level of a pixel at most.

        Args:
            views: from `encode_views`, with the pipeline's encoders and sizes; best on the pipeline's device
                (`EncodedViews.near`). What a batch needs of them goes there.
            requests: the joint images. Batches are cut from them in order, so that a part of the requests
                that starts at a multiple of the batch size gives the same images as the whole, byte for byte.
            settings: of the sampler.

        Yields:
            For each request, in order, its n target views, uint8 [n, H, W, 3].

        Raises:
            torch.OutOfMemoryError: a single joint image does not fit.
        """
        self.denoiser.suit_device(self.device)
        for start in range(0, len(requests), settings.batch_size):
            batch = requests[start : start + settings.batch_size]
            yield from self._make_in_parts(views, batch, settings)

    def _make_in_parts(
        self, views: EncodedViews, batch: Sequence[JointRequest], settings: SampleSettings
    ) -> list[NDArray[np.uint8]]:
        """The target views of a batch, in the largest parts that fit."""
        while True:
            size = min(self._part or settings.batch_size, settings.batch_size)
            fit = settings.model_copy(update={"batch_size": size})
            parts = [batch[start : start + size] for start in range(0, len(batch), size)]
            try:
                return [images for part in parts for images in self._make(views, part, fit)]
            except torch.OutOfMemoryError:
                if len(parts[0]) == 1:
                    raise
            self._part = halve(len(parts[0]))

    def _make(
        self, views: EncodedViews, requests: Sequence[JointRequest], settings: SampleSettings
    ) -> list[NDArray[np.uint8]]:
        """The target views of joint images, all at once; the VAE takes as many views as a batch may have."""
        conditions, noise = self._prepare(views, requests)
        latents = split(self._denoise(conditions, views.black.to(self.device), noise, settings))
        wanted = torch.cat(
            [
                joint[len(r.sources) : len(r.sources) + len(r.poses)]
                for joint, r in zip(latents, requests, strict=True)
            ]
        )
        # The VAE stays in its own precision: half steps of 1/256 would be seen in the images.
        images = torch.cat(
            [to_bytes(decode_latents(self.vae, part)).cpu() for part in wanted.split(settings.batch_size)]
        )
        return [part.numpy() for part in images.split([len(request.poses) for request in requests])]

    def _prepare(self, views: EncodedViews, requests: Sequence[JointRequest]) -> tuple[Conditions, Tensor]:
        """The conditions and the initial noise [B, C, 2h, 2w] of a batch of joint images."""
        height, width, device = *views.skeletons.shape[-2:], views.pids.device
        four, visible, skeletons, noise = [], [], [], []
        for request in requests:
            drawn = [torch.from_numpy(draw_skeleton(pose, height, width)) for pose in request.poses]
            for kind, index, copy in request.slots():
                is_source = kind == "source"
                source = request.sources[index] if is_source else request.sources[0]
                four.append(source)
                visible.append(is_source)
                skeletons.append(
                    views.skeletons[source, 0] if is_source else drawn[index].permute(2, 0, 1).to(device)
                )
                owner = make_rng(
                    request.seeds[0 if is_source else index], f"{kind} view", index if is_source else 0, copy
                )
                noise.append(owner.standard_normal(views.black.shape, np.float32))
        count = len(requests)
        conditions = make_conditions(
            views,
            torch.tensor(four, device=device).view(count, VIEWS),
            torch.tensor(visible, device=device).view(count, VIEWS),
            torch.stack(skeletons).unflatten(0, (count, VIEWS)),
            source=torch.tensor([request.sources[0] for request in requests], device=device),
            mirrored=torch.zeros(count, dtype=torch.int64, device=device),
            keep_features=torch.ones(count, dtype=torch.bool, device=device),
        )
        joint_noise = join(torch.from_numpy(np.stack(noise)).unflatten(0, (count, VIEWS)))
        return conditions.to(self.device), joint_noise.to(self.device)

    def _denoise(self, given: Conditions, black: Tensor, noise: Tensor, settings: SampleSettings) -> Tensor:
        """Joint latents [B, C, 2h, 2w] from noise by DDIM (eta 0) with classifier-free guidance (Eq. 5)."""
        precision = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.mixed_precision]
        autocast = torch.autocast(self.device.type, precision, enabled=precision is not None)
        guided_steps, count = settings.guided_steps, len(noise)

        # What does not change from step to step is computed once.
        with autocast:
            features = self.denoiser.encode_features(given.source_latents, given.source_tokens)
            pose = self.denoiser.encode_pose(given.skeletons)
        mask, visible = given.mask, given.visible
        if guided_steps:  # the conditional and the null branch are one batch
            null_features = torch.zeros_like(features) if "features" in settings.guidance_drop else features
            drop_image = "image" in settings.guidance_drop
            null_visible = black.repeat(1, 2, 2).expand_as(visible) if drop_image else visible
            features = torch.cat([features, null_features])
            mask = torch.cat([mask, torch.zeros_like(mask) if drop_image else mask])
            visible = torch.cat([visible, null_visible])
            pose = torch.cat([pose, pose])

        latents = noise * self.scheduler.init_noise_sigma
        self.scheduler.set_timesteps(settings.steps, device=self.device)
        for step, timestep in enumerate(self.scheduler.timesteps):
            if step == guided_steps:  # guidance decides what is drawn, and that is settled in the noisy steps
                features, pose, mask, visible = (each[:count] for each in (features, pose, mask, visible))
            guided = step < guided_steps
            inputs = torch.cat([latents, latents]) if guided else latents
            with autocast:
                predicted = self.denoiser(inputs, timestep, features, pose, mask, visible).float()
            if guided:
                conditional, null = predicted.chunk(2)
                predicted = settings.guidance_scale * conditional + (1 - settings.guidance_scale) * null
            latents = self.scheduler.step(predicted, timestep, latents, eta=0.0).prev_sample
        return latents


def load_pipeline(folder: Path) -> IMAGPosePipeline:
    """The pipeline that `save_pretrained` wrote to a folder, each part as strictly as it is loaded alone.

    Raises:
        ValueError: the folder holds another pipeline or none, or a part is refused (`load_vae`,
            `load_image_encoder`, `load_model`, `load_scheduler`).
    """
    file = folder / "model_index.json"
    config = read_json(file)
    if config.get("_class_name") != IMAGPosePipeline.__name__:
        raise ValueError(
            f"{folder} holds a {config.get('_class_name')}, where an IMAGPosePipeline is needed."
        )
    sizes = {name: config.get(name) for name in _SIZES}
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{file} has {name} {size!r}, where a number of pixels is needed.")
    as_saved = SchedulerSettings(prediction_type=None, beta_schedule=None, zero_terminal_snr=None)
    return IMAGPosePipeline(
        load_vae(folder / "vae"),
        load_image_encoder(folder / "image_encoder"),
        load_model(IMAGPoseDenoiser, folder / "denoiser"),
        load_scheduler(folder / "scheduler", as_saved),
        **cast(dict[str, int], sizes),
    )
