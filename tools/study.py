"""The papers' user study: a questionnaire as one HTML page, and the rates R2G, G2R and Jab from its answers.

`make` draws real and generated images of a run. It writes questionnaire.html, which opens offline and lets
people download their answers as a file, and key.json with the truth, which stays with you. `rates` reads the
key and the answers that were sent back. R2G is the share of real images taken for generated, G2R the share of
generated images taken for real, Jab the share of choices in which a method's image was the best (PIDM, PCDMs,
IMAGPose); higher is better for the method. Lengths and seed: section study of params.yaml.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import binomtest

from common.seeding import make_rng
from generator.pose import draw_skeleton
from pipeline.artifacts import MANIFEST, read_index, read_poses
from pipeline.params import Params, load_params
from pipeline.runtime.outputs import atomic, read_csv, write_json
from pipeline.runtime.page import Picture, graphic, photograph, render
from pipeline.runtime.stage import command_line, stage_main
from pipeline.shared.statistics import CONFIDENCE

_ANSWERS = ("real", "generated")
_PLAN_COLUMNS = {"name": str, "sources": str, "pose": str}  # of a manifest whose images follow a plan


# --- make the questionnaire ---------------------------------------------------------------------------------


def make(folders: list[Path], params: Params) -> tuple[str, dict[str, Any]]:
    """Draw the questions and return the page and its key.

    Args:
        folders: Images of each method, a folder with manifest.csv. Images of the same name in all folders are
            compared with each other; the first folder says from which source and in which pose. An imported
            image that had another name is not compared: nobody knows which pose it shows.
        params: Data set and length of the questionnaire.

    Raises:
        ValueError: A folder is given twice, or there are fewer images than the settings ask for.
    """
    methods = [folder.as_posix() for folder in folders]
    if len(set(methods)) < len(methods):
        raise ValueError(f"the folders are {', '.join(methods)}; expected each once")
    manifests = [read_csv(folder / MANIFEST, {"name": str}) for folder in folders]
    judged = _draw_judged(folders, manifests, params)
    compared = _draw_compared(folders, manifests, params)

    # The page shows pictures alone, without names, in one size.
    root, size = params.dataset.root, (params.dataset.width, params.dataset.height)
    questions = [
        {"id": question, "image": photograph(file, "The image to judge", size)}
        for question, (_, file) in judged.items()
    ]
    choices = [
        {
            "id": question,
            "source": photograph(root / row["sources"].split("|")[0], "The person", size),
            "pose": _pose(row["pose"], params),
            "images": [
                photograph(Path(method) / row["name"], f"Choice {i}", size)
                for i, method in enumerate(order, start=1)
            ],
        }
        for question, (order, row) in compared.items()
    ]

    # A hash of the page's pictures tells one study from another, and nothing about the answers.
    study = hashlib.sha256(json.dumps([questions, choices], default=vars).encode()).hexdigest()[:12]
    key = {
        "study": study,
        "methods": methods,
        "judged": {question: truth for question, (truth, _) in judged.items()},
        "compared": {question: order for question, (order, _) in compared.items()},
    }
    return render("study.html.jinja", study=study, questions=questions, choices=choices), key


def _draw_judged(
    folders: list[Path], manifests: list[pd.DataFrame], params: Params
) -> dict[str, tuple[str, Path]]:
    """Draw the images of the first part, real or generated: question -> ("real" or the method, file)."""
    index = read_index()
    train = index.image[index.split == "train"]
    names = _draw(train, "real", "the training set", params)
    images = [("real", params.dataset.root / name) for name in names]
    for folder, manifest in zip(folders, manifests, strict=True):
        method = folder.as_posix()
        images += [(method, folder / name) for name in _draw(manifest.name, "generated", method, params)]
    order = make_rng(params.study.seed, "study order").permutation(len(images))
    return {f"image-{place + 1}": images[i] for place, i in enumerate(order)}


def _draw_compared(
    folders: list[Path], manifests: list[pd.DataFrame], params: Params
) -> dict[str, tuple[list[str], dict[str, Any]]]:
    """Draw the choices of the second part: question -> (methods in the order shown, row of the plan)."""
    settings = params.study
    if len(folders) < 2 or not settings.comparisons:
        return {}
    # Images of the same name in all folders, and of the same sources and pose if a manifest says them.
    plan = read_csv(folders[0] / MANIFEST, _PLAN_COLUMNS)
    for manifest in manifests[1:]:
        if "file" in manifest:  # the imported file, which may have had another name
            old_name = manifest.file.map(lambda file: Path(file).stem)
            manifest = manifest[old_name == manifest.name.map(lambda name: Path(name).stem)]
        plan = plan.merge(manifest[[column for column in _PLAN_COLUMNS if column in manifest]])
    rows = plan.set_index("name", drop=False)

    compared = {}
    methods = [folder.as_posix() for folder in folders]
    for number, name in enumerate(_draw(plan.name, "comparisons", "all methods at once", params)):
        order = make_rng(settings.seed, "study choices", number).permutation(methods).tolist()
        row = {str(key): value for key, value in rows.loc[name].items()}
        compared[f"choice-{number + 1}"] = (order, row)
    return compared


def _draw(names: "pd.Series[str]", setting: str, whose: str, params: Params) -> list[str]:
    """Draw as many of somebody's images as the setting of that name asks for."""
    count = getattr(params.study, setting)
    if len(names) < count:
        raise ValueError(f"study.{setting} is {count}; expected at most {len(names)}, the images of {whose}")
    rng = make_rng(params.study.seed, f"study {setting} {whose}")
    return rng.permutation(sorted(names))[:count].tolist()


def _pose(image: str, params: Params) -> Picture:
    """Draw the pose of an image for the page."""
    skeleton = draw_skeleton(read_poses([image])[0], params.dataset.height, params.dataset.width)
    return graphic(Image.fromarray(skeleton), "The target pose")


# --- count the answers --------------------------------------------------------------------------------------


def read_key(file: Path) -> dict[str, Any]:
    """Read the key of a study; raises ValueError if the file is no key."""
    try:
        key = json.loads(file.read_text(encoding="utf-8"))
        return {name: key[name] for name in ("study", "methods", "judged", "compared")}
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{file}: this is no key that `python -m tools.study make` wrote") from None


def read_answers(files: list[Path], key: dict[str, Any]) -> list[dict[str, Any]]:
    """Read answers that were sent back, and check that they belong to this study.

    Returns:
        One sheet per file: study, sheet (an identifier), answers (question -> answer) and more.

    Raises:
        ValueError: A file is of another study, was given twice, or answers what was not asked.
    """
    file_of: dict[str, Path] = {}  # identifier of a sheet -> its file
    sheets = []
    for file in files:
        try:
            sheet = json.loads(file.read_text(encoding="utf-8"))
            study, sheet_id, answers = sheet["study"], sheet["sheet"], sheet["answers"].items()
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"{file}: this is no file that the questionnaire downloads") from None
        if study != key["study"]:
            raise ValueError(f"{file}: it answers study {study}; the key is of study {key['study']}")
        if sheet_id in file_of:
            raise ValueError(f"{file}: these are the answers of {file_of[sheet_id]} again")
        for question, answer in answers:
            choices = [*range(1, len(key["methods"]) + 1)] if question in key["compared"] else _ANSWERS
            if question not in {**key["judged"], **key["compared"]} or answer not in choices:
                raise ValueError(f"{file}: {question} is answered {answer!r}, which was not asked")
        file_of[sheet_id] = file
        sheets.append(sheet)
    return sheets


def rates(sheets: list[dict[str, Any]], key: dict[str, Any]) -> pd.DataFrame:
    """Compute the rates: columns rate, method, votes, percent, and low and high of its 95 % interval.

    The intervals are Wilson's and take the votes as independent of each other. The method of R2G is "real".
    """
    # By rate and method: all votes, and those among them that raise the rate.
    votes: Counter[tuple[str, str]] = Counter()
    hits: Counter[tuple[str, str]] = Counter()
    for sheet in sheets:
        for question, answer in sheet["answers"].items():
            if question in key["judged"]:
                truth = key["judged"][question]
                cell = ("R2G" if truth == "real" else "G2R", truth)
                votes[cell] += 1
                hits[cell] += (answer == "real") != (truth == "real")
            else:
                for method in key["methods"]:
                    votes["Jab", method] += 1
                hits["Jab", key["compared"][question][answer - 1]] += 1

    rows = []
    for (rate, method), count in sorted(votes.items()):
        test = binomtest(hits[rate, method], count)
        interval = test.proportion_ci(CONFIDENCE, method="wilson")
        numbers = np.round([100 * test.statistic, 100 * interval.low, 100 * interval.high], 2)
        rows.append((rate, method, count, *numbers.tolist()))
    return pd.DataFrame(rows, columns=["rate", "method", "votes", "percent", "low", "high"])


def show(table: pd.DataFrame, sheets: int) -> str:
    """Write the rates as text."""
    lines = [f"{sheets} answered questionnaires; percent with the 95 % interval, higher is better"]
    width = max(map(len, table.method), default=0)
    for row in table.itertuples():
        lines.append(
            f"{row.rate}  {row.method:{width}}  {row.percent:5.1f}  ({row.low:.1f} to {row.high:.1f})  "
            f"of {row.votes} votes"
        )
    return "\n".join([*lines, "The intervals take votes as independent, also those of one person."])


def main() -> None:
    """Run one of the two commands."""
    parser = command_line("study", __doc__, "tools")
    commands = parser.add_subparsers(dest="command", required=True)
    text = "draw the images and write questionnaire.html, to send to people, and key.json, to keep"
    maker = commands.add_parser("make", help=text, description=f"Make: {text}.")
    maker.add_argument(
        "folders", nargs="+", type=Path, help="a method's images, such as data/synthetic/all/20"
    )
    maker.add_argument("--output", type=Path, default=Path("study"), help="folder (default: %(default)s)")
    text = "read the key and the answers that were sent back, print R2G, G2R and Jab, and write rates.json"
    reader = commands.add_parser("rates", help=text, description=f"Rates: {text}.")
    reader.add_argument("key", type=Path, help="key.json")
    reader.add_argument("answers", nargs="+", type=Path, help="files that the questionnaire downloaded")
    arguments = parser.parse_args()
    if arguments.command == "make":
        page, key = make(arguments.folders, load_params())
        output = arguments.output
        with atomic(output / "questionnaire.html") as file:
            file.write_text(page, encoding="utf-8")
        write_json(key, output / "key.json")
        print(f"Send {output}/questionnaire.html to people, keep {output}/key.json, then:")
        print(f"python -m tools.study rates {output}/key.json answers-*.json")
    else:
        key = read_key(arguments.key)
        sheets = read_answers(arguments.answers, key)
        table = rates(sheets, key)
        write_json(table.to_dict("records"), arguments.key.with_name("rates.json"))
        print(show(table, len(sheets)))


if __name__ == "__main__":
    stage_main(main)
