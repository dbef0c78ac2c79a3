"""Stage `foundation`: train the base models of the embedded run, on rendered people who appear in no split.

The paper starts from Stable Diffusion and DINOv2. Neither can be had offline, so this stage makes small
models of the same classes in the same folder layout: a VAE, an image encoder and an IMAGPose denoiser. It
takes hours, so it is frozen in dvc.yaml and its result, weights/embedded, is in git. Every part resumes
from its last checkpoint.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL, DDIMScheduler, ModelMixin, UNet2DConditionModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from PIL import Image
from pydantic import Field
from ruamel.yaml import YAML
from skimage.metrics import structural_similarity
from torch import nn
from tqdm import tqdm
from transformers import Dinov2Config, Dinov2Model, PreTrainedModel

import generator
import pipeline.world
import reid
from foundation.settings import ImageEncoderSettings, UnetSettings, VaeSettings
from foundation.vae import latent_map, psnr, reconstruct, train_vae
from generator.data import encode_views
from generator.encoders import load_image_encoder, load_vae
from generator.model import IMAGPoseDenoiser, load_denoiser
from generator.pose import draw_skeleton
from generator.sample import IMAGPosePipeline, JointRequest, load_pipeline
from generator.settings import DenoiserSettings, SampleSettings, TrainSettings
from generator.train import train
from generator.weights import load_model
from pipeline.datasets.marks import save_composite
from pipeline.params import Seed, Settings, load
from pipeline.runtime.checkpoints import Checkpoints
from pipeline.runtime.curve import Curve
from pipeline.runtime.memory import keep_memory
from pipeline.runtime.outputs import atomic, write_json
from pipeline.runtime.scratch import model_hash, scratch
from pipeline.runtime.stage import command_line, progress, stage_main
from pipeline.runtime.workers import worker_pool
from pipeline.world.shots import shots
from reid.data import normalise
from reid.settings import ReidSettings
from reid.train import train as train_bot

PARAMS = Path("profiles/foundation.yaml")
WEIGHTS = Path("weights/embedded")
POSES = 6  # target poses per held-out person in the measurements


class FoundationSettings(Settings):
    """People to learn from, the three models to train on them, and a judge."""

    seed: Seed
    start: Path | None = Field(
        strict=False,
        description="earlier result: its image encoder and a VAE of equal settings stay, the rest goes on",
    )
    identities: int = Field(ge=2, le=1_000_000, description="people to train on")
    held_out_identities: int = Field(ge=2, le=1_000_000, description="people to measure on")
    images_per_identity: int = Field(ge=9, le=1000, description="photos of each")
    cameras: int = Field(ge=1, le=1000, description="cameras, none of them one of the data set's")
    camera_strength: float = Field(ge=0, le=1, description="how strongly they distort colours")
    height: int = Field(ge=32, le=1024, description="pixels")
    width: int = Field(ge=32, le=1024, description="pixels")
    vae: VaeSettings
    image_encoder: ImageEncoderSettings
    image_encoder_training: ReidSettings
    unet: UnetSettings
    denoiser: DenoiserSettings
    train: TrainSettings
    sample: SampleSettings
    judge: ReidSettings


@dataclass(frozen=True)
class People:
    """Photos: uint8 `images` [N, H, W, 3], float32 `keypoints` [N, 18, 3], int64 `pids` [N]."""

    images: np.ndarray
    keypoints: np.ndarray
    pids: np.ndarray


def _photos(settings: FoundationSettings) -> dict[str, int | float]:
    """What the photos depend on, beside the renderer and who is in them."""
    names = ("seed", "cameras", "camera_strength", "height", "width")
    return {name: getattr(settings, name) for name in names}


def photograph(settings: FoundationSettings, first: int, count: int, each: int) -> People:
    """Render `each` photos of the people `first` to `first + count - 1`, once: then they are on the disk."""
    who = {"first": first, "count": count, "each": each}
    folder = scratch("people", __file__, pipeline.world, **who, **_photos(settings))
    if not (folder / "photos").is_dir():
        with worker_pool() as pool, atomic(folder / "photos") as temporary:
            temporary.mkdir()
            people = pool.map(partial(_shoot, settings, each), range(first, first + count), chunksize=8)
            images, keypoints = zip(*progress(people, count, "rendering people"), strict=True)
            np.save(temporary / "images.npy", np.concatenate(images))
            np.save(temporary / "keypoints.npy", np.concatenate(keypoints))
    images = np.load(folder / "photos" / "images.npy", mmap_mode="c")
    keypoints = np.load(folder / "photos" / "keypoints.npy")
    return People(images, keypoints, np.repeat(np.arange(count), each))


def _shoot(settings: FoundationSettings, each: int, pid: int) -> tuple[np.ndarray, np.ndarray]:
    camera = settings.height, settings.width, settings.camera_strength
    photos = shots(settings.seed, "foundation", pid, each, settings.cameras, *camera)
    return np.stack([photo.image for photo in photos]), np.stack([photo.keypoints for photo in photos])


class TokenMap(nn.Module):
    """An image encoder as a backbone of BoT: at each patch, the class token beside the patch's token.

    Both take part, so that identity reaches the patch tokens too, which the denoiser reads as F_H.
    """

    def __init__(self, encoder: Dinov2Model) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images [B, 3, H, W] to [B, 2 width, patches, 1]."""
        tokens = self.encoder(pixel_values=images).last_hidden_state
        patches = tokens[:, 1:]
        return torch.cat([tokens[:, :1].expand_as(patches), patches], dim=2).transpose(1, 2)[..., None]


def build_image_encoder(settings: FoundationSettings) -> Dinov2Model:
    """An untrained DINOv2 model."""
    shape = settings.image_encoder
    torch.manual_seed(settings.seed)
    return Dinov2Model(
        Dinov2Config(
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            patch_size=shape.patch_size,
            image_size=settings.height,
        )
    )


def build_denoiser(settings: FoundationSettings, latent_channels: int) -> IMAGPoseDenoiser:
    """An untrained denoiser on an untrained stock UNet."""
    shape = settings.unet
    torch.manual_seed(settings.seed)
    kinds = {
        "conv": ("DownBlock2D", "UpBlock2D"),
        "attention": ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"),
    }
    unet = UNet2DConditionModel(
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=shape.channels,
        layers_per_block=shape.layers,
        down_block_types=tuple(kinds[block][0] for block in shape.blocks),
        up_block_types=tuple(kinds[block][1] for block in reversed(shape.blocks)),
        cross_attention_dim=shape.cross_attention_dim,
        attention_head_dim=shape.heads,  # diffusers' name for the number of heads
        norm_num_groups=shape.norm_groups,
    )
    return IMAGPoseDenoiser.from_unet(
        unet, settings.image_encoder.hidden_size, settings.denoiser, settings.seed
    )


def build_scheduler(settings: UnetSettings) -> DDIMScheduler:
    """The one scheduler of training and sampling."""
    return DDIMScheduler(
        beta_schedule=settings.beta_schedule,
        beta_start=0.00085,  # Stable Diffusion's
        beta_end=0.012,
        prediction_type=settings.prediction_type,
        rescale_betas_zero_snr=settings.zero_terminal_snr,
        timestep_spacing="trailing" if settings.zero_terminal_snr else "leading",
        clip_sample=False,
        set_alpha_to_one=settings.zero_terminal_snr,
        steps_offset=0 if settings.zero_terminal_snr else 1,
    )


def make_vae(
    people: People, settings: FoundationSettings, folder: Path, start: AutoencoderKL | None = None
) -> None:
    """Train the VAE, from scratch or from a trained one, and save it."""
    curve = Curve(folder / "curve.jsonl")
    vae = train_vae(people.images, settings.vae, settings.seed, Checkpoints(folder), _timed(curve), start)
    _save(vae, curve, folder)


def make_image_encoder(people: People, settings: FoundationSettings, folder: Path) -> None:
    """Train the image encoder to tell people apart; DINO's own training needs millions of images."""
    encoder = build_image_encoder(settings)
    train_bot(
        people.images,
        people.pids,
        np.zeros(len(people.pids), bool),
        settings.image_encoder_training,
        settings.seed,
        backbone=(TokenMap(encoder), 2 * settings.image_encoder.hidden_size),
        checkpoints=Checkpoints(folder),
        title="image encoder",
    )
    _save(encoder.eval(), None, folder)


@torch.no_grad()
def move_latents(
    denoiser: IMAGPoseDenoiser, old: AutoencoderKL, new: AutoencoderKL, images: np.ndarray
) -> IMAGPoseDenoiser:
    """The denoiser of one VAE's latents for another's, by the linear maps between the two.

    Exact in what it reads of clean latents if a linear map takes the new ones to the old; noise and
    prediction are mapped alike. What the new latents say beyond the old ones it neither reads nor predicts
    yet.

    Args:
        denoiser: of the latents of `old`.
        old: a VAE.
        new: a VAE of the same scale; it may have another number of channels.
        images: uint8 [N, H, W, 3], for the maps.
    """
    (back, back_mean), (forth, _) = latent_map(new, old, images), latent_map(old, new, images)
    count, channels = back.shape
    unet_config = {**denoiser.config.unet_config, "in_channels": channels, "out_channels": channels}
    moved = IMAGPoseDenoiser.from_config(denoiser.config, unet_config=unet_config)
    weights = denoiser.state_dict()

    def read(weight: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ocij,cd->odij", weight, back)

    conv_in, bias = "unet.conv_in.conv.weight", "unet.conv_in.conv.bias"
    noisy, mask, visible = weights[conv_in].tensor_split([count, count + 1], dim=1)
    weights[conv_in] = torch.cat(
        [read(noisy), mask, read(visible) if denoiser.config.ilc else visible], dim=1
    )
    if denoiser.config.ilc:
        weights[bias] = weights[bias] + visible.sum((2, 3)) @ back_mean
    if denoiser.texture_tokenizer is not None:
        texture, bias = "texture_tokenizer.weight", "texture_tokenizer.bias"
        weights[bias] = weights[bias] + weights[texture].sum((2, 3)) @ back_mean
        weights[texture] = read(weights[texture])
    out = "unet.conv_out"
    weights[f"{out}.weight"] = torch.einsum("dc,coij->doij", forth, weights[f"{out}.weight"])
    weights[f"{out}.bias"] = forth @ weights[f"{out}.bias"]
    moved.load_state_dict(weights)
    return moved


def make_denoiser(
    people: People,
    settings: FoundationSettings,
    folder: Path,
    vae: Path,
    encoder: Path,
    start: Path | None = None,
) -> None:
    """Train the whole of IMAGPose, from scratch or from a denoiser, on cached latents and tokens; save it."""
    frozen = load_vae(vae), load_image_encoder(encoder)
    size = settings.height, settings.width
    with tqdm(total=len(people.pids), desc="encoding people", unit="image") as bar:
        views = encode_views(
            people.images,
            people.keypoints,
            people.pids,
            *frozen,
            view_size=size,
            token_size=size,
            flip=settings.train.flip > 0,
            batch_size=64,
            progress=bar.update,
        )
    curve = Curve(folder / "curve.jsonl")
    denoiser = build_denoiser(settings, frozen[0].config.latent_channels)
    if start:
        grow(denoiser, start)
    denoiser = train(
        denoiser,
        views,
        build_scheduler(settings.unet),
        settings.train,
        settings.seed,
        Checkpoints(folder),
        log=_timed(curve),
    )
    _save(denoiser, curve, folder)


def grow(denoiser: IMAGPoseDenoiser, folder: Path) -> None:
    """Give an untrained denoiser the weights of a trained one that it extends by attention at more levels.

    An attention block that is new adds nothing at first, so that it starts as the trained one.

    Raises:
        ValueError: the folder's denoiser has parts that this one lacks, or has in another shape.
    """
    weights, own = load_model(IMAGPoseDenoiser, folder).state_dict(), denoiser.state_dict()
    for name, tensor in weights.items():
        if name not in own or own[name].shape != tensor.shape:
            raise ValueError(f"{folder} has {name}, which {PARAMS} leaves out or has in another shape.")
    denoiser.load_state_dict(weights, strict=False)
    for name, module in denoiser.named_modules():
        if isinstance(module, Transformer2DModel) and f"{name}.proj_out.weight" not in weights:
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)


def _timed(curve: Curve) -> Callable[[int, dict[str, float]], None]:
    """The curve's `log`, with the seconds that each step took, after the first of this process."""
    last: tuple[int, float] | None = None

    def log(step: int, values: dict[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        seconds = {"seconds": (now - last[1]) / (step - last[0])} if last else {}
        curve.log(step, values | seconds)
        last = step, now

    return log


def _save(model: ModelMixin | PreTrainedModel, curve: Curve | None, folder: Path) -> None:
    """Store a trained model in half precision, and its learning curve as a table."""
    with atomic(folder / "model") as temporary:
        model.half().save_pretrained(temporary, safe_serialization=True)
        if curve:
            curve.table().to_csv(temporary / "curve.csv", index=False, float_format="%.5g")


def measure(
    weights: Path, people: People, settings: FoundationSettings
) -> tuple[dict[str, float], Image.Image]:
    """Generate people who were never trained on, from one to three sources, and compare with their photos.

    The judge is a re-ID model trained on half of these people's photos; sources and target poses come from
    the other half. Its top-1 says how often it names the right person for a generated image. Its ceilings are
    measured too: the photos that gave the target poses, as they are and after the VAE. SSIM compares a
    generated image with that photo, whose camera the generator does not know.

    Args:
        weights: a saved pipeline.
        people: twice `images_per_identity` photos of each.
        settings: of the judge and of the sampling.

    Returns:
        The scores, and a contact sheet: three sources, target pose, from one source, from three, photo.
    """
    parts = load_pipeline(weights)
    parts.denoiser.suit_device(parts.device)
    each, size = settings.images_per_identity, (settings.height, settings.width)
    # A person's photos are in the order of their cameras: each half sees all of them.
    known, people = (People(people.images[i::2], people.keypoints[i::2], people.pids[i::2]) for i in range(2))
    judge = train_bot(
        known.images,
        known.pids,
        np.zeros(len(known.pids), bool),
        settings.judge,
        settings.seed,
        title="judge",
    )
    views = encode_views(
        people.images,
        people.keypoints,
        people.pids,
        parts.vae,
        parts.image_encoder,
        view_size=size,
        token_size=size,
        flip=False,
        batch_size=64,
    )
    chosen = np.linspace(0, each - 1, 3 + POSES).astype(int)
    sources = chosen[[0, len(chosen) // 2, -1]]
    targets = np.setdiff1d(chosen, sources)
    wanted = (np.arange(len(people.pids)).reshape(-1, each)[:, targets]).ravel()
    photos, pids = people.images[wanted], people.pids[wanted]

    def top1(images: np.ndarray) -> float:
        with torch.inference_mode():
            named = [
                judge.classifier(judge(normalise(part))[1]).argmax(1)
                for part in torch.from_numpy(images).split(64)
            ]
        return 100 * float((torch.cat(named).numpy() == pids).mean())

    scores = {
        "vae_psnr": psnr(parts.vae, people.images),
        "judge_top1_photos": top1(photos),
        "judge_top1_vae": top1(reconstruct(parts.vae, photos)),
    }
    pictures = {}
    for count in (1, 2, 3):
        start = time.monotonic()
        requests = [
            JointRequest(
                tuple(first + sources[:count]), people.keypoints[first + group], tuple(first + group)
            )
            for first in range(0, len(people.pids), each)
            for group in np.split(targets, range(4 - count, POSES, 4 - count))
        ]
        images = np.concatenate(list(parts.generate(views, requests, settings.sample)))
        seconds = time.monotonic() - start
        similar = [structural_similarity(a, b, channel_axis=2) for a, b in zip(images, photos, strict=True)]
        suffix = f"{count}_source{'s' if count > 1 else ''}"
        scores[f"judge_top1_{suffix}"] = top1(images)
        scores[f"ssim_{suffix}"] = float(np.mean(similar))
        scores[f"seconds_per_image_{suffix}"] = seconds / len(images)
        pictures[count] = images
    rows = []
    for person in range(0, min(12, len(people.pids) // each)):
        first, made = person * each, person * POSES
        skeleton = draw_skeleton(people.keypoints[first + targets[0]], *size)
        cells = [*people.images[first + sources], skeleton, pictures[1][made], pictures[3][made]]
        rows.append(np.concatenate([*cells, photos[made]], axis=1))
    halves = [np.concatenate(rows[i::2]) for i in range(2)]
    return scores, Image.fromarray(np.concatenate(halves, axis=1))


def main() -> None:
    """Run the stage."""
    keep_memory()
    settings = load(PARAMS, FoundationSettings)
    people = photograph(settings, 0, settings.identities, settings.images_per_identity)
    strangers = photograph(
        settings, settings.identities, settings.held_out_identities, 2 * settings.images_per_identity
    )
    # Each part's scratch folder is named after what that part depends on, and on nothing else.
    uses = {
        "vae": ("vae",),
        "image_encoder": ("image_encoder", "image_encoder_training"),
        "denoiser": ("vae", "image_encoder", "image_encoder_training", "unet", "denoiser", "train"),
    }
    people_key = {**_photos(settings), "count": settings.identities, "each": settings.images_per_identity}
    key: dict[str, Any] = {"people": people_key}
    if settings.start:
        trained = ("denoiser",) if _check_start(settings) else ("vae", "denoiser")
        uses = {name: uses[name] for name in trained}
        key["start"] = model_hash(settings.start)
    folders = {
        name: scratch(
            "foundation",
            __file__,
            generator,
            reid,
            pipeline.world,
            part=name,
            settings=settings.model_dump(mode="json", include=set(used)),
            **key,
        )
        for name, used in uses.items()
    }
    models = {name: folder / "model" for name, folder in folders.items()}
    start, start_vae = None, None
    if settings.start:
        models = {name: settings.start / name for name in ("vae", "image_encoder")} | models
        start, start_vae = settings.start / "denoiser", load_vae(settings.start / "vae")
    if not models["vae"].is_dir():
        make_vae(people, settings, folders["vae"], start_vae)
    if not models["image_encoder"].is_dir():
        make_image_encoder(people, settings, folders["image_encoder"])
    if start and start_vae and "vae" in folders:
        moved = folders["denoiser"] / "start"
        if not moved.is_dir():
            vaes = start_vae, load_vae(models["vae"])
            with atomic(moved) as temporary:
                move_latents(load_model(IMAGPoseDenoiser, start), *vaes, people.images).save_pretrained(
                    temporary
                )
        start = moved
    if not models["denoiser"].is_dir():
        make_denoiser(people, settings, folders["denoiser"], models["vae"], models["image_encoder"], start)
    with atomic(WEIGHTS) as temporary:
        parts = IMAGPosePipeline(
            load_vae(models["vae"]),
            load_image_encoder(models["image_encoder"]),
            load_denoiser(
                models["denoiser"], settings.denoiser, settings.image_encoder.hidden_size, settings.seed
            ),
            build_scheduler(settings.unet),
            view_height=settings.height,
            view_width=settings.width,
            token_height=settings.height,
            token_width=settings.width,
        )
        parts.to(torch.float16)
        parts.save_pretrained(temporary, safe_serialization=True)
        scores, sheet = measure(temporary, strangers, settings)
        write_json({name: round(score, 3) for name, score in scores.items()}, temporary / "quality.json")
        save_composite(sheet, temporary / "contact_sheet.jpg")
        shutil.copy(PARAMS, temporary / "settings.yaml")
        curves = {name: [models[name] / "curve.csv"] for name in folders if name != "image_encoder"}
        if settings.start:
            history, earlier = temporary / "earlier", settings.start / "earlier"
            history.mkdir()
            for file in [*sorted(earlier.glob("*.yaml")), settings.start / "settings.yaml"]:
                shutil.copy(file, history / f"{len(list(history.iterdir())) + 1}.yaml")
            for name in ("vae", "denoiser"):
                curves[name] = [settings.start / f"curve_{name}.csv", *curves.get(name, [])]
        for name, files in curves.items():
            _joined(files).to_csv(temporary / f"curve_{name}.csv", index=False, float_format="%.5g")


def _check_start(settings: FoundationSettings) -> bool:
    """Whether the VAE of `start` is the one asked for.

    Raises:
        ValueError: its people or its image encoder are not.
    """
    file = (settings.start or Path()) / "settings.yaml"
    if not file.is_file():
        raise ValueError(f"{file} does not exist: start is no result of this stage; see the comment there.")
    earlier = YAML(typ="safe", pure=True).load(file)
    now = settings.model_dump(mode="json")
    for name in ("image_encoder", "image_encoder_training", *_photos(settings)):
        if earlier[name] != now[name]:
            raise ValueError(
                f"{name} is {now[name]} in {PARAMS}, but {earlier[name]} in {file}, whose models are kept; "
                "set it to that, or start to null."
            )
    return bool(earlier["vae"] == now["vae"])


def _joined(files: list[Path]) -> pd.DataFrame:
    """Learning curves one after the other; the steps count on."""
    joined = pd.read_csv(files[0])
    for file in files[1:]:
        following = pd.read_csv(file)
        joined = pd.concat([joined, following.assign(step=following.step + joined.step.max())])
    return joined


if __name__ == "__main__":
    command_line("foundation", __doc__).parse_args()
    stage_main(main)
