"""A re-ID model that was given away has the features that it had, in torch and in ONNX."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts import REID_MODELS
from pipeline.params import Params, load_params
from reid.evaluate import features
from reid.model import BoT, load_model, save_model
from reid.settings import ReidSettings
from tests import embedded, write_params
from tools import export_reid

JUDGES = {
    "small": {"backbone": "resnet10", "channels": 8},
    "osnet": {"backbone": "torchreid:osnet_x0_25"},
    "vit": {
        "backbone": "timm:vit_tiny_patch16_224",
        "backbone_options": {"depth": 1, "embed_dim": 32, "num_heads": 2},
        "test_feature": "before",
    },
}
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 64, 32, 3), np.uint8)


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A project with judges."""
    monkeypatch.chdir(tmp_path)
    size = {"height": 64, "width": 32}
    write_params(tmp_path, embedded({"judges": {name: judge | size for name, judge in JUDGES.items()}}))
    return load_params()


def saved(settings: ReidSettings, arm: str) -> BoT:
    """Save a model that has seen something as that of an arm at 20 % with seed 0."""
    torch.manual_seed(0)
    model = BoT(settings, 5).train()
    model(torch.randn(8, 3, settings.height, settings.width))
    folder = REID_MODELS / arm
    folder.mkdir(parents=True)
    save_model(model, folder / "20-0.safetensors")
    return model.eval()


def export(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["export_reid", *arguments])
    export_reid.main()


def test_a_copy_loads_elsewhere_and_says_what_it_is(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(params.reid_of("standard@small"), "standard@small")
    export(monkeypatch, "standard@small", "20", "0", "--to", "given away")
    loaded = load_model(Path("given away/model.safetensors"))
    np.testing.assert_array_equal(features(loaded, IMAGES, 2), features(model, IMAGES, 2))
    card = Path("given away/README.md").read_text()
    assert "resnet10, arm standard@small" in card and "20 % of the real training images" in card


@pytest.mark.slow
@pytest.mark.parametrize("judge", JUDGES)
def test_onnx_gives_the_same_features_for_any_number_of_images(
    params: Params, monkeypatch: pytest.MonkeyPatch, judge: str
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    arm = f"standard@{judge}"
    settings = params.reid_of(arm)
    model = saved(settings, arm)
    model.settings = settings.model_copy(update={"mixed_precision": "no"})  # as ONNX computes
    export(monkeypatch, arm, "20", "0", "--onnx")
    session = onnxruntime.InferenceSession(f"exports/reid-{arm}-20-0/model.onnx")
    for count in (1, 2, 5):
        (vectors,) = session.run(None, {"images": IMAGES[:count]})
        np.testing.assert_allclose(vectors, features(model, IMAGES[:count], 5), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["osnet", "20", "0"], r"the arm is osnet; expected one of standard, imagpose, standard@"),
        (["standard", "20", "7"], r"models/reid/standard/20-7.safetensors is missing; .* has no model"),
        (["standard", "20", "0", "--to", "."], r"\. exists; name a new folder"),
    ],
)
def test_what_is_not_there_is_named(
    params: Params, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    if arguments[2] == "0":
        saved(params.reid.model_copy(update={"channels": 8}), "standard")
    with pytest.raises((ValueError, OSError), match=sentence):
        export(monkeypatch, *arguments)
