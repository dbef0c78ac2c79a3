"""Copy a trained re-ID model to give away: its weights, its settings and a card; with --onnx as ONNX too.

Writes a folder with model.safetensors and model.json, which `load_model` of reid/model.py reads without any
other file, and README.md, the model card. model.onnx maps images, uint8 [N, H, W, 3] in RGB at the size of
the settings, to features of length 1, float32 [N, D]: normalisation is part of it, the number of images is
free, and it computes in float32. It needs the extra `onnx`.
"""

import importlib.util
import shutil
from pathlib import Path

import torch
from torch import nn

from pipeline.artifacts import REID_MODELS, reid_weights
from pipeline.params import Params, load_params
from pipeline.runtime.outputs import atomic
from pipeline.runtime.stage import command_line, stage_main
from reid.model import BoT, load_model, settings_file

EXPORTS = Path("exports")
WEIGHTS, ONNX, CARD = "model.safetensors", "model.onnx", "README.md"


class _Embedding(nn.Module):
    """A model as the one function that others need, from images to features."""

    def __init__(self, model: BoT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.embed(images)


def write_onnx(model: BoT, file: Path) -> None:
    """Write a model as ONNX, with a free number of images and in float32.

    Raises:
        ModuleNotFoundError: The packages of the extra `onnx` are missing.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"{package} is not installed; `pip install -c constraints.txt -e '.[onnx]'` adds it"
            )
    settings = model.settings
    model.settings = settings.model_copy(update={"mixed_precision": "no"})
    images = torch.zeros(2, settings.height, settings.width, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        _Embedding(model).eval(),
        (images,),
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes={"images": {0: torch.export.Dim("n", min=1)}},
        dynamo=True,
        verbose=False,
    )
    model.settings = settings
    assert program is not None
    program.save(str(file), external_data=False)


def model_card(model: BoT, arm: str, percent: int, seed: int, params: Params) -> str:
    """Say in Markdown what a model was trained on, and how it is loaded."""
    settings, source = model.settings, params.train_on(arm)
    mean, std = (" / ".join(f"{value:g}" for value in values) for values in (model.mean, model.std))
    saw = {
        "none": "real images alone",
        "all": "those and images of IMAGPose, which saw all real training images",
        "subset": "those and images of IMAGPose, which saw them alone",
        "other": "those and images of another generator",
    }[source]
    size = f"{settings.height} x {settings.width}"
    return f"""# Re-ID model: {settings.backbone}, arm {arm}

Trained by reid-imagpose on {percent} % of the real training images of "{params.dataset.name}", seed {seed}:
{saw}.

```python
from pathlib import Path

from reid.evaluate import features
from reid.model import load_model

model = load_model(Path("{WEIGHTS}"))
vectors = features(model, images, 64)
```

`images` are RGB, resized to {size} pixels: uint8 [N, height, width, 3]. A row of `vectors`, float32
[N, {model.dimension}], has length 1; the smaller the distance of two rows, the more alike their images are.
`{ONNX}`, if it is here, maps the same images to the same features.

`model.json` has all settings of the training. Pixels in [0, 1] are normalised by the mean
{mean} and the deviation {std}, which the model and the ONNX file do themselves.

## Intended use and licence

For research on person re-identification. Do not identify or track anybody with it. The code is under Apache
2.0. The weights derive from the training images and from the pretrained weights, if there were any, whose
licences bind them.
"""


def main() -> None:
    """Run the command."""
    parser = command_line("export_reid", __doc__, "tools")
    parser.add_argument("arm", help="standard, standard@<judge>, or an arm of params.yaml")
    parser.add_argument("percent", type=int, help="percent of the real training images, as 20; 100 for all")
    parser.add_argument("seed", type=int, help="seed of the training")
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="new folder (default: exports/reid-<arm>-<percent>-<seed>)"
    )
    parser.add_argument("--onnx", action="store_true", help="write model.onnx too")
    arguments = parser.parse_args()
    params = load_params()
    arm, percent, seed = arguments.arm, arguments.percent, arguments.seed
    if arm not in params.all_arms:
        raise ValueError(f"the arm is {arm}; expected one of {', '.join(params.all_arms)}")
    source = REID_MODELS / arm / reid_weights(percent, seed)
    if not source.is_file():
        names = ", ".join(sorted(file.stem for file in source.parent.glob("*.safetensors"))) or "no model"
        raise FileNotFoundError(f"{source} is missing; {source.parent} has {names}")
    output = arguments.to or EXPORTS / f"reid-{arm}-{percent}-{seed}"
    if output.exists():
        raise ValueError(f"{output} exists; name a new folder with --to")
    model = load_model(source)
    with atomic(output) as folder:
        folder.mkdir()
        shutil.copy(source, folder / WEIGHTS)
        shutil.copy(settings_file(source), settings_file(folder / WEIGHTS))
        (folder / CARD).write_text(model_card(model, arm, percent, seed, params), encoding="utf-8")
        if arguments.onnx:
            write_onnx(model, folder / ONNX)
    print(f"{output}: {', '.join(sorted(file.name for file in output.iterdir()))}")


if __name__ == "__main__":
    stage_main(main)
