"""A model card says what is true of its generator, is the same every time, and its five lines run."""

import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from generator.sample import IMAGPosePipeline
from pipeline.artifacts import GENERATORS, SCORES, TABLE4_SUMMARY
from pipeline.params import Params, load_params
from pipeline.runtime.hashes import model_hash
from pipeline.shared.model_card import CARD, model_card
from tests import REPOSITORY
from tests.generator import tiny
from tools import model_card as command

TRAIN = pd.DataFrame({"pid": [2, 2, 7], "camid": [1, 3, 1]})
CURVE = pd.DataFrame({"step": [2, 4], "loss": [0.5, 0.25], "grad_norm": [3.0, 1.0]})
SUMMARY = {
    "standard": {"none": {"20": {}}},
    "imagpose": {
        "all": {
            percent: {
                "generator": "GENERATOR",
                **{
                    name: {"mean": 43.1, "gain": -0.07, "gain_low": -6.28, "gain_high": 6.42}
                    for name in ("rank1", "mAP")
                },
            }
            for percent in ("20", "40")
        }
    },
}
MODEL = GENERATORS / "all" / "100"


def write_table(owner: str) -> None:
    """Table 4 of a run whose images the generator of that hash made."""
    TABLE4_SUMMARY.parent.mkdir(exist_ok=True)
    TABLE4_SUMMARY.write_text(json.dumps(SUMMARY).replace("GENERATOR", owner))


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The shipped parameters, and a present folder with a generator and its card."""
    params = load_params(REPOSITORY / "profiles/embedded.yaml")
    params = params.model_copy(
        update={"generator": params.generator.model_copy(update={"base": REPOSITORY / params.generator.base})}
    )
    monkeypatch.chdir(tmp_path)
    model = IMAGPosePipeline(
        tiny.vae(), tiny.image_encoder(), tiny.denoiser(), tiny.scheduler(), *tiny.VIEW_SIZE, *tiny.TOKEN_SIZE
    )
    model.save_pretrained(GENERATORS / "all" / "100", safe_serialization=True)
    card = model_card("all", 100, TRAIN, CURVE, params)
    (GENERATORS / "all" / "100" / CARD).write_text(card)
    Path("params.yaml").write_text((REPOSITORY / "profiles/embedded.yaml").read_text())
    return params


def test_the_card_says_data_settings_curve_and_base_scores(params: Params) -> None:
    card = ModelCard.load(GENERATORS / "all" / "100" / CARD)  # as the Hugging Face Hub reads it
    assert card.data.library_name == "diffusers" and card.data.pipeline_tag == "image-to-image"
    assert "3 images of\n2 people by 2 cameras" in card.text
    assert "step 4: loss 0.25, grad norm 1." in card.text
    assert f"  steps: {params.generator.train.steps}\n" in card.text
    quality = json.loads((params.generator.base / "quality.json").read_text())
    assert all(f"| {value:g} |" in card.text for value in quality.values())
    assert card.content == model_card("all", 100, TRAIN, CURVE, params)
    assert "A random 20 % of" in model_card("subset", 20, TRAIN, CURVE, params)


@pytest.mark.slow
def test_the_lines_on_the_card_run(params: Params) -> None:
    text = (GENERATORS / "all" / "100" / CARD).read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code and len(code[1].strip().splitlines()) <= 5
    poses = tiny.keypoints(4)
    names = {"source": Image.new("RGB", tiny.VIEW_SIZE[::-1]), "source_pose": poses[0]}
    names |= {"pose_a": poses[1], "pose_b": poses[2], "pose_c": poses[3]}
    exec(code[1], names)
    assert [image.size for image in names["images"]] == [tiny.VIEW_SIZE[::-1]] * 3


def test_a_copy_to_give_away_tells_the_scores_and_the_generator_stays(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(model_hash(MODEL))
    before = {file: file.read_bytes() for file in MODEL.rglob("*") if file.is_file()}
    monkeypatch.setattr(sys, "argv", ["model_card", "all", "100", "--to", "given"])
    command.main()
    text = Path("given/README.md").read_text()
    assert "| imagpose | 20 % | rank1 | 43.1 | -0.1 | -6.3 to +6.4 |" in text
    assert text.index("## Measured in re-id") < text.index("## Intended use") < text.index("## Licence")
    assert IMAGPosePipeline.from_pretrained("given").view_size == tiny.VIEW_SIZE
    assert before == {file: file.read_bytes() for file in MODEL.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match="given exists; name a new folder"):
        command.main()


def test_the_copy_tells_the_scores_of_its_images_and_of_no_other_generator(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = GENERATORS / "all" / "100"
    about = {"data_set": "embedded world", "identities": "validation", "people": 20, "pairs": 180}
    scores = {
        "T1": {"ssim": 0.4182, "fid": None},
        "photographs": {"pose_error": 2.5},
        "missing": {"fid": "no"},
    }
    for number, owner in enumerate((model_hash(model), "another")):
        write_table(owner)
        SCORES.write_text(json.dumps({"generator": owner, **about, **scores, "fid_network": None}))
        monkeypatch.setattr(sys, "argv", ["model_card", "all", "100", "--to", f"given{number}"])
        command.main()
        card, printed = Path(f"given{number}/README.md").read_text(), capsys.readouterr().out
        measured = "180 pairs of a source and a target photograph of 20 people of embedded world (validation)"
        rows = (
            "| Scenario | ssim | pose error |\n| --- | ---: | ---: |\n| T1 | 0.4182 |  |\n"
            "| photographs |  | 2.5 |\n\n## Measured in re-id"
        )
        assert (measured in card) == (rows in card) == ("## Measured in re-id" in card) == (number == 0)
        assert printed.count("is of no run of this generator and not on the card") == 2 * number


def test_a_generator_without_scores_has_none_on_its_card(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["model_card", "all", "100", "--to", "given"])
    command.main()
    assert Path("given/README.md").read_text() == (MODEL / CARD).read_text()
    printed = capsys.readouterr().out
    assert (
        "reports/table4.json is of no run of this generator and not on the card: `dvc repro` meas" in printed
    )


def test_scores_of_one_seed_have_no_interval(params: Params) -> None:
    write_table(model_hash(MODEL))
    text = TABLE4_SUMMARY.read_text()
    TABLE4_SUMMARY.write_text(text.replace("-6.28", "null").replace("6.42", "null"))
    assert "| 43.1 | -0.1 |  |" in command.table4_scores(MODEL, TABLE4_SUMMARY, params)
