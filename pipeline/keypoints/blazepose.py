"""The detector BlazePose, run by the package mediapipe.

mediapipe's present Tasks run two networks from one bundle, `pose_landmarker_*.task`: one finds people, the
other their 33 landmarks. Its wheels hold no bundle. Those up to 0.10.21 hold the two networks, for an older
interface that needs another numpy than ours. Either file is read here, so that a registry of packages is all
that is needed. Wheels from 0.10.35 on have code that sends metrics to Google, so no such version is run.
"""

import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from packaging.version import Version
from PIL import Image

from pipeline.keypoints.detector import Detector
from pipeline.keypoints.layouts import to_openpose
from pipeline.keypoints.people import NOBODY

_MOST_PEOPLE = 5  # in an image
# Black border around an image, as a share of its longer side. BlazePose misses people who fill a crop: of 300
# rendered ones of 64 x 128 pixels it finds 71 % without a border and 93 % with this one, equally well.
_BORDER = 0.25
# Versions of mediapipe: the first without weights, and the first that needs an OpenCV of its own
_FIRST, _TOO_NEW = Version("0.10.30"), Version("0.10.32")

# The networks in a bundle, and in a wheel: name in the bundle -> name in the wheel, mean and standard
# deviation by which its input is normalised; None where the network itself says so
_NETWORKS: dict[str, tuple[str, tuple[float, float] | None]] = {
    "pose_detector.tflite": ("mediapipe/modules/pose_detection/pose_detection.tflite", None),
    "pose_landmarks_detector.tflite": (
        "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
        (0.0, 255.0),
    ),
}


class BlazePose(Detector):
    """BlazePose, from a bundle pose_landmarker_*.task or from a wheel of mediapipe up to 0.10.21."""

    PACKAGE = "mediapipe"

    def __init__(self, path: Path, may_use_gpu: bool) -> None:
        from mediapipe.tasks.python import vision
        from mediapipe.tasks.python.core.base_options import BaseOptions

        options = vision.PoseLandmarkerOptions(
            BaseOptions(model_asset_buffer=read_bundle(path)), num_poses=_MOST_PEOPLE
        )
        with _silent():
            self.landmarker = vision.PoseLandmarker.create_from_options(options)

    @classmethod
    def check(cls, path: Path) -> None:
        """Load the model.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It holds something else, or mediapipe is not installed, has a version that is not run
                here, or lacks a library of the system.
        """
        needed = "poses.source is mediapipe, which needs the package mediapipe"
        try:
            found = version(cls.PACKAGE)
        except PackageNotFoundError:
            raise ValueError(f"{needed}; pip install -c constraints.txt '.[mediapipe]'") from None
        if not _FIRST <= Version(found) < _TOO_NEW:
            raise ValueError(
                f"{needed} from {_FIRST} on and below {_TOO_NEW}; there is {found}, and versions from "
                "0.10.35 on send metrics to Google; pip install -c constraints.txt '.[mediapipe]'"
            )
        if not path.is_file():
            raise FileNotFoundError(
                f"poses.path is {path}, there is no such file; expected BlazePose's pose_landmarker_*.task, "
                "or the wheel mediapipe-0.10.21-*.whl, since poses.source is mediapipe"
            )
        read_bundle(path)  # for its own sentence
        try:
            cls(path, False).landmarker.close()
        except (OSError, ValueError, RuntimeError) as error:
            # One of these for each of mediapipe's codes, or what the system's loader says
            if "cannot open shared object" in str(error):
                raise ValueError(
                    f"{needed}, and it a library of the system: {error}; apt-get install libegl1 libgles2"
                ) from None
            reason = str(error).partition("\n")[0]
            raise ValueError(f"poses.path is {path}, which mediapipe does not load: {reason}") from None

    @staticmethod
    def files(path: Path) -> Sequence[Path]:
        """Return the one file."""
        return [path]

    @staticmethod
    def processes(cores: int) -> tuple[int, bool]:
        """Use every core and no GPU, for which the wheels have no code."""
        return cores, False

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Find people, [P, 18, 3]; scores are BlazePose's visibility."""
        import mediapipe

        # In a square, since mediapipe turns the landmarks of inclined people as if every image were one
        side = round(max(image.size) * (1 + 2 * _BORDER))
        left, top = (side - image.width) // 2, (side - image.height) // 2
        square = Image.new("RGB", (side, side))
        square.paste(image, (left, top))
        pixels = np.asarray(square)
        with _silent():
            found = self.landmarker.detect(
                mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
            )

        # Shares of the square become pixels of the image, whose centres lie at integers.
        points = [
            [
                (mark.x * side - 0.5 - left, mark.y * side - 0.5 - top, mark.visibility or 0.0)
                for mark in person
            ]
            for person in found.pose_landmarks
        ]
        return to_openpose(np.array(points, np.float32).reshape(len(points), -1, 3)) if points else NOBODY


def read_bundle(path: Path) -> bytes:
    """Read the bundle of the two networks from a .task file, or make it of those in a wheel of mediapipe.

    Raises:
        ValueError: The file is neither.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if set(_NETWORKS) <= names:
                return path.read_bytes()
            if not {name for name, _ in _NETWORKS.values()} <= names:
                raise ValueError("it holds no networks of BlazePose")
            networks = {
                name: archive.read(source) if norm is None else normalised(archive.read(source), *norm)
                for name, (source, norm) in _NETWORKS.items()
            }
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(
            f"poses.path is {path}; expected BlazePose's pose_landmarker_*.task, or the wheel "
            f"mediapipe-0.10.21-*.whl, since poses.source is mediapipe ({str(error).lower()})"
        ) from None
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:  # not compressed, as mediapipe wants it
        for name, network in networks.items():
            bundle.writestr(zipfile.ZipInfo(name), network)
    return buffer.getvalue()


def normalised(network: bytes, mean: float, deviation: float) -> bytes:
    """Write into a TensorFlow Lite network how its input image is normalised: (pixel - mean) / deviation.

    The old interface of mediapipe had these two numbers in its code, the Tasks look for them in the file.
    """
    import flatbuffers
    from mediapipe.tasks.metadata import metadata_schema_py_generated as metadata
    from mediapipe.tasks.metadata import schema_py_generated as schema

    # 1. The metadata of the input, with empty ones for the outputs
    model = schema.ModelT.InitFromPackedBuf(network, 0)
    options = metadata.NormalizationOptionsT()
    options.mean, options.std = [mean], [deviation]
    unit = metadata.ProcessUnitT()
    unit.optionsType, unit.options = metadata.ProcessUnitOptions.NormalizationOptions, options
    image, graph, whole = metadata.TensorMetadataT(), metadata.SubGraphMetadataT(), metadata.ModelMetadataT()
    image.processUnits, graph.inputTensorMetadata = [unit], [image]
    graph.outputTensorMetadata = [metadata.TensorMetadataT() for _ in model.subgraphs[0].outputs]
    whole.subgraphMetadata = [graph]
    builder = flatbuffers.Builder()
    builder.Finish(whole.Pack(builder), b"M001")

    # 2. A buffer of the network that holds it, and the entry that names this buffer
    content, entry = schema.BufferT(), schema.MetadataT()
    content.data = np.frombuffer(builder.Output(), np.uint8)
    entry.name, entry.buffer = "TFLITE_METADATA", len(model.buffers)
    model.buffers.append(content)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what mediapipe's own code prints about its networks from the terminal."""
    before, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nothing)
