"""Pretrained weights of backbones: files in the form in which the libraries publish them, never unpickled."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

# torchreid's checkpoints of a training hold its rank-1 as a number of numpy. Rebuilding one runs no code.
_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_NUMBERS: list[Any] = [
    *((_SCALAR, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")),  # before and since 2.0
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64)),
]


def read_weights(path: Path, network: str) -> dict[str, torch.Tensor]:
    """Read a state dict: bare, or in a checkpoint under `state_dict` or `model`; `module.` is cut off.

    Args:
        path: File: .safetensors, or .pth, .pt or .bin that torch loads without unpickling objects.
        network: What the file should be of, for the sentences.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"weights names {path}, which does not exist; give the path of a file of {network}, or null."
        )
    # Two files that people have instead: torchvision's first, and what Git LFS leaves in a clone
    if tarfile.is_tarfile(path):
        has_newer = network == "torchvision's resnet50"
        mend = "resnet50-0676ba61.pth has the same weights" if has_newer else "give a newer one"
        raise ValueError(
            f"weights names {path}, a file in torch's first format, .tar, which is not read; {mend}."
        )
    with path.open("rb") as content:
        if content.read(30).startswith(b"version https://git-lfs"):
            raise ValueError(
                f"weights names {path}, a pointer of Git LFS; run `git lfs pull` where it was cloned."
            )
    from timm.models import load_state_dict  # takes seconds, which a training from scratch does not need

    try:
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            state = load_state_dict(str(path), weights_only=True)
        if not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
            raise TypeError("not all of it are tensors")
    except Exception as error:  # a file that is something else fails in all kinds of ways
        raise ValueError(not_of(path, network)) from error
    return state


def fill(net: nn.Module, state: dict[str, torch.Tensor], path: Path, network: str) -> None:
    """Load a state dict into a network; on the meta device, only see that it fits.

    Args:
        net: Network without a classifier.
        state: Weights, without those of the classifier.
        path: File that they are from, for the sentences.
        network: What the network is, for the sentences.

    Raises:
        ValueError: A weight is missing, is no part of the network, has another shape, or is no finite float.
    """
    expected = net.state_dict()
    # Files from before torch 0.4.1 do not count batches, and nothing here does.
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in expected]
    shapes = [name for name in state if name in expected and state[name].shape != expected[name].shape]
    for names, what in ((missing, "it lacks"), (unknown, "it has"), (shapes, "another shape has")):
        if names:
            raise ValueError(not_of(path, network, f" ({what} {names[0]})"))
    for name, tensor in state.items():
        if not tensor.is_floating_point() and expected[name].is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")  # loading would convert it without a word
            raise ValueError(f"weights names {path}, which holds {name} as {kind}; weights are floats.")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"weights names {path}, which holds NaN or infinite values in {name}.")
    if not any(tensor.is_meta for tensor in expected.values()):
        net.load_state_dict(state)


def not_of(path: Path, network: str, reason: str = "") -> str:
    """Say that a file does not hold a network."""
    return (
        f"weights names {path}, which is not a state dict of {network}{reason}; "
        "give such a file (.pth, .bin or .safetensors), or null."
    )
