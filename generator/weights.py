"""Saved weights: they are read whole and right, or refused by the name of the file that is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import torch
import transformers.utils.logging
from safetensors import SafetensorError, safe_open
from torch import Tensor

from generator.model_files import read_json, refuse_lfs_pointer, weight_files

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COUNTERS = ("position_ids", "num_batches_tracked")  # the ends of names of tensors that hold whole numbers


def load_model(model_class: Any, folder: Path, unused: tuple[str, ...] = (), meta: bool = False) -> Any:
    """Load the model that a folder holds, in single precision; nothing is unpickled.

    Weights may be stored in half precision; the caller moves the model to the precision in which it shall
    run.

    Args:
        model_class: Class of diffusers or transformers.
        folder: Folder with config.json and safetensors weights, one file or several with their index.
        unused: First parts of the names of tensors that the files may hold beside those of the model.
        meta: Read the headers of the files only and leave the model on the meta device, where tensors have a
            shape but no values. Every mistake is found that does not lie in the values.

    Raises:
        ValueError: A file is missing or damaged, a tensor is missing, has another shape than the model's,
            holds NaN or infinity or is of no floating type, or there are others than the model's.
    """
    # 1. The files by themselves: whole, with the tensors that the index names, finite
    config = folder / "config.json"
    read_json(config)  # for its own sentences
    is_transformers = model_class.__module__.startswith("transformers.")
    source, files = weight_files(folder, "model" if is_transformers else "diffusion_pytorch_model")
    names = [name for file in files for name in check_safetensors(file, headers_only=meta)]
    if source not in files:  # the libraries believe the index, whatever its files hold
        absent = sorted(set(read_json(source)["weight_map"]) - set(names))
        if absent:
            raise ValueError(f"{source} names {absent[0]}, which none of its files holds.")

    # 2. The model, with what its library says of the tensors
    options: dict[str, Any] = {"dtype" if is_transformers else "torch_dtype": torch.float32}
    if meta:
        options["device_map"] = "meta"
    described = f"the {model_class.__name__} that {config} describes"
    try:
        with _quiet():
            model, info = model_class.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by their names
                **options,
            )
    except Exception as error:  # for bad configurations the libraries raise all kinds
        raise ValueError(f"{source} holds no weights of {described}: {_first_line(error)}.") from None

    # 3. Tensors that do not belong together
    mismatched = [
        f"{name} as {list(saved)}, where {list(shape)} is needed"
        for name, saved, shape in info["mismatched_keys"]
    ]
    unexpected = [name for name in info["unexpected_keys"] if not name.startswith(unused)]
    for names, complaint in (
        (mismatched, "it has {}"),
        (info["missing_keys"], "it lacks {}"),
        (unexpected, "it has {} too"),
    ):
        if names:
            raise ValueError(f"{source} holds no weights of {described}: {complaint.format(min(names))}.")
    if not is_transformers:  # diffusers saves the path with the model, where it differs from user to user
        model.register_to_config(_name_or_path=folder.name)
    return model


def check_safetensors(file: Path, headers_only: bool = False) -> list[str]:
    """Read a file of weights to its end, or only its header, which tells whether the file is whole.

    Returns:
        The names of its tensors.

    Raises:
        ValueError: It is no whole safetensors file, or `check_tensor` refuses a tensor in it.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
            for name in names:
                part = tensors.get_slice(name)
                # An empty part of a tensor has its type and is read from the header alone.
                is_skipped = headers_only and part.get_shape()
                check_tensor(file, name, part[:0] if is_skipped else tensors.get_tensor(name))
    except SafetensorError as error:
        raise ValueError(f"{file} is no safetensors file, or a damaged one ({_first_line(error)}).") from None
    return names


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file of `torch.save`, in its present or its older format; no object is unpickled.

    Returns:
        The tensors on the CPU, by their names.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds something else, or `check_tensor` refuses a tensor in it.
    """
    refuse_lfs_pointer(file)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception:  # torch's reasons go on for lines and advise to unpickle the file
        raise ValueError(
            f"{file} is no file of tensors that torch.save wrote; objects and its first format, .tar, "
            "are not read."
        ) from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{file} holds no tensors by their names.")
    for name, tensor in state.items():
        check_tensor(file, name, tensor)
    return state


def check_tensor(file: Path, name: str, tensor: Tensor) -> None:
    """Raise a ValueError unless a tensor can be a network's weights: floating and finite."""
    if tensor.dtype not in _FLOATS and not (tensor.dtype == torch.int64 and name.endswith(_COUNTERS)):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{file} holds {name} as {kind}; weights are of 16, 32 or 64-bit floats.")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{file} holds NaN or infinite values in {name}.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence diffusers and transformers: what they would tell of a loading is in its sentences here."""
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (level, had_bar) in zip(libraries, before, strict=True):
            library.set_verbosity(level)
            if had_bar:
                library.enable_progress_bar()


def _first_line(error: Exception) -> str:
    lines = (line.strip().removesuffix(".") for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)
