"""Settings of a BoT training: typed, checked, and readable without a tensor library."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from common.settings import Settings

# A model of a library has the name that the library gives it, for timm with the tag of its weights.
BACKBONE = r"resnet10|resnet50|given|(torchvision|torchreid|timm):[a-z0-9][a-zA-Z0-9_.-]*"


class BackboneSettings(Settings):
    """A network that makes features of images, and the size of the images."""

    backbone: str = Field(
        description="BoT: resnet50; resnet10 is a small one for CPUs; torchvision:NAME, torchreid:NAME or "
        "timm:NAME is a model of that library; given = a module that the caller passes"
    )
    backbone_options: dict[str, Any] = Field(
        default={},
        description="keyword arguments for a model of torchvision or timm, such as drop_path_rate: 0.1",
    )
    channels: int = Field(
        ge=8, le=64, description="channels of the first stage of resnet10; a ResNet's own number is 64"
    )
    weights: str | None = Field(
        description="file of pretrained weights as the backbone's library publishes it (.pth, .bin or "
        ".safetensors); null = from scratch"
    )
    last_stride: Literal[1, 2] = Field(
        description="stride of a ResNet's last stage (BoT: 1; its own is 2); other networks have none"
    )
    height: int = Field(ge=32, le=1024, description="input height, pixels (BoT: 256)")
    width: int = Field(ge=16, le=1024, description="input width, pixels (BoT: 128)")

    @model_validator(mode="after")
    def _check_backbone(self) -> Self:
        if not re.fullmatch(BACKBONE, self.backbone):
            raise ValueError(
                f"backbone is {self.backbone!r}; expected resnet10, resnet50, torchvision:NAME, "
                "torchreid:NAME or timm:NAME"
            )
        if self.backbone == "resnet50" and self.channels != 64:
            raise ValueError(
                f"channels is {self.channels}, but resnet50 has 64 in its first stage; set channels to 64"
            )
        if self.backbone == "resnet10" and self.weights is not None:
            raise ValueError(
                f"weights is {self.weights}, but resnet10 is trained from scratch; set weights to null"
            )
        loads = [name for name in self.backbone_options if re.match("pretrained|weights|checkpoint", name)]
        if loads:
            raise ValueError(
                f"backbone_options has {loads[0]}; take it out, since weights come from the file that the "
                "key weights names"
            )
        if self.backbone_options and ":" not in self.backbone:
            raise ValueError(f"backbone_options are given, but {self.backbone} takes none; set them to {{}}")
        return self


class ReidSettings(BackboneSettings):
    """Everything that determines a trained model, apart from the images and the seed.

    "BoT" in the descriptions is reid-strong-baseline's published value for Market-1501 (Luo et al., "Bag of
    Tricks and a Strong Baseline for Deep Person Re-identification", CVPRW 2019).

    The length of training is `iterations`, whatever the number of images, so that arms with and without
    generated images train equally long. The schedule keeps BoT's unit, the epoch, as a share of that length:
    one epoch is `iterations / epochs` iterations.
    """

    bnneck: bool = Field(
        description="batch normalisation between the triplet feature and the classifier (BoT: true)"
    )
    test_feature: Literal["after", "before"] = Field(
        default="after",
        description="feature that images are compared by: after or before BNNeck (BoT: after)",
    )

    flip_probability: float = Field(ge=0, le=1, description="probability of a horizontal flip (BoT: 0.5)")
    padding: int = Field(ge=0, description="black border before the random crop, pixels (BoT: 10 at 256x128)")
    erasing_probability: float = Field(
        ge=0, le=1, description="probability of random erasing, 0 = off (BoT: 0.5)"
    )
    erasing_area: tuple[Annotated[float, Field(gt=0, lt=1)], Annotated[float, Field(gt=0, lt=1)]] = Field(
        strict=False, description="smallest and largest erased share of the image (BoT: 0.02, 0.4)"
    )
    erasing_ratio: float = Field(
        gt=0, le=1, description="smallest height/width erased; its inverse is the largest (0.3)"
    )

    identities_per_batch: int = Field(ge=2, description="P, different identities in a batch (BoT: 16)")
    images_per_identity: int = Field(
        ge=1, description="K, images of each of them (BoT: 4); at least 2 with a triplet loss"
    )
    iterations: int = Field(
        ge=1, description="training iterations (BoT on Market-1501: 120 epochs x 183 = 21960)"
    )
    epochs: int = Field(ge=1, description="schedule epochs that these iterations are divided into (BoT: 120)")
    warmup_epochs: int = Field(ge=0, description="epochs of linear warm-up, 0 = off (BoT: 10)")
    warmup_factor: float = Field(
        gt=0, le=1, description="share of the learning rate where warm-up starts (BoT: 0.01)"
    )
    schedule: Literal["steps", "cosine"] = Field(
        default="steps",
        description="learning rate after warm-up: down at each milestone (BoT), or along half a cosine",
    )
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        strict=False, description="of steps: epochs that lower the learning rate (BoT: 40, 70)"
    )
    gamma: float = Field(gt=0, le=1, description="of steps: factor at each milestone (BoT: 0.1)")
    cosine_floor: float = Field(
        default=0.0, ge=0, lt=1, description="of cosine: share of the learning rate where it ends"
    )
    frozen_epochs: int = Field(
        default=0, ge=0, description="first epochs, in which the backbone is not trained (BoT: 0; OSNet: 10)"
    )
    optimizer: Literal["adam", "amsgrad", "adamw", "sgd"] = Field(
        default="adam", description="BoT: adam; OSNet: amsgrad; TransReID: sgd"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    learning_rate: float = Field(gt=0, le=1, description="learning rate after warm-up (BoT: 3.5e-4)")
    weight_decay: float = Field(
        ge=0, le=1, description="L2 penalty (BoT: 5e-4); of adamw, the decoupled weight decay"
    )

    label_smoothing: float = Field(
        ge=0, lt=1, description="smoothing of the cross-entropy, 0 = off (BoT: 0.1)"
    )
    triplet_weight: float = Field(ge=0, description="weight of the batch-hard triplet loss, 0 = off (BoT: 1)")
    triplet_margin: float | None = Field(
        ge=0,
        description="margin, in units of feature distance (BoT: 0.3); null = the soft margin, ln(1 + e^x)",
    )
    center_weight: float = Field(ge=0, description="weight of the center loss, 0 = off (BoT: 5e-4)")
    center_learning_rate: float = Field(gt=0, le=1, description="SGD learning rate of the centers (BoT: 0.5)")

    mixed_precision: Literal["auto", "bf16", "no"] = Field(
        description="precision of the backbone, in training and evaluation; auto: bf16 on devices that "
        "compute with it, else no"
    )
    evaluation_batch: int = Field(ge=1, le=65_536, description="images per batch when features are extracted")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        low, high = self.erasing_area
        if low > high:
            raise ValueError(f"erasing_area is {[low, high]}; expected the smallest share, then the largest")
        if self.padding >= min(self.height, self.width):
            shorter = min(self.height, self.width)
            raise ValueError(
                f"padding is {self.padding}; expected less than {shorter}, the shorter side of the input, or "
                "a crop misses the image"
            )
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}; expected at most epochs, {self.epochs}")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones are {self.milestones}; they must be epochs in ascending order")
        if self.images_per_identity < 2 and self.triplet_weight:
            raise ValueError(
                f"images_per_identity is {self.images_per_identity}; expected at least 2, since "
                "triplet_weight is not 0 and a triplet has two images of a person"
            )
        if self.frozen_epochs > self.epochs:
            raise ValueError(f"frozen_epochs is {self.frozen_epochs}; expected at most epochs, {self.epochs}")
        return self


class Mix(Settings):
    """How real and synthetic images are mixed in the batches of a training."""

    rate: float = Field(
        default=0.4,
        gt=0,
        description="how often a synthetic image is drawn for a real one; 1 mixes all images uniformly",
    )
    own_norms: bool = Field(
        default=False,
        description="batch norms of their own for synthetic images in training; the test has those of the "
        "real ones (AdvProp, Xie et al., CVPR 2020)",
    )
