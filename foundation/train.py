"""Stage `foundation`: train base weights, from scratch or on from a saved pipeline.

The paper starts from Stable Diffusion and DINOv2, which cannot be had offline. This stage trains small models
of the same classes, in the same folder layout, on rendered people who appear in no split of the data set: a
VAE, an image encoder and an IMAGPose denoiser. The denoiser's loss may have a part for which a network is
trained that tells people apart. The stage reads profiles/foundation.yaml and writes the pipeline to the
folder that `output` names, with its settings, learning curves, scores and a contact sheet. Every model
resumes from its last checkpoint.

It takes hours, so it is frozen in dvc.yaml and its result, weights/embedded, is in git.
"""

import shutil
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ModelMixin
from torch import nn
from tqdm import tqdm
from transformers import Dinov2Model, PreTrainedModel

import common
import generator
import reid
from foundation.identity import train_identity
from foundation.models import assemble, first_models, follow_latents
from foundation.people import People, find_people
from foundation.perceptual import PerceptualDistance
from foundation.quality import measure
from foundation.settings import FoundationSettings, IdentitySettings
from foundation.vae import map_latents, train_vae
from generator.data import EncodedViews, encode_views
from generator.encoders import load_image_encoder, load_vae
from generator.identity import IdentityNetwork
from generator.model import IMAGPoseDenoiser
from generator.sample import IMAGPosePipeline
from generator.train import train
from generator.weights import load_model
from pipeline.artifacts import BASE_PHOTOGRAPHS
from pipeline.datasets.marks import save_composite
from pipeline.params import load
from pipeline.runtime.checkpoints import Checkpoints
from pipeline.runtime.curve import Curve
from pipeline.runtime.hashes import md5, model_hash
from pipeline.runtime.memory import keep_memory
from pipeline.runtime.outputs import atomic, write_csv, write_json
from pipeline.runtime.scratch import scratch
from pipeline.runtime.stage import command_line, stage_main
from reid.model import make_backbone
from reid.settings import BackboneSettings
from reid.train import train as train_bot

PROFILE = Path("profiles/foundation.yaml")
CURVE = "curve.csv"  # beside a trained model
_CODE = (
    __file__,
    *(
        str(Path(__file__).with_name(name))
        for name in ("identity.py", "models.py", "perceptual.py", "vae.py")
    ),
)


def main(profile: Path = PROFILE) -> None:
    """Run the stage with the settings in a file."""
    keep_memory()
    settings = load(profile, FoundationSettings)
    check_output(settings.output)
    imagpose = first_models(settings, profile)
    perceptual = make_perceptual(settings, profile)

    people, held_out, photographs = find_people(settings)
    folders = train_models(imagpose, perceptual, people, settings)
    with atomic(settings.output) as temporary:
        imagpose = assemble(
            load_vae(folders["vae"]),
            load_image_encoder(folders["image_encoder"]),
            load_model(IMAGPoseDenoiser, folders["denoiser"]),
            imagpose.scheduler,
            settings,
        )
        imagpose.to(torch.float16)
        imagpose.save_pretrained(temporary, safe_serialization=True)
        scores, sheet = measure(temporary, held_out, settings, folders.get("identity"))
        write_json({name: round(score, 3) for name, score in scores.items()}, temporary / "quality.json")
        save_composite(sheet, temporary / "contact_sheet.jpg")
        shutil.copy(profile, temporary / "settings.yaml")
        if photographs is not None:
            write_csv(photographs, temporary / BASE_PHOTOGRAPHS)
        for name, folder in folders.items():
            if (folder / CURVE).is_file():
                shutil.copy(folder / CURVE, temporary / f"curve_{name}.csv")


def check_output(folder: Path) -> None:
    """See that only a saved pipeline is replaced.

    Raises:
        ValueError: Something else is at the place of the output.
    """
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise ValueError(
            f"output is {folder}, which is there and holds no saved pipeline; name a new folder, or one that "
            "this stage wrote, because it is replaced whole."
        )


def train_models(
    imagpose: IMAGPosePipeline,
    perceptual: PerceptualDistance | None,
    people: People,
    settings: FoundationSettings,
) -> dict[str, Path]:
    """Train the models of a pipeline, except those that `keep` names.

    Each has a scratch folder named after everything that determines it, so a change of the denoiser's
    settings does not train the VAE again.

    Args:
        imagpose: The models that the training begins with; they are changed in place.
        perceptual: A part of the VAE's loss.
        people: Photos to learn.
        settings: Settings of the training.

    Returns:
        The folder that holds the trained or kept model, for vae, image_encoder, denoiser, and for identity
        where its network is a part of the loss.
    """
    key: dict[str, Any] = {"seed": settings.seed, "people": people.checksum(), "start": None}
    folders: dict[str, Path] = {}
    if settings.start:
        key["start"] = model_hash(settings.start)
        folders |= {name: settings.start / name for name in settings.keep}
    if "vae" not in folders:
        folders["vae"] = make_vae(imagpose, perceptual, people, settings, key)
    if "image_encoder" not in folders:
        folders["image_encoder"] = make_image_encoder(imagpose, people, settings, key)
    key |= {name: model_hash(folders[name]) for name in ("vae", "image_encoder")}
    views = cache(partial(encode_people, people, folders["vae"], folders["image_encoder"], settings))
    if settings.identity:
        folders["identity"] = make_identity(views, settings, settings.identity, key)
    folders["denoiser"] = make_denoiser(imagpose, views, folders, people, settings, key)
    return folders


def make_perceptual(settings: FoundationSettings, profile: Path) -> PerceptualDistance | None:
    """Make the distance that is a part of the VAE's loss; None where there is none, or the VAE is kept.

    Args:
        settings: Settings of the training.
        profile: File of the settings, for the sentences.

    Raises:
        FileNotFoundError: There are no weights.
        ValueError: The network cannot be made, or makes no feature maps.
    """
    chosen = settings.vae.perceptual
    if chosen is None or "vae" in settings.keep:
        return None
    try:
        network = BackboneSettings(
            backbone=chosen.backbone,
            channels=64,  # a ResNet's own
            weights=chosen.weights,
            last_stride=2,
            height=settings.height,
            width=settings.width,
        )
        return PerceptualDistance(make_backbone(network), settings.height, settings.width)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{profile}: vae.perceptual: {error}") from error


def make_vae(
    imagpose: IMAGPosePipeline,
    perceptual: PerceptualDistance | None,
    people: People,
    settings: FoundationSettings,
    key: dict[str, Any],
) -> Path:
    """Train the VAE, unless that is done, and return its folder."""
    network = md5(settings.vae.perceptual.weights) if settings.vae.perceptual else None
    folder = _model_scratch("vae", settings, ("vae",), key | {"perceptual": network})
    if not (folder / "model").is_dir():
        curve = Curve(folder / "curve.jsonl")
        vae = train_vae(
            imagpose.vae,
            people.images,
            settings.vae,
            settings.seed,
            Checkpoints(folder),
            log=_with_seconds(curve),
            perceptual=perceptual,
        )
        _save(vae, curve, folder / "model")
    return folder / "model"


def make_image_encoder(
    imagpose: IMAGPosePipeline, people: People, settings: FoundationSettings, key: dict[str, Any]
) -> Path:
    """Train the image encoder, unless that is done, and return its folder.

    It learns to tell people apart, because DINO's own training needs millions of images.
    """
    sections = ("image_encoder", "image_encoder_training")
    folder = _model_scratch("image_encoder", settings, sections, key)
    if not (folder / "model").is_dir():
        encoder = imagpose.image_encoder.requires_grad_(True)
        curve = Curve(folder / "curve.jsonl")
        train_bot(
            people.images,
            people.pids,
            np.zeros(len(people.pids), bool),
            settings.image_encoder_training,
            settings.seed,
            backbone=(TokenMap(encoder), 2 * settings.image_encoder.hidden_size),
            checkpoints=Checkpoints(folder),
            title="image encoder",
            log=_with_seconds(curve),
        )
        _save(encoder.eval(), curve, folder / "model")
    return folder / "model"


class TokenMap(nn.Module):
    """An image encoder as a backbone of BoT: at each patch, the class token and the patch's token.

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


def encode_people(
    people: People, vae: Path, image_encoder: Path, settings: FoundationSettings
) -> EncodedViews:
    """Pass every photo through the frozen encoders: latents, tokens and skeletons."""
    size = settings.height, settings.width
    with tqdm(total=len(people.pids), desc="encoding people", unit="image") as bar:
        return encode_views(
            people.images,
            people.keypoints,
            people.pids,
            load_vae(vae),
            load_image_encoder(image_encoder),
            view_size=size,
            token_size=size,
            flip=settings.train.flip > 0,
            batch_size=64,
            surroundings=settings.train.surroundings > 0,
            progress=bar.update,
        )


def make_identity(
    views: Callable[[], EncodedViews],
    settings: FoundationSettings,
    identity: IdentitySettings,
    key: dict[str, Any],
) -> Path:
    """Train the network that tells people apart, unless that is done, and return its folder.

    Args:
        views: Gives the encoded photos.
        settings: Settings of the training.
        identity: The network's part of them.
        key: Everything else that determines the result, for its scratch folder.
    """
    folder = _model_scratch("identity", settings, ("identity",), key)
    if not (folder / "model").is_dir():
        curve = Curve(folder / "curve.jsonl")
        network = train_identity(
            views(), identity, settings.seed, Checkpoints(folder), log=_with_seconds(curve)
        )
        _save(network, curve, folder / "model")
    return folder / "model"


def make_denoiser(
    imagpose: IMAGPosePipeline,
    views: Callable[[], EncodedViews],
    folders: dict[str, Path],
    people: People,
    settings: FoundationSettings,
    key: dict[str, Any],
) -> Path:
    """Train the whole of IMAGPose on encoded photos, unless that is done; return its folder.

    Args:
        imagpose: Pipeline with the denoiser to begin with and its noise schedule.
        views: Gives the encoded photos.
        folders: Folders of the trained VAE, and of the identity network if there is one.
        people: Photos to learn.
        settings: Settings of the training.
        key: Everything else that determines the result, for its scratch folder.
    """
    identity = folders.get("identity")
    folder = _model_scratch("denoiser", settings, ("unet", "denoiser", "train", "identity"), key)
    if not (folder / "model").is_dir():
        # Weights of `start` know the latents of its VAE
        denoiser = imagpose.denoiser
        if settings.start and "vae" not in settings.keep:
            maps = map_latents(load_vae(settings.start / "vae"), load_vae(folders["vae"]), people.images)
            denoiser = follow_latents(denoiser, *maps)
        curve = Curve(folder / "curve.jsonl")
        denoiser = train(
            denoiser,
            views(),
            imagpose.scheduler,
            settings.train,
            settings.seed,
            Checkpoints(folder),
            identity=load_model(IdentityNetwork, identity) if identity else None,
            identity_weight=settings.identity.weight if settings.identity else 0.0,
            log=_with_seconds(curve),
        )
        _save(denoiser, curve, folder / "model")
    return folder / "model"


def _model_scratch(
    model: str, settings: FoundationSettings, sections: tuple[str, ...], key: dict[str, Any]
) -> Path:
    """The scratch folder of a model that depends on these sections, and on `key`."""
    own = settings.model_dump(mode="json", include=set(sections))
    return scratch("foundation", *_CODE, common, generator, reid, model=model, settings=own, **key)


def _with_seconds(curve: Curve) -> Callable[[int, dict[str, float]], None]:
    """The curve's `log`, with the seconds that each step took, after the first of this process."""
    last: tuple[int, float] | None = None

    def log(step: int, values: dict[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        seconds = {"seconds": (now - last[1]) / (step - last[0])} if last else {}
        curve.log(step, values | seconds)
        last = step, now

    return log


def _save(model: ModelMixin | PreTrainedModel, curve: Curve, folder: Path) -> None:
    """Store a trained model in half precision, and its learning curve as a table."""
    with atomic(folder) as temporary:
        model.half().save_pretrained(temporary, safe_serialization=True)
        curve.table().to_csv(temporary / CURVE, index=False, float_format="%.5g")


if __name__ == "__main__":
    parser = command_line("train", __doc__, "foundation")
    parser.add_argument("--profile", type=Path, default=PROFILE, help="file of settings")
    stage_main(partial(main, parser.parse_args().profile))
