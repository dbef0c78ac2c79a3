"""A saved model is loaded whole and right, or refused with the name of the file that is wrong."""

import ast
import json
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from generator.encoders import load_image_encoder, load_vae
from generator.model import load_denoiser
from generator.sample import IMAGPosePipeline, load_pipeline
from generator.weights import read_state_dict
from tests.generator import tiny

LOADERS: dict[str, Callable[..., Any]] = {
    "vae": load_vae,
    "image_encoder": load_image_encoder,
    "unet": partial(load_denoiser, settings=tiny.DENOISER, encoder_width=tiny.WIDTH, seed=0),
    "denoiser": partial(load_denoiser, settings=tiny.DENOISER, encoder_width=tiny.WIDTH, seed=0),
}
DESCRIBED = {
    "vae": "AutoencoderKL",
    "image_encoder": "Dinov2Model",
    "unet": "UNet2DConditionModel",
    "denoiser": "IMAGPoseDenoiser",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each kind; in `sharded` the same with their weights in several files."""
    root = tmp_path_factory.mktemp("saved")
    for kind, make in {name: getattr(tiny, name) for name in LOADERS}.items():
        make().save_pretrained(root / kind)
        make().save_pretrained(root / "sharded" / kind, max_shard_size="2KB")
    return root


def weights(folder: Path) -> Path:
    """The one file of weights, or the index of several."""
    (file,) = [*folder.glob("*.index.json")] or folder.glob("*.safetensors")
    return file


def read(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, in memory: a mapped file must not be written."""
    return {name: tensor.clone() for name, tensor in load_file(file).items()}


def change(edit: Callable[[dict[str, torch.Tensor], str], object]) -> Callable[[Path], None]:
    """Change the tensors of a file; `edit` gets them, and the name of the first."""

    def spoil(folder: Path) -> None:
        tensors = read(weights(folder))
        edit(tensors, min(tensors))
        save_file(tensors, weights(folder))

    return spoil


def set_value(value: float) -> Callable[[Path], None]:
    return change(lambda tensors, name: tensors[name].view(-1)[-1:].fill_(value))


def cast(dtype: torch.dtype) -> Callable[[Path], None]:
    return change(lambda tensors, name: tensors.update({name: tensors[name].to(dtype)}))


def as_pickle(suffix: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        file = weights(folder)
        torch.save(read(file), file.with_suffix(suffix))
        if suffix != file.suffix:
            file.unlink()

    return spoil


def make_dangling(folder: Path) -> None:
    file = weights(folder)
    file.unlink()
    file.symlink_to("../blobs/0a1b")


def truncate(folder: Path) -> None:
    file = weights(folder)
    file.write_bytes(file.read_bytes()[:-100])


FILE, CONFIG = "{folder}/{stem}.safetensors", "{folder}/config.json"
OTHERS = FILE + " holds no weights of the {described} that " + CONFIG + " describes: "
NAN = FILE + " holds NaN or infinite values in {first}."
TYPE = FILE + " holds {first} as %s; weights are of 16, 32 or 64-bit floats."
DAMAGED = FILE + " is no safetensors file, or a damaged one ("
ABSENT = FILE + " does not exist"
PICKLED = (
    "; if you trust its origin, load it with its library and call save_pretrained, which writes "
    "{stem}.safetensors."
)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 123\n"
SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (
        lambda folder: weights(folder).unlink(),
        ABSENT + ", and there are no other weights beside it.",
    ),
    "pickled weights": (as_pickle(".bin"), ABSENT + ", and {stem}.bin is not read" + PICKLED),
    "weights of another name": (
        lambda folder: weights(folder).rename(folder / f"{weights(folder).stem}.fp16.safetensors"),
        ABSENT
        + "; rename {stem}.fp16.safetensors if it holds the same weights, in half precision for instance.",
    ),
    "a link to nothing": (make_dangling, FILE + " is a link to ../blobs/0a1b, which does not exist."),
    "a pointer of Git LFS": (
        lambda folder: weights(folder).write_text(POINTER),
        FILE + " is a pointer of Git LFS; run `git lfs pull` where it was cloned.",
    ),
    "a configuration that is a pointer": (
        lambda folder: (folder / "config.json").write_text(POINTER),
        CONFIG + " is a pointer of Git LFS; run `git lfs pull` where it was cloned.",
    ),
    "a pickle called safetensors": (
        as_pickle(".safetensors"),
        DAMAGED,
    ),
    "an empty file": (
        lambda folder: weights(folder).write_bytes(b""),
        DAMAGED,
    ),
    "a truncated file": (truncate, DAMAGED),
    "NaN": (set_value(float("nan")), NAN),
    "infinity": (set_value(float("-inf")), NAN),
    "int8": (cast(torch.int8), TYPE % "int8"),
    "int64": (cast(torch.int64), TYPE % "int64"),
    "float8": (cast(torch.float8_e4m3fn), TYPE % "float8_e4m3fn"),
    "a missing tensor": (
        change(lambda tensors, name: tensors.pop(name)),
        OTHERS + "it lacks {first}.",
    ),
    "a tensor too many": (
        change(lambda tensors, name: tensors.update({"more.weight": torch.zeros(1)})),
        OTHERS + "it has more.weight too.",
    ),
    "a tensor of another shape": (
        change(lambda tensors, name: tensors.update({name: torch.zeros(3, 5, 7)})),
        OTHERS + "it has {first} as [3, 5, 7], where [",
    ),
    "no configuration": (
        lambda folder: (folder / "config.json").unlink(),
        CONFIG + " does not exist: {folder} is not the folder of a saved model.",
    ),
    "a broken configuration": (
        lambda folder: (folder / "config.json").write_text("{"),
        CONFIG + " is no JSON file (",
    ),
    "a configuration of nothing": (
        lambda folder: (folder / "config.json").write_text("[1]"),
        CONFIG + " holds no settings of a model.",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("case", SPOILED)
def test_a_bad_folder_is_refused_by_its_file(
    case: str, kind: str, meta: bool, saved: Path, tmp_path: Path
) -> None:
    """With its weights, or by the headers alone, which do not tell the values."""
    folder = shutil.copytree(saved / kind, tmp_path / kind)
    names = {
        "folder": folder,
        "stem": weights(folder).stem,
        "described": DESCRIBED[kind],
        "first": min(read(weights(folder))),
    }
    spoil, sentence = SPOILED[case]
    spoil(folder)
    if meta and case in ("NaN", "infinity"):
        LOADERS[kind](folder, meta=True)
        return
    with pytest.raises(ValueError) as caught:
        LOADERS[kind](folder, meta=meta)
    expected = sentence.format(**names)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOADERS)
def test_a_folder_in_shards_is_loaded_or_its_missing_shard_named(
    kind: str, saved: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved / "sharded" / kind, tmp_path / kind)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    whole, parts = LOADERS[kind](saved / kind), LOADERS[kind](folder)
    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), rtol=0, atol=0)

    index, text = weights(folder), weights(folder).read_text()
    content = json.loads(text)
    content["weight_map"][min(content["weight_map"])] = "../outside.safetensors"
    shutil.copy(shards[0], tmp_path / "outside.safetensors")
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError) as caught:
        LOADERS[kind](folder)
    assert str(caught.value) == f"{folder}/../outside.safetensors is missing: {index} names it."
    index.write_text("{}")
    with pytest.raises(ValueError) as caught:
        LOADERS[kind](folder)
    assert str(caught.value) == f"{index} has no weight_map, which names the files of the weights."

    index.write_text(text)
    tensors = read(shards[-1])
    next(iter(tensors.values())).view(-1)[:1].fill_(float("nan"))
    shards[-1].unlink()  # it may still be mapped
    save_file(tensors, shards[-1])
    with pytest.raises(ValueError) as caught:
        LOADERS[kind](folder)
    assert str(caught.value) == f"{shards[-1]} holds NaN or infinite values in {next(iter(tensors))}."
    shards[-1].unlink()
    with pytest.raises(ValueError) as caught:
        LOADERS[kind](folder)
    assert str(caught.value) == f"{shards[-1]} is missing: {index} names it."


@pytest.mark.parametrize("kind", LOADERS)
def test_a_tensor_that_the_index_names_and_no_shard_holds_is_missed(
    kind: str, saved: Path, tmp_path: Path
) -> None:
    """The libraries believe the index, and would leave the tensor without values."""
    folder = shutil.copytree(saved / "sharded" / kind, tmp_path / kind)
    shard = min(folder.glob("*.safetensors"))
    tensors = read(shard)
    name = min(tensors)
    del tensors[name]
    shard.unlink()
    save_file(tensors | {"another": torch.zeros(1)}, shard)
    for meta in (False, True):
        with pytest.raises(ValueError) as caught:
            LOADERS[kind](folder, meta=meta)
        assert str(caught.value) == f"{weights(folder)} names {name}, which none of its files holds."


def test_a_vae_whose_attention_is_made_of_convolutions_is_refused(saved: Path, tmp_path: Path) -> None:
    """As in files that were converted from the first release of latent diffusion."""
    folder = shutil.copytree(saved / "vae", tmp_path / "vae")
    tensors = read(weights(folder))
    for name in [name for name in tensors if ".attentions.0.to_" in name and tensors[name].ndim == 2]:
        tensors[name] = tensors[name][:, :, None, None].contiguous()
    save_file(tensors, weights(folder))
    for meta in (False, True):
        with pytest.raises(ValueError, match=r"to_\w+(\.0)?\.weight as \[4, 4, 1, 1\], where \[4, 4\] is"):
            LOADERS["vae"](folder, meta=meta)


def test_of_several_weights_of_other_names_none_is_renamed(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "unet", tmp_path / "unet")
    content = weights(folder).read_bytes()
    weights(folder).unlink()
    for number in (1, 2):
        (folder / f"diffusion_pytorch_model.fp16-0000{number}-of-00002.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"fp16-00001-of-00002\.safetensors is not read; if you trust its"):
        LOADERS["unet"](folder)


@pytest.mark.parametrize("inside", [".", "vae"])
def test_the_cache_of_a_hub_is_answered_with_the_model_in_it(
    saved: Path, tmp_path: Path, inside: str
) -> None:
    cache = tmp_path / "models--someone--something"
    shutil.copytree(saved / "vae", cache / "snapshots/0a1b" / inside)
    with pytest.raises(ValueError) as caught:
        LOADERS["vae"](cache / inside)
    sentence = f"{cache} is a cache of the Hugging Face hub; give the model in it, {cache}/snapshots/0a1b."
    assert str(caught.value) == sentence
    LOADERS["vae"](cache / "snapshots/0a1b" / inside)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOADERS)
def test_loading_is_quiet(kind: str, saved: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What the libraries would tell of a bad folder is in the sentence."""
    folder = shutil.copytree(saved / "sharded" / kind, tmp_path / kind)
    LOADERS[kind](folder)
    folder = shutil.copytree(saved / kind, tmp_path / "bad")
    change(lambda tensors, name: tensors.update({name: torch.zeros(3, 5, 7)}))(folder)
    with pytest.raises(ValueError):
        LOADERS[kind](folder)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("old", [False, True])
def test_tensors_of_torch_save_are_read_in_its_present_and_its_older_format(
    tmp_path: Path, old: bool
) -> None:
    file = tmp_path / "a.pth"
    torch.save({"a": torch.ones(2)}, file, _use_new_zipfile_serialization=not old)
    assert read_state_dict(file)["a"].tolist() == [1, 1]


def test_what_is_no_file_of_tensors_is_refused_without_advice_to_unpickle_it(tmp_path: Path) -> None:
    file, harm = tmp_path / "a.pth", tmp_path / "harm"
    for content, sentence in (
        (pickle.dumps(_Harmful(harm)), " is no file of tensors that torch.save wrote; objects and its first"),
        (b"\x08\x07\x12\x07pytorch", " is no file of tensors that torch.save wrote; objects and its first"),
        (POINTER.encode(), " is a pointer of Git LFS; run `git lfs pull` where it was cloned."),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError) as caught:
            read_state_dict(file)
        assert str(caught.value).startswith(f"{file}{sentence}") and "\n" not in str(caught.value)
    for state in ([torch.zeros(1)], {"a": 1}):
        torch.save(state, file)
        with pytest.raises(ValueError, match="holds no tensors by their names"):
            read_state_dict(file)
    torch.save({"a": torch.zeros(1) / 0}, file)
    with pytest.raises(ValueError, match="holds NaN or infinite values in a"):
        read_state_dict(file)
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "none.pth")
    assert not harm.exists()


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("other", LOADERS)
def test_a_folder_of_another_architecture_is_refused(kind: str, other: str, saved: Path) -> None:
    if {kind, other} <= {"unet", "denoiser"} or kind == other:
        LOADERS[kind](saved / other)
        return
    with pytest.raises(ValueError) as caught:
        LOADERS[kind](saved / other)
    assert str(caught.value).startswith(f"{saved / other} holds a ")


@pytest.mark.parametrize("kind", LOADERS)
def test_weights_of_another_architecture_of_that_class_are_refused(
    kind: str, saved: Path, tmp_path: Path
) -> None:
    """The configuration is of the same class; the weights beside it are of a network with other layers."""
    folder = shutil.copytree(saved / kind, tmp_path / kind)
    source = saved / ("vae" if kind != "vae" else "unet")
    shutil.copy(weights(source), weights(folder))
    with pytest.raises(ValueError) as caught:
        LOADERS[kind](folder)
    assert str(caught.value).startswith(f"{weights(folder)} holds no weights of the {DESCRIBED[kind]} that ")


def test_a_unet_that_asks_for_more_than_tokens_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "unet", tmp_path / "unet")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"addition_embed_type": "text_time"}))
    with pytest.raises(ValueError) as caught:
        LOADERS["unet"](folder)
    assert str(caught.value) == (
        f"{folder} holds a UNet with addition_embed_type 'text_time', where one without is needed, such as "
        "Stable Diffusion 1.5 and 2.1 have."
    )


def pipeline() -> IMAGPosePipeline:
    size = dict(
        zip(("view_height", "view_width", "token_height", "token_width"), (32, 16, 16, 8), strict=True)
    )
    return IMAGPosePipeline(
        tiny.vae(), tiny.image_encoder(), tiny.denoiser(trained=True), tiny.scheduler(), **size
    )


def test_a_saved_pipeline_is_the_one_that_was_saved(tmp_path: Path) -> None:
    imagpose = pipeline()
    imagpose.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path)
    for part in ("vae", "image_encoder", "denoiser"):
        one, other = (getattr(each, part) for each in (imagpose, loaded))
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
        assert not other.training
    assert loaded.scheduler.config.items() <= imagpose.scheduler.config.items()
    assert (loaded.view_size, loaded.token_size) == (imagpose.view_size, imagpose.token_size)


SPOILED_PIPELINES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    **{
        f"{case} in {part}": (part, *SPOILED[case])
        for part in ("vae", "image_encoder", "denoiser")
        for case in ("NaN", "pickled weights", "no configuration", "a missing tensor")
    },
    "a missing scheduler": (
        "scheduler",
        shutil.rmtree,
        "{folder}/scheduler_config.json does not exist: {folder} is not the folder of a saved model.",
    ),
    "no pipeline": (
        ".",
        lambda folder: (folder / "model_index.json").unlink(),
        "{folder}/model_index.json does not exist: {folder} is not the folder of a saved model.",
    ),
    "another pipeline": (
        ".",
        lambda folder: edit_json(folder / "model_index.json", _class_name="DDIMPipeline"),
        "{folder} holds a pipeline of kind DDIMPipeline; expected IMAGPosePipeline.",
    ),
    "no size": (
        ".",
        lambda folder: edit_json(folder / "model_index.json", view_width="16"),
        "{folder}/model_index.json has view_width '16'; expected a number of pixels.",
    ),
}


def edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.slow
@pytest.mark.parametrize("case", SPOILED_PIPELINES)
def test_a_bad_pipeline_is_refused_by_its_file(case: str, tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path)
    part, spoil, sentence = SPOILED_PIPELINES[case]
    folder, names = tmp_path / part, {}
    if part in DESCRIBED:
        file = weights(folder)
        names = {"stem": file.stem, "first": min(read(file)), "described": DESCRIBED[part]}
    spoil(folder)
    with pytest.raises(ValueError) as caught:
        load_pipeline(tmp_path)
    assert str(caught.value) == sentence.format(folder=folder, **names)


def test_a_pipeline_in_shards_names_the_one_that_is_missing(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path, max_shard_size="2KB")
    assert load_pipeline(tmp_path).view_size == tiny.VIEW_SIZE
    shard = max((tmp_path / "denoiser").glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(ValueError) as caught:
        load_pipeline(tmp_path)
    assert str(caught.value) == f"{shard} is missing: {weights(tmp_path / 'denoiser')} names it."


class _Harmful:
    """An object whose unpickling does harm: it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("kind", LOADERS)
def test_no_file_of_a_folder_is_unpickled(kind: str, saved: Path, tmp_path: Path) -> None:
    folder, harm = shutil.copytree(saved / kind, tmp_path / kind), tmp_path / "harm"
    file = weights(folder)
    for name in (file.name, f"{file.stem}.bin", "pytorch_model.bin", f"{file.stem}.pt"):
        (folder / name).write_bytes(pickle.dumps(_Harmful(harm)))
    with pytest.raises(ValueError, match=r"is no safetensors file"):
        LOADERS[kind](folder)
    assert not harm.exists()
    pickle.loads(file.read_bytes())
    assert harm.exists()  # so it would have been seen


@pytest.mark.parametrize("kind", LOADERS)
def test_where_a_model_was_loaded_from_is_not_saved_with_it(kind: str, saved: Path, tmp_path: Path) -> None:
    LOADERS[kind](saved / kind).save_pretrained(tmp_path)
    assert str(saved) not in (tmp_path / "config.json").read_text()


def test_no_stage_loads_a_pipeline_without_these_checks() -> None:
    for file in (Path(__file__).parents[2] / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            assert not (isinstance(node, ast.Attribute) and node.attr == "from_pretrained"), file


def test_no_code_unpickles_or_trusts_remote_code() -> None:
    root = Path(__file__).parents[2]
    files = [file for package in ("pipeline", "generator", "reid") for file in (root / package).rglob("*.py")]
    assert len(files) > 30
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None)]
                assert not {"pickle", "dill", "joblib", "shelve", "marshal"} & set(names), file
            if isinstance(node, ast.Call):
                given = {argument.arg: ast.unparse(argument.value) for argument in node.keywords}
                assert not {"trust_remote_code", "allow_pickle"} & set(given), file
                if ast.unparse(node.func) == "torch.load":
                    assert given.get("weights_only") == "True", file
