"""params.yaml is either typed settings or one sentence per mistake, whatever it holds."""

import copy
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from foundation.train import FoundationSettings
from pipeline.params import ArmSettings, Params, ParamsError, load, load_params

SHIPPED = Path(__file__).parents[2] / "params.yaml"
VALUES = YAML(typ="safe", pure=True).load(SHIPPED)
FILTER = {
    "synthetic": "data/synthetic/all",
    "judge": "subset",
    "min_agreement": 0.9,
    "min_diversity": 0.0,
    "seed": 0,
}


def dump(values: Any, path: Path) -> Path:
    with path.open("w") as file:
        YAML(typ="safe", pure=True).dump(values, file)
    return path


def keys(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from keys(value, (*prefix, key))


def changed(key: tuple[str, ...], value: Any) -> dict[str, Any]:
    values = copy.deepcopy(VALUES)
    section = values
    for part in key[:-1]:
        section = section[part]
    section[key[-1]] = value
    return values


def test_the_shipped_parameters_are_valid_and_immutable() -> None:
    params = load_params(SHIPPED)
    assert params.dataset.root == Path("data/world")
    with pytest.raises(ValueError):
        params.dataset.height = 1


def test_sections_stand_in_the_order_of_the_settings() -> None:
    assert list(VALUES) == list(Params.model_fields)


def test_every_number_says_its_unit_or_source() -> None:
    """A setting that is a plain number has a comment, except seeds."""
    lines = SHIPPED.read_text().splitlines()
    bare = [line for line in lines if ":" in line and "#" not in line and line.split(":")[1].strip()]
    assert [line for line in bare if not line.strip().startswith("seed")] == []


def test_every_setting_is_described() -> None:
    def undescribed(node: dict[str, Any]) -> Iterator[str]:
        for name, field in node.get("properties", {}).items():
            if "description" not in field and "$ref" not in field:
                yield f"{node['title']}.{name}"

    schema = Params.model_json_schema()
    assert [name for node in schema["$defs"].values() for name in undescribed(node)] == []


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("index.seed", -1, "index.seed is -1; expected a whole number at least 0 and less than 4294967296"),
        (
            "index.seed",
            True,
            "index.seed is True; expected a whole number at least 0 and less than 4294967296",
        ),
        ("index.seed", "7", "index.seed is '7'; expected a whole number at least 0 and less than 4294967296"),
        ("dataset.height", float("nan"), "dataset.height is nan; expected a whole number at least 32 and"),
        ("dataset.root", 3, "dataset.root is 3; expected a text"),
        ("dataset.name", "", "dataset.name is ''; expected a text"),
        (
            "dataset.hight",
            128,
            "dataset.hight is no setting; the settings here are name, format, root, height, width, border",
        ),
        ("dataset", [1], "dataset is [1]; expected a section of settings"),
        ("worlds", 1, "worlds is no setting; the settings here are dataset, "),
        ("poses.source", "kinect", "poses.source is 'kinect'; expected one of annotations, openpose"),
        ("poses.source", "openpose", "poses.openpose_model is null; expected a file, since poses.source is"),
        (
            "subset.percents",
            [0, 20],
            "subset.percents[0] is 0; expected a whole number at least 1 and at most 99",
        ),
        ("subset.percents", [40, 20], "subset.percents are [40, 20]; expected increasing numbers"),
        (
            "subset.percents",
            [],
            "subset.percents is []; expected a list of at least 1 and at most 20 entries",
        ),
        (
            "plan.fill_percent",
            80,
            "plan.fill_percent is 80; expected more than 80, the largest of subset.percents",
        ),
        ("reid.seeds", [1, 1], "reid.seeds are [1, 1]; expected each once"),
        (
            "arms.augmented.synthetic_share",
            2,
            "arms.augmented.synthetic_share is 2; expected a number at least 0",
        ),
        (
            "arms.augmented.share",
            2,
            "arms.augmented.share is no setting; the settings here are synthetic, synth",
        ),
        (
            "arms.My Arm",
            VALUES["arms"]["augmented"],
            "arms.My Arm is no name for a section: String should match",
        ),
        ("arms", {}, "arms is {}; expected a section of settings at least 1 entries"),
        (
            "generator.train.masked_views",
            [1, 5],
            "generator.train.masked_views[1] is 5; expected a whole number",
        ),
        ("generator.train_on", ["some"], "generator.train_on[0] is 'some'; expected one of all, subset"),
        (
            "plan.sources",
            3,
            "plan.sources is 3; expected at most 2, since a joint image has four views and",
        ),
        ("plan.sources", 4, "plan.sources is 4; expected a whole number at least 1 and at most 3"),
        (
            "dataset.height",
            100,
            "dataset.height is 100; expected a multiple of 8, by which the VAE shrinks it",
        ),
        (
            "dataset.width",
            36,
            "dataset.width is 36; expected a multiple of 8, by which the VAE shrinks it",
        ),
        (
            "generator.denoiser.texture_patch",
            3,
            "generator.denoiser.texture_patch is 3; expected a divisor of 16, the height of a view's latent",
        ),
        (
            "generator.denoiser.texture_patch",
            16,
            "generator.denoiser.texture_patch is 16; expected a divisor of 8, the width of a view's latent",
        ),
        ("generator.train_on", ["all", "all"], "generator.train_on is ['all', 'all']; expected each once"),
        (
            "generator.scheduler",
            {"prediction_type": "epsilon", "beta_schedule": None, "zero_terminal_snr": True},
            "generator.scheduler.zero_terminal_snr is true; expected false or null, with prediction_type",
        ),
        (
            "generate.sample.guidance_drop",
            ["image", "image"],
            "generate.sample.guidance_drop is ['image', 'image']; expected each condition once",
        ),
        ("generator.train.learning_rate", 1e999, "generator.train.learning_rate is inf; expected a number"),
        ("generator.train.batch_size", 10**9, "generator.train.batch_size is 1000000000; expected a whole"),
        ("reid.backbone", "given", "reid.backbone is given; expected resnet10 or resnet50"),
        ("reid.padding", 48, "reid.padding is 48; expected less than 48, the shorter side of the input"),
        ("reid.warmup_epochs", 121, "reid.warmup_epochs is 121; expected at most epochs, 120"),
        (
            "reid.erasing_area",
            [0.4, 0.02],
            "reid.erasing_area is [0.4, 0.02]; expected the smallest share, then the largest",
        ),
        (
            "reid.erasing_area",
            [0.0, 1.5],
            "reid.erasing_area[0] is 0.0; expected a number greater than 0 and less than 1",
        ),
        ("subset.percents", [0.2], "subset.percents[0] is 0.2; expected a whole number at least 1"),
        ("subset.percents", [100], "subset.percents[0] is 100; expected a whole number at least 1"),
        ("plan.planned", ["all", "all"], "plan.planned is ['all', 'all']; expected each once"),
        ("plan.planned", ["subset"], "plan.planned has subset; expected generator.train_on to hold it too"),
        (
            "plan.planned",
            ["all"],
            "plan.planned has all; no arm uses data/synthetic/all-planned: add one",
        ),
        (
            "arms.augmented.synthetic",
            "data/synthetic/all-planned",
            "arms.augmented.synthetic is data/synthetic/all-planned; expected plan.planned to hold all",
        ),
        (
            "arms.augmented.synthetic",
            "data/filtered/strict",
            "arms.augmented.synthetic is data/filtered/strict; expected generated images, or for an arm",
        ),
        (
            "filters.strict",
            FILTER,
            "filters.strict: no arm uses data/filtered/strict; add one or take it out",
        ),
        (
            "filters.twice",
            FILTER | {"synthetic": "data/filtered/twice"},
            "filters.twice.synthetic is data/filtered/twice; expected generated images",
        ),
        (
            "filters.strict",
            FILTER | {"judge": "me"},
            "filters.strict.judge is 'me'; expected one of subset, image",
        ),
        (
            "arms.augmented.real_first",
            1,
            "arms.augmented.real_first is 1; expected a number at least 0 and less",
        ),
        (
            "arms.augmented",
            {"synthetic": "data/synthetic/all", "synthetic_share": 0.4, "synthetic_weight": 1.0}
            | {"real_first": 0.5, "real_last": 0.5},
            "arms.augmented.real_first 0.5 and real_last 0.5 leave none of 300 iterations to synthetic",
        ),
        (
            "arms.augmented",
            {"synthetic": "data/synthetic/all", "synthetic_share": 0.4, "synthetic_weight": 1.0}
            | {"real_first": 0.9995},
            "arms.augmented.real_first 0.9995 and real_last 0.0 leave none of 300 iterations to synthetic",
        ),
        *(
            (f"cross_datasets.{name}", "elsewhere", f"cross_datasets.{name}: mAP_{name} may be a column of")
            for name in ("rerank", "rerank_msmt17", "trapezoid")
        ),
        (
            "arms.augmented",
            {"synthetic": "data/synthetic/all", "synthetic_share": 0.4, "synthetic_weight": 1.0}
            | {"synthetic_rate": 0.5},
            "arms.augmented.synthetic_rate 0.5 and synthetic_share 0.4 both say how many images of a batch",
        ),
        (
            "arms.augmented.synthetic_smoothing",
            1,
            "arms.augmented.synthetic_smoothing is 1; expected a number at least 0 and less than 1 or null",
        ),
    ],
)
def test_a_bad_key_is_named(key: str, value: Any, sentence: str, tmp_path: Path) -> None:
    path = dump(changed(tuple(key.split(".")), value), tmp_path / "params.yaml")
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    first, *others = str(caught.value).splitlines()
    assert first.startswith(f"{path}: {sentence}")
    assert all(line.startswith(f"{path}: {key}[") for line in others)  # of one list


def test_an_arm_says_what_its_generator_saw(tmp_path: Path) -> None:
    arm = {"synthetic_share": 0.4, "synthetic_weight": 1.0}
    values = changed(("generator", "train_on"), ["all", "subset"])
    values["plan"]["planned"] = ["subset"]
    values["filters"] = {"strict": FILTER | {"synthetic": "data/synthetic/subset-planned"}}
    values["arms"] = {
        "paper": arm | {"synthetic": "data/synthetic/all"},
        "leak_free": arm | {"synthetic": "data/synthetic/subset"},
        "planned": arm | {"synthetic": "data/synthetic/subset-planned"},
        "filtered": arm | {"synthetic": "data/filtered/strict"},
        "pidm": arm | {"synthetic": "elsewhere/pidm"},
        "repeated": arm | {"synthetic": "data/synthetic/all", "repeat_real": True},
    }
    params = load_params(dump(values, tmp_path / "params.yaml"))
    assert {name: params.train_on(name) for name in ("standard", *params.arms)} == {
        "standard": "none",
        "paper": "all",
        "leak_free": "subset",
        "planned": "subset",
        "filtered": "subset",
        "pidm": "other",
        "repeated": "none",
    }


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    values = changed(("index", "seed"), -1)
    del values["plan"]
    with pytest.raises(ParamsError) as caught:
        load_params(dump(values, tmp_path / "params.yaml"))
    assert [line.split(": ")[1].split()[0] for line in str(caught.value).splitlines()] == [
        "index.seed",
        "plan",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "it holds None, expected sections with settings"),
        ("- 1", "it holds [1], expected sections with settings"),
        ("a: 1\nb: 2\na: 3", 'line 3: found duplicate key "a"'),
        ("a: [1,\nb: 2", "line 2: expected ',' or ']'"),
        ("a: !!python/object:os.system x", "line 1: could not determine a constructor"),
        ("a: !!int ''", "this is no YAML of settings (string index out of range)"),
        ("[" * 900, "this is no YAML of settings (maximum recursion depth exceeded"),
        ("a: " + "9" * 5000, "this is no YAML of settings (Exceeds the limit"),
        ("index: 0x" + "f" * 9000, "dataset is missing"),
        ("index: &a {seed: *a}", "dataset is missing"),
        ("\xff", "it holds 'ÿ', expected sections with settings"),
        ("\x00", "this is no YAML of settings (unacceptable character #x0000"),
    ],
)
def test_what_is_no_settings_at_all_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: {sentence}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"params.yaml: No such file or directory"):
        load_params(tmp_path / "params.yaml")


def test_numbers_are_read_as_dvc_writes_them(tmp_path: Path) -> None:
    """`dvc exp run -S` writes 1e-05, which YAML 1.1 takes for text."""
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED.read_text() + "\nextra: 1e-05\n")
    with pytest.raises(ParamsError, match=r"extra is no setting"):
        load_params(path)
    path.write_text("dataset: 1e-05")
    with pytest.raises(ParamsError, match=r"dataset is 1e-05; expected"):
        load_params(path)


# Not every key that YAML can write it can read again ({":0": null}).
KEYS = st.text("ab0_-", max_size=5) | st.integers()
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)


NEAR = (
    st.integers(-2, 200)
    | st.integers(-(10**12), 10**12)
    | st.floats(-2, 2)
    | st.floats()
    | st.booleans()
    | st.none()
    | st.lists(st.integers(-1, 120) | st.floats(0, 1), max_size=6)
    | st.lists(st.sampled_from(["all", "subset", "features", "image"]), max_size=3)
    | st.sampled_from(
        ["", "given", "resnet50", "openpose", "validation", "epsilon", "no", "data/synthetic/x"]
    )
)


@settings(max_examples=150, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(list(keys(VALUES))), NEAR, min_size=1, max_size=8))
def test_a_random_file_validates_or_is_refused_in_sentences(changes: dict[tuple[str, ...], Any]) -> None:
    """Several keys at once, with values near what is allowed; what validates can be split and trained."""
    values = copy.deepcopy(VALUES)
    for key, value in changes.items():
        section = values
        for part in key[:-1]:
            section = section[part] if isinstance(section, dict) else {}
        if isinstance(section, dict):
            section[key[-1]] = value
    try:
        with tempfile.TemporaryDirectory() as folder:
            params = load_params(dump(values, Path(folder) / "params.yaml"))
    except ParamsError as error:
        assert all(": " in line for line in str(error).splitlines())
        return
    denoiser, plan, reid = params.generator.denoiser, params.plan, params.reid
    latent = [
        side / 2 ** (len(denoiser.pose_channels) - 1)
        for side in (params.dataset.height, params.dataset.width)
    ]
    assert all(side == int(side) for side in latent)
    assert not denoiser.flc_texture or all(side % denoiser.texture_patch == 0 for side in latent)
    assert plan.sources + plan.poses_per_joint <= 4
    assert 0 < min(params.subset.percents) <= max(params.subset.percents) < params.plan.fill_percent
    assert reid.padding < min(reid.height, reid.width) and reid.warmup_epochs <= reid.epochs
    assert all(math.isfinite(number) for number in numbers(params.model_dump()))


def numbers(values: Any) -> Iterator[float]:
    if isinstance(values, dict | list | tuple):
        for value in values.values() if isinstance(values, dict) else values:
            yield from numbers(value)
    elif isinstance(values, int | float):
        yield values


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("unet.heads", [1, 0, 4], "unet.heads[1] is 0; expected a whole number at least 1 and at most 64"),
        ("unet.heads", [1, 4, 3], "unet.heads has 3; expected a divisor of that level's 128 channels"),
        ("unet.heads", [1, 4], "unet.heads has 2 entries; expected 3, as channels has"),
        ("unet.blocks", ["conv"], "unet.blocks has 1 entries; expected 3, as channels has"),
        ("unet.norm_groups", 24, "unet.norm_groups is 24; expected a divisor of 64, one of channels"),
        (
            "unet.prediction_type",
            "epsilon",
            "unet.zero_terminal_snr is true; expected false with prediction_type epsilon",
        ),
        ("vae.norm_groups", 64, "vae.norm_groups is 64; expected a divisor of 96, one of channels"),
        (
            "vae.learning_rate",
            10.0,
            "vae.learning_rate is 10.0; expected a number greater than 0 and at most 1",
        ),
        ("image_encoder.heads", 5, "image_encoder.heads is 5; expected a divisor of hidden_size, 192"),
        ("identities", 10**9, "identities is 1000000000; expected a whole number at least 2 and at most"),
    ],
)
def test_a_bad_key_of_the_foundation_is_named(key: str, value: Any, sentence: str, tmp_path: Path) -> None:
    values = YAML(typ="safe", pure=True).load(SHIPPED.with_name("profiles/foundation.yaml"))
    *sections, name = key.split(".")
    section = values[sections[0]] if sections else values
    section[name] = value
    path = dump(values, tmp_path / "profiles/foundation.yaml")
    with pytest.raises(ParamsError) as caught:
        load(path, FoundationSettings)
    assert str(caught.value).startswith(f"{path}: {sentence}")


def test_every_number_is_bounded_on_both_sides() -> None:
    def unbounded(node: Any, where: str) -> Iterator[str]:
        if isinstance(node, dict):
            low = node.keys() & {"minimum", "exclusiveMinimum"}
            high = node.keys() & {"maximum", "exclusiveMaximum"}
            if node.get("type") in ("integer", "number") and not ((low and high) or "enum" in node):
                yield where
            for key, value in node.items():
                yield from unbounded(value, f"{where}.{key}")
        elif isinstance(node, list):
            for value in node:
                yield from unbounded(value, where)

    for schema in (Params, FoundationSettings):
        assert list(unbounded(schema.model_json_schema(), "")) == []


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(list(keys(VALUES))), value=ANYTHING)
def test_any_value_of_any_key_is_accepted_or_refused_by_name(
    key: tuple[str, ...], value: Any, tmp_path: Path
) -> None:
    path = dump(changed(key, value), tmp_path / "params.yaml")
    try:
        params = load_params(path)
    except ParamsError as error:
        lines = str(error).splitlines()
        assert all(line.startswith(f"{path}: ") for line in lines)
        assert all(key[0] in line.removeprefix(f"{path}: ") for line in lines)
    else:
        assert Params.model_validate(params.model_dump()) == params


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=60)
    | st.text(alphabet="a:-[]{}&*!|>'\"%@? \n#,.<1", max_size=40).map(str.encode)
)
def test_any_bytes_are_refused_in_sentences(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamsError):
        load_params(path)


def test_both_scales_have_the_same_keys_and_validate():
    paper = SHIPPED.with_name("profiles/market1501.yaml")
    assert load_params(paper).reid.backbone == "resnet50"
    assert list(keys(YAML(typ="safe", pure=True).load(paper))) == list(keys(VALUES))


def test_every_recipe_of_the_docs_can_be_put_into_the_shipped_parameters(tmp_path: Path) -> None:
    text = (SHIPPED.parent / "docs" / "arms.md").read_text()
    recipes = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    assert len(recipes) == 7
    values = copy.deepcopy(VALUES)
    for recipe in recipes:
        for section, settings_ in YAML(typ="safe", pure=True).load(recipe).items():
            values[section] |= settings_
    params = load_params(dump(values, tmp_path / "params.yaml"))
    assert len(params.arms) == 14
    assert set(ArmSettings.model_fields) == set(VALUES["arms"]["augmented"])
    assert all(f"`{key}`" in text for key in ArmSettings.model_fields)


def test_results_on_validation_identities_are_named_so() -> None:
    params = load_params(SHIPPED)
    assert params.tested_on == "embedded world"
    section = params.reid.model_copy(update={"evaluate_on": "validation"})
    assert params.model_copy(update={"reid": section}).tested_on == "embedded world, validation identities"
