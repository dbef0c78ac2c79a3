"""Copy a trained generator to give away, with the scores of the last run on its model card.

`train_generator` writes a card (README.md) beside each generator: what it was trained on and how. Scores are
known only later, and a stage's output must not change after it, so they go into the copy: the scores of its
images from reports/scores.json and their gain from reports/table4.json, if they were measured with this very
generator. The copy loads as any diffusers pipeline and can be uploaded to the Hugging Face Hub as it is.
"""

import json
import shutil
from pathlib import Path

from pipeline.artifacts import GENERATORS, SCORES, TABLE4_SUMMARY
from pipeline.params import Params, load_params
from pipeline.runtime.hashes import model_hash
from pipeline.runtime.outputs import atomic
from pipeline.runtime.stage import command_line, stage_main
from pipeline.shared.model_card import CARD

_MEND = {  # file of scores -> what writes it
    SCORES: "`dvc repro experiments/scores/dvc.yaml` measures models/generator/all/100",
    TABLE4_SUMMARY: "`dvc repro` measures the gain of each arm",
}


def image_scores(model: Path, file: Path) -> str:
    """Write the scores of a generator's images as a section of its card; empty if they are another's.

    Args:
        model: Folder of the generator.
        file: reports/scores.json.
    """
    report = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if report.get("generator") != model_hash(model):
        return ""

    # A row per scenario and for the photographs, a column per metric that has a value.
    scenarios = {
        name: scores for name, scores in report.items() if isinstance(scores, dict) and name != "missing"
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
            f"{report['pairs']} pairs of a source and a target photograph of {report['people']} people of "
            f"{report['data_set']} ({report['identities']}) whom the generator never saw. Identity top1 is "
            "in percent, the pose error in percent of the image's height; photographs are the targets.",
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
    """Write the gain of a generator's images as a section of its card; empty if it is another's.

    Args:
        model: Folder of the generator.
        file: reports/table4.json.
        params: Settings of the run.
    """
    summary = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    generator = model_hash(model)
    rows = [
        _gain(f"{arm} | {percent} % | {metric}", cell[metric])
        for arm, by_source in summary.items()
        for cells in by_source.values()
        for percent, cell in cells.items()
        if cell.get("generator") == generator
        for metric in ("rank1", "mAP")
    ]
    if not rows:
        return ""
    return "\n".join(
        [
            "## Measured in re-identification",
            "",
            f"Percent on {params.tested_on}, trained on that share of the real images and on images of this "
            "generator; the gain over real images alone is in points, with its 95 % interval over seeds.",
            "",
            "| Arm | Real images | Metric | Mean | Gain | Interval |",
            "| --- | ---: | --- | ---: | ---: | --- |",
            *rows,
            "",
            "",
        ]
    )


def _gain(name: str, metric: dict[str, float | None]) -> str:
    low, high = metric["gain_low"], metric["gain_high"]
    interval = "" if low is None else f"{low:+.1f} to {high:+.1f}"
    return f"| {name} | {metric['mean']:.1f} | {metric['gain']:+.1f} | {interval} |"


def main() -> None:
    """Run the command."""
    parser = command_line("model_card", __doc__, "tools")
    parser.add_argument(
        "train_on", choices=["all", "subset"], help="images that the generator was trained on"
    )
    parser.add_argument("percent", type=int, help="percent of the training images that it saw; 100 for all")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="new folder for the copy")
    arguments = parser.parse_args()
    params = load_params()
    model = GENERATORS / arguments.train_on / str(arguments.percent)
    if not (model / CARD).is_file():
        raise FileNotFoundError(
            f"{model / CARD} is missing; run the stage 'train_generator', which writes it"
        )
    if arguments.to.exists():
        raise ValueError(f"{arguments.to} exists; name a new folder")

    # The scores go before the section on the intended use.
    sections = {
        SCORES: image_scores(model, SCORES),
        TABLE4_SUMMARY: table4_scores(model, TABLE4_SUMMARY, params),
    }
    with atomic(arguments.to) as folder:
        shutil.copytree(model, folder)
        before, after = (model / CARD).read_text(encoding="utf-8").split("## Intended use", 1)
        scores = "".join(sections.values())
        (folder / CARD).write_text(f"{before}{scores}## Intended use{after}", encoding="utf-8")
    print(f"{arguments.to}: the generator and its card, {arguments.to / CARD}")
    for file, section in sections.items():
        if not section:
            print(f"{file} is of no run of this generator and not on the card: {_MEND[file]}")


if __name__ == "__main__":
    stage_main(main)
