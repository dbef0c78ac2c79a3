"""Hashes of files, of code and of saved models: the same content always has the same one."""

import hashlib
from pathlib import Path
from types import ModuleType


def md5(path: str | Path) -> str:
    """Hexadecimal MD5 of a file's bytes: DVC's checksum, so that tables and dvc.lock can be compared."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def code_hash(*sources: ModuleType | str | Path) -> str:
    """Hash of the Python source of modules, packages, files or folders, with everything inside them."""
    digest = hashlib.md5(usedforsecurity=False)
    for source in sources:
        if isinstance(source, ModuleType):
            source = source.__path__[0] if hasattr(source, "__path__") else str(source.__file__)
        root = Path(source)
        for file in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            digest.update(f"{file.relative_to(root.parent)}\n{md5(file)}\n".encode())
    return digest.hexdigest()


def model_hash(folder: str | Path) -> str:
    """Hash of a saved model: MD5 over the names and contents of its .json and .safetensors files."""
    digest, folder = hashlib.md5(usedforsecurity=False), Path(folder)
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".json", ".safetensors"):
            digest.update(f"{file.relative_to(folder)}\n{md5(file)}\n".encode())
    return digest.hexdigest()
