"""Settings of a training of base weights: the people, the architectures and schedules, the measurements."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.settings import Settings
from generator.settings import DenoiserSettings, SampleSettings, TrainSettings
from pipeline.params import Format, PosesSettings, Seed
from reid.settings import ReidSettings

SOURCES = 3  # source photos per held-out person in the measurements
POSES = 6  # target poses per held-out person in the measurements, or fewer where there are fewer photos
# Half of a held-out person's photos are for the judge; the others are sources, and at least one target.
LEAST_PHOTOS = 2 * (SOURCES + 1)

Channels = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    Field(strict=False, min_length=1, description="channels of each level, from high to low resolution"),
]
Layers = Annotated[int, Field(ge=1)]
Heads = Annotated[int, Field(ge=1)]
Groups = Annotated[
    int, Field(ge=1, description="groups of the group normalisation; they divide the channels")
]


def _check_groups(channels: tuple[int, ...], groups: int) -> None:
    for level in channels:
        if level % groups:
            raise ValueError(f"norm_groups is {groups}; expected a divisor of {level}, one of channels")


class PerceptualSettings(Settings):
    """A network that knows photographs, whose features a reconstruction should keep."""

    backbone: str = Field(
        pattern="^(torchvision|torchreid|timm):",
        description="torchvision:NAME, torchreid:NAME or timm:NAME, as reid.backbone of params.yaml",
    )
    weights: str = Field(description="file of its weights, as the library publishes it")
    weight: float = Field(gt=0, description="of the distance, where the error of the pixels has 1")


class VaeSettings(Settings):
    """A diffusers AutoencoderKL and its training."""

    unshuffle: int = Field(ge=1, description="k: blocks of k x k pixels become channels before the VAE")
    latent_channels: int = Field(
        ge=1, description="channels of the latent (Stable Diffusion: 4); may be more than those of start"
    )
    channels: Channels
    layers: Layers = Field(description="residual blocks per level")
    norm_groups: Groups
    steps: int = Field(ge=1, description="optimizer steps")
    batch_size: int = Field(ge=1, description="images per step")
    learning_rate: float = Field(gt=0, le=1, description="AdamW's largest rate; cosine decay to 0")
    warmup_steps: int = Field(ge=1, description="steps over which the learning rate rises linearly from 0")
    flip_probability: float = Field(ge=0, le=1, description="probability of a horizontal flip")
    max_grad_norm: float = Field(gt=0, description="gradients are clipped to this L2 norm")
    chroma_weight: float = Field(
        ge=0, description="weight of a colour's two differences; its brightness has weight 1"
    )
    perceptual: PerceptualSettings | None = Field(
        description="distance between feature maps, as part of the loss; null where no network is at hand"
    )
    kl_weight: float = Field(ge=0, description="weight of the KL divergence per latent value")
    checkpoint_every: int = Field(ge=1, description="steps between checkpoints")

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        _check_groups(self.channels, self.norm_groups)
        return self


class ImageEncoderSettings(Settings):
    """A transformers Dinov2Model; it is trained to tell identities apart, as a backbone of BoT."""

    hidden_size: int = Field(ge=1, description="width of a token")
    layers: Layers = Field(description="transformer layers")
    heads: Heads = Field(description="attention heads")
    patch_size: int = Field(ge=1, description="pixels per side of a patch (DINOv2: 14)")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"heads is {self.heads}; expected a divisor of hidden_size, {self.hidden_size}")
        return self


class IdentitySettings(Settings):
    """The network that tells people apart by their latents, and its training."""

    weight: float = Field(
        gt=0,
        description="of the distance between the features of predicted and true people, where the squared "
        "error has 1",
    )
    channels: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (
        Field(strict=False, description="channels of its three blocks")
    )
    steps: int = Field(ge=1, description="optimizer steps")
    identities_per_batch: int = Field(ge=2, description="P, different people in a batch")
    images_per_identity: int = Field(ge=2, description="K, latents of each of them")
    learning_rate: float = Field(gt=0, le=1, description="AdamW's largest rate; cosine decay to 0")
    warmup_steps: int = Field(ge=1, description="steps over which the learning rate rises linearly from 0")
    weight_decay: float = Field(ge=0, description="AdamW's weight decay")
    label_smoothing: float = Field(ge=0, lt=1, description="as reid.label_smoothing of params.yaml")
    triplet_margin: float = Field(ge=0, description="as reid.triplet_margin of params.yaml")
    noise: float = Field(ge=0, description="largest deviation of the noise that a latent gets")
    erasing_probability: float = Field(ge=0, le=1, description="probability that a part of a latent is black")
    checkpoint_every: int = Field(ge=1, description="steps between checkpoints")


class UnetSettings(Settings):
    """A diffusers UNet2DConditionModel and its noise schedule."""

    channels: Channels
    blocks: tuple[Literal["conv", "attention"], ...] = Field(
        strict=False, description="for each level, residual blocks alone or with cross-attention after each"
    )
    layers: Layers = Field(description="residual blocks per level")
    heads: tuple[Heads, ...] = Field(strict=False, description="attention heads at each level")
    cross_attention_dim: int = Field(ge=1, description="width of the condition tokens (SD 1.5: 768)")
    norm_groups: Groups
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = Field(
        description="noise schedule over 1000 steps"
    )
    prediction_type: Literal["epsilon", "v_prediction"] = Field(description="what the denoiser predicts")
    zero_terminal_snr: bool = Field(description="pure noise at the last step; needs v_prediction")

    @model_validator(mode="after")
    def _levels_agree(self) -> Self:
        _check_groups(self.channels, self.norm_groups)
        for name, entries in (("blocks", self.blocks), ("heads", self.heads)):
            if len(entries) != len(self.channels):
                raise ValueError(
                    f"{name} has {len(entries)} entries; expected {len(self.channels)}, as channels has"
                )
        for channels, heads in zip(self.channels, self.heads, strict=True):
            if channels % heads:
                raise ValueError(f"heads has {heads}; expected a divisor of that level's {channels} channels")
        if self.zero_terminal_snr and self.prediction_type == "epsilon":
            raise ValueError("zero_terminal_snr is true; expected false with prediction_type epsilon")
        return self


class RenderedSettings(Settings):
    """People that are rendered, with cameras of their own."""

    identities: int = Field(ge=2, description="people to train on")
    held_out_identities: int = Field(ge=2, description="people to measure on")
    images_per_identity: int = Field(ge=SOURCES + POSES, description="photos of each")
    cameras: int = Field(ge=1, description="cameras, none of them one of the data set's")
    camera_strength: float = Field(ge=0, le=1, description="how strongly they distort colours")


class PhotographedSettings(Settings):
    """People of a data set: all that it names, in whichever split; none may be in the data set of a run."""

    format: Format = Field(description="layout of the folder, as dataset.format of params.yaml")
    root: Path = Field(strict=False, description="folder of the data set")
    border: int = Field(ge=0, le=128, description="as dataset.border of params.yaml")
    poses: PosesSettings
    held_out_identities: int = Field(
        ge=2, description=f"people to measure on, of those with {LEAST_PHOTOS} photos or more"
    )


class FoundationSettings(Settings):
    """People to learn from, the three models to train on them, and how the result is measured."""

    seed: Seed
    output: Path = Field(strict=False, description="folder of the trained pipeline; it is replaced whole")
    start: Path | None = Field(
        strict=False,
        description="folder of a saved pipeline whose weights the training begins with; null = from scratch",
    )
    keep: tuple[Literal["vae", "image_encoder"], ...] = Field(
        strict=False, description="models of start that are not trained any further"
    )
    rendered: RenderedSettings | None = Field(description="people to render; null for photographs")
    photographed: PhotographedSettings | None = Field(description="photographs of people; null renders them")
    height: int = Field(ge=32, description="pixels")
    width: int = Field(ge=32, description="pixels")
    vae: VaeSettings
    image_encoder: ImageEncoderSettings
    image_encoder_training: ReidSettings
    identity: IdentitySettings | None = Field(
        description="network for a part of the denoiser's loss; null = no such part (paper)"
    )
    unet: UnetSettings
    denoiser: DenoiserSettings
    train: TrainSettings
    judge: ReidSettings
    sample: SampleSettings

    @model_validator(mode="after")
    def _people_are_of_one_kind(self) -> Self:
        if (self.rendered is None) == (self.photographed is None):
            which = "both are null" if self.rendered is None else "neither is null"
            raise ValueError(
                f"rendered and photographed: {which}; expected one of them, and null for the other"
            )
        return self

    @model_validator(mode="after")
    def _start_fits(self) -> Self:
        if self.start is None and self.keep:
            raise ValueError(f"keep is {list(self.keep)}; expected [], since start is null")
        if self.start == self.output:
            raise ValueError(f"output is {self.output}, which is start too; expected another folder")
        return self
