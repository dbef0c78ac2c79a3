"""Stage `check`: see in seconds, before any work starts, that all is there that later stages will read.

Reads names, configurations and the headers of weights, never the weights themselves; what is in them is
checked when they are loaded. All that is wrong is named at once, one sentence each. The output is the same
at every run, so that a new look reruns nothing.
"""

import csv
import math
import os
import shutil
import sysconfig
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open

from generator.model_files import read_json, weight_files
from generator.settings import DenoiserSettings, check_stock_unet
from pipeline.artifacts import CHECKED, WORLD
from pipeline.datasets.formats import FORMATS, Format
from pipeline.import_images import list_folder
from pipeline.params import Params, load_params
from pipeline.runtime.outputs import atomic
from pipeline.runtime.scratch import SCRATCH
from pipeline.runtime.stage import command_line, stage_main

Shapes = dict[str, tuple[int, ...]]  # of the tensors in a file or folder of weights, by name


# config.json's model_type -> where its vision half is described, its default width and patch, and a tensor.
_ENCODERS: dict[str, tuple[str | None, int, int, str]] = {
    "dinov2": (None, 768, 14, "embeddings.cls_token"),
    "clip": ("vision_config", 768, 32, "embeddings.class_embedding"),
    "clip_vision_model": (None, 768, 32, "embeddings.class_embedding"),
}
# Network of a score -> whose file it is, and a tensor that no other network of torchvision has in this shape.
_NETWORKS = {
    "alex": ("torchvision's alexnet", "features.10.weight", (256, 256, 3, 3)),
    "vgg": ("torchvision's vgg16", "features.26.weight", (512, 512, 3, 3)),
    "inception": (
        "pytorch-fid's or torchvision's Inception v3",
        "Mixed_7c.branch_pool.conv.weight",
        (192, 2048, 1, 1),
    ),
}
_CVA_SHARE = 273 / 859.5  # parameters of CVA per parameter of Stable Diffusion's UNet
_KEPT = 2  # checkpoints of a training: checkpoints.KEEP, whose module takes seconds to import
_STATES = 4  # weights, moving average, and the two moments of AdamW, 4 bytes each


Count = Annotated[int, Field(ge=1)]


class _Config(BaseModel):
    """What the checks read of a model's config.json."""

    model_config = ConfigDict(strict=True)


class _Unet(_Config):
    in_channels: Count
    out_channels: Count
    block_out_channels: Annotated[list[Count], Field(min_length=1)]
    down_block_types: list[str]

    @model_validator(mode="after")
    def _levels_agree(self) -> Self:
        if len(self.down_block_types) != len(self.block_out_channels):
            raise ValueError("block_out_channels and down_block_types of other lengths")
        return self


class _Denoiser(_Config):
    unet_config: _Unet


class _Vae(_Config):
    in_channels: Annotated[int, Field(ge=3)]
    latent_channels: Count
    block_out_channels: Annotated[list[Count], Field(min_length=1)]

    def factor(self) -> int:
        """Pixels per latent pixel, along one side."""
        return math.isqrt(self.in_channels // 3) * 2 ** (len(self.block_out_channels) - 1)


class _Vision(_Config):
    hidden_size: Count
    patch_size: Count


T = TypeVar("T", bound=_Config)


def problems(params: Params) -> list[str]:
    """All that is missing or wrong, one sentence each; nothing is asked for that a stage will make."""
    alone = (
        check_dataset,
        check_openpose,
        check_base,
        check_image_encoder,
        check_scores,
        check_resnet,
        check_imports,
        check_compiler,
        check_cross_datasets,
    )
    # Whether the parts fit together can be said once all of them are there.
    return _run(alone, params) or _run((check_sizes, check_disk, check_memory), params)


def _run(checks: tuple[Callable[[Params], None], ...], params: Params) -> list[str]:
    found = []
    for check in checks:
        try:
            check(params)
        except ValueError as error:
            found.append(str(error))
        except OSError as error:
            found.append(f"{error.filename}: {error.strerror}" if error.strerror else str(error))
    return list(dict.fromkeys(found))  # two checks may miss the same file


def check_dataset(params: Params) -> None:
    """The data set has the folders of its format, with keypoints if they are to be read."""
    root = params.dataset.root
    if root == WORLD:
        return
    form = FORMATS[params.dataset.format]
    _check_images("dataset.root", root, form)
    for file in form.KEYPOINT_FILES if params.poses.source == "annotations" else ():
        if not (root / file).is_file():
            raise ValueError(
                f"{root / file} is missing; expected the keypoints of every image, since poses.source "
                "is annotations (openpose detects them)"
            )


def check_cross_datasets(params: Params) -> None:
    """The further data sets of the test have the folders of Market-1501's format."""
    for name, root in params.cross_datasets.items():
        if root != WORLD:
            _check_images(f"cross_datasets.{name}", root, FORMATS["market1501"])


def _check_images(key: str, root: Path, form: Format) -> None:
    """Raise a ValueError unless `root` has the folders of a format, each with images."""
    folders, layout = list(form.FOLDERS.values()), form.NAME
    rows = [" or ".join(f"{name}/" for name in names) for names in folders]
    for names, row in zip(folders, rows, strict=True):
        folder = next((root / name for name in names if (root / name).is_dir()), None)
        if folder is None:
            raise ValueError(
                f"{key} is {root}, where {row} is missing; expected a folder in {layout} format "
                f"with {', '.join(rows)}"
            )
        if next(folder.glob("*.jpg"), None) is None:
            raise ValueError(f"{folder} holds no .jpg file; expected the images of {layout}")


def check_openpose(params: Params) -> None:
    """OpenPose's body model is there, and what runs it is installed."""
    file = params.poses.openpose_model
    if params.poses.source != "openpose" or file is None:
        return
    if find_spec("controlnet_aux") is None:
        raise ValueError(
            "poses.source is openpose, which needs the package controlnet-aux; pip install '.[paper]'"
        )
    shapes = _pth_shapes("poses.openpose_model", file, "OpenPose's body_pose_model.pth")
    for layer, outputs in (("Mconv7_stage6_L1.weight", 38), ("Mconv7_stage6_L2.weight", 19)):
        if shapes.get(layer, ())[:1] != (outputs,):
            raise ValueError(
                f"poses.openpose_model is {file}, where {layer} with {outputs} outputs is missing; expected "
                "body_pose_model.pth of the 18 keypoints"
            )


def check_base(params: Params) -> None:
    """The base model has its three parts, of the classes and with the settings that the stages can use."""
    base = params.generator.base
    if not base.is_dir():
        raise ValueError(
            f"generator.base is {base}; there is no such folder, expected Stable Diffusion in diffusers' "
            "layout with unet/, vae/ and scheduler/"
        )
    unet = _unet_config(params)
    denoiser = params.generator.denoiser_folder
    vae = _read_config(base / "vae", "AutoencoderKL", _Vae)
    if unet.in_channels != unet.out_channels or unet.in_channels != vae.latent_channels:
        raise ValueError(
            f"{denoiser} has {unet.in_channels} input and {unet.out_channels} output channels; "
            f"expected {vae.latent_channels} of both, as the latents of {base / 'vae'} have"
        )
    prefix = "unet.conv_in.conv" if denoiser.name == "denoiser" else "conv_in"
    _expect_tensor(denoiser, "diffusion_pytorch_model", f"{prefix}.weight", 0, unet.block_out_channels[0])
    _expect_tensor(base / "vae", "diffusion_pytorch_model", "encoder.conv_in.weight", 1, vae.in_channels)
    scheduler, settings = read_json(base / "scheduler" / "scheduler_config.json"), params.generator.scheduler
    kind = settings.prediction_type or scheduler.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"{base / 'scheduler'} has prediction_type {kind!r}; expected epsilon or v_prediction"
        )
    zero_snr = settings.zero_terminal_snr
    zero_snr = scheduler.get("rescale_betas_zero_snr", False) if zero_snr is None else zero_snr
    if zero_snr and kind != "v_prediction":
        raise ValueError(
            f"generator.scheduler.zero_terminal_snr is on and {base / 'scheduler'} has prediction_type "
            f"{kind}; expected v_prediction"
        )


def check_image_encoder(params: Params) -> None:
    """The image encoder is a DINOv2 or CLIP whose patches fit the size of its input."""
    folder = params.generator.image_encoder
    kind, width, patch = _encoder(folder)
    _expect_tensor(folder, "model", _ENCODERS[kind][3], -1, width)
    height, width = params.generator.token_height, params.generator.token_width
    if height % patch or width % patch:
        raise ValueError(
            f"generator.token_height and token_width are {height} and {width}; expected multiples of "
            f"{patch}, the patch of {folder}"
        )


def check_sizes(params: Params) -> None:
    """Views, latents and the parts of the denoiser fit together, so that the joint image can be split."""
    unet, settings = _unet_config(params), params.generator.denoiser
    vae = _read_config(params.generator.base / "vae", "AutoencoderKL", _Vae)
    factor = vae.factor()
    multiple = factor * 2 ** (len(unet.block_out_channels) - 1)
    height, width = params.dataset.height, params.dataset.width
    if height % multiple or width % multiple:
        raise ValueError(
            f"dataset.height and width are {height} and {width}; expected multiples of {multiple} (VAE "
            f"{factor} x UNet {multiple // factor})"
        )
    patch = settings.texture_patch
    if settings.flc_texture and (height // factor % patch or width // factor % patch):
        raise ValueError(
            f"generator.denoiser.texture_patch is {patch}; expected a divisor of the latent of a view, "
            f"{height // factor}x{width // factor}"
        )
    levels = 1 + int(math.log2(factor))
    if len(settings.pose_channels) != levels:
        raise ValueError(
            f"generator.denoiser.pose_channels has {len(settings.pose_channels)} entries; expected {levels}, "
            f"which reach 1/{factor} of the image's size as the latents do"
        )
    levels_and_kinds = zip(unet.block_out_channels, unet.down_block_types, strict=True)
    attending = [channels for channels, kind in levels_and_kinds if "CrossAttn" in kind]
    for channels in [*attending, unet.block_out_channels[-1]] if settings.cva else []:
        if channels % settings.cva_heads:
            raise ValueError(
                f"generator.denoiser.cva_heads is {settings.cva_heads}; expected a divisor of the UNet's "
                f"{channels} channels"
            )


def check_scores(params: Params) -> None:
    """What the scores compare by is there: the networks of LPIPS and FID, and the list of pairs."""
    settings = params.scores
    for key, file, network in (
        ("scores.lpips_weights", settings.lpips_weights, settings.lpips_backbone),
        ("scores.fid_weights", settings.fid_weights, "inception"),
    ):
        if file is not None:
            name, tensor, shape = _NETWORKS[network]
            expected = f"{name} (null leaves the score out)"
            if _pth_shapes(key, file, expected).get(tensor) != shape:
                raise ValueError(f"{key} is {file}, which holds another network; expected {expected}")
    pairs = settings.pairs
    if pairs is None:
        return
    if not pairs.is_file():
        raise ValueError(
            f"scores.pairs is {pairs}; there is no such file, expected a list (null draws pairs)"
        )
    with pairs.open(encoding="utf-8-sig", errors="replace") as table:
        columns = next(csv.reader([table.readline(1000)]), [])
    if not {"from", "to"} <= set(columns):
        raise ValueError(f"scores.pairs is {pairs}; expected a table with the columns from and to")


def check_resnet(params: Params) -> None:
    """The re-ID backbone's file is torchvision's ResNet-50."""
    if params.reid.weights is None:
        return
    file = Path(params.reid.weights)
    expected = "torchvision's resnet50 (.pth or .safetensors)"
    if file.suffix == ".safetensors":
        shapes = _shapes([file]) if file.is_file() else {}
    else:
        shapes = _pth_shapes("reid.weights", file, expected)
    convolutions = sum(len(shape) == 4 for shape in shapes.values())
    if convolutions != 53 or shapes.get("layer4.2.conv3.weight") != (2048, 512, 1, 1):
        problem = "which is no state dict of a ResNet-50" if file.is_file() else "there is no such file"
        raise ValueError(f"reid.weights is {file}, {problem}; expected {expected}")


def check_imports(params: Params) -> None:
    """Images that other generators made are there, for every percent, and it is known whom they show."""
    for name, settings in params.imports.items():
        for percent in params.subset.percents:
            try:
                list_folder(settings.folder, percent)
            except (ValueError, FileNotFoundError) as error:
                raise ValueError(f"imports.{name}.folder is {settings.folder}: {error}") from None


def check_compiler(params: Params) -> None:
    """torch.compile finds the compiler and the headers that it needs for its kernels."""
    if not params.generator.train.compile:
        return
    named = [os.environ.get("CC"), os.environ.get("CXX"), "gcc", "g++", "clang", "clang++"]
    if not any(shutil.which(compiler) for compiler in named if compiler):
        raise ValueError(
            "generator.train.compile is true; there is no C compiler, expected gcc or clang (false does "
            "without)"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise ValueError(
            f"generator.train.compile is true; {header} is missing, expected Python's headers, which "
            "systems have in packages like python3-dev (false does without)"
        )


def check_disk(params: Params) -> None:
    """Checkpoints and trained generators fit on the disk.

    Each training keeps two checkpoints, also when it is done, and one of them writes a third; a trained
    generator holds the frozen parts too. Nothing of re-ID training is counted, whose models are far smaller.
    """
    settings = params.generator
    base, denoiser = settings.base, settings.denoiser_folder
    trained = _parameters(denoiser, "diffusion_pytorch_model")
    if denoiser.name == "unet" and settings.denoiser.cva:
        trained *= 1 + _CVA_SHARE
    frozen = _parameters(base / "vae", "diffusion_pytorch_model") + _parameters(
        settings.image_encoder, "model"
    )
    models = sum(1 if which == "all" else len(params.subset.percents) for which in settings.train_on)
    needed = 4 * ((_KEPT * models + 1) * _STATES * trained + models * (trained + frozen))
    free = shutil.disk_usage(SCRATCH.absolute().parent).free
    if free < needed:
        raise ValueError(
            f"{Path.cwd()}: {free / 1e9:.1f} GB of disk are free; expected about {needed / 1e9:.1f} GB for "
            "checkpoints and trained generators"
        )


def check_memory(params: Params) -> None:
    """The encoded training images, which every process of a training keeps, fit into memory."""
    root, settings, size = params.dataset.root, params.generator, params.dataset
    if root == WORLD:
        return
    folders = (root / name for name in FORMATS[params.dataset.format].FOLDERS["train"])
    count = sum(1 for _ in next(folder for folder in folders if folder.is_dir()).glob("*.jpg"))
    _, token_width, patch = _encoder(settings.image_encoder)
    vae = _read_config(settings.base / "vae", "AutoencoderKL", _Vae)
    tokens = 1 + settings.token_height // patch * (settings.token_width // patch)
    latents = vae.latent_channels * size.height * size.width // vae.factor() ** 2
    view = 2 * tokens * token_width + 3 * size.height * size.width + 4 * latents  # bytes, as EncodedViews
    needed = count * view * (2 if settings.train.flip else 1)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if there < needed:
        raise ValueError(
            f"{root} has {count} training images; expected {needed / 1e9:.0f} GB of memory for what each "
            f"process keeps of them, where there are {there / 1e9:.0f} (generator.train.flip: 0 takes half, "
            "a smaller generator.image_encoder less)"
        )


def _unet_config(params: Params) -> _Unet:
    """The stock UNet's configuration; a saved denoiser must also be one that the settings can be made of."""
    folder = params.generator.denoiser_folder
    if folder.name == "unet":
        stock = _read_config(folder, "UNet2DConditionModel", _Unet)
        check_stock_unet(folder, read_json(folder / "config.json"))
        return stock
    config = _read_config(folder, "IMAGPoseDenoiser", _Denoiser)
    settings: DenoiserSettings = params.generator.denoiser
    saved = read_json(folder / "config.json")
    settings.check_saved(folder, saved, _encoder(params.generator.image_encoder)[1])
    return config.unet_config


def _encoder(folder: Path) -> tuple[str, int, int]:
    """Kind, token width and patch (pixels) of the image encoder."""
    if not folder.is_dir():
        raise ValueError(
            f"generator.image_encoder is {folder}; there is no such folder, expected a DINOv2 or CLIP in "
            "transformers' layout"
        )
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in _ENCODERS:
        raise ValueError(f"{folder} holds a model of type {kind!r}; expected one of {', '.join(_ENCODERS)}")
    section, width, patch, _ = _ENCODERS[kind]
    vision = config.get(section, {}) if section else config
    if not isinstance(vision, dict):
        raise ValueError(f"{folder / 'config.json'} has {section} {vision!r}; expected a section of settings")
    described = _parse(folder, {"hidden_size": width, "patch_size": patch} | vision, _Vision)
    return kind, described.hidden_size, described.patch_size


def _read_config(folder: Path, model: str, schema: type[T]) -> T:
    config = read_json(folder / "config.json")
    if config.get("_class_name") != model:
        raise ValueError(f"{folder} holds a {config.get('_class_name')}; expected a diffusers {model}")
    return _parse(folder, config, schema)


def _parse(folder: Path, config: dict[str, Any], schema: type[T]) -> T:
    try:
        return schema.model_validate(config)
    except ValidationError as error:
        mistake = error.errors()[0]
        key = ".".join(map(str, mistake["loc"]))
        found = {"missing": f"no {key}", "value_error": str(mistake.get("ctx", {}).get("error"))}.get(
            mistake["type"], f"{key} {mistake['input']!r}"
        )
        raise ValueError(
            f"{folder / 'config.json'} has {found}; expected the file as its library saves it"
        ) from None


def _shapes(files: list[Path]) -> Shapes:
    """What the headers of safetensors files list; a file that is cut short is refused."""
    shapes: Shapes = {}
    for file in files:
        try:
            with safe_open(file, framework="np") as tensors:
                shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{file} is no whole safetensors file ({error})") from None
    return shapes


def _pth_shapes(key: str, file: Path, expected: str) -> Shapes:
    """What a file of torch.save holds: a state dict, or nothing that can be used."""
    if not file.is_file():
        raise ValueError(f"{key} is {file}, there is no such file; expected {expected}")
    import torch  # two seconds, spent only where a .pth file is named

    try:
        state = torch.load(file, map_location="meta", weights_only=True)
        return {name: tuple(tensor.shape) for name, tensor in state.items()}
    except Exception as error:  # unpickling raises all kinds of errors for another file
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{key} is {file}, which holds no state dict ({reason}); expected {expected}"
        ) from None


def _expect_tensor(folder: Path, stem: str, name: str, axis: int, size: int) -> None:
    files = weight_files(folder, stem)[1]
    for found, shape in _shapes(files).items():
        if found.endswith(name) and shape[axis:][:1] == (size,):
            return
    raise ValueError(
        f"{files[0]} has no tensor {name} with {size} entries along axis {axis}; expected the weights of the "
        f"model that {folder / 'config.json'} describes"
    )


def _parameters(folder: Path, stem: str) -> float:
    return sum(math.prod(shape) for shape in _shapes(weight_files(folder, stem)[1]).values())


def main() -> None:
    """Run the stage."""
    found = problems(load_params())
    if found:
        raise ValueError("\n".join(found))
    with atomic(CHECKED) as temporary:
        temporary.write_text("Everything is there that the stages read.\n")


if __name__ == "__main__":
    command_line("check", __doc__).parse_args()
    stage_main(main)
