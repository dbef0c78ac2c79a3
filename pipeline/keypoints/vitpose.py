"""The detector ViTPose (Xu et al., NeurIPS 2022), from a folder in the hub's layout, run by transformers.

It is told where a person is and looks for no other: that is the whole crop here. So it finds one person in
each image. Where nobody is, it is unsure of every keypoint.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.keypoints.detector import MOST_ON_GPU, Detector
from pipeline.keypoints.layouts import COCO, to_openpose

_COCO_EXPERT = 0  # of the six data sets that ViTPose+ was trained on, each with its own keypoints


class ViTPose(Detector):
    """ViTPose and ViTPose+ with COCO's 17 keypoints: config.json, preprocessor_config.json, safetensors."""

    PACKAGE = "transformers"

    def __init__(self, path: Path, may_use_gpu: bool) -> None:
        import torch
        from transformers import VitPoseImageProcessor

        from generator.model_files import read_json

        torch.set_num_threads(1)  # the processes share the cores
        self.model = _load(path).eval().requires_grad_(False)
        self.processor: Any = VitPoseImageProcessor.from_dict(read_json(path / "preprocessor_config.json"))
        self.device = "cuda" if may_use_gpu and torch.cuda.is_available() else "cpu"
        self.model.to(self.device)

    @classmethod
    def check(cls, path: Path) -> None:
        """See that a folder holds a ViTPose with COCO's keypoints; reads the headers of its weights only.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: It holds something else, or a part of it is missing.
        """
        if not path.is_dir():
            raise FileNotFoundError(
                f"poses.path is {path}, there is no such folder; expected a ViTPose in transformers' layout, "
                "since poses.source is vitpose"
            )
        from generator.model_files import read_config, read_json

        _, config = read_config(path, ["vitpose"])
        read_json(path / "preprocessor_config.json")
        model = _load(path, meta=True)
        count = len(config.get("id2label", {})) or model.config.num_labels
        if count != COCO:
            raise ValueError(f"poses.path is {path}, a ViTPose of {count} keypoints; expected COCO's {COCO}")

    @staticmethod
    def files(path: Path) -> Sequence[Path]:
        """Return the configurations and the weights."""
        from generator.model_files import weight_files

        source, weights = weight_files(path, "model")
        return sorted({path / "config.json", path / "preprocessor_config.json", source, *weights})

    @staticmethod
    def processes(cores: int) -> tuple[int, bool]:
        """Use a few processes on a GPU where there is one, as the network is all the work; else all cores."""
        import torch

        return min(cores, MOST_ON_GPU) if torch.cuda.is_available() else cores, True

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Find the person, [1, 18, 3]; scores are the peaks of the network's heat maps."""
        import torch

        boxes = [[[0, 0, *image.size]]]
        inputs = self.processor(image, boxes=boxes, return_tensors="pt").to(self.device)
        if getattr(self.model.config.backbone_config, "num_experts", 1) > 1:
            inputs["dataset_index"] = torch.tensor([_COCO_EXPERT], device=self.device)
        ((person,),) = self.processor.post_process_pose_estimation(self.model(**inputs), boxes=boxes)
        points = np.concatenate([person["keypoints"], person["scores"][:, None]], axis=1)
        return to_openpose(points[None])


def _load(path: Path, meta: bool = False) -> Any:
    from transformers import VitPoseForPoseEstimation

    from generator.weights import load_model

    return load_model(VitPoseForPoseEstimation, path, meta=meta)
