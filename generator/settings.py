"""Settings of the generator: typed and immutable, and readable without a tensor library."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from common.settings import MixedPrecision, Probability, Settings

Condition = Literal["features", "image"]
Channels = Annotated[int, Field(ge=1)]
MOST_IMAGES = 65_536  # in a batch; a larger number is a slip that no memory holds


class DenoiserSettings(Settings):
    """The parts that IMAGPose adds to a stock UNet; Table 2's ablations B0 to B4 are its three switches."""

    cva: bool = Field(description="cross-view attention after every cross-attention (B1, B3)")
    flc_texture: bool = Field(description="F_L: VAE latents of the source as tokens next to F_H (B2, B4)")
    ilc: bool = Field(description="F_I: latents of the visible views as input channels (B3, B4)")
    texture_patch: int = Field(
        ge=1,
        description="latent pixels per side of a texture token (paper 16; it must divide the latent)",
    )
    cva_heads: int = Field(ge=1, description="attention heads of a cross-view block (AnimateDiff: 8)")
    cva_layers: int = Field(ge=1, description="transformer layers of a cross-view block")
    pose_channels: tuple[Channels, ...] = Field(
        strict=False,
        min_length=2,
        description="channels of the pose encoder, halving the resolution from one to the next; ControlNet's "
        "are 16, 32, 96, 256, which reach the 1/8 of Stable Diffusion's latents",
    )
    stack_views: bool = Field(
        description="M1 of Table 7: the UNet sees the views one by one, stacked along the batch, and not as "
        "one joint image; only CVA connects them"
    )

    def check_saved(self, folder: Path, config: dict[str, Any], encoder_width: int) -> None:
        """Raise a ValueError unless a saved denoiser's weights can serve these settings.

        A part that the denoiser has and the settings switch off is no mistake: it is left out.

        Args:
            folder: Folder of the saved denoiser, for the message.
            config: Content of its config.json.
            encoder_width: Width of the image encoder's tokens.
        """
        settings = self.model_dump(mode="json", exclude={"stack_views"}) | {"encoder_width": encoder_width}
        for name, value in settings.items():
            is_left_out = name in ("cva", "flc_texture", "ilc") and not value
            if config.get(name) != value and not is_left_out:
                raise ValueError(
                    f"{folder} was saved with {name} {config.get(name)}, where the settings say {value}."
                )


def check_stock_unet(folder: Path, config: dict[str, Any]) -> None:
    """Raise a ValueError if a UNet, by its config.json, takes conditions that nothing here makes."""
    for name in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type"):
        if config.get(name) is not None:
            raise ValueError(
                f"{folder} holds a UNet with {name} {config[name]!r}, where one without is needed, "
                "such as Stable Diffusion 1.5 and 2.1 have."
            )


class SchedulerSettings(Settings):
    """Changes to the base model's scheduler_config.json; null keeps its value.

    One scheduler serves training and sampling; the authors' code trains on one and samples on another.
    """

    prediction_type: Literal["epsilon", "v_prediction"] | None = Field(
        description="what the denoiser predicts"
    )
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] | None = Field(
        description="noise schedule (the paper says linear; Stable Diffusion's is scaled_linear)"
    )
    zero_terminal_snr: bool | None = Field(
        description="rescale the betas to pure noise at the last step (Lin et al. 2024); needs v_prediction"
    )

    @model_validator(mode="after")
    def _noise_is_no_target(self) -> Self:
        if self.zero_terminal_snr and self.prediction_type == "epsilon":
            raise ValueError(
                "zero_terminal_snr is true; expected false or null, with prediction_type epsilon"
            )
        return self


class TrainSettings(Settings):
    """One training run of the denoiser."""

    steps: int = Field(ge=1, description="optimizer steps (paper 300,000)")
    batch_size: int = Field(
        ge=1, le=MOST_IMAGES, description="joint images per step over all processes (paper 8 GPUs x 4)"
    )
    learning_rate: float = Field(
        gt=0, le=1, description="AdamW's rate between warm-up and decay (paper 5e-5)"
    )
    weight_decay: float = Field(ge=0, le=1, description="AdamW's weight decay (paper 0.01)")
    warmup_steps: int = Field(ge=0, description="steps over which the learning rate rises linearly from 0")
    decay_steps: int = Field(
        ge=0,
        description="last steps, over which the learning rate falls linearly to 0 (paper 0)",
    )
    max_grad_norm: float = Field(gt=0, description="gradients are clipped to this L2 norm")
    ema_decay: float = Field(
        ge=0, lt=1, description="decay of the moving average of the weights, which is the result"
    )
    mixed_precision: MixedPrecision = Field(
        description="autocast precision; auto: bf16 on devices that compute with it, else no"
    )
    compile: bool = Field(
        description="compile the denoiser with torch.compile: minutes at first, then faster steps; "
        "on a CPU it needs a C++ compiler"
    )
    gradient_checkpointing: bool = Field(
        description="compute activations again in the backward pass instead of keeping them: a third more "
        "work, for sizes whose batch does not fit into memory"
    )
    masked_views: tuple[Annotated[int, Field(ge=1, le=4)], Annotated[int, Field(ge=1, le=4)]] = Field(
        strict=False, description="least and most masked views of the four, drawn uniformly (paper 1, 4)"
    )
    drop_features: Probability = Field(
        description="share of samples without F_C, for classifier-free guidance"
    )
    drop_image: Probability = Field(description="share of samples without F_I, for classifier-free guidance")
    flip: Probability = Field(description="share of samples whose four views are all mirrored")
    surroundings: Probability = Field(
        default=0.0,
        description="share of samples whose masked views show what is around their person (paper: none)",
    )
    min_snr_gamma: float | None = Field(
        gt=0,
        description="clip of the loss weight (Hang et al. 2023: 5); null weighs all timesteps alike (paper)",
    )
    noise_offset: float = Field(
        ge=0,
        le=1,
        description="deviation of a further draw of noise, one number per channel of the whole joint latent, "
        "so that brightness is learnt too (Guttenberg 2023); 0 = none (paper)",
    )
    checkpoint_every: int = Field(ge=1, description="steps between checkpoints")

    def share(self, num_processes: int) -> int:
        """Return the number of joint images of a batch that each process works on.

        Raises:
            ValueError: The processes cannot share a batch evenly.
        """
        if self.batch_size % num_processes:
            raise ValueError(
                f"batch_size is {self.batch_size}, which {num_processes} processes cannot share evenly."
            )
        return self.batch_size // num_processes

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.masked_views[0] > self.masked_views[1]:
            raise ValueError(
                f"masked_views is {list(self.masked_views)}, where the least must not exceed the most"
            )
        return self


class SampleSettings(Settings):
    """How images are drawn from the denoiser."""

    steps: int = Field(ge=1, le=1000, description="DDIM steps (paper 20)")
    guidance_scale: float = Field(ge=1, description="w of Eq. 5 (paper 2.0); 1 is no guidance")
    guidance_drop: tuple[Condition, ...] = Field(
        strict=False,
        min_length=1,
        max_length=2,
        description="conditions that the null branch of Eq. 5 goes without (paper: both)",
    )
    guidance_share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of the steps that are guided, from the noisiest on (paper: 1)",
    )
    batch_size: int = Field(ge=1, le=MOST_IMAGES, description="joint images per batch")
    mixed_precision: MixedPrecision = Field(description="autocast precision; auto as in training")

    @property
    def guided_steps(self) -> int:
        """Number of steps, from the first on, that have a null branch."""
        return round(self.guidance_share * self.steps) if self.guidance_scale > 1 else 0

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.guidance_drop)) < len(self.guidance_drop):
            raise ValueError(f"guidance_drop is {list(self.guidance_drop)}; expected each condition once")
        return self
