"""Time training and sampling of the generator with random weights, and the same work done naively.

On a GPU: models of the true sizes, Stable Diffusion 1.5 with CVA and DINOv2-G, with the settings of
profiles/market1501.yaml. Without one: the models of params.yaml at 128x64, with small batches and few steps,
to see that it works. Naive is one joint image at a time through all networks, without cached conditions, with
one target view. A batch that does not fit into memory is taken in parts, as in a run: "128 in 32s".
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

from generator import cost
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

IMAGES = 64  # encoded views that training draws from
WARM_UP = 3  # steps that are not timed; the first ones compile and allocate


class NoCheckpoints:
    """Checkpoints of a run that begins anew and leaves nothing."""

    def load(self, **parts: Any) -> int:
        """Tell that no step is done."""
        return 0

    def save(self, done: int, **parts: Any) -> None:
        """Keep nothing."""


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        size: Size of a view, "128x64".
        batch: Joint images of a batch.
        part: Joint images of a batch that are trained on at once.
        step: Seconds of a training step.
        forward: FLOPs of the denoiser's forward pass for one joint image.
        memory: Bytes at the peak of training.
        naive_joint: Seconds per joint image in training one at a time, encoders included.
        sample_part: Joint images of a batch that are sampled at once.
        sample_rate: Images per second in sampling.
        naive_sample_rate: Images per second in sampling one at a time, encoders included.
    """

    size: str
    batch: int
    part: int
    step: float
    forward: int
    memory: float
    naive_joint: float
    sample_part: int
    sample_rate: float
    naive_sample_rate: float


def build(device: torch.device, view_size: tuple[int, int], params: Params) -> IMAGPosePipeline:
    """Make networks with random weights: of the true sizes on a GPU, else those of the settings."""
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


def encode(imagpose: IMAGPosePipeline, count: int) -> EncodedViews:
    """Encode random images of one person."""
    rng = np.random.default_rng(0)
    height, width = imagpose.view_size
    keypoints = np.concatenate([rng.uniform(0, width, (count, 18, 2)), np.ones((count, 18, 1))], axis=2)
    return encode_views(
        rng.integers(0, 256, (count, height, width, 3), np.uint8),
        keypoints,
        np.zeros(count, np.int64),
        imagpose.vae,
        imagpose.image_encoder,
        view_size=imagpose.view_size,
        token_size=imagpose.token_size,
        flip=False,
        batch_size=16,
    ).near(imagpose.device)


def encode_joint(imagpose: IMAGPosePipeline) -> None:
    """Run the frozen encoders for one joint image, as training without caches must: 4 views, 1 source."""
    images = torch.rand(4, 3, *imagpose.view_size, device=imagpose.device)
    encode_latents(imagpose.vae, images)
    encode_tokens(imagpose.image_encoder, images[:1], imagpose.token_size)


def with_part(work: Callable[[], float], batch: int) -> tuple[float, int]:
    """Do `work` on batches of joint images; return its result, and how many it took at once in the end."""
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always", SmallerParts)
        result = work()
    sizes = [record.message.size for record in records if isinstance(record.message, SmallerParts)]
    return result, min([batch, *sizes])


def training_step(imagpose: IMAGPosePipeline, views: EncodedViews, settings: TrainSettings) -> float:
    """Return the median seconds of a training step; each waits for the device."""
    times = [time.perf_counter()]

    def log(done: int, values: dict[str, float]) -> None:
        times.append(time.perf_counter())
        if done == WARM_UP and imagpose.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()  # without the attempts that did not fit

    train(imagpose.denoiser, views, imagpose.scheduler, settings, 0, NoCheckpoints(), log=log)
    return float(np.median(np.diff(times)[WARM_UP:]))


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the second of two calls."""
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - start


def sample(
    imagpose: IMAGPosePipeline, views: EncodedViews, joints: int, poses: int, settings: SampleSettings
) -> int:
    """Draw `joints` joint images of `poses` target views each; returns the number of views."""
    points = np.concatenate([np.random.default_rng(1).uniform(0, 64, (18, 2)), np.ones((18, 1))], axis=1)
    targets = np.repeat(points[None].astype(np.float32), poses, axis=0)
    requests = [
        JointRequest(sources=(i % len(views.pids),), poses=targets, seeds=tuple(range(poses)))
        for i in range(joints)
    ]
    return sum(len(images) for images in imagpose.generate(views, requests, settings))


def peak_memory(device: torch.device) -> float:
    """Return the bytes at the peak: of the GPU's memory since it was last reset, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_flops(device: torch.device) -> tuple[float, str]:
    """Return the FLOP/s that the device can reach, and where the number comes from."""
    peak = cost.peak_flops(device)
    if peak is not None:
        return peak, "data sheet"
    size = 8192 if device.type == "cuda" else 1024
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    seconds = min(timed(lambda: matrix @ matrix, device) for _ in range(5))
    return 2 * size**3 / seconds, f"measured: bf16 product of {size}x{size} matrices"


def measure(view_size: tuple[int, int], device: torch.device, params: Params, compiled: bool) -> Result:
    """Measure all numbers of one size."""
    # 1. Sampling: whole batches of three target views each, and one image at a time, encoders included
    small = device.type == "cpu"
    imagpose = build(device, view_size, params)
    views = encode(imagpose, 4 if small else IMAGES)
    batch = 4 if small else 128
    imagpose.denoiser.eval().requires_grad_(False)
    few = {"steps": 2} if small else {"mixed_precision": "bf16"}
    sampling = params.generate.sample.model_copy(update=few | {"batch_size": batch})
    seconds, sample_part = with_part(
        lambda: timed(lambda: sample(imagpose, views, batch, 3, sampling), device), batch
    )
    single = sampling.model_copy(update={"batch_size": 1})
    naive = timed(lambda: sample(imagpose, encode(imagpose, 1), 1, 1, single), device)

    # 2. Training. It comes last because what is compiled stays so, and the stages sample with a denoiser that
    # is not.
    imagpose.denoiser.requires_grad_(True)
    changes = {"steps": 5 if small else 20, "flip": 0.0, "checkpoint_every": 1000, "compile": False}
    one = params.generator.train.model_copy(update=changes | {"batch_size": 1})
    naive_joint = training_step(imagpose, views, one) + timed(lambda: encode_joint(imagpose), device)
    whole = one.model_copy(update={"batch_size": batch, "compile": compiled})
    step, part = with_part(lambda: training_step(imagpose, views, whole), batch)
    memory = peak_memory(device)
    return Result(
        size=f"{view_size[0]}x{view_size[1]}",
        batch=batch,
        part=part,
        step=step,
        forward=cost.pipeline_flops(imagpose),
        memory=memory,
        naive_joint=naive_joint,
        sample_part=sample_part,
        sample_rate=3 * batch / seconds,
        naive_sample_rate=1 / naive,
    )


def view(text: str) -> tuple[int, int]:
    """Read the size of a view such as 128x64."""
    height, width = map(int, text.split("x"))
    return height, width


def in_parts(batch: int, part: int) -> str:
    """Say in what parts a batch was taken: "128", or "128 in 32s"."""
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
        cells = [
            r.size,
            in_parts(r.batch, r.part),
            f"{1000 * r.step:.0f} ms",
            f"{rate:.3g}",
            f"{cost.peak_share(r.forward, rate, peak):.0%}",
            f"{r.memory / 2**30:.1f} GiB",
            f"{1 / r.naive_joint:.3g}/s",
            f"{rate * r.naive_joint:.1f}x",
            in_parts(r.batch, r.sample_part),
            f"{r.sample_rate:.3g} images/s",
            f"{r.naive_sample_rate:.3g}",
            f"{r.sample_rate / r.naive_sample_rate:.1f}x",
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    stage_main(main)
