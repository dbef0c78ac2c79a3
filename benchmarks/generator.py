"""Time training and sampling of the generator with random weights, and the same work done naively.

On a GPU: models of the true sizes, Stable Diffusion 1.5 with CVA and DINOv2-G, with the settings of
profiles/market1501.yaml. Without one: the embedded run's, at 128x64, with small batches and few steps, to see
that it works. Naive is one joint image at a time through all networks, without cached conditions, with one
target view. A batch that does not fit into memory is taken in parts, as in a run: "128 in 32s".
"""

import argparse
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import Dinov2Config, Dinov2Model

from generator.cost import BACKWARD, pipeline_flops
from generator.data import EncodedViews, encode_views
from generator.encoders import encode_latents, encode_tokens
from generator.micro_batches import SmallerParts
from generator.model import IMAGPoseDenoiser
from generator.sample import IMAGPosePipeline, JointRequest
from generator.settings import SampleSettings, TrainSettings
from generator.train import train
from pipeline.params import Params, load_params
from pipeline.runtime.memory import keep_memory
from pipeline.runtime.stage import command_line, stage_main

# Dense bf16 peaks of the vendors' data sheets, FLOP/s.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
IMAGES = 64  # encoded views that training draws from
WARM_UP = 3  # steps that are not timed; the first ones compile and allocate


class NoCheckpoints:
    """A run that starts at its start and leaves nothing."""

    def load(self, **parts: Any) -> int:
        """No step is done."""
        return 0

    def save(self, done: int, **parts: Any) -> None:
        """Keep nothing."""


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    size: str
    batch: int  # joint images
    part: int  # of them that are trained on at once
    step: float  # seconds of a training step
    flops: float  # of a training step
    memory: float  # bytes at the peak of training
    naive_joint: float  # seconds per joint image in training, one at a time, encoders included
    sample_part: int  # joint images of a batch that are sampled at once
    sampled: float  # images per second
    naive_sampled: float


def build(device: torch.device, view_size: tuple[int, int], params: Params) -> IMAGPosePipeline:
    """The networks with random weights: Stable Diffusion and DINOv2-G on a GPU, else the embedded ones."""
    settings = params.generator
    with torch.device(device):
        if device.type == "cpu":
            vae = AutoencoderKL.from_config(AutoencoderKL.load_config(settings.base / "vae"))
            encoder = Dinov2Model(Dinov2Config.from_pretrained(settings.image_encoder))
            denoiser = IMAGPoseDenoiser.from_config(IMAGPoseDenoiser.load_config(settings.base / "denoiser"))
        else:
            vae = AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            )
            encoder = Dinov2Model(
                Dinov2Config(
                    hidden_size=1536,
                    num_hidden_layers=40,
                    num_attention_heads=24,
                    patch_size=14,
                    image_size=518,
                    use_swiglu_ffn=True,
                )
            )
            unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
            denoiser = IMAGPoseDenoiser.from_unet(unet, 1536, settings.denoiser, seed=0)
    encoder.config.image_mean, encoder.config.image_std = [0.5] * 3, [0.25] * 3
    return IMAGPosePipeline(
        vae.eval().requires_grad_(False),
        encoder.eval().requires_grad_(False),
        denoiser,
        DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False),
        view_height=view_size[0],
        view_width=view_size[1],
        token_height=settings.token_height,
        token_width=settings.token_width,
    )


def encode(parts: IMAGPosePipeline, count: int) -> EncodedViews:
    """Random images of one person through the frozen encoders."""
    rng = np.random.default_rng(0)
    height, width = parts.view_size
    keypoints = np.concatenate([rng.uniform(0, width, (count, 18, 2)), np.ones((count, 18, 1))], axis=2)
    return encode_views(
        rng.integers(0, 256, (count, height, width, 3), np.uint8),
        keypoints,
        np.zeros(count, np.int64),
        parts.vae,
        parts.image_encoder,
        view_size=parts.view_size,
        token_size=parts.token_size,
        flip=False,
        batch_size=16,
    ).near(parts.device)


def encode_joint(parts: IMAGPosePipeline) -> None:
    """Run the frozen encoders for one joint image, as training without caches must: 4 views, 1 source."""
    images = torch.rand(4, 3, *parts.view_size, device=parts.device)
    encode_latents(parts.vae, images)
    encode_tokens(parts.image_encoder, images[:1], parts.token_size)


def with_part(work: Callable[[], float], batch: int) -> tuple[float, int]:
    """What `work` on batches of so many joint images returns, and how many were taken at once at its end."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SmallerParts)
        result = work()
    sizes = [warned.message.size for warned in caught if isinstance(warned.message, SmallerParts)]
    return result, min([batch, *sizes])


def training_step(parts: IMAGPosePipeline, views: EncodedViews, settings: TrainSettings) -> float:
    """Median seconds of a step of `generator.train.train`, which waits for the device at every step."""
    times = [time.perf_counter()]

    def log(done: int, values: dict[str, float]) -> None:
        times.append(time.perf_counter())
        if done == WARM_UP and parts.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()  # without the attempts that did not fit

    train(parts.denoiser, views, parts.scheduler, settings, 0, NoCheckpoints(), log=log)
    return float(np.median(np.diff(times)[WARM_UP:]))


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the second of two calls."""
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - start


def sample(
    parts: IMAGPosePipeline, views: EncodedViews, joints: int, poses: int, settings: SampleSettings
) -> int:
    """Draw `joints` joint images of `poses` target views each; returns the number of views."""
    points = np.concatenate([np.random.default_rng(1).uniform(0, 64, (18, 2)), np.ones((18, 1))], axis=1)
    targets = np.repeat(points[None].astype(np.float32), poses, axis=0)
    requests = [
        JointRequest(sources=(i % len(views.pids),), poses=targets, seeds=tuple(range(poses)))
        for i in range(joints)
    ]
    return sum(len(images) for images in parts.generate(views, requests, settings))


def peak_memory(device: torch.device) -> float:
    """Bytes at the peak: of the GPU's memory since it was last reset, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_flops(device: torch.device) -> tuple[float, str]:
    """FLOP/s that the device can reach, and where the number comes from."""
    if device.type == "cuda":
        for name, peak in PEAKS.items():
            if name in torch.cuda.get_device_name():
                return peak, "data sheet"
    size = 8192 if device.type == "cuda" else 1024
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    seconds = min(timed(lambda: matrix @ matrix, device) for _ in range(5))
    return 2 * size**3 / seconds, f"measured: bf16 product of {size}x{size} matrices"


def measure(view_size: tuple[int, int], device: torch.device, params: Params, compiled: bool) -> Result:
    """All numbers of one size."""
    small = device.type == "cpu"
    parts = build(device, view_size, params)
    views = encode(parts, 4 if small else IMAGES)
    batch = 4 if small else 128
    parts.denoiser.eval().requires_grad_(False)
    few = {"steps": 2} if small else {"mixed_precision": "bf16"}
    sampling = params.generate.sample.model_copy(update=few | {"batch_size": batch})
    seconds, sample_part = with_part(
        lambda: timed(lambda: sample(parts, views, batch, 3, sampling), device), batch
    )
    single = sampling.model_copy(update={"batch_size": 1})
    naive = timed(lambda: sample(parts, encode(parts, 1), 1, 1, single), device)

    # What is compiled stays so, and the stages sample with a denoiser that is not: this comes last.
    parts.denoiser.requires_grad_(True)
    changes = {"steps": 5 if small else 20, "flip": 0.0, "checkpoint_every": 1000, "compile": False}
    one = params.generator.train.model_copy(update=changes | {"batch_size": 1})
    naive_joint = training_step(parts, views, one) + timed(lambda: encode_joint(parts), device)
    whole = one.model_copy(update={"batch_size": batch, "compile": compiled})
    step, part = with_part(lambda: training_step(parts, views, whole), batch)
    memory = peak_memory(device)
    return Result(
        size=f"{view_size[0]}x{view_size[1]}",
        batch=batch,
        part=part,
        step=step,
        flops=(1 + BACKWARD) * pipeline_flops(parts) * batch,
        memory=memory,
        naive_joint=naive_joint,
        sample_part=sample_part,
        sampled=3 * batch / seconds,
        naive_sampled=1 / naive,
    )


def view(text: str) -> tuple[int, int]:
    """Read the size of a view, "128x64"."""
    height, width = map(int, text.split("x"))
    return height, width


def in_parts(batch: int, part: int) -> str:
    """Say how a batch was taken."""
    return str(batch) if part == batch else f"{batch} in {part}s"


def main() -> None:
    """Print the table."""
    parser = command_line("generator", __doc__, "benchmarks")
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=view,
        metavar="HxW",
        help="views, height x width in pixels; 128x64, and on a GPU 512x384",
    )
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="torch.compile for the training steps, or not; as the parameters say if neither is given",
    )
    arguments = parser.parse_args()
    keep_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    params = load_params("params.yaml" if device.type == "cpu" else "profiles/market1501.yaml")
    compiled = params.generator.train.compile if arguments.compile is None else arguments.compile
    sizes = arguments.sizes or ([(128, 64)] if device.type == "cpu" else [(128, 64), (512, 384)])
    name = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    )
    peak, source = peak_flops(device)
    print(f"{name}; peak {peak / 1e12:.3g} TFLOP/s ({source}); {'' if compiled else 'not '}compiled\n")
    training = "Batch | Step | Joint images/s | MFU | Peak memory | Naive | Ratio"
    print(f"| Views | {training} | Batch | Sampled | Naive | Ratio |")
    print("|---" * 12 + "|")
    for size in sizes:
        r = measure(size, device, params, compiled)
        rate = r.batch / r.step
        print(
            f"| {r.size} | {in_parts(r.batch, r.part)} | {1000 * r.step:.0f} ms | {rate:.3g} | "
            f"{r.flops / r.step / peak:.0%} | {r.memory / 2**30:.1f} GiB | {1 / r.naive_joint:.3g}/s | "
            f"{rate * r.naive_joint:.1f}x | {in_parts(r.batch, r.sample_part)} | {r.sampled:.3g} images/s | "
            f"{r.naive_sampled:.3g} | {r.sampled / r.naive_sampled:.1f}x |"
        )


if __name__ == "__main__":
    stage_main(main)
