"""Stage `poses`: the 18 OpenPose keypoints of every indexed image, detected or from files.

Reads data/index.csv and what poses.path names: keypoints, or the model of a detector, which sees the images;
writes data/poses.csv and the counts in reports/poses.json.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.artifacts import COORDINATES, POSES, POSES_SUMMARY, read_index
from pipeline.keypoints.sources import find_keypoints
from pipeline.params import load_params
from pipeline.runtime.outputs import write_csv, write_json
from pipeline.runtime.stage import command_line, stage_main


def to_frame(images: Sequence[str], keypoints: NDArray[np.floating]) -> pd.DataFrame:
    """Make the table of keypoints [N, 18, 3], rounded to hundredths."""
    rounded = keypoints.astype(np.float64).round(2)
    rounded[..., 2] = np.where(keypoints[..., 2] > 0, rounded[..., 2].clip(min=0.01), 0)  # 0: not visible
    frame = pd.DataFrame(rounded.reshape(len(images), -1), columns=COORDINATES)
    frame.insert(0, "image", list(images))
    return frame


def summarise(keypoints: NDArray[np.float32], people: NDArray[np.integer]) -> dict[str, float]:
    """Count images, those without any keypoint and with several people, and visible keypoints per image.

    Args:
        keypoints: Keypoints [N, 18, 3].
        people: Number of people in each image, [N].
    """
    visible = (keypoints[..., 2] > 0).sum(-1)
    return {
        "images": len(keypoints),
        "images_without_person": int((visible == 0).sum()),
        "images_with_several_people": int((people > 1).sum()),
        "visible_keypoints_per_image": round(float(visible.mean()), 2),
    }


def main() -> None:
    """Run the stage."""
    params, index = load_params(), read_index()
    print(f"{params.poses.source}: keypoints of {len(index)} images", flush=True)
    keypoints, people = find_keypoints(params.poses, params.dataset, index)
    write_csv(to_frame(index.image.tolist(), keypoints), POSES)
    write_json(summarise(keypoints, people), POSES_SUMMARY)


if __name__ == "__main__":
    command_line("poses", __doc__).parse_args()
    stage_main(main)
