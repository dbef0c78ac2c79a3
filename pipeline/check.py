"""Stage `check`: see in seconds, before any work starts, that all is there that later stages will read.

The functions that load a file later look at it now. Of the large models they read the configurations and the
headers of the weights only. All that is wrong is named at once, one sentence each; nothing is asked for that
a stage will make. The output is the same at every run, so that a new look reruns nothing.
"""

import csv
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

import torch
from PIL import Image
from torch import nn

from generator.encoders import ImageEncoder, Vae, encode_latents, encode_tokens, load_image_encoder, load_vae
from generator.fit import MisfitError
from generator.metrics import load_inception, load_lpips
from generator.model import IMAGPoseDenoiser, load_denoiser
from generator.model_files import read_json
from generator.scheduler import load_scheduler
from pipeline.artifacts import CHECKED, WORLD
from pipeline.datasets.formats import FORMATS
from pipeline.datasets.listing import Listing, refuse_empty_splits
from pipeline.import_images import list_folder
from pipeline.keypoints.sources import check_source
from pipeline.params import CrossSettings, DatasetSettings, Params, ReidSection, load_params, with_keys
from pipeline.runtime.checkpoints import KEEP
from pipeline.runtime.launch import count_processes
from pipeline.runtime.outputs import atomic
from pipeline.runtime.scratch import SCRATCH
from pipeline.runtime.stage import command_line, stage_main
from reid.model import BoT

P = ParamSpec("P")
T = TypeVar("T")

_STATES = 4  # what a training keeps of each parameter: weight, moving average, the two moments of AdamW
_WORLD_NAME = "embedded world"  # in the shipped params.yaml
_LOOKS = 20  # images whose shape is looked at
_BYTES = 4  # of a number in single precision


class Size(Protocol):
    """A section of params.yaml with the size that images get, in pixels."""

    @property
    def height(self) -> int: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102


class Models(NamedTuple):
    """The models of the generator on the meta device: with shapes, without values."""

    vae: Vae
    image_encoder: ImageEncoder
    denoiser: IMAGPoseDenoiser


class Mistakes(list[str]):
    """Sentences that say what is wrong, each once."""

    def look(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call a function; where it refuses its input, note its sentence and return None."""
        try:
            return function(*args, **kwargs)
        except MisfitError as error:
            self.note(*with_keys(error.misfits))
        except (ValueError, OSError) as error:
            self.note(_sentence(error))
        return None

    def note(self, *sentences: str) -> None:
        """Add sentences; two functions may miss the same file."""
        self.extend(sentence for sentence in sentences if sentence not in self)


def problems(params: Params) -> list[str]:
    """List all that is missing or wrong, one sentence each."""
    mistakes = Mistakes()
    check_links(params, mistakes)
    listing = mistakes.look(check_dataset, params)
    for name, other in params.cross_datasets.items():
        if other.root != WORLD:
            mistakes.look(list_images, f"cross_datasets.{name}", other)
    mistakes.look(check_poses, params)
    models = load_models(params, mistakes)
    check_scores(params, mistakes)
    for section, reid in params.judge_settings.items():
        mistakes.look(check_judge, section, reid)
    for name, settings in params.imports.items():
        if settings.jobs:
            continue  # they are written after the plan, which comes after this stage
        arms = [arm for arm, recipe in params.arms.items() if params.made_by(recipe.generator) == name]
        for percent in sorted({percent for arm in arms for percent in params.percents_of(arm)}):
            mistakes.look(check_import, f"imports.{name}.folder", settings.folder, percent)
    if params.generator.train.compile:
        mistakes.look(check_compiler)
    if models is not None and not mistakes:  # what a run takes is known once everything is there
        mistakes.look(check_disk, params, models)
        mistakes.look(check_memory, params, models, listing)
    return mistakes


def check_links(params: Params, mistakes: Mistakes) -> None:
    """Note links to folders within what the user names: DVC and the keys of checkpoints do not look behind.

    A link in place of a whole folder is followed, and so are links to single files.
    """
    folders = {
        "dataset.root": params.dataset.root,
        "poses.path": params.poses.path,
        "generator.base": params.generator.base,
        "generator.image_encoder": params.generator.image_encoder,
        **{f"imports.{name}.folder": settings.folder for name, settings in params.imports.items()},
        **{f"cross_datasets.{name}.root": other.root for name, other in params.cross_datasets.items()},
    }
    for key, folder in folders.items():
        for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
            if path.is_symlink() and path.is_dir():
                mistakes.note(
                    f"{key} is {folder}, where {path} is a link to a folder: changes behind it would go "
                    "unnoticed; put the folder itself there, or links to its files"
                )


def check_dataset(params: Params) -> Listing | None:
    """List the data set, and see that its images lie as the sizes do; None if it has yet to be rendered.

    Raises:
        ValueError: It does not have the images of its format, or a height and a width are exchanged.
    """
    if params.dataset.root == WORLD:
        return None
    listing = list_images("dataset", params.dataset)
    sizes: dict[str, Size] = {"dataset": params.dataset, **params.judge_settings, "scores": params.scores}
    check_sizes([params.dataset.root / image for image in listing.images.image], sizes)
    return listing


def check_sizes(files: Sequence[Path], sections: Mapping[str, Size]) -> None:
    """Raise a ValueError where a section would stretch upright images to lying ones, or the other way round.

    Args:
        files: Images, of which up to 20 are looked at; the stage `index` names those that cannot be read.
        sections: Sections of params.yaml with their height and width.
    """
    shapes = []
    for file in files[:: max(1, len(files) // _LOOKS)][:_LOOKS]:
        with suppress(OSError, ValueError), Image.open(file) as image:
            shapes.append(image.height / image.width)
    if not shapes or min(shapes) <= 1 <= max(shapes):  # of both kinds
        return
    for name, size in sections.items():
        if (size.height - size.width) * (shapes[0] - 1) < 0:
            raise ValueError(
                f"{name}.height is {size.height} and {name}.width {size.width}, but the images are "
                f"{'higher than wide' if shapes[0] > 1 else 'wider than high'}; exchange the two"
            )


def check_poses(params: Params) -> None:
    """Raise an error unless what poses.path names is there; the stage `world` may have to make it yet."""
    root, path = params.dataset.root, params.poses.path
    if not path.is_relative_to(WORLD):
        check_source(params.poses)
    elif root != WORLD:
        raise ValueError(
            f"poses.path is {path}, where the keypoints of the rendered world lie; expected those of "
            f"{root}, such as {root / 'keypoints.csv'}, or a detector (poses.source)"
        )


def list_images(key: str, dataset: DatasetSettings | CrossSettings) -> Listing:
    """List a data set, which `key` names, as the stage `index` does; no image is opened.

    Raises:
        ValueError: It cannot be read in its format, or a split has no image.
    """
    try:
        listing = FORMATS[dataset.format].list_images(dataset.root)
        refuse_empty_splits(listing)
    except ValueError as error:
        raise ValueError(f"{key}.root is {dataset.root} ({key}.format {dataset.format}): {error}") from None
    return listing


def load_models(params: Params, mistakes: Mistakes) -> Models | None:
    """Load the models of the generator without weights, and see that they fit together.

    Returns:
        The models; None if one cannot be loaded, or no generator is to be trained. The image encoder is
        looked at in any case, because it judges other generators' images too.
    """
    settings, base, folder = params.generator, params.generator.base, params.generator.denoiser_folder
    vae = encoder = denoiser = None
    if settings.image_encoder.is_dir():
        encoder = mistakes.look(load_image_encoder, settings.image_encoder, meta=True)
    else:
        mistakes.note(
            f"generator.image_encoder is {settings.image_encoder}; there is no such folder, expected an "
            "image encoder in transformers' layout"
        )
    if not settings.train_on:
        return None
    if base.is_dir():
        vae = mistakes.look(load_vae, base / "vae", meta=True)
        mistakes.look(load_scheduler, base / "scheduler", settings.scheduler)
        # Without an encoder, the denoiser is looked at with the width that it was saved with.
        config = mistakes.look(read_json, folder / "config.json") or {}
        width = encoder.config.hidden_size if encoder else config.get("encoder_width", 1)
        denoiser = mistakes.look(load_denoiser, folder, settings.denoiser, width, settings.seed, meta=True)
    else:
        mistakes.note(
            f"generator.base is {base}; there is no such folder, expected Stable Diffusion in diffusers' "
            "layout with unet/, vae/ and scheduler/"
        )
    unet = denoiser and denoiser.unet.config
    mistakes.note(*params.misfits(vae and vae.config, unet, encoder and encoder.config.to_dict()))
    return Models(vae, encoder, denoiser) if vae and encoder and denoiser else None


def check_scores(params: Params, mistakes: Mistakes) -> None:
    """See that what the scores compare by is there: the networks of LPIPS and FID, and the list of pairs."""
    settings = params.scores
    load_backbone = partial(load_lpips, settings.lpips_backbone)
    if settings.lpips_weights is not None:
        mistakes.look(check_network, "scores.lpips_weights", settings.lpips_weights, load_backbone)
    if settings.fid_weights is not None:
        mistakes.look(check_network, "scores.fid_weights", settings.fid_weights, load_inception)
    if settings.pairs is not None:
        mistakes.look(check_pairs, settings.pairs)


def check_network(key: str, file: Path, load: Callable[[Path], Any]) -> None:
    """Raise a ValueError unless `load` takes the file that `key` names."""
    try:
        load(file)
    except ModuleNotFoundError:  # the stage leaves this score out
        pass
    except (ValueError, OSError) as error:
        raise ValueError(f"{key}: {_sentence(error)} (null leaves the score out)") from None


def check_pairs(file: Path) -> None:
    """Raise a ValueError unless a file is a table with the columns from and to."""
    if not file.is_file():
        raise ValueError(f"scores.pairs is {file}; there is no such file, expected a list (null draws pairs)")
    with file.open(encoding="utf-8-sig", errors="replace") as table:
        columns = next(csv.reader([table.readline(1000)]), [])
    if not {"from", "to"} <= set(columns):
        raise ValueError(f"scores.pairs is {file}; expected a table with the columns from and to")


def check_import(key: str, folder: Path, percent: int) -> None:
    """Raise a ValueError unless another generator's images are there, and it is known whom they show."""
    try:
        list_folder(folder, percent)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{key} is {folder}: {error}") from None


def check_judge(section: str, settings: ReidSection) -> None:
    """Raise a ValueError unless the re-ID model of a section can be made, with its weights."""
    try:
        with torch.device("meta"):  # shapes without values
            BoT(settings, classes=1)
    except (ValueError, OSError) as error:
        raise ValueError(f"{section}.{error}") from None


def check_compiler() -> None:
    """Raise a ValueError unless torch.compile finds the compiler and the headers for its kernels."""
    compilers = [os.environ.get("CC"), os.environ.get("CXX"), "gcc", "g++", "clang", "clang++"]
    if not any(shutil.which(compiler) for compiler in compilers if compiler):
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


def check_disk(params: Params, models: Models) -> None:
    """Raise a ValueError unless checkpoints and trained generators fit on the disk.

    Each training keeps its newest checkpoints, also when it is done, and one of them writes one more. A
    trained generator holds the frozen models too. Re-ID models are not counted, which are far smaller.
    """
    counts = {"all": 1, "subset": sum(percent < 100 for percent in params.subset.percents)}
    trainings = sum(counts[protocol] for protocol in params.generator.train_on)
    trained, whole = parameters(models.denoiser), sum(map(parameters, models))
    needed = _BYTES * ((KEEP * trainings + 1) * _STATES * trained + trainings * whole)
    free = shutil.disk_usage(SCRATCH.absolute().parent).free
    if free < needed:
        raise ValueError(
            f"{Path.cwd()}: {free / 1e9:.1f} GB of disk are free; expected about {needed / 1e9:.1f} GB for "
            "checkpoints and trained generators"
        )


def check_memory(params: Params, models: Models, listing: Listing | None) -> None:
    """Raise a ValueError unless the training of the generator fits into this machine's memory.

    Every process of a launch keeps all encoded training images and, without a GPU, the state of the training.
    The main process copies that state while it writes a checkpoint. Activations come on top.
    """
    # One encoded view, as `EncodedViews` keeps it: latents and tokens in half precision, a skeleton in bytes
    settings = params.generator
    image = torch.empty(1, 3, params.dataset.height, params.dataset.width, device="meta")
    tokens = encode_tokens(models.image_encoder, image, (settings.token_height, settings.token_width))
    view = 2 * sum(part.numel() for part in (*encode_latents(models.vae, image), tokens)) + image.numel()

    # All of them, and mirrored; those of the embedded world may yet have to be rendered
    root, world = params.dataset.root, params.world
    if listing is not None:
        count = int((listing.images.split == "train").sum())
    else:
        assert world is not None  # params.py sees to it
        count = world.train_identities * world.images_per_identity
    views = count * view * (2 if settings.train.flip else 1)

    state = _BYTES * _STATES * parameters(models.denoiser)
    processes = count_processes()
    per_process = views + (0 if torch.cuda.is_available() else state)
    needed = processes * per_process + state
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if memory < needed:
        raise ValueError(
            f"{root} has {count} training images; expected {needed / 1e9:.1f} GB of memory ({processes} x "
            f"{per_process / 1e9:.1f} GB in processes, {state / 1e9:.1f} GB for a checkpoint), where there "
            f"are {memory / 1e9:.1f} GB (generator.train.flip: 0 halves the {views / 1e9:.1f} GB of images "
            "in each, a smaller generator.image_encoder takes less)"
        )


def parameters(model: nn.Module) -> int:
    """Count the numbers that a model learns or has learned."""
    return sum(parameter.numel() for parameter in model.parameters())


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:  # without Python's "[Errno 2]"
        return f"{error.filename}: {error.strerror}"
    return str(error)


def main() -> None:
    """Run the stage."""
    params = load_params()
    sentences = problems(params)
    if sentences:
        raise ValueError("\n".join(sentences))
    if params.dataset.root != WORLD and params.dataset.name == _WORLD_NAME:
        print(
            f"check: dataset.name is {_WORLD_NAME!r}, and dataset.root is {params.dataset.root}, which is "
            "another one; reports and figures will bear that name",
            file=sys.stderr,
        )
    with atomic(CHECKED) as temporary:
        temporary.write_text("Everything is there that the stages read.\n")


if __name__ == "__main__":
    command_line("check", __doc__).parse_args()
    stage_main(main)
