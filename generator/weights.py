"""Saved models: a folder is read whole and right, or refused by the name of the file that is wrong."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from generator.model_files import read_json, weight_files

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COUNTERS = ("position_ids", "num_batches_tracked")  # the ends of names of tensors that hold whole numbers


def load_model(model_class: Any, folder: Path, unused: tuple[str, ...] = ()) -> Any:
    """The model that a folder holds, in single precision; nothing is unpickled.

    Weights may be stored in half precision; the caller moves the model to the precision in which it shall
    run.

    Args:
        model_class: of diffusers or transformers.
        folder: with config.json and safetensors weights, one file or several with their index.
        unused: first parts of the names of tensors that the files may hold beside those of the model.

    Raises:
        ValueError: a file is missing or damaged, a tensor is missing, has another shape than the model's,
            holds NaN or infinity or is of no floating type, or there are others than the model's.
    """
    read_json(folder / "config.json")  # for its own sentences
    is_transformers = model_class.__module__.startswith("transformers.")
    stem = "model" if is_transformers else "diffusion_pytorch_model"
    source, shards = weight_files(folder, stem)
    for file in shards:
        check_safetensors(file)
    options = {"dtype" if is_transformers else "torch_dtype": torch.float32}
    described = f"the {model_class.__name__} that {folder / 'config.json'} describes"
    try:
        model, info = model_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
        )
    except Exception as error:  # for other shapes and bad configurations the libraries raise all kinds
        raise ValueError(f"{source} holds no weights of {described}: {_first_line(error)}") from None
    unexpected = [name for name in info["unexpected_keys"] if not name.startswith(unused)]
    for names, complaint in (
        (info["mismatched_keys"], "it has {} in another shape"),
        (info["missing_keys"], "it lacks {}"),
        (unexpected, "it has {} too"),
    ):
        if names:
            found = complaint.format(min(map(str, names)))
            raise ValueError(f"{source} holds no weights of {described}: {found}.")
    if not is_transformers:  # diffusers saves the path with the model, where it differs from user to user
        model.register_to_config(_name_or_path=folder.name)
    return model


def check_safetensors(file: Path) -> None:
    """Read a file of weights to its end.

    Raises:
        ValueError: it is no whole safetensors file, or `check_tensor` refuses a tensor in it.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no dict)
                check_tensor(file, name, tensors.get_tensor(name))
    except SafetensorError as error:
        raise ValueError(f"{file} is no safetensors file, or a damaged one ({_first_line(error)}).") from None


def check_tensor(file: Path, name: str, tensor: Tensor) -> None:
    """Raise a ValueError unless a tensor can be a network's weights: floating and finite."""
    if tensor.dtype not in _FLOATS and not (tensor.dtype == torch.int64 and name.endswith(_COUNTERS)):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{file} holds {name} as {kind}; weights are of 16, 32 or 64-bit floats.")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{file} holds NaN or infinite values in {name}.")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
