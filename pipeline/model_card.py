"""Make a copy of a trained generator to give away, whose model card tells the scores of the last run.

`train_generator` writes a card (README.md) beside each generator: what it was trained on and how. Scores are
known only later, and a stage's output must not change after it, so they go into the copy: those of its images
from reports/scores.json, and what these brought in Table 4 from reports/table4.json, each where it was
measured with this very generator. The copy loads as any diffusers pipeline and can be uploaded to the Hugging
Face Hub as it is.
"""

import io
import json
import shutil
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from pipeline.cli import command_line
from pipeline.files import atomic, model_hash, stage_main
from pipeline.params import Params, load_params

CARD = "README.md"
MODELS = Path("models/generator")
TABLE = Path("reports/table4.json")
SCORES = Path("reports/scores.json")

_MEASURE = {
    SCORES: "`dvc repro experiments/scores/dvc.yaml` measures models/generator/all/100",
    TABLE: "`dvc repro` measures what the arms' images bring",
}
_PIECES = ("base", "image_encoder", "token_height", "token_width", "denoiser", "scheduler", "train", "seed")


def model_card(which: str, fraction: int, train: pd.DataFrame, curve: pd.DataFrame, params: Params) -> str:
    """The model card of a trained generator, in Markdown with the front matter of the Hugging Face Hub.

    It depends on the data, the settings and the base weights alone, not on when or where it is written.

    Args:
        which: all or subset, what the generator was allowed to see.
        fraction: percent of the training images that it saw.
        train: those images, columns pid and camid.
        curve: columns step, loss and others, means over the steps up to `step`.
        params: of the run.
    """
    data, end = params.dataset, curve.iloc[-1]
    names = ", ".join(f"{name.replace('_', ' ')} {end[name]:.4g}" for name in curve.columns if name != "step")
    saw = "All" if fraction == 100 else f"A random {fraction} %"
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

# IMAGPose on {data.name}, {fraction} % of the training images

Generates images of a person in other poses ({data.height}x{data.width} pixels) from one to three images of
them: IMAGPose (Shen and Tang, NeurIPS 2024) as implemented by reid-imagpose.

```python
from generator.sample import IMAGPosePipeline

pipeline = IMAGPosePipeline.from_pretrained("{(MODELS / which / str(fraction)).as_posix()}")
images = pipeline([source], [source_pose], [pose_a, pose_b, pose_c], seeds=[1, 2, 3]).images
```

`source` is a PIL image; a pose is an array [18, 3] of OpenPose keypoints: x, y in pixels, score. The package
`generator` comes with reid-imagpose.

## Training data

{saw} of the training images of the data set "{data.name}": {len(train)} images of
{train.pid.nunique()} people by {train.camid.nunique()} cameras, keypoints from {params.poses.source}. No
other images of the data set were used.

## Training settings

Everything that is not listed as trained stays frozen: the VAE and the image encoder.

```yaml
{_yaml(params)}```

## End of the learning curve

Means over the last steps up to step {int(end["step"])}: {names}.
A diffusion loss tells that training was sound, not how good the images are.

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
    text = io.StringIO()
    values = json.loads(params.generator.model_dump_json(include=set(_PIECES)))
    YAML().dump({name: values[name] for name in _PIECES}, text)
    return text.getvalue()


def _quality(file: Path) -> str:
    """What was measured of the base weights; of the fine-tuned ones nothing is known when they are saved."""
    if not file.is_file():
        return "Nothing yet: scores come after training; `python -m pipeline.model_card` adds them to a copy."
    scores = json.loads(file.read_text(encoding="utf-8"))
    return "\n".join(
        [
            "The base weights, before this training, on people they were not trained on:",
            "",
            "| Score | Value |",
            "| --- | ---: |",
            *(f"| {name.replace('_', ' ')} | {value:g} |" for name, value in scores.items()),
        ]
    )


def image_scores(model: Path, file: Path) -> str:
    """What was measured of a generator's images, as a section of its card; empty if it was another's."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if found.get("generator") != model_hash(model):
        return ""
    scenarios = {
        name: scores for name, scores in found.items() if isinstance(scores, dict) and name != "missing"
    }
    metrics = list(
        dict.fromkeys(
            name for scores in scenarios.values() for name, value in scores.items() if value is not None
        )
    )
    rows = [
        f"| {name} | " + " | ".join(_number(scores.get(metric)) for metric in metrics) + " |"
        for name, scores in scenarios.items()
    ]
    return "\n".join(
        [
            "## Measured on generated images",
            "",
            f"{found['pairs']} pairs of a source and a target photograph of {found['people']} people of "
            f"{found['data_set']} ({found['identities']}) whom the generator never saw. Identity top1 is in "
            "percent, the pose error in percent of the image's height; photographs are the targets.",
            "",
            f"| Scenario | {' | '.join(metric.replace('_', ' ') for metric in metrics)} |",
            f"| --- |{' ---: |' * len(metrics)}",
            *rows,
            "",
            "",
        ]
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def table4_scores(model: Path, file: Path, params: Params) -> str:
    """What a generator's images brought in Table 4, as a section of its card; empty if it was another's."""
    summary = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    generator = model_hash(model)
    rows = [
        _score(f"{arm} | {share} % | {metric}", cell[metric])
        for arm, by_source in summary.items()
        for cells in by_source.values()
        for share, cell in cells.items()
        if cell.get("generator") == generator
        for metric in ("rank1", "mAP")
    ]
    if not rows:
        return ""
    return "\n".join(
        [
            "## Measured in re-identification",
            "",
            f"Percent on {params.tested_on}, trained on that share of the real images and images of this "
            "generator; the gain is over real images alone, in points, with its 95 % interval over seeds.",
            "",
            "| Arm | Real images | Metric | Mean | Gain | Interval |",
            "| --- | ---: | --- | ---: | ---: | --- |",
            *rows,
            "",
            "",
        ]
    )


def _score(name: str, found: dict[str, float | None]) -> str:
    low, high = found["gain_low"], found["gain_high"]
    interval = "" if low is None else f"{low:+.1f} to {high:+.1f}"
    return f"| {name} | {found['mean']:.1f} | {found['gain']:+.1f} | {interval} |"


def main() -> None:
    """Run the command."""
    parser = command_line("model_card", __doc__)
    parser.add_argument("train_on", choices=["all", "subset"], help="what the generator was trained on")
    parser.add_argument("fraction", type=int, help="percent of the training images that it saw; 100 for all")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="the copy; must not exist")
    arguments = parser.parse_args()
    params = load_params()
    model = MODELS / arguments.train_on / str(arguments.fraction)
    if not (model / CARD).is_file():
        raise FileNotFoundError(
            f"{model / CARD} is missing; run the stage 'train_generator', which writes it"
        )
    if arguments.to.exists():
        raise ValueError(f"{arguments.to} exists; name a new folder")
    sections = {SCORES: image_scores(model, SCORES), TABLE: table4_scores(model, TABLE, params)}
    with atomic(arguments.to) as folder:
        shutil.copytree(model, folder)
        before, after = (model / CARD).read_text(encoding="utf-8").split("## Intended use", 1)
        scores = "".join(sections.values())
        (folder / CARD).write_text(f"{before}{scores}## Intended use{after}", encoding="utf-8")
    print(f"{arguments.to}: the generator and its card, {arguments.to / CARD}")
    for file, section in sections.items():
        if not section:
            print(f"{file} is of no run of this generator and not on the card: {_MEASURE[file]}")


if __name__ == "__main__":
    stage_main(main)
