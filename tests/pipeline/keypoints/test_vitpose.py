"""ViTPose: a small one with random weights, saved in the hub's layout, through transformers' own code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import VitPoseConfig, VitPoseForPoseEstimation, VitPoseImageProcessor
from transformers.models.vitpose.modeling_vitpose import VitPoseEstimatorOutput

from generator.keypoints import KEYPOINT_NAMES
from pipeline.keypoints.layouts import COCO, LAYOUTS
from pipeline.keypoints.vitpose import ViTPose
from tests.pipeline.keypoints.figure import FIGURE


def save_vitpose(folder: Path, keypoints: int = COCO, experts: int = 1) -> Path:
    """Save a ViTPose, or with several experts a ViTPose+, as the hub has them."""
    torch.manual_seed(0)
    backbone = {
        "model_type": "vitpose_backbone",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
        "image_size": [256, 192],
        "out_indices": [1],
        "num_experts": experts,
        "part_features": 4 if experts > 1 else 0,
    }
    config = VitPoseConfig(backbone_config=backbone, num_labels=keypoints, use_simple_decoder=True)
    VitPoseForPoseEstimation(config).save_pretrained(folder)
    VitPoseImageProcessor().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("experts", [1, 6])
def test_a_saved_model_runs(experts: int, tmp_path: Path) -> None:
    folder = save_vitpose(tmp_path / "vitpose", experts=experts)
    ViTPose.check(folder)
    names = {file.name for file in ViTPose.files(folder)}
    assert names == {"config.json", "preprocessor_config.json", "model.safetensors"}
    detector, image = ViTPose(folder, may_use_gpu=False), Image.new("RGB", (128, 256), (90, 20, 200))
    people = detector(image)
    assert people.shape == (1, 18, 3) and np.isfinite(people).all()
    np.testing.assert_array_equal(detector(image), people)


def test_a_peak_of_a_heat_map_is_found_in_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure as perfect heat maps, whose box is the image and a quarter more, as ViTPose was trained."""
    detector = ViTPose(save_vitpose(tmp_path / "vitpose"), may_use_gpu=False)
    width, height = 128, 256
    box = np.array([0.75 * height, height]) * 1.25  # width and height of what the network sees
    places = 2 * FIGURE[:, :2] + 0.5  # the figure at the size that detectors see
    cells = (places - (np.array([width, height]) - box) / 2) / box * [47, 63]
    rows, columns = np.mgrid[:64, :48]
    maps = np.zeros((1, COCO, 64, 48), np.float32)
    for number, name in enumerate(LAYOUTS[COCO]):
        x, y = cells[KEYPOINT_NAMES.index(name)]
        maps[0, number] = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    output = VitPoseEstimatorOutput(heatmaps=torch.from_numpy(maps))
    monkeypatch.setattr(detector, "model", Fixed(detector.model.config, output))
    (person,) = detector(Image.new("RGB", (width, height)))
    others = [row for row, name in enumerate(KEYPOINT_NAMES) if name != "neck"]
    np.testing.assert_allclose(person[others, :2], places[others], atol=0.5)
    np.testing.assert_allclose(person[KEYPOINT_NAMES.index("neck"), :2], places[1], atol=0.6)
    assert (person[:, 2] > 0.8).all()


class Fixed:
    """A network whose output is given."""

    def __init__(self, config: Any, output: Any) -> None:
        self.config, self.output = config, output

    def __call__(self, **_: Any) -> Any:
        return self.output


def test_a_model_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a ViTPose of 133 keypoints; expected COCO's 17"):
        ViTPose.check(save_vitpose(tmp_path / "whole-body", keypoints=133))
    folder = save_vitpose(tmp_path / "vitpose")
    for name, change, sentence in (
        ("preprocessor_config.json", None, "preprocessor_config.json does not exist"),
        ("config.json", {"model_type": "dinov2"}, "holds a model of kind dinov2; expected vitpose"),
        (
            "config.json",
            {"scale_factor": 4, "use_simple_decoder": False},
            "holds no weights of the VitPoseForPose",
        ),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        ("model.safetensors", None, "model.safetensors does not exist"),
    ):
        file = folder / name
        before = file.read_bytes()
        if change is None:
            file.unlink()
        else:
            file.write_bytes(
                change if isinstance(change, bytes) else json.dumps(json.loads(before) | change).encode()
            )
        with pytest.raises(ValueError) as caught:
            ViTPose.check(folder)
        assert sentence in str(caught.value) and "\n" not in str(caught.value)
        file.write_bytes(before)
    ViTPose.check(folder)


@pytest.mark.parametrize(("gpu", "cores", "processes"), [(True, 16, 4), (True, 2, 2), (False, 16, 16)])
def test_few_processes_share_a_gpu(
    gpu: bool, cores: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert ViTPose.processes(cores) == (processes, True)
