"""The detector OpenPose: its body model of 18 keypoints, run by controlnet-aux."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from generator.keypoints import KEYPOINT_NAMES
from pipeline.keypoints.detector import MOST_ON_GPU, Detector


class OpenPose(Detector):
    """OpenPose's body model, the file body_pose_model.pth."""

    PACKAGE = "controlnet-aux"

    def __init__(self, path: Path, may_use_gpu: bool) -> None:
        import cv2
        import torch

        body_class, _ = import_openpose()
        torch.set_num_threads(1)  # the processes share the cores
        cv2.setNumThreads(1)
        self.body = body_class(str(path)).to("cuda" if may_use_gpu and torch.cuda.is_available() else "cpu")

    @classmethod
    def check(cls, path: Path) -> None:
        """See that a file is OpenPose's body model, whole and finite; reads it all, and unpickles no object.

        Raises:
            FileNotFoundError: The file is missing.
            ValueError: It holds something else, pickled objects for instance, or NaN; or the package
                controlnet_aux, which runs the model, is not installed.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"poses.path is {path}, there is no such file; expected OpenPose's body_pose_model.pth, "
                "since poses.source is openpose"
            )
        import torch

        from generator.weights import read_state_dict

        try:
            _, bodypose_model = import_openpose()
        except ModuleNotFoundError:
            raise ValueError(
                "poses.source is openpose, which needs the package controlnet-aux; pip install '.[paper]'"
            ) from None
        with torch.device("meta"):
            body = bodypose_model().state_dict()
        # The file's names lack the first part, the branch of the network.
        shapes = {name.split(".", 1)[1]: list(tensor.shape) for name, tensor in body.items()}
        try:
            state = read_state_dict(path)
            for name, shape in shapes.items():
                if name not in state:
                    raise ValueError(f"it has no {name}")
                if list(state[name].shape) != shape:
                    raise ValueError(f"{name} is {list(state[name].shape)}, where {shape} is needed")
        except ValueError as error:
            raise ValueError(
                f"poses.path is {path}; it is no OpenPose body model of 18 keypoints ({error})"
            ) from None

    @staticmethod
    def files(path: Path) -> Sequence[Path]:
        """Return the one file."""
        return [path]

    @staticmethod
    def processes(cores: int) -> tuple[int, bool]:
        """Use every core: the search for people in the network's maps runs there in any case.

        Where there are more cores than may share a GPU, they run the network too.
        """
        return cores, cores <= MOST_ON_GPU

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Find people, [P, 18, 3]."""
        candidates, people = self.body(np.asarray(image)[..., ::-1])  # it wants BGR
        return assemble(candidates, people)


def import_openpose() -> tuple[Any, Any]:
    """Import controlnet-aux's `Body` and `bodypose_model`, without what the package does besides.

    It warns of a dozen models that are not used here. It also imports mediapipe where that is installed, and
    fails, because the versions that we run lack its old interface. It does without where there is none.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    before = sys.modules.get("mediapipe")
    sys.modules["mediapipe"] = None  # type: ignore[assignment]  # as Python marks what cannot be imported
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from controlnet_aux.open_pose.body import Body
            from controlnet_aux.open_pose.model import bodypose_model
    finally:
        del sys.modules["mediapipe"]
        if before is not None:
            sys.modules["mediapipe"] = before
    return Body, bodypose_model


def assemble(candidates: NDArray[np.floating], people: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return people [P, 18, 3] from what OpenPose's search for people gives.

    Args:
        candidates: All keypoints of the image: x, y, score and number, [M, 4].
        people: For each person the rows of its 18 keypoints in `candidates` (-1: missing), then its score and
            its number of keypoints, [P, 20].
    """
    result = np.zeros((len(people), len(KEYPOINT_NAMES), 3), np.float32)
    for person, rows in zip(result, people[:, : len(KEYPOINT_NAMES)].astype(int), strict=True):
        person[rows >= 0] = candidates[rows[rows >= 0], :3]
    return result
