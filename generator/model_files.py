"""The files of a saved model: which they are, without reading a tensor or importing a tensor library."""

import json
from pathlib import Path
from typing import Any


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file of settings.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ValueError(
            f"{file} does not exist: {file.parent} is not the folder of a saved model."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON file ({error}).") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no settings of a model.")
    return content


def weight_files(folder: Path, stem: str) -> tuple[Path, list[Path]]:
    """The file that says where a model's weights are, and the safetensors files that hold them.

    Args:
        folder: of a saved model.
        stem: name of the weights without suffix: diffusion_pytorch_model or model.

    Raises:
        ValueError: there is none, or one of them is missing.
    """
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise ValueError(f"{index} has no weight_map, which names the files of the weights.")
        shards = [folder / str(name) for name in sorted(set(map(str, names.values())))]
        for shard in shards:
            if shard.parent != folder or not shard.is_file():
                raise ValueError(f"{shard} is missing: {index} names it.")
        return index, [*shards, single] if single.is_file() else shards
    if single.is_file():
        return single, [single]
    others = sorted(file.name for file in folder.glob("*") if file.suffix in (".safetensors", ".bin", ".pt"))
    found = f" It holds {others[0]}." if others else ""
    raise ValueError(
        f"{single} does not exist: pickled weights are not read, nor safetensors of another name.{found}"
    )
