"""The diffusers pipeline that makes images of a person in target poses from other images of that person."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from common.precision import autocast
from common.seeding import make_rng
from generator.data import Conditions, EncodedViews, encode_views, make_conditions
from generator.encoders import ImageEncoder, Vae, decode_latents, load_image_encoder, load_vae, to_bytes
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
    one pose, and IMAGPose* is one source and three poses. Other numbers are possible too, as long as there is
    one of each and there are at most four in all.

    Attributes:
        sources: Numbers of the source views; FLC reads the first.
        poses: Target keypoints in pixels of a view, [n, 18, 3].
        seeds: One seed per target pose. A target's noise depends on its seed alone, the noise of the source
            views on the first seed.
        surroundings: Number of the view whose surroundings each target has, one per pose; empty where the
            model chooses them.
        fill: What is repeated in the slots that are left over.

    Raises:
        ValueError: There is no source, no pose, more than four in all, or not one seed per pose, or another
            number of surroundings than of poses, or than none.
    """

    sources: tuple[int, ...]
    poses: NDArray[np.floating]
    seeds: tuple[int, ...]
    fill: Fill = "target"
    surroundings: tuple[int, ...] = ()

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
        if len(self.surroundings) not in (0, targets):
            raise ValueError(
                f"A joint image has surroundings for {len(self.surroundings)} of {targets} target poses: one "
                "each is needed, or none."
            )

    def slots(self) -> list[tuple[Fill, int, int]]:
        """Tell what each of the four views holds.

        Returns:
            For each view "source" or "target", its index among them, and which copy of it this is, from 0.
        """
        # First one slot each, then repeats of the sources or of the targets, one after the other
        views: list[tuple[Fill, int]] = [("source", i) for i in range(len(self.sources))]
        views += [("target", i) for i in range(len(self.poses))]
        views += islice(cycle([view for view in views if view[0] == self.fill]), VIEWS - len(views))
        return [(*view, views[:place].count(view)) for place, view in enumerate(views)]


@dataclass
class IMAGPoseOutput(BaseOutput):
    """The result of the pipeline.

    Attributes:
        images: One PIL image or uint8 array [H, W, 3] per target pose; for a batch, a list of such lists.
    """

    images: list


class IMAGPosePipeline(DiffusionPipeline):
    """Images of a person in new poses; saved and loaded with `save_pretrained` and `from_pretrained`.

    Args:
        vae: VAE from `load_vae`.
        image_encoder: Image encoder from `load_image_encoder`.
        denoiser: Trained denoiser.
        scheduler: Noise schedule that the denoiser was trained with.
        view_height, view_width: Size of a view, in pixels.
        token_height, token_width: Size of the image encoder's input, in pixels, as in training.
    """

    model_cpu_offload_seq = "image_encoder->denoiser->vae"

    def __init__(
        self,
        vae: Vae,
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
        self._part: int | None = None  # joint images to make at once, where a batch did not fit

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
        surroundings: Any = None,
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

        For one person, `sources` is a list of images and `source_poses`, `target_poses`, `surroundings` and
        `seeds` belong to it; for a batch, each is a list of such lists.

        Args:
            sources: 1 to 3 images of one person, of any size; FLC reads the first.
            source_poses: Keypoints of each source in pixels of that image, [18, 3] each.
            target_poses: Keypoints of each image to generate in pixels of a view, [18, 3] each. Sources and
                targets together are at most 4.
            surroundings: The image that lent each target pose, of a view's size: what is around its person is
                around the generated one, too. None lets the model choose; a model that was not trained with
                surroundings needs that.
            seeds: One seed per target pose; None stands for 0, 1, ...
            fill: What fills slots that are left over: more copies of the targets (T1) or of the sources (T2).
            num_inference_steps: Number of DDIM steps.
            guidance_scale: Scale w of Eq. 5; 1 is no guidance.
            guidance_drop: Conditions that the null branch goes without.
            guidance_share: Share of the steps that are guided, from the noisiest on.
            batch_size: Joint images per batch.
            output_type: Whether to return PIL images or uint8 arrays [H, W, 3].

        Returns:
            One image per target pose, in their order.

        Raises:
            ValueError: The numbers of images, poses and seeds do not fit together.
        """
        # 0. One person is a batch of one
        single = isinstance(sources[0], Image.Image)
        people = cast(list[list[Image.Image]], [sources] if single else sources)
        if single:
            source_poses, target_poses = [source_poses], [target_poses]
            surroundings = None if surroundings is None else [surroundings]
            seeds = None if seeds is None else [seeds]
        if seeds is None:
            seeds = [range(len(poses)) for poses in target_poses]
        around = [[] for _ in people] if surroundings is None else surroundings
        if not len(people) == len(source_poses) == len(target_poses) == len(seeds) == len(around):
            raise ValueError(
                f"There are sources of {len(people)} persons, source poses of {len(source_poses)}, target "
                f"poses of {len(target_poses)}, surroundings of {len(around)} and seeds of {len(seeds)}, "
                "where all must agree."
            )

        # 1. Encode once every source, and every image whose surroundings are wanted: views of person i are
        # first[i] to first[i + 1] - 1, the sources before the others
        images, poses, first = [], [], [0]
        for person, own, others, targets in zip(people, source_poses, around, target_poses, strict=True):
            images += [np.array(image.convert("RGB")) for image in (*person, *others)]
            poses += [*own, *(targets if others else [])]
            first.append(len(images))
        views = encode_views(
            images,
            np.array(poses, np.float32),
            np.zeros(len(images), np.int64),
            self.vae,
            self.image_encoder,
            view_size=self.view_size,
            token_size=self.token_size,
            flip=False,
            batch_size=batch_size,
            surroundings=surroundings is not None,
        )

        # 2. Generate
        requests = []
        for i, targets in enumerate(target_poses):
            middle = first[i] + len(people[i])
            numbers = tuple(range(first[i], middle)), tuple(range(middle, first[i + 1]))
            requests.append(
                JointRequest(numbers[0], np.array(targets, np.float32), tuple(seeds[i]), fill, numbers[1])
            )
        settings = SampleSettings(
            steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_drop=guidance_drop,
            guidance_share=guidance_share,
            batch_size=batch_size,
            mixed_precision="no",
        )
        outputs: list[list[Any]] = [list(images) for images in self.generate(views, requests, settings)]

        # 3. Hand over
        if output_type == "pil":
            outputs = [[Image.fromarray(image) for image in output] for output in outputs]
        return IMAGPoseOutput(images=outputs[0] if single else outputs)

    @torch.no_grad()
    def generate(
        self, views: EncodedViews, requests: Sequence[JointRequest], settings: SampleSettings
    ) -> Iterator[NDArray[np.uint8]]:
        """Generate many joint images from views that are encoded already: the core of the pipeline.

        When an accelerator's memory runs out, a batch is made again in parts of half the size, and so are all
        batches after it. No draw depends on the parts; rounding does, by a level of a pixel at most.

        Args:
            views: Views from `encode_views`, with the pipeline's encoders and sizes. They are best on the
                pipeline's device (`EncodedViews.near`); from elsewhere, each batch takes what it needs.
            requests: Joint images to generate. Batches are cut from them in order: requests that start at a
                multiple of the batch size give the same images alone as among the others, byte for byte.
            settings: Settings of the sampler.

        Yields:
            The n target views of each request, in order, uint8 [n, H, W, 3].

        Raises:
            torch.OutOfMemoryError: A single joint image does not fit.
        """
        self.denoiser.suit_device(self.device)
        for start in range(0, len(requests), settings.batch_size):
            batch = requests[start : start + settings.batch_size]
            yield from self._make_in_parts(views, batch, settings)

    def _make_in_parts(
        self, views: EncodedViews, requests: Sequence[JointRequest], settings: SampleSettings
    ) -> list[NDArray[np.uint8]]:
        """Make the target views of one batch, in the largest parts that fit into memory."""
        while True:
            size = min(self._part or settings.batch_size, settings.batch_size)
            settings_of_part = settings.model_copy(update={"batch_size": size})
            parts = [requests[start : start + size] for start in range(0, len(requests), size)]
            try:
                return [images for part in parts for images in self._make(views, part, settings_of_part)]
            except torch.OutOfMemoryError:
                if len(parts[0]) == 1:
                    raise
            self._part = halve(len(parts[0]))

    def _make(
        self, views: EncodedViews, requests: Sequence[JointRequest], settings: SampleSettings
    ) -> list[NDArray[np.uint8]]:
        """Make the target views of B joint images, all at once."""
        # 1. Denoise: [B, C, 2h, 2w] -> views [B, 4, C, h, w]
        conditions, noise = lay_out(views, requests)
        black = views.black.to(self.device)
        latents = split(self.denoise(conditions.to(self.device), black, noise.to(self.device), settings))

        # 2. Keep the first copy of each target, [n, C, h, w]; targets follow the sources
        targets = [
            joint[len(request.sources) : len(request.sources) + len(request.poses)]
            for joint, request in zip(latents, requests, strict=True)
        ]

        # 3. Decode as many views at once as a batch has joint images. The VAE stays in its own precision:
        # half precision's steps of 1/256 would be seen in the images.
        images = torch.cat(
            [
                to_bytes(decode_latents(self.vae, part)).cpu()
                for part in torch.cat(targets).split(settings.batch_size)
            ]
        )
        return [part.numpy() for part in images.split([len(request.poses) for request in requests])]

    @torch.no_grad()
    def denoise(
        self, conditions: Conditions, black: Tensor, noise: Tensor, settings: SampleSettings
    ) -> Tensor:
        """Denoise joint latents by DDIM (eta 0) with classifier-free guidance (Eq. 5).

        Args:
            conditions: Conditions of B joint images.
            black: Latent of a black image, which the null branch sees in place of F_I, [C, h, w].
            noise: Initial noise, [B, C, 2h, 2w].
            settings: Settings of the sampler.

        Returns:
            Clean joint latents, [B, C, 2h, 2w].
        """
        precision = autocast(settings.mixed_precision, self.device)

        # 1. What is the same in every step is computed once: features [B, T, width], pose [B, D, 2h, 2w]
        with precision:
            features = self.denoiser.encode_features(conditions.source_latents, conditions.source_tokens)
            pose = self.denoiser.encode_pose(conditions.skeletons)
        mask, visible = conditions.mask, conditions.visible

        # 2. In guided steps the conditional and the null branch are one batch of 2 B
        guided_steps, count = settings.guided_steps, len(noise)
        if guided_steps:
            null_features = torch.zeros_like(features) if "features" in settings.guidance_drop else features
            null_mask, null_visible = mask, visible
            if "image" in settings.guidance_drop:  # four masked views
                null_mask, null_visible = torch.zeros_like(mask), black.repeat(1, 2, 2).expand_as(visible)
            features = torch.cat([features, null_features])
            mask = torch.cat([mask, null_mask])
            visible = torch.cat([visible, null_visible])
            pose = torch.cat([pose, pose])

        # 3. From noise to latents. The last steps may go without the null branch: guidance decides what is
        # drawn, which is settled while much noise is left.
        latents = noise * self.scheduler.init_noise_sigma
        self.scheduler.set_timesteps(settings.steps, device=self.device)
        for step, timestep in enumerate(self.scheduler.timesteps):
            if step == guided_steps:
                features, pose, mask, visible = (each[:count] for each in (features, pose, mask, visible))
            is_guided = step < guided_steps
            inputs = torch.cat([latents, latents]) if is_guided else latents
            with precision:
                prediction = self.denoiser(inputs, timestep, features, pose, mask, visible).float()
            if is_guided:
                conditional, null = prediction.chunk(2)
                prediction = settings.guidance_scale * conditional + (1 - settings.guidance_scale) * null
            latents = self.scheduler.step(prediction, timestep, latents, eta=0.0).prev_sample
        return latents


def lay_out(views: EncodedViews, requests: Sequence[JointRequest]) -> tuple[Conditions, Tensor]:
    """Lay out B joint images: their conditions, on the device of the views, and their initial noise.

    Args:
        views: Encoded views that hold the sources.
        requests: Joint images to generate.

    Returns:
        The conditions, and the noise [B, C, 2h, 2w] on the CPU.

    Raises:
        ValueError: Surroundings are asked for, and the views were encoded without them.
    """
    if views.surroundings is None and any(request.surroundings for request in requests):
        raise ValueError("Joint images are to have surroundings, but the views were encoded without them.")
    height, width, device = *views.skeletons.shape[-2:], views.pids.device
    four, visible, surrounded, skeletons, noise = [], [], [], [], []
    for request in requests:
        # The skeletons of the sources are in the views; those of the targets are drawn: uint8 [n, 3, H, W]
        targets = np.stack([draw_skeleton(pose, height, width) for pose in request.poses])
        target_skeletons = torch.from_numpy(targets).permute(0, 3, 1, 2).to(device)
        for kind, index, copy in request.slots():
            is_source = kind == "source"
            # A target shows the surroundings of a view, or nothing: then no view is read.
            shows = request.sources if is_source else request.surroundings or (request.sources[0],) * VIEWS
            four.append(shows[index])
            visible.append(is_source)
            surrounded.append(not is_source and bool(request.surroundings))
            skeletons.append(views.skeletons[shows[index], 0] if is_source else target_skeletons[index])
            # A target's noise follows from its own seed; that of the sources, from the first one
            rng = (
                make_rng(request.seeds[0], "source view", index, copy)
                if is_source
                else make_rng(request.seeds[index], "target view", 0, copy)
            )
            noise.append(rng.standard_normal(views.black.shape, np.float32))
    # Lists of 4 B views -> [B, 4, ...]
    count = len(requests)
    conditions = make_conditions(
        views,
        torch.tensor(four, device=device).view(count, VIEWS),
        torch.tensor(visible, device=device).view(count, VIEWS),
        torch.tensor(surrounded, device=device).view(count, VIEWS),
        torch.stack(skeletons).unflatten(0, (count, VIEWS)),
        source=torch.tensor([request.sources[0] for request in requests], device=device),
        mirror=torch.zeros(count, dtype=torch.int64, device=device),
        keep_features=torch.ones(count, dtype=torch.bool, device=device),
    )
    return conditions, join(torch.from_numpy(np.stack(noise)).unflatten(0, (count, VIEWS)))


def load_pipeline(folder: Path) -> IMAGPosePipeline:
    """Load the pipeline that `save_pretrained` wrote, each model as strictly as it is loaded alone.

    Raises:
        ValueError: The folder holds another pipeline or none, or a model is refused (`load_vae`,
            `load_image_encoder`, `load_model`, `load_scheduler`).
    """
    file = folder / "model_index.json"
    config = read_json(file)
    if config.get("_class_name") != IMAGPosePipeline.__name__:
        raise ValueError(
            f"{folder} holds a pipeline of kind {config.get('_class_name')}; expected IMAGPosePipeline."
        )
    sizes = {name: config.get(name) for name in _SIZES}
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{file} has {name} {size!r}; expected a number of pixels.")
    as_saved = SchedulerSettings(prediction_type=None, beta_schedule=None, zero_terminal_snr=None)
    return IMAGPosePipeline(
        load_vae(folder / "vae"),
        load_image_encoder(folder / "image_encoder"),
        load_model(IMAGPoseDenoiser, folder / "denoiser"),
        load_scheduler(folder / "scheduler", as_saved),
        **cast(dict[str, int], sizes),
    )
