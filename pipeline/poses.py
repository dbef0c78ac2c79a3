"""Stage `poses`: the 18 OpenPose keypoints of every indexed image, annotated or detected.

Reads data/index.csv and keypoints.csv of the data set (or its images); writes data/poses.csv and the counts
in reports/poses.json.
"""

import functools
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

import pipeline.datasets.images as images_module
from generator.keypoints import KEYPOINT_NAMES, resize_keypoints
from pipeline.artifacts import COORDINATES, POSES, POSES_SUMMARY, read_index
from pipeline.datasets.formats import FORMATS
from pipeline.datasets.images import read_image
from pipeline.params import load_params
from pipeline.runtime.hashes import md5
from pipeline.runtime.outputs import write_csv, write_json
from pipeline.runtime.scratch import scratch
from pipeline.runtime.stage import command_line, progress, stage_main
from pipeline.runtime.workers import available_cores, worker_pool

# Rows of the image that OpenPose sees, which resizes it to 184 itself: twice Market-1501's, since it places
# keypoints at whole pixels. Its post-processing on the CPU takes 0.08 s here and 1.9 s at its usual 1024.
_OPENPOSE_HEIGHT = 256
# Each process on a GPU holds a CUDA context and the network there (200 MB of weights alone), and the search
# for people runs on its core in any case: where there are more cores than these, they run the network too.
_MOST_ON_GPU = 4  # processes


def detect(
    root: Path, images: Sequence[str], checksums: Sequence[str], model: Path
) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """Run OpenPose on images, in one process per core; up to four use a GPU where there is one.

    Of several people in an image the one with the largest bounding box is kept, since the crop was made for
    it; an image without a person has only zeros. What was found in an image is kept in scratch, so that a
    stage that was killed continues where it was.

    Args:
        root: Folder of the data set.
        images: Paths of images, relative to it.
        checksums: MD5 of each of these images.
        model: File `body_pose_model.pth` of the package controlnet_aux.

    Returns:
        [N, 18, 3] x, y in pixels of the image, score in [0, 1]; and [N], how many people each image shows.

    Raises:
        FileNotFoundError, ValueError: `check_openpose` refuses the model.
    """
    # Once, and before the processes load it with controlnet_aux, which leaves it to torch's default not to
    # unpickle objects
    check_openpose(model)
    file = scratch("poses", __file__, images_module, model=md5(model)) / "keypoints.jsonl"
    results = _read_results(file)
    todo = {checksum: root / image for image, checksum in zip(images, checksums, strict=True)}
    todo = {checksum: image for checksum, image in todo.items() if checksum not in results}
    cores = available_cores()
    if todo:
        detect_file = functools.partial(detect_one, model=model, may_use_gpu=cores <= _MOST_ON_GPU)
        with worker_pool(cores) as pool, file.open("a", encoding="utf-8") as lines:
            outcomes = pool.map(detect_file, todo.values(), chunksize=8)
            for checksum, (points, count) in zip(
                todo, progress(outcomes, len(todo), "OpenPose"), strict=True
            ):
                lines.write("\n" + json.dumps([checksum, points.tolist(), count]))
                results[checksum] = points, count
    keypoints, people = zip(*(results[checksum] for checksum in checksums), strict=True)
    return np.stack(keypoints), np.array(people)


def _read_results(file: Path) -> dict[str, tuple[NDArray[np.float32], int]]:
    """Return keypoints and number of people of the images that were done, by checksum."""
    results = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            checksum, points, count = json.loads(line)
        except ValueError:
            continue  # empty, or cut off by a kill
        results[checksum] = np.array(points, np.float32), count
    return results


def detect_one(file: Path, model: Path, may_use_gpu: bool) -> tuple[NDArray[np.float32], int]:
    """Return the keypoints [18, 3] of the largest person in one image, and the number of people."""
    # Enlarge the image to the height that OpenPose is to see
    image = read_image(file)
    scale = _OPENPOSE_HEIGHT / image.height
    size = (round(image.width * scale), _OPENPOSE_HEIGHT)
    enlarged = image.resize(size, Image.Resampling.BICUBIC)
    candidates, people = _openpose(model, may_use_gpu)(np.asarray(enlarged)[..., ::-1])  # it wants BGR
    keypoints = largest_person(candidates, people)
    # And back to pixels of the image; its width was rounded, so the two scales differ a little
    return resize_keypoints(keypoints, 1 / np.array([size[0] / image.width, scale])), len(people)


@functools.cache
def _openpose(model: Path, may_use_gpu: bool) -> Any:
    """Load OpenPose's body model, once per process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing controlnet_aux warns of a dozen models that we do not use
        import cv2
        import torch
        from controlnet_aux.open_pose.body import Body
    torch.set_num_threads(1)  # the processes share the cores
    cv2.setNumThreads(1)
    return Body(str(model)).to("cuda" if may_use_gpu and torch.cuda.is_available() else "cpu")


def check_openpose(model: Path) -> None:
    """See that a file is OpenPose's body model, whole and finite; reads it all.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It holds something else, pickled objects for instance, or NaN; or the package
            controlnet_aux, which runs the model, is not installed.
    """
    if not model.is_file():
        raise FileNotFoundError(
            f"poses.openpose_model is {model}, there is no such file; expected OpenPose's body_pose_model.pth"
        )
    import torch

    from generator.weights import read_state_dict

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as above
            from controlnet_aux.open_pose.model import bodypose_model
    except ModuleNotFoundError:
        raise ValueError(
            "poses.source is openpose, which needs the package controlnet-aux; pip install '.[paper]'"
        ) from None
    with torch.device("meta"):
        body = bodypose_model().state_dict()
    # The file's names lack the first part, the branch of the network.
    shapes = {name.split(".", 1)[1]: list(tensor.shape) for name, tensor in body.items()}
    try:
        state = read_state_dict(model)
        for name, shape in shapes.items():
            if name not in state:
                raise ValueError(f"it has no {name}")
            if list(state[name].shape) != shape:
                raise ValueError(f"{name} is {list(state[name].shape)}, where {shape} is needed")
    except ValueError as error:
        raise ValueError(
            f"poses.openpose_model is {model}; it is no OpenPose body model of 18 keypoints ({error})"
        ) from None


def largest_person(candidates: NDArray[np.floating], people: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the keypoints [18, 3] of the person with the largest bounding box; zeros if there is nobody.

    Args:
        candidates: All keypoints of the image: x, y, score and number, [M, 4].
        people: For each person the rows of its 18 keypoints in `candidates` (-1: missing), then its score and
            its number of keypoints, [P, 20].
    """
    largest, largest_area = np.zeros((len(KEYPOINT_NAMES), 3), np.float32), -1.0
    for person in people:
        rows = person[: len(KEYPOINT_NAMES)].astype(int)
        is_there = rows >= 0
        points = candidates[rows[is_there], :3]
        area = float(np.prod(np.ptp(points[:, :2], axis=0)))  # of the box around its keypoints
        if area > largest_area:
            largest, largest_area = np.zeros_like(largest), area
            largest[is_there] = points
            largest[:, 2] = largest[:, 2].clip(0, 1)  # peaks of the heat map may exceed 1
    return largest


def to_frame(images: Sequence[str], keypoints: NDArray[np.floating]) -> pd.DataFrame:
    """Make the table of keypoints [N, 18, 3], rounded to hundredths."""
    rounded = keypoints.astype(np.float64).round(2)
    rounded[..., 2] = np.where(keypoints[..., 2] > 0, rounded[..., 2].clip(min=0.01), 0)  # 0: not visible
    frame = pd.DataFrame(rounded.reshape(len(images), -1), columns=COORDINATES)
    frame.insert(0, "image", list(images))
    return frame


def summarise(keypoints: NDArray[np.float32], people: NDArray[np.integer] | None = None) -> dict[str, float]:
    """Count images, those without any keypoint and with several people, and visible keypoints per image.

    Args:
        keypoints: Keypoints [N, 18, 3].
        people: Number of people in each image, [N]; None where annotations tell of one at most.
    """
    visible = (keypoints[..., 2] > 0).sum(-1)
    return {
        "images": len(keypoints),
        "images_without_person": int((visible == 0).sum()),
        "images_with_several_people": 0 if people is None else int((people > 1).sum()),
        "visible_keypoints_per_image": round(float(visible.mean()), 2),
    }


def main() -> None:
    """Run the stage."""
    # Keypoints in pixels of the images
    params, index = load_params(), read_index()
    root, images = params.dataset.root, index.image.tolist()
    sizes = index[["width", "height"]].to_numpy()
    print(f"{params.poses.source}: keypoints of {len(images)} images", flush=True)
    people: NDArray[np.integer] | None = None
    if params.poses.source == "annotations":
        keypoints = FORMATS[params.dataset.format].read_annotations(root, images, sizes)
    else:
        assert params.poses.openpose_model is not None  # params.py sees to it
        keypoints, people = detect(root, images, index.md5.tolist(), params.poses.openpose_model)
    # In pixels of a view: the image between two borders, resized to the view's height
    border = params.dataset.border
    scale = np.array([params.dataset.width - 2 * border, params.dataset.height]) / sizes
    keypoints = resize_keypoints(keypoints, scale[:, None])
    keypoints[..., 0] += border * (keypoints[..., 2] > 0)
    write_csv(to_frame(images, keypoints), POSES)
    write_json(summarise(keypoints, people), POSES_SUMMARY)


if __name__ == "__main__":
    command_line("poses", __doc__).parse_args()
    stage_main(main)
