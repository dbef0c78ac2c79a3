"""The typed form of params.yaml: every key checked before a stage spends time on it, every mistake named."""

import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from common.settings import Settings
from generator.fit import Config, Design, Misfit, misfits
from generator.settings import MOST_IMAGES, DenoiserSettings, SampleSettings, SchedulerSettings, TrainSettings
from pipeline.artifacts import SECTION_JUDGE, WORLD, is_standard, standard_of
from pipeline.world.settings import WorldSection, WorldSettings
from reid.settings import Mix, ReidSettings

T = TypeVar("T", bound=BaseModel)

Seed = Annotated[int, Field(ge=0, lt=2**32, description="seed of the section's random draws")]
TrainOn = Literal["all", "subset"]  # what a generator may see of the real training images
_TRAIN_ON = get_args(TrainOn)
Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_-]*$")]  # of a recipe, and of its files
BaselineKind = Literal["pasted", "rendered"]
Format = Literal["market1501", "msmt17", "table", "deepfashion"]  # keys of pipeline/datasets/formats.py


class ParamsError(ValueError):
    """params.yaml cannot be used; the message has one sentence per mistake."""


class DatasetSettings(Settings):
    """The data set that every stage works on."""

    name: str = Field(min_length=1, max_length=60, description="what the reports call it")
    format: Format = Field(
        description="layout of the folder: Market-1501's, MSMT17's, any with a table images.csv, or "
        "DeepFashion's with PATN's pairs and keypoints"
    )
    root: Path = Field(strict=False, description="folder of the data set, in that format")
    height: int = Field(ge=32, le=1024, description="pixels of a view; images of another height are resized")
    width: int = Field(ge=32, le=1024, description="pixels of a view; images of another width are resized")
    border: int = Field(
        ge=0,
        le=128,
        description="columns of a view on each side that are no image: filled before the generator and cut "
        "off after it; 0 resizes images to the view",
    )

    @model_validator(mode="after")
    def _image_is_left(self) -> Self:
        if 2 * self.border >= self.width:
            raise ValueError(f"border is {self.border} on each side; expected less than half of {self.width}")
        return self


class CrossSettings(Settings):
    """Another data set, on whose people the re-ID models are tested."""

    root: Path = Field(strict=False, description="folder of the data set")
    format: Format = Field(default="market1501", description="layout of the folder, as dataset.format")


class IndexSettings(Settings):
    """Which training identities are held out to make choices on."""

    validation_identities: int = Field(ge=0, description="training identities that are held out")
    seed: Seed


class PosesSettings(Settings):
    """Where keypoints come from."""

    source: Literal[
        "annotations", "openpose", "mediapipe", "vitpose", "openpose_json", "coco_json", "pose_transfer"
    ] = Field(
        description="a table of keypoints (annotations), a detector (openpose, mediapipe, vitpose), or "
        "files of other tools"
    )
    path: Path = Field(
        strict=False,
        description="what the source reads: the file or folder of keypoints, or of the detector's model",
    )
    min_score: float | None = Field(
        ge=0,
        le=1,
        description="keypoints with a lower score do not count; null: 0.5 of mediapipe, 0.3 of vitpose and "
        "coco_json, else 0",
    )
    allow_missing: bool = Field(
        description="true counts an image that a file of keypoints does not list as one without a person; "
        "false refuses the file"
    )


class SubsetSettings(Settings):
    """The shares of the real training images."""

    percents: tuple[Annotated[int, Field(ge=1, le=100)], ...] = Field(
        strict=False, min_length=1, description="percent of the training images, increasing"
    )
    seed: Seed

    @model_validator(mode="after")
    def _increasing(self) -> Self:
        if list(self.percents) != sorted(set(self.percents)):
            raise ValueError(f"percents are {list(self.percents)}; expected increasing numbers")
        return self


class PlanSettings(Settings):
    """Which synthetic images are made of whom, in which pose."""

    sources: int = Field(
        ge=1, le=3, description="source images per synthetic image, fewer where there are fewer"
    )
    poses_per_joint: int = Field(ge=1, le=3, description="synthetic images made at once in one joint image")
    min_keypoints: int = Field(ge=1, le=18, description="visible keypoints that a target pose must have")
    seed: Seed

    @model_validator(mode="after")
    def _fits_the_joint_image(self) -> Self:
        most = 4 - self.poses_per_joint
        if self.sources > most:
            raise ValueError(
                f"sources is {self.sources}; expected at most {most}, since a joint image has four views and "
                f"poses_per_joint is {self.poses_per_joint}"
            )
        return self


class ReidSection(ReidSettings):
    """How re-ID models are trained, and how often: one model per arm, percent and seed."""

    seeds: tuple[Seed, ...] = Field(
        strict=False, min_length=1, description="seeds of the trainings; arms are paired by them"
    )
    evaluate_on: Literal["test", "validation"] = Field(
        description="validation (needs index.validation_identities) is for choices, test for the table"
    )
    rerank: bool = Field(description="also rank with k-reciprocal re-ranking (Zhong et al. 2017)")
    rerank_k1: int = Field(ge=1, description="neighbours that describe an image")
    rerank_k2: int = Field(ge=1, description="nearest images over which these are averaged")
    rerank_lambda: float = Field(ge=0, le=1, description="share of the original distance")
    checkpoint_every: int = Field(ge=1, description="iterations between checkpoints of a model in training")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {list(self.seeds)}; expected each once")
        if self.backbone == "given":
            raise ValueError(
                "backbone is given; expected resnet10 or resnet50, or a model of torchvision, torchreid or "
                "timm, which the pipeline can make"
            )
        return self


class _Overrides(Settings):
    """Settings of which only those count that are given."""

    @model_serializer(mode="wrap")
    def _given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "object", "description": "settings of the section reid, in place of its own"}


# Another judge: any settings of how a model is made and trained, but none of how all are tested. Types and
# ranges are those of the section reid.
if TYPE_CHECKING:
    JudgeSettings = _Overrides
else:
    JudgeSettings = create_model(
        "JudgeSettings",
        __base__=_Overrides,
        **{
            name: (Annotated[field.annotation, Field(), *field.metadata], None)
            for name, field in ReidSection.model_fields.items()
            if name in ReidSettings.model_fields or name == "checkpoint_every"
        },
    )


class GeneratorSection(Settings):
    """The generator: where it starts, what it is made of, and how it is fine-tuned."""

    base: Path = Field(
        strict=False, description="diffusers folder with vae/, scheduler/, and denoiser/ or unet/"
    )
    image_encoder: Path = Field(strict=False, description="transformers folder of a DINOv2 or CLIP")
    token_height: int = Field(ge=14, le=1024, description="height of the image encoder's input, pixels")
    token_width: int = Field(ge=14, le=1024, description="width of the image encoder's input, pixels")
    encode_batch: int = Field(ge=1, le=MOST_IMAGES, description="images at once through the frozen encoders")
    train_on: tuple[TrainOn, ...] = Field(
        strict=False,
        max_length=2,
        description="all = one generator for all real training images (the paper's protocol); "
        "subset = one per subset that sees nothing else (leak-free); empty = no IMAGPose at all",
    )
    denoiser: DenoiserSettings
    scheduler: SchedulerSettings
    train: TrainSettings
    seed: Seed

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.train_on)) < len(self.train_on):
            raise ValueError(f"train_on is {list(self.train_on)}; expected each once")
        return self

    @property
    def denoiser_folder(self) -> Path:
        """Folder of the base model's denoiser: denoiser/ of a saved pipeline, unet/ of Stable Diffusion."""
        return self.base / ("denoiser" if (self.base / "denoiser").is_dir() else "unet")


class GenerateSection(Settings):
    """How synthetic images are drawn and stored."""

    sample: SampleSettings
    surroundings: bool = Field(
        default=False,
        description="true: what is around the person is that of the image that lends the pose, so that "
        "images look like those of its camera; needs generator.train.surroundings above 0 (paper: false)",
    )
    jpeg_quality: int = Field(ge=50, le=100, description="quality of the JPEGs")


class ImportSettings(Settings):
    """Images that another generator made, taken in as data/synthetic/<its key>."""

    folder: Path = Field(
        strict=False,
        description="folder of images for every subset, or with a folder per percent: 20/, 40/, ...",
    )
    jobs: bool = Field(
        default=False,
        description="true: the folder has the jobs of `python -m tools.jobs` and their results, one for each "
        "planned image",
    )


class BaselineSettings(Settings):
    """Images that no learned generator made, by the plan, as data/synthetic/<its key>."""

    kind: BaselineKind = Field(
        description="pasted: the source's person in place of the person who lends the pose; rendered: the "
        "world's own people in the planned poses, through any of its cameras, as a perfect generator would "
        "make them"
    )


class FilterSettings(Settings):
    """Those images of a generator that show the right person, as data/synthetic/<its key>."""

    generator: str = Field(description="all, subset, or a key of imports: whose images are looked at")
    min_agreement: float = Field(
        ge=0, le=1, description="share of the other identities that an image must resemble less than its own"
    )


class ScoresSettings(Settings):
    """How generated images are compared with photographs of people whom the generator never saw."""

    identities: Literal["validation", "test"] = Field(
        description="whose photographs; validation (needs index.validation_identities) leaves the test alone"
    )
    sources: int = Field(ge=1, description="source images, each with up to 3 target poses; without pairs")
    pairs: Path | None = Field(
        strict=False, description="table with the columns from and to, image names; null draws the pairs"
    )
    height: int = Field(ge=16, le=1024, description="pixels at which images are compared")
    width: int = Field(ge=16, le=1024, description="pixels at which images are compared")
    lpips_backbone: Literal["alex", "vgg"] = Field(description="network of LPIPS")
    lpips_weights: Path | None = Field(strict=False, description="torchvision's file of that network")
    fid_weights: Path | None = Field(
        strict=False, description="pytorch-fid's or torchvision's Inception file"
    )
    batch_size: int = Field(ge=1, le=MOST_IMAGES, description="images at once through these networks")
    seed: Seed


_NUMBERS = ("to", "images", "ratio")  # keys of an arm, of which one says how many images it has


class ArmSettings(Mix):
    """One recipe for training re-ID models with synthetic images; its name is its key."""

    generator: str = Field(
        description="whose images: all or subset (IMAGPose by what it was trained on, one of "
        "generator.train_on), or a key of imports or filters"
    )
    to: int | None = Field(
        default=None,
        ge=2,
        description="as many synthetic images as bring real and synthetic ones together to this percentage "
        "of all training images; 100 where neither images nor ratio is given (Table 4)",
    )
    images: float | None = Field(
        default=None, gt=0, le=10_000, description="synthetic images, in percent of all training images"
    )
    ratio: float | None = Field(default=None, gt=0, le=100, description="synthetic images per real one")
    repeat_real: bool = Field(
        default=False,
        description="control: the real image that each synthetic one was made from, repeated in its place",
    )
    judge: str | None = Field(
        default=None, description="key of judges: the model to train; null is that of the section reid"
    )

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        given = [f"{name} is {value}" for name in _NUMBERS if (value := getattr(self, name)) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}; expected one of them, which says how many images")
        return self

    @property
    def fills_to(self) -> int | None:
        """The percentage to which the arm fills a subset up; None if its number is given in another way."""
        return None if self.images is not None or self.ratio is not None else self.to or 100

    def count(self, real: int, all_real: int) -> int:
        """Return the number of synthetic images, at most, beside so many real ones.

        Args:
            real: Real images of the subset.
            all_real: All real training images.
        """
        if self.fills_to is not None:
            return max(0, all_real * self.fills_to // 100 - real)
        share = self.images * all_real / 100 if self.images is not None else (self.ratio or 0) * real
        return max(1, round(share))


class ContactSheetsSettings(Settings):
    """The pictures of what was generated."""

    rows: int = Field(ge=1, le=50, description="generated images per sheet")
    seed: Seed


class ReportSettings(Settings):
    """How much the page to look at shows."""

    identities: int = Field(ge=1, le=50, description="identities in each gallery")
    images_per_identity: int = Field(ge=1, le=30, description="generated images of each identity")
    queries: int = Field(ge=1, le=50, description="queries per arm that augmentation won, lost and failed")
    seed: Seed


class StudySettings(Settings):
    """How long the questionnaire of a user study is."""

    real: int = Field(ge=1, le=1000, description="real images to judge")
    generated: int = Field(ge=1, le=1000, description="generated images to judge, of each method")
    comparisons: int = Field(ge=0, le=1000, description="choices of the best among the methods")
    seed: Seed


class Params(Settings):
    """All of params.yaml; sections stand in the order in which data flows."""

    dataset: DatasetSettings
    world: WorldSection | None = Field(
        description="The embedded world; null where dataset.root is another data set, which needs none."
    )
    index: IndexSettings
    poses: PosesSettings
    subset: SubsetSettings
    generator: GeneratorSection
    plan: PlanSettings
    generate: GenerateSection
    scores: ScoresSettings
    reid: ReidSection
    judges: dict[Name, JudgeSettings] = Field(
        description="Other re-ID models beside that of the section reid, for arms."
    )
    imports: dict[Name, ImportSettings] = Field(description="Images that other generators made, for arms.")
    baselines: dict[Name, BaselineSettings] = Field(
        description="Images that no learned generator made, for arms."
    )
    filters: dict[Name, FilterSettings] = Field(description="Choices among generated images, for arms.")
    arms: dict[Name, ArmSettings] = Field(min_length=1)
    cross_datasets: dict[Name, CrossSettings] = Field(
        description="Other data sets, whose people every model is tested on too: further columns of Table 4."
    )
    contact_sheets: ContactSheetsSettings
    report: ReportSettings
    study: StudySettings

    @model_validator(mode="after")
    def _views_fit(self) -> Self:
        if sentences := self.misfits():
            raise ValueError(", and ".join(sentences))
        return self

    def misfits(
        self, vae: Config | None = None, unet: Config | None = None, image_encoder: Config | None = None
    ) -> list[str]:
        """List what does not fit together, one sentence each that begins with a key.

        Args:
            vae: Configuration of the VAE, where it is known.
            unet: Configuration of the UNet, where it is known.
            image_encoder: Configuration of the image encoder, where it is known.
        """
        dataset, generator = self.dataset, self.generator
        design = Design(
            view_height=dataset.height,
            view_width=dataset.width,
            token_height=generator.token_height,
            token_width=generator.token_width,
            denoiser=generator.denoiser,
            vae=vae,
            unet=unet,
            image_encoder=image_encoder,
        )
        return with_keys(misfits(design))

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if self.dataset.root == WORLD and self.world is None:
            raise ValueError(f"world is null; expected its settings, since dataset.root is {WORLD}")
        data_sets: dict[str, DatasetSettings | CrossSettings] = {"dataset": self.dataset}
        data_sets |= {f"cross_datasets.{name}": other for name, other in self.cross_datasets.items()}
        for key, other in data_sets.items():
            if other.root == WORLD and other.format != "market1501":
                raise ValueError(
                    f"{key}.format is {other.format}; expected market1501, in which {WORLD} is rendered"
                )
        if self.reid.evaluate_on == "validation" and not self.index.validation_identities:
            raise ValueError(
                "index.validation_identities is 0; expected some, since reid.evaluate_on is validation"
            )
        if "standard" in self.arms:
            raise ValueError("arms.standard: the arm of that name has real images only; choose another name")
        for name in self.cross_datasets:
            if name.startswith(("rerank", "trapezoid")):
                raise ValueError(
                    f"cross_datasets.{name}: mAP_{name} may be a column of another measure; choose a name "
                    "that does not begin with rerank or trapezoid"
                )
        if self.generate.surroundings and not self.generator.train.surroundings:
            raise ValueError(
                "generate.surroundings is true; expected generator.train.surroundings above 0, or the "
                "generator never learns what to do with them"
            )
        self._check_generators()
        self._check_judges()
        self._check_numbers()
        return self

    def _check_numbers(self) -> None:
        """See that every arm has images at one share at least."""
        for name, arm in self.arms.items():
            if self.percents_of(name):
                continue
            least = self.subset.percents[0]
            if arm.fills_to is not None and arm.fills_to <= least:
                key = f"arms.{name}.to is {arm.fills_to}"
                raise ValueError(
                    f"{key}; expected more than {least}, the smallest of subset.percents, or images or ratio"
                )
            raise ValueError(
                f"arms.{name}.generator is {arm.generator}; expected all where subset.percents is [100]: a "
                "generator that saw all images leaks nothing there"
            )

    def _check_judges(self) -> None:
        """See that the arms' judges are there, and that each makes whole settings with the section reid."""
        for name, arm in self.arms.items():
            if arm.judge is not None and arm.judge not in self.judges:
                names = ", ".join(self.judges) or "none yet"
                raise ValueError(f"arms.{name}.judge is {arm.judge}; expected a key of judges ({names})")
        if SECTION_JUDGE in self.judges:
            raise ValueError(
                f"judges.{SECTION_JUDGE}: the judge of that name is the section {SECTION_JUDGE}; choose "
                "another name"
            )
        for name in self.judges:
            try:
                self._settings_of(name)
            except ValidationError as error:
                raise ValueError(f"judges.{name}.{error.errors()[0]['ctx']['error']}") from None

    def _settings_of(self, judge: str | None) -> ReidSection:
        """Return the section reid, with the settings of another judge in place of its own."""
        if judge is None:
            return self.reid
        return ReidSection.model_validate(self.reid.model_dump() | self.judges[judge].model_dump())

    def _check_generators(self) -> None:
        """See that each arm's images are made, and nothing that no arm asks for."""
        train_on = self.generator.train_on
        sections: dict[str, Any] = {
            "imports": self.imports,
            "baselines": self.baselines,
            "filters": self.filters,
        }
        owners: dict[str, str] = {}
        for section, entries in sections.items():
            for name in entries:
                if name in _TRAIN_ON:
                    raise ValueError(f"{section}.{name}: the name is IMAGPose's own {name}; choose another")
                if name in owners:
                    raise ValueError(f"{section}.{name}: the name is taken by {owners[name]}; choose another")
                owners[name] = f"{section}.{name}"
        for name, baseline in self.baselines.items():
            if baseline.kind == "rendered" and self.dataset.root != WORLD:
                raise ValueError(
                    f"baselines.{name}.kind is rendered; expected another where dataset.root is "
                    f"{self.dataset.root}: only the people of {WORLD} can be rendered"
                )
        # Every recipe, its generator, and the generators that it may have beside IMAGPose
        made = [*self.imports, *self.baselines]
        recipes = [(f"arms.{name}", arm.generator, [*made, *self.filters]) for name, arm in self.arms.items()]
        recipes += [(f"filters.{name}", entry.generator, made) for name, entry in self.filters.items()]
        for key, generator, others in recipes:
            if generator not in (*train_on, *others):
                mend = (
                    f"generator.train_on to hold {generator}, which makes these images"
                    if generator in _TRAIN_ON
                    else f"one of {', '.join((*train_on, *sorted(others)))}"
                )
                raise ValueError(f"{key}.generator is {generator}; expected {mend}")
        for name, arm in self.arms.items():
            if arm.repeat_real and self.made_by(arm.generator) not in _TRAIN_ON:
                raise ValueError(
                    f"arms.{name}.repeat_real is true; expected false with generator {arm.generator}, whose "
                    "images do not say of which real ones they were made"
                )
        generators = {generator for _, generator, _ in recipes}
        for name, owner in sorted(owners.items()):
            if name not in generators:
                raise ValueError(f"{owner}: no arm has generator {name}; add one or take it out")

    @property
    def planned(self) -> list[str]:
        """Generators whose images are made by a plan."""
        jobs = [name for name, entry in self.imports.items() if entry.jobs]
        return [*self.generator.train_on, *self.baselines, *jobs]

    def rendered_world(self) -> WorldSettings:
        """Return the embedded world, at the size of the data set's images.

        Raises:
            ValueError: There is none.
        """
        if self.world is None:
            raise ValueError("world is null; expected its settings (profiles/embedded.yaml has them)")
        size = {"height": self.dataset.height, "width": self.dataset.width}
        return WorldSettings(**self.world.model_dump(), **size)

    @property
    def tested_on(self) -> str:
        """Name of the evaluation set, as shown in tables."""
        test = self.reid.evaluate_on == "test"
        return self.dataset.name if test else f"{self.dataset.name}, validation identities"

    @property
    def all_arms(self) -> list[str]:
        """Names of all rows of Table 4 in its order: of each judge, first that without generated images."""
        return [
            name
            for judge in (None, *self.judges)
            for name in (standard_of(judge), *(arm for arm in self.arms if self.arms[arm].judge == judge))
        ]

    def judge_of(self, arm: str) -> str | None:
        """Return the key of an arm's judge; None is the section reid."""
        return arm.partition("@")[2] or None if is_standard(arm) else self.arms[arm].judge

    def reid_of(self, arm: str) -> ReidSection:
        """Return the settings by which the re-ID models of an arm are trained and tested."""
        return self._settings_of(self.judge_of(arm))

    def section_of(self, arm: str) -> str:
        """Return the section with the settings of an arm's re-ID models: reid, or judges.<name>."""
        judge = self.judge_of(arm)
        return f"judges.{judge}" if judge else "reid"

    @property
    def bounds(self) -> dict[str, str]:
        """For each arm the one that has rendered images in place of its own, where there is one."""
        rendered = [name for name, baseline in self.baselines.items() if baseline.kind == "rendered"]
        bounds = {name: arm for name, arm in self.arms.items() if arm.generator in rendered}
        recipes = {arm.model_dump_json(exclude={"generator"}): name for name, arm in bounds.items()}
        own = {name: arm.model_dump_json(exclude={"generator"}) for name, arm in self.arms.items()}
        return {name: recipes[recipe] for name, recipe in own.items() if recipe in recipes}

    @property
    def families(self) -> list[list[str]]:
        """Groups of arms that differ in their number of images alone, but for those that repeat real ones."""
        groups: dict[str, list[str]] = {}
        for name, arm in self.arms.items():
            if not arm.repeat_real:
                groups.setdefault(arm.model_dump_json(exclude=set(_NUMBERS)), []).append(name)
        return list(groups.values())

    @property
    def judge_settings(self) -> dict[str, ReidSection]:
        """Settings of all judges, by their section: reid, judges.<name>."""
        return {"reid": self.reid} | {f"judges.{name}": self._settings_of(name) for name in self.judges}

    def percents_of(self, arm: str) -> list[int]:
        """Return the shares at which an arm is trained.

        Real images alone are the reference at 100 % too. Any other arm has the shares at which it adds
        images. A generator that was trained on the subset alone has no row at 100 %, where it is that of all.
        """
        percents = self.subset.percents
        if is_standard(arm):
            return sorted({*percents, 100})
        settings = self.arms[arm]
        is_of_subset = self.made_by(settings.generator) == "subset"
        below = min(settings.fills_to or 101, 100 if is_of_subset else 101)
        return [percent for percent in percents if percent < below]

    def needs(self, generator: str, sizes: dict[int, int]) -> dict[int, int]:
        """Return how many images the largest arm needs of a generator, by the percents where one needs any.

        Args:
            generator: all, subset, or a key of imports or filters; arms of a filter need its generator's too.
            sizes: Real images of each subset, and of 100 %.
        """
        counts: dict[int, int] = {}
        for name, arm in self.arms.items():
            for percent in self.percents_of(name) if self._is_from(arm, generator) else []:
                counts[percent] = max(counts.get(percent, 0), arm.count(sizes[percent], sizes[100]))
        return dict(sorted(counts.items()))

    def _is_from(self, arm: ArmSettings, generator: str) -> bool:
        return generator in (arm.generator, self.made_by(arm.generator))

    def train_on(self, arm: str) -> str:
        """Return what an arm's generator was trained on: all, subset, none (without a generator) or other."""
        if is_standard(arm) or self.arms[arm].repeat_real:
            return "none"
        generator = self.made_by(self.arms[arm].generator)
        return generator if generator in _TRAIN_ON else "other"

    def made_by(self, generator: str) -> str:
        """Return the generator that made the images of a filter; any other is its own."""
        return self.filters[generator].generator if generator in self.filters else generator


def with_keys(mistakes: list[Misfit]) -> list[str]:
    """Say what `generator.fit` lists with the keys of params.yaml, one sentence each."""
    keys = {"view_height": "dataset.height", "view_width": "dataset.width"}
    keys |= {name: f"generator.{name}" for name in ("base", "token_height", "token_width")}
    keys |= {name: f"generator.denoiser.{name}" for name in DenoiserSettings.model_fields}
    return [f"{keys[name]} {sentence}" for name, sentence in mistakes]


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check a parameter file; raises as `load` does."""
    return load(path, Params)


def parse_params(values: Any, name: str | Path = "params.yaml") -> Params:
    """Check the values of a parameter file that is called `name`; raises as `parse` does."""
    return parse(values, Params, name)


def load(path: str | Path, schema: type[T]) -> T:
    """Read a YAML file of settings and check it against a model of them.

    Raises:
        ParamsError: The file is missing or is not YAML, or `parse` refuses its values.
    """
    try:
        # The parser and the YAML version (1.2: 1e-5 is a number) with which DVC reads and writes the file.
        values = YAML(typ="safe", pure=True).load(Path(path).read_bytes())
    except OSError as error:
        raise ParamsError(f"{path}: {error.strerror}") from None
    except MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ParamsError(f"{path}: {line}{_one_line(error.problem)}") from None
    except Exception as error:  # the parser lets errors of many kinds through, for tags, digits and depth
        raise ParamsError(f"{path}: this is no YAML of settings ({_one_line(error)})") from None
    return parse(values, schema, path)


def parse(values: Any, schema: type[T], name: str | Path) -> T:
    """Check values against a model of settings.

    Args:
        values: Contents of a YAML file.
        schema: Model of the settings.
        name: Name of the file, for the sentences.

    Raises:
        ParamsError: A key is missing, unknown or out of its range; one sentence per key, with its value and
            what is allowed.
    """
    if not isinstance(values, dict):
        raise ParamsError(f"{name}: it holds {_show(values)}, expected sections with settings")
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        mistakes: list[dict[str, Any]] = [dict(mistake) for mistake in error.errors()]
        # A bad entry of a list makes the list bad too; the entry alone is worth a sentence.
        outer = {mistake["loc"][:depth] for mistake in mistakes for depth in range(1, len(mistake["loc"]))}
        sentences = [_sentence(mistake, schema) for mistake in mistakes if mistake["loc"] not in outer]
        raise ParamsError("\n".join(f"{name}: {sentence}" for sentence in dict.fromkeys(sentences))) from None


def _sentence(error: dict[str, Any], schema: type[BaseModel]) -> str:
    """Say what is wrong with one key: the key, its value, and pydantic's message."""
    kind, loc = error["type"], tuple(part for part in error["loc"] if part != "[key]")
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{_one_line(part)}" for part in loc)[1:]
    if kind == "missing":
        return f"{key} is missing"
    if kind in ("extra_forbidden", "invalid_key"):
        return f"{key} is no setting; the settings here are {', '.join(_settings_at(schema, loc[:-1]))}"
    if kind == "value_error":  # a validator's own sentence
        return _one_line(f"{key}.{error['ctx']['error']}").removeprefix(".")  # it begins with a key
    if kind == "model_type" and (names := _settings_at(schema, loc)):
        return f"{key} is {_show(error['input'])}; expected the settings {', '.join(names)}"
    if loc != error["loc"]:
        return f"{key} is no name; expected small letters, digits, - and _, and a letter first"
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{key} is {_show(error['input'])}; {message}"


def _settings_at(schema: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Return the names of the settings in a section; empty where `loc` leads nowhere."""
    model: Any = schema
    for part in loc:
        field = getattr(model, "model_fields", {}).get(part)
        # An entry of a dict of sections, such as an arm, is described by the dict's type of value.
        model = field.annotation if field else (get_args(model) or (None,))[-1]
    return list(getattr(model, "model_fields", {}))


def _show(value: Any) -> str:
    short = reprlib.Repr()
    short.maxstring, short.maxother, short.maxlevel = 80, 80, 2
    try:
        return _one_line(short.repr(value))
    except ValueError:  # Python does not print integers of thousands of digits
        return "an enormous number"


def _one_line(value: object) -> str:
    return " ".join(str(value).split())
