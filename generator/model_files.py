"""The files of a saved model: which they are, without reading a tensor or importing a tensor library."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file of settings.

    Raises:
        ValueError: The file is missing, or it holds something else.
    """
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        _refuse_hub_cache(file.parent)
        raise ValueError(
            f"{file} does not exist: {file.parent} is not the folder of a saved model."
        ) from None
    except (ValueError, RecursionError) as error:
        refuse_lfs_pointer(file)
        raise ValueError(f"{file} is no JSON file ({error}).") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no settings of a model.")
    return content


def read_config(folder: Path, kinds: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """Read a model's config.json and see that the model is of a kind that can be used.

    Args:
        folder: Folder of a saved model of diffusers or transformers.
        kinds: Kinds to accept: diffusers' `_class_name` or transformers' `model_type`.

    Returns:
        The kind, and the content of the file.

    Raises:
        ValueError: `read_json` refuses the file, or it describes a model of another kind.
    """
    config = read_json(folder / "config.json")
    kind = config.get("_class_name", config.get("model_type"))
    accepted = list(kinds)
    if kind not in accepted:
        raise ValueError(f"{folder} holds a model of kind {kind}; expected {' or '.join(accepted)}.")
    return kind, config


def weight_files(folder: Path, stem: str) -> tuple[Path, list[Path]]:
    """Find a model's weights.

    Args:
        folder: Folder of a saved model.
        stem: Name of the weights without suffix: diffusion_pytorch_model or model.

    Returns:
        The file that says where the weights are (one file itself, or the index of several), and the
        safetensors files that hold them.

    Raises:
        ValueError: There is no such file, or one of them is missing or only a pointer of Git LFS.
    """
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise ValueError(f"{index} has no weight_map, which names the files of the weights.")
        files = [folder / str(name) for name in sorted(set(map(str, names.values())))]
        for file in files:
            if file.parent != folder or not file.is_file():
                raise ValueError(f"{file} is missing: {index} names it.")
        source, files = index, [*files, single] if single.is_file() else files
    elif single.is_file():
        source, files = single, [single]
    elif single.is_symlink():
        raise ValueError(f"{single} is a link to {single.readlink()}, which does not exist.")
    else:
        raise ValueError(f"{single} does not exist{_remedy(folder, single.name)}.")
    for file in files:
        refuse_lfs_pointer(file)
    return source, files


def refuse_lfs_pointer(file: Path) -> None:
    """Raise a ValueError if Git LFS has left a pointer in the place of a file."""
    with file.open("rb") as content:
        if content.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ValueError(f"{file} is a pointer of Git LFS; run `git lfs pull` where it was cloned.")


def _refuse_hub_cache(folder: Path) -> None:
    """Raise a ValueError if a folder, or the one around it, is the cache of a model and not the model."""
    for cache in (folder, folder.parent):
        snapshots = cache / "snapshots"
        if cache.name.startswith("models--") and snapshots.is_dir():
            model = min(snapshots.iterdir(), default=snapshots / "...")
            raise ValueError(f"{cache} is a cache of the Hugging Face hub; give the model in it, {model}.")


def _remedy(folder: Path, name: str) -> str:
    """Say how weights of another name or format can be used, if the folder has some."""
    files = [file for file in folder.glob("*") if file.is_file()]
    others = sorted(file.name for file in files if file.suffix in (".safetensors", ".bin", ".pt"))
    variants = [other for other in others if other.endswith(".safetensors")]
    if len(variants) == 1:
        return f"; rename {variants[0]} if it holds the same weights, in half precision for instance"
    if others:
        return (
            f", and {others[0]} is not read; if you trust its origin, load it with its library and call "
            f"save_pretrained, which writes {name}"
        )
    return ", and there are no other weights beside it"
