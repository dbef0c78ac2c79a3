"""The model card of a trained generator: README.md, as the Hugging Face Hub shows it."""

import io
import json
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from pipeline.artifacts import GENERATORS
from pipeline.params import Params
from reid.cameras import count_cameras

CARD = "README.md"

_PIECES = ("base", "image_encoder", "token_height", "token_width", "denoiser", "scheduler", "train", "seed")


def model_card(train_on: str, percent: int, train: pd.DataFrame, curve: pd.DataFrame, params: Params) -> str:
    """Write the model card of a trained generator: Markdown with the front matter of the Hub.

    It depends on the data, the settings and the base weights alone, not on when or where it is written.

    Args:
        train_on: What the generator was trained on, all or subset.
        percent: Percent of the training images that it saw.
        train: These images, columns pid and camid.
        curve: Columns step, loss and others, means over the steps up to `step`.
        params: Settings of the run.
    """
    data, end = params.dataset, curve.iloc[-1]
    names = ", ".join(f"{name.replace('_', ' ')} {end[name]:.4g}" for name in curve.columns if name != "step")
    saw = "All" if percent == 100 else f"A random {percent} %"
    cameras = count_cameras(train.camid.to_numpy()) or "unknown"
    quality = params.generator.base / "quality.json"
    return f"""---
library_name: diffusers
pipeline_tag: image-to-image
license: other
license_name: of-its-base-weights-and-training-images
tags:
- person-re-identification
- pose-guided-person-image-generation
- imagpose
---

# IMAGPose on {data.name}, {percent} % of the training images

Generates images of a person in other poses ({data.height}x{data.width} pixels) from one to three images of
them: IMAGPose (Shen and Tang, NeurIPS 2024) as implemented by reid-imagpose.

```python
from generator.sample import IMAGPosePipeline

imagpose = IMAGPosePipeline.from_pretrained("{(GENERATORS / train_on / str(percent)).as_posix()}")
images = imagpose([source], [source_pose], [pose_a, pose_b, pose_c], seeds=[1, 2, 3]).images
```

`source` is a PIL image; a pose is an array [18, 3] of OpenPose keypoints: x, y in pixels, score. The package
`generator` comes with reid-imagpose.

## Training data

{saw} of the training images of the data set "{data.name}": {len(train)} images of
{train.pid.nunique()} people by {cameras} cameras, keypoints from {params.poses.source}. No
other images of the data set were used.

## Training settings

The VAE and the image encoder stay frozen.

```yaml
{_yaml(params)}```

## End of the learning curve

Means over the last steps up to step {int(end["step"])}: {names}.
A diffusion loss shows that training was sound, not how good the images are.

## Measured

{_quality(quality)}

## Intended use and limits

For research on person re-identification: to add images to a training set. The images show people of the
training set; they inherit its biases, its licence and the rights of those people. Do not identify or track
anybody with it.

## Licence

The code is under Apache 2.0. The weights derive from the base weights and the training images named above,
whose licences bind them.
"""


def _yaml(params: Params) -> str:
    """Write the settings of the training as YAML."""
    text = io.StringIO()
    values = json.loads(params.generator.model_dump_json(include=set(_PIECES)))
    YAML().dump({name: values[name] for name in _PIECES}, text)
    return text.getvalue()


def _quality(file: Path) -> str:
    """Write the scores of the base weights; those of the fine-tuned ones come after they are saved."""
    if not file.is_file():
        return "Nothing yet: scores come after training; `python -m tools.model_card` adds them to a copy."
    scores = json.loads(file.read_text(encoding="utf-8"))
    return "\n".join(
        [
            "The base weights, before this training, on people whom they were not trained on:",
            "",
            "| Score | Value |",
            "| --- | ---: |",
            *(f"| {name.replace('_', ' ')} | {value:g} |" for name, value in scores.items()),
        ]
    )
