"""A volunteer answers the questionnaire in a browser, and the rates are those of the answers."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from pipeline.params import Params, load_params
from tests.pipeline.market import save_method
from tools import study

KEY: dict[str, Any] = {
    "study": "abc",
    "methods": ["ours", "theirs"],
    "judged": {"image-1": "real", "image-2": "real", "image-3": "ours", "image-4": "theirs"},
    "compared": {"choice-1": ["theirs", "ours"], "choice-2": ["ours", "theirs"]},
}


@pytest.fixture
def folders(workspace: Params) -> list[Path]:
    """Two methods' images for the same plan."""
    first = Path("data/synthetic/all/50")
    manifest = pd.read_csv(first / "manifest.csv")
    return [first, save_method(Path("elsewhere/50"), manifest[["name", "pid", "md5"]], 5000)]


def sheet(**answers: Any) -> dict[str, Any]:
    named = {question.replace("_", "-"): answer for question, answer in answers.items()}
    return {"study": "abc", "sheet": str(named), "answers": named}


@pytest.mark.slow
def test_a_volunteer_clicks_through_and_the_answers_are_counted(
    folders: list[Path], browser: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["study", "make", *map(str, folders), "--output", "user study"])
    study.main()
    key = json.loads(Path("user study/key.json").read_text())
    page = browser.new_page(offline=True)
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(Path("user study/questionnaire.html").resolve().as_uri())
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Start, by keyboard alone
    for question, truth in key["judged"].items():
        assert page.evaluate("document.activeElement.id") == question
        assert page.locator("img:visible").count() == 1
        page.get_by_role("button", name="Real" if truth == "real" else "Generated").click()
    for question, order in key["compared"].items():
        assert page.evaluate("document.activeElement.id") == question
        page.get_by_role("button", name=f"Choice {order.index(key['methods'][1]) + 1}").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the answers").click()
    name = download.value.suggested_filename
    assert re.fullmatch(rf"answers-{key['study']}-[0-9a-f]{{8}}\.json", name)
    download.value.save_as(name)
    assert json.loads(page.get_by_role("textbox").input_value()) == json.loads(Path(name).read_text())
    page.close()
    assert messages == []

    monkeypatch.setattr(sys, "argv", ["study", "rates", "user study/key.json", name])
    study.main()
    rows = json.loads(Path("user study/rates.json").read_text())
    assert {(row["rate"], row["method"]): (row["percent"], row["votes"]) for row in rows} == {
        ("G2R", "data/synthetic/all/50"): (0, 2),
        ("G2R", "elsewhere/50"): (0, 2),
        ("R2G", "real"): (0, 3),
        ("Jab", "data/synthetic/all/50"): (0, 2),
        ("Jab", "elsewhere/50"): (100, 2),
    }
    assert "1 answered questionnaires" in capsys.readouterr().out


def test_the_page_does_not_tell_the_answers(folders: list[Path]) -> None:
    """Nothing of the key, no name of a file or folder, no seed, and no picture as it lies on the disk."""
    params = load_params()
    page, key = study.make(folders, params)
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    names = {file.name for folder in (*folders, params.dataset.root) for file in folder.rglob("*.jpg")}
    for secret in (*names, *map(str, folders), "seed", "synthetic"):
        assert secret not in text
    # Each question looks the same, whatever the truth is.
    bare = re.sub(r"(image-\d+|Image \d+)", "", text)
    sections = re.findall(r'<section data-question="" .*?</section>', bare, flags=re.DOTALL)
    assert len(sections) == len(key["judged"]) == 3 + 2 + 2 and len(set(sections)) == 1
    assert len(set(re.findall(r"data:image/(\w+);base64,[^\"]*\" alt=\"The image to judge", page))) == 1


def test_the_seed_decides_and_methods_are_shuffled(folders: list[Path]) -> None:
    params = load_params()
    assert study.make(folders, params) == study.make(folders, params)
    longer = params.study.model_copy(update={"comparisons": 12})
    _, key = study.make(folders, params.model_copy(update={"study": longer}))
    assert len({tuple(order) for order in key["compared"].values()}) == 2
    other = params.study.model_copy(update={"seed": 1})
    assert study.make(folders, params.model_copy(update={"study": other}))[1]["judged"] != key["judged"]
    assert study.make(folders[:1], params)[1]["compared"] == {}


def test_imported_images_that_had_another_name_are_not_compared(folders: list[Path]) -> None:
    """Who made them meant another pose, or none that we know."""
    file = folders[1] / "manifest.csv"
    manifest = pd.read_csv(file)
    same = manifest.name[: len(manifest) // 2]
    old_name = manifest.name.where(manifest.name.isin(same), "other.png")
    manifest.assign(file="sub/" + old_name).to_csv(file, index=False)
    params = load_params()
    fits = params.study.model_copy(update={"comparisons": len(same)})
    _, key = study.make(folders, params.model_copy(update={"study": fits}))
    assert len(key["compared"]) == len(same) > 0
    more = params.study.model_copy(update={"comparisons": len(same) + 1})
    with pytest.raises(ValueError, match=f"expected at most {len(same)}, the images of all methods at once"):
        study.make(folders, params.model_copy(update={"study": more}))


def test_the_rates_are_the_papers_and_their_intervals_wilsons() -> None:
    sheets = [
        sheet(
            image_1="generated", image_2="real", image_3="real", image_4="generated", choice_1=1, choice_2=1
        ),
        sheet(image_1="generated", image_2="generated", image_3="real", choice_1=2),
    ]
    table = study.rates(sheets, KEY).set_index(["rate", "method"])
    assert table.votes.to_dict() == {
        ("R2G", "real"): 4,
        ("G2R", "ours"): 2,
        ("G2R", "theirs"): 1,
        ("Jab", "ours"): 3,
        ("Jab", "theirs"): 3,
    }
    assert table.percent.to_dict() == {
        ("R2G", "real"): 75,
        ("G2R", "ours"): 100,
        ("G2R", "theirs"): 0,
        ("Jab", "ours"): 66.67,
        ("Jab", "theirs"): 33.33,
    }
    # Wilson's interval is the set of shares that a score test of 3 in 4 does not reject.
    z = stats.norm.ppf(0.975)
    for end in table.loc[("R2G", "real"), ["low", "high"]] / 100:
        assert abs(0.75 - end) == pytest.approx(z * (end * (1 - end) / 4) ** 0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "this is no file that the questionnaire downloads"),
        ("[]", "this is no file that the questionnaire downloads"),
        (json.dumps(sheet() | {"study": "xyz"}), "it answers study xyz; the key is of study abc"),
        (json.dumps(sheet(image_9="real")), "image-9 is answered 'real', which was not asked"),
        (json.dumps(sheet(image_1="maybe")), "image-1 is answered 'maybe', which was not asked"),
        (json.dumps(sheet(choice_1=3)), "choice-1 is answered 3, which was not asked"),
    ],
)
def test_answers_that_do_not_belong_are_refused(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "answers.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"{file}: {sentence}")):
        study.read_answers([file], KEY)


def test_the_same_answers_count_once(tmp_path: Path) -> None:
    files = [tmp_path / "a.json", tmp_path / "copy of a.json"]
    for file in files:
        file.write_text(json.dumps(sheet(image_1="real")))
    with pytest.raises(ValueError, match=r"copy of a.json: these are the answers of .*a.json again"):
        study.read_answers(files, KEY)
    with pytest.raises(ValueError, match="this is no key"):
        study.read_key(files[0])


def test_what_cannot_be_made_is_refused(folders: list[Path]) -> None:
    params = load_params()
    with pytest.raises(ValueError, match="expected each once"):
        study.make([folders[0], folders[0]], params)
    many = params.model_copy(update={"study": params.study.model_copy(update={"generated": 99})})
    with pytest.raises(
        ValueError, match=r"study.generated is 99; expected at most 12, the images of data/synth"
    ):
        study.make(folders, many)
