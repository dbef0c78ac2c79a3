"""The same content has the same hash, and other content another."""

from pathlib import Path

from pipeline.runtime import hashes
from pipeline.runtime.hashes import code_hash, model_hash


def test_code_hash_follows_the_source(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    module = tmp_path / "package" / "a.py"
    module.write_text("x = 1")
    before = code_hash(tmp_path / "package")
    assert before == code_hash(tmp_path / "package")
    (tmp_path / "package" / "note.txt").write_text("not code")
    assert before == code_hash(tmp_path / "package")
    module.write_text("x = 2")
    assert before != code_hash(tmp_path / "package")
    assert code_hash(hashes) == code_hash(Path(str(hashes.__file__)))


def test_model_hash_follows_weights_and_configuration_and_no_folder_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "unet" / "model.safetensors").write_bytes(b"weights")
        (tmp_path / name / "config.json").write_text("{}")
    before = model_hash(tmp_path / "a")
    assert before == model_hash(tmp_path / "b")
    (tmp_path / "a" / "README.md").write_text("text")
    assert before == model_hash(tmp_path / "a")
    for file in ("config.json", "unet/model.safetensors"):
        (tmp_path / "a" / file).write_text("other")
        assert before != model_hash(tmp_path / "a")
        before = model_hash(tmp_path / "a")
