"""The papers' user study: a questionnaire as one HTML page, and the rates R2G, G2R and Jab from its answers.

`make` draws real and generated images of a run and writes questionnaire.html, which opens offline and lets
the reader download the answers as a file, and key.json, which says what was what and stays with you. `rates`
reads the key and the answers that were sent back. R2G is the share of real images taken for generated, G2R
the share of generated images taken for real, Jab the share of choices in which a method's image was the
best (PIDM, PCDMs, IMAGPose); the higher, the better the method. Lengths and seed: section study of
params.yaml.
"""

import argparse
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
from pipeline.artifacts import read_index, read_poses
from pipeline.params import Params, load_params
from pipeline.runtime.outputs import atomic, read_csv, write_json
from pipeline.runtime.page import Picture, graphic, photograph, render
from pipeline.runtime.stage import stage_main

CONFIDENCE = 0.95
_ANSWERS = ("real", "generated")
_PLANNED = {"name": str, "sources": str, "pose": str}  # columns of a manifest that was planned here


def make(folders: list[Path], params: Params) -> tuple[str, dict[str, Any]]:
    """Draw the questions and return the page and its key.

    Args:
        folders: the methods' images, each a folder with manifest.csv. Images of the same name in all of them
            are compared with each other; the first folder says from which source and in which pose. An
            imported image that had another name shows nobody knows which pose, and is not compared.
        params: data set and length of the questionnaire.

    Raises:
        ValueError: a folder is named twice, or there are fewer images than the settings ask for.
    """
    settings, root = params.study, params.dataset.root
    methods = [folder.as_posix() for folder in folders]
    if len(set(methods)) < len(methods):
        raise ValueError(f"the folders are {', '.join(methods)}; expected each once")
    manifests = [read_csv(folder / "manifest.csv", {"name": str}, "generate") for folder in folders]
    index = read_index()
    train = index.image[index.split == "train"]
    size = (params.dataset.width, params.dataset.height)

    # Part 1: real or generated?
    shown = [("real", root / image) for image in _draw(train, "real", "the training set", params)]
    for method, folder, manifest in zip(methods, folders, manifests, strict=True):
        shown += [(method, folder / name) for name in _draw(manifest.name, "generated", method, params)]
    order = make_rng(settings.seed, "study order").permutation(len(shown))
    judged = {f"image-{place + 1}": shown[i] for place, i in enumerate(order)}

    # Part 2: which is best?
    compared: dict[str, tuple[list[str], dict[str, Any]]] = {}
    if len(folders) > 1 and settings.comparisons:
        planned = read_csv(folders[0] / "manifest.csv", _PLANNED, "generate")
        for manifest in manifests[1:]:  # of the same sources and pose, where another method names them
            if "file" in manifest:
                had = manifest.file.map(lambda file: Path(file).stem)
                manifest = manifest[had == manifest.name.map(lambda name: Path(name).stem)]
            shared = [column for column in _PLANNED if column in manifest]
            planned = planned.merge(manifest[shared], on=shared)
        rows = planned.set_index("name", drop=False)
        for number, name in enumerate(_draw(planned.name, "comparisons", "all methods at once", params)):
            shuffled = make_rng(settings.seed, "study choices", number).permutation(methods).tolist()
            compared[f"choice-{number + 1}"] = (
                shuffled,
                {str(key): value for key, value in rows.loc[name].items()},
            )

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
                for i, method in enumerate(shuffled, start=1)
            ],
        }
        for question, (shuffled, row) in compared.items()
    ]
    # Of the page's pictures: it tells one study from another and nothing about the answers.
    study = hashlib.sha256(json.dumps([questions, choices], default=vars).encode()).hexdigest()[:12]
    key = {
        "study": study,
        "methods": methods,
        "judged": {question: truth for question, (truth, _) in judged.items()},
        "compared": {question: shuffled for question, (shuffled, _) in compared.items()},
    }
    return render("study.html.jinja", study=study, questions=questions, choices=choices), key


def _draw(names: "pd.Series[str]", setting: str, of: str, params: Params) -> list[str]:
    """Draw as many of the images `of` somebody as the setting of that name asks for."""
    wanted = getattr(params.study, setting)
    if len(names) < wanted:
        raise ValueError(f"study.{setting} is {wanted}; expected at most {len(names)}, the images of {of}")
    return make_rng(params.study.seed, f"study {setting} {of}").permutation(sorted(names))[:wanted].tolist()


def _pose(image: str, params: Params) -> Picture:
    skeleton = draw_skeleton(read_poses([image])[0], params.dataset.height, params.dataset.width)
    return graphic(Image.fromarray(skeleton), "The target pose")


def read_key(file: Path) -> dict[str, Any]:
    """Read the key of a study; raises ValueError when the file is none."""
    try:
        key = json.loads(file.read_text(encoding="utf-8"))
        return {name: key[name] for name in ("study", "methods", "judged", "compared")}
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{file}: this is no key that `python -m tools.study make` wrote") from None


def read_answers(files: list[Path], key: dict[str, Any]) -> list[dict[str, Any]]:
    """Read answers that were sent back, and check that they belong to this study.

    Raises:
        ValueError: a file is of another study, was given twice, or answers what was not asked.
    """
    sheets: dict[str, Path] = {}
    found = []
    for file in files:
        try:
            sheet = json.loads(file.read_text(encoding="utf-8"))
            study, sheet_id, answers = sheet["study"], sheet["sheet"], sheet["answers"].items()
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"{file}: this is no file that the questionnaire downloads") from None
        if study != key["study"]:
            raise ValueError(f"{file}: it answers study {study}; the key is of study {key['study']}")
        if sheet_id in sheets:
            raise ValueError(f"{file}: these are the answers of {sheets[sheet_id]} again")
        for question, answer in answers:
            choices = [*range(1, len(key["methods"]) + 1)] if question in key["compared"] else _ANSWERS
            if question not in {**key["judged"], **key["compared"]} or answer not in choices:
                raise ValueError(f"{file}: {question} is answered {answer!r}, which was not asked")
        sheets[sheet_id] = file
        found.append(sheet)
    return found


def rates(sheets: list[dict[str, Any]], key: dict[str, Any]) -> pd.DataFrame:
    """Compute the rates: columns rate, method, votes, percent, low and high of its 95 % interval.

    The intervals are Wilson's and take the votes as independent of each other. R2G has the method "real".
    """
    asked: Counter[tuple[str, str]] = Counter()
    counted: Counter[tuple[str, str]] = Counter()
    for sheet in sheets:
        for question, answer in sheet["answers"].items():
            if question in key["judged"]:
                truth = key["judged"][question]
                cell = ("R2G" if truth == "real" else "G2R", truth)
                asked[cell] += 1
                counted[cell] += (answer == "real") != (truth == "real")
            else:
                for method in key["methods"]:
                    asked["Jab", method] += 1
                counted["Jab", key["compared"][question][answer - 1]] += 1
    rows = []
    for (rate, method), votes in sorted(asked.items()):
        test = binomtest(counted[rate, method], votes)
        interval = test.proportion_ci(CONFIDENCE, method="wilson")
        numbers = np.round([100 * test.statistic, 100 * interval.low, 100 * interval.high], 2)
        rows.append((rate, method, votes, *numbers.tolist()))
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
    parser = argparse.ArgumentParser(
        prog="python -m tools.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    what = "draw the images and write questionnaire.html, to send to people, and key.json, to keep"
    maker = commands.add_parser("make", help=what, description=f"Make: {what}.")
    maker.add_argument(
        "folders", nargs="+", type=Path, help="a method's images, such as data/synthetic/all/20"
    )
    maker.add_argument("--output", type=Path, default=Path("study"), help="folder (default: %(default)s)")
    what = "read the key and the answers that were sent back, print R2G, G2R and Jab, and write rates.json"
    reader = commands.add_parser("rates", help=what, description=f"Rates: {what}.")
    reader.add_argument("key", type=Path, help="key.json")
    reader.add_argument("answers", nargs="+", type=Path, help="files that the questionnaire downloaded")
    arguments = parser.parse_args()
    if arguments.command == "make":
        page, key = make(arguments.folders, load_params())
        with atomic(arguments.output / "questionnaire.html") as file:
            file.write_text(page, encoding="utf-8")
        write_json(key, arguments.output / "key.json")
        print(
            f"Send {arguments.output}/questionnaire.html to people, keep {arguments.output}/key.json, then:"
        )
        print(f"python -m tools.study rates {arguments.output}/key.json answers-*.json")
    else:
        key = read_key(arguments.key)
        sheets = read_answers(arguments.answers, key)
        table = rates(sheets, key)
        write_json(table.to_dict("records"), arguments.key.with_name("rates.json"))
        print(show(table, len(sheets)))


if __name__ == "__main__":
    stage_main(main)
