"""params.yaml is either typed settings or one sentence per mistake, whatever it holds."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from foundation.settings import FoundationSettings
from pipeline.params import Params, ParamsError, load_params, parse, parse_params
from tests import REPOSITORY

PROFILES = REPOSITORY / "profiles"
EMBEDDED = PROFILES / "embedded.yaml"
YAML_FILE = YAML(typ="safe", pure=True)
VALUES = YAML_FILE.load(EMBEDDED)
FILTER = {"generator": "all", "min_agreement": 0.9}


def keys(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from keys(value, (*prefix, key))


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The embedded profile with other values of dotted keys."""
    values = copy.deepcopy(VALUES)
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = values
        for part in sections:
            section = section[part]
        section[name] = value
    return values


def refusal(values: Any) -> list[str]:
    with pytest.raises(ParamsError) as caught:
        parse_params(values)
    return [line.removeprefix("params.yaml: ") for line in str(caught.value).splitlines()]


def test_the_profiles_are_valid_immutable_and_have_the_same_keys() -> None:
    params = load_params(EMBEDDED)
    assert params.dataset.root == Path("data/world")
    with pytest.raises(ValueError):
        params.dataset.height = 1
    paper = PROFILES / "market1501.yaml"
    assert load_params(paper).reid.backbone == "resnet50"
    own = ("world", "arms", "baselines")  # a profile has a world or none, and names its own arms
    for profile in (paper, PROFILES / "photographs.yaml", PROFILES / "harder.yaml"):
        load_params(profile)
        outside = {key for key in keys(YAML_FILE.load(profile)) if key[0] not in own}
        assert outside == {key for key in keys(VALUES) if key[0] not in own}


@pytest.mark.parametrize(
    ("profile", "sections"),
    [("market1501_authors.yaml", {"generator", "generate"}), ("market1501_judges.yaml", {"judges", "arms"})],
)
def test_the_profiles_of_market_1501_differ_in_what_they_are_about(profile: str, sections: set[str]) -> None:
    """One follows the paper; one the code of its authors; one has further judges."""
    load_params(PROFILES / profile)
    paper, other = (YAML_FILE.load(PROFILES / name) for name in ("market1501.yaml", profile))
    assert paper.keys() == other.keys()
    assert {section for section in paper if paper[section] != other[section]} == sections


def test_the_harder_world_is_the_embedded_run_on_more_people_with_fewer_images() -> None:
    harder = YAML_FILE.load(PROFILES / "harder.yaml")
    load_params(PROFILES / "harder.yaml")
    changed = {
        (section, key)
        for section, values in harder.items()
        for key in values or {}
        if values[key] != VALUES[section][key]
    }
    assert {section for section, _ in changed} == {"dataset", "world", "reid"}
    assert harder.keys() == VALUES.keys() and len(changed) == 5


def test_sections_stand_in_the_order_of_the_settings() -> None:
    assert list(VALUES) == list(Params.model_fields)


def test_every_number_says_its_unit_or_source() -> None:
    """A setting that is a plain number has a comment, except seeds."""
    lines = EMBEDDED.read_text().splitlines()
    bare = [line for line in lines if ":" in line and "#" not in line and line.split(":")[1].strip()]
    bare = [line.strip() for line in bare]
    assert [line for line in bare if not line.startswith("seed") and not line.endswith("}")] == []


def test_every_setting_is_described() -> None:
    def undescribed(node: dict[str, Any]) -> Iterator[str]:
        for name, field in node.get("properties", {}).items():
            if "description" not in field and "$ref" not in field:
                yield f"{node['title']}.{name}"

    schema = Params.model_json_schema()
    assert [name for node in schema["$defs"].values() for name in undescribed(node)] == []


@pytest.mark.parametrize(
    ("keys", "counts"),
    [
        ({}, {20: 800, 60: 400, 100: 0}),
        ({"to": 70}, {20: 500, 60: 100, 100: 0}),
        ({"to": 150}, {20: 1300, 60: 900, 100: 500}),
        ({"images": 50}, {20: 500, 60: 500, 100: 500}),
        ({"ratio": 0.5}, {20: 100, 60: 300, 100: 500}),
        ({"ratio": 0.0001}, {20: 1, 60: 1, 100: 1}),
    ],
)
def test_an_arm_says_how_many_images_it_has(keys: dict[str, float], counts: dict[int, int]) -> None:
    changes = {"subset.percents": [20, 60, 100], "arms": {"some": {"generator": "all", **keys}}}
    params = parse_params(changed(changes))
    sizes = {20: 200, 60: 600, 100: 1000}
    assert {percent: params.arms["some"].count(real, 1000) for percent, real in sizes.items()} == counts
    with_images = {percent: count for percent, count in counts.items() if count}
    assert params.percents_of("some") == list(with_images)
    assert params.needs("all", sizes) == with_images and params.needs("subset", sizes) == {}
    assert params.percents_of("standard") == [20, 60, 100]


def test_a_generator_of_the_subset_has_no_row_at_100_percent() -> None:
    """It would be the one that saw all images."""
    arm = {"generator": "subset", "ratio": 1.0}
    changes = {"generator.train_on": ["subset"], "arms": {"some": arm}}
    assert parse_params(changed(changes | {"subset.percents": [20, 100]})).percents_of("some") == [20]
    with pytest.raises(ParamsError, match=r"arms.some.generator is subset; expected all where subset"):
        parse_params(changed(changes | {"subset.percents": [100]}))


def test_a_generator_needs_what_its_largest_arm_has_whole_or_filtered() -> None:
    arms = {
        "few": {"generator": "all", "to": 50},
        "sure": {"generator": "sure", "ratio": 2.0},
        "own": {"generator": "subset", "images": 10},
    }
    changes = {"filters": {"sure": FILTER | {"generator": "all"}}, "generator.train_on": ["all", "subset"]}
    params = parse_params(changed(changes | {"arms": arms, "subset.percents": [20, 60]}))
    sizes = {20: 200, 60: 600, 100: 1000}
    assert params.needs("all", sizes) == {20: 400, 60: 1200} == params.needs("sure", sizes)
    assert params.needs("subset", sizes) == {20: 100, 60: 100}


def test_the_bound_of_an_arm_has_rendered_images_in_its_place() -> None:
    arms = {
        "imagpose": {"generator": "all"},
        "many": {"generator": "all", "ratio": 2.0},
        "control": {"generator": "all", "repeat_real": True},
        "perfect": {"generator": "perfect"},
        "many_perfect": {"generator": "perfect", "ratio": 2.0},
    }
    baselines = {"perfect": {"kind": "rendered"}}
    params = parse_params(changed({"arms": arms, "baselines": baselines}))
    own = {"perfect": "perfect", "many_perfect": "many_perfect"}
    assert params.bounds == {"imagpose": "perfect", "many": "many_perfect"} | own
    assert params.families == [["imagpose", "many"], ["perfect", "many_perfect"]]
    assert params.train_on("perfect") == "other" and params.planned == ["all", "perfect"]
    perfect = {"generator.train_on": [], "arms": {"perfect": arms["perfect"]}, "baselines": baselines}
    assert parse_params(changed(perfect)).planned == ["perfect"]
    elsewhere = {"dataset.root": "datasets/x", "poses.path": "x.csv", "world": None}
    with pytest.raises(ParamsError, match=r"baselines.perfect.kind is rendered; expected another where dat"):
        parse_params(changed({"arms": arms, "baselines": baselines} | elsewhere))


def test_an_arm_has_defaults_for_all_that_is_not_special_about_it() -> None:
    arms = {
        "imagpose": {"generator": "all"},
        "leak_free": {"generator": "subset"},
        "control": {"generator": "all", "repeat_real": True},
        "pidm": {"generator": "pidm"},
        "sure": {"generator": "sure"},
        "sure_pidm": {"generator": "sure_pidm", "rate": 1.0, "ratio": 2.0},
    }
    filters = {"sure": FILTER | {"generator": "subset"}, "sure_pidm": FILTER | {"generator": "pidm"}}
    changes = {"arms": arms, "filters": filters, "generator.train_on": ["all", "subset"]}
    params = parse_params(changed(changes | {"imports": {"pidm": {"folder": "elsewhere/pidm"}}}))
    assert params.arms["imagpose"].model_dump() == {
        "generator": "all",
        "rate": 0.4,
        "own_norms": False,
        "to": None,
        "images": None,
        "ratio": None,
        "repeat_real": False,
        "judge": None,
    }
    assert {name: params.train_on(name) for name in ("standard", *params.arms)} == {
        "standard": "none",
        "imagpose": "all",
        "leak_free": "subset",
        "control": "none",
        "pidm": "other",
        "sure": "subset",
        "sure_pidm": "other",
    }


def test_another_data_set_needs_no_world() -> None:
    params = parse_params(changed({"world": None, "dataset.root": "datasets/mine"}))
    assert params.world is None


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("index.seed", -1, "index.seed is -1; input should be greater than or equal to 0"),
        ("index.seed", True, "index.seed is True; input should be a valid integer"),
        ("index.seed", "7", "index.seed is '7'; input should be a valid integer"),
        ("dataset.height", float("nan"), "dataset.height is nan; input should be a valid integer"),
        ("dataset.root", 3, "dataset.root is 3; input is not a valid path"),
        ("dataset.name", "", "dataset.name is ''; string should have at least 1 character"),
        (
            "dataset.hight",
            128,
            "dataset.hight is no setting; the settings here are name, format, root, height, width, border",
        ),
        ("dataset", [1], "dataset is [1]; expected the settings name, format, root, height, width, border"),
        ("cross_datasets.a", "b", "cross_datasets.a is 'b'; expected the settings root, format"),
        (
            "cross_datasets.a",
            {"root": "data/world", "format": "table"},
            "cross_datasets.a.format is table; expected market1501, in which data/world is rendered",
        ),
        ("worlds", 1, "worlds is no setting; the settings here are dataset, world, "),
        ("world", None, "world is null; expected its settings, since dataset.root is data/world"),
        ("poses.source", "kinect", "poses.source is 'kinect'; input should be 'annotations', 'openpose', "),
        ("poses.path", None, "poses.path is None; input is not a valid path"),
        ("poses.min_score", 1.5, "poses.min_score is 1.5; input should be less than or equal to 1"),
        (
            "subset.percents",
            [0, 20],
            "subset.percents[0] is 0; input should be greater than or equal to 1",
        ),
        ("subset.percents", [40, 20], "subset.percents are [40, 20]; expected increasing numbers"),
        ("subset.percents", [], "subset.percents is []; tuple should have at least 1 item"),
        ("subset.percents", [0.2], "subset.percents[0] is 0.2; input should be a valid integer"),
        ("subset.percents", [101], "subset.percents[0] is 101; input should be less than or equal to 100"),
        ("plan.fill_percent", 80, "plan.fill_percent is no setting; the settings here are sources, "),
        (
            "arms.imagpose.to",
            20,
            "arms.imagpose.to is 20; expected more than 20, the smallest of subset.percents, or images",
        ),
        (
            "arms.imagpose",
            {"generator": "all", "to": 50, "ratio": 2},
            "arms.imagpose.to is 50 and ratio is 2.0; expected one of them, which says how many images",
        ),
        (
            "generate.surroundings",
            True,
            "generate.surroundings is true; expected generator.train.surroundings above 0, or the generator",
        ),
        ("plan.sources", 3, "plan.sources is 3; expected at most 2, since a joint image has four views and"),
        ("plan.sources", 4, "plan.sources is 4; input should be less than or equal to 3"),
        ("reid.seeds", [1, 1], "reid.seeds are [1, 1]; expected each once"),
        ("reid.backbone", "given", "reid.backbone is given; expected resnet10 or resnet50"),
        ("reid.padding", 48, "reid.padding is 48; expected less than 48, the shorter side of the input"),
        ("reid.warmup_epochs", 121, "reid.warmup_epochs is 121; expected at most epochs, 120"),
        (
            "reid.erasing_area",
            [0.4, 0.02],
            "reid.erasing_area is [0.4, 0.02]; expected the smallest share, then the largest",
        ),
        ("reid.erasing_area", [0.0, 1.5], "reid.erasing_area[0] is 0.0; input should be greater than 0"),
        ("generator.train_on", ["some"], "generator.train_on[0] is 'some'; input should be 'all' or"),
        ("generator.train_on", ["all", "all"], "generator.train_on is ['all', 'all']; expected each once"),
        (
            "generator.train.masked_views",
            [1, 5],
            "generator.train.masked_views[1] is 5; input should be less than or equal to 4",
        ),
        ("generator.train.learning_rate", 1e999, "generator.train.learning_rate is inf; input should be"),
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
        ("arms", {}, "arms is {}; dictionary should have at least 1 item"),
        ("arms.imagpose.rate", 0, "arms.imagpose.rate is 0; input should be greater than 0"),
        (
            "arms.imagpose.share",
            2,
            "arms.imagpose.share is no setting; the settings here are rate, own_norms, generator, to, images",
        ),
        ("arms.PIDM", {"generator": "all"}, "arms.PIDM is no name; expected small letters, digits, - and _"),
        ("arms.standard", {"generator": "all"}, "arms.standard: the arm of that name has real images only"),
        (
            "arms.imagpose.generator",
            "subset",
            "arms.imagpose.generator is subset; expected generator.train_on",
        ),
        ("arms.imagpose.generator", "pidm", "arms.imagpose.generator is pidm; expected one of all"),
        ("filters.sure", FILTER, "filters.sure: no arm has generator sure; add one or take it out"),
        ("filters.sure", FILTER | {"generator": "sure"}, "filters.sure.generator is sure; expected one of"),
        ("filters.all", FILTER, "filters.all: the name is IMAGPose's own all; choose another"),
        ("imports.pidm", {"folder": "x"}, "imports.pidm: no arm has generator pidm; add one or take it out"),
        *(
            (f"cross_datasets.{name}", {"root": "x"}, f"cross_datasets.{name}: mAP_{name} may be a column of")
            for name in ("rerank", "rerank_msmt17", "trapezoid")
        ),
    ],
)
def test_a_bad_key_is_named(key: str, value: Any, sentence: str) -> None:
    first, *others = refusal(changed({key: value}))
    assert first.startswith(sentence)
    assert all(line.startswith(f"{key}[") for line in others)  # of one list


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"dataset.height": 100},
            "dataset.height",
        ),
        ({"dataset.width": 36}, "dataset.width"),
        ({"generator.denoiser.texture_patch": 3}, "generator.denoiser.texture_patch"),
        ({"generator.denoiser.texture_patch": 16}, "generator.denoiser.texture_patch"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes: dict[str, Any], sentence: str) -> None:
    (key,) = changes
    (line,) = refusal(changed(changes))
    assert line.startswith(f"{sentence} is {changes[key]}; expected ")


def test_a_control_needs_images_that_say_their_sources() -> None:
    changes = {
        "imports": {"pidm": {"folder": "elsewhere"}},
        "arms.pidm": {"generator": "pidm", "repeat_real": True},
    }
    (line,) = refusal(changed(changes))
    assert line.startswith("arms.pidm.repeat_real is true; expected false with generator pidm")


OSNET = {"backbone": "torchreid:osnet_x0_25", "milestones": [50, 90], "triplet_margin": None}


def test_a_judge_is_the_section_reid_with_settings_of_its_own() -> None:
    arm = {"generator": "all", "judge": "osnet"}
    params = parse_params(changed({"judges": {"osnet": OSNET}, "arms.imagpose_osnet": arm}))
    osnet = params.reid_of("imagpose_osnet")
    assert (osnet.backbone, osnet.milestones, osnet.triplet_margin) == (
        "torchreid:osnet_x0_25",
        (50, 90),
        None,
    )
    assert osnet == params.reid_of("standard@osnet")
    own = OSNET | {"milestones": (50, 90)}
    assert osnet.model_dump() == params.reid.model_dump() | own
    assert params.reid_of("imagpose") == params.reid_of("standard") == params.reid
    assert params.all_arms == ["standard", "imagpose", "standard@osnet", "imagpose_osnet"]
    assert params.percents_of("standard@osnet") == [20, 40, 60, 80, 100]
    # What a replication writes into params.yaml are the given settings alone
    assert params.model_dump(mode="json", exclude_unset=True)["judges"] == {"osnet": OSNET}


@pytest.mark.parametrize(
    ("judge", "sentence"),
    [
        ({"height": "x"}, "judges.osnet.height is 'x'; "),
        ({"height": None}, "judges.osnet.height is None; "),
        ({"learning_rate": 7.0}, "judges.osnet.learning_rate is 7.0; "),
        ({"milestones": [3, "a"]}, "judges.osnet.milestones[1] is 'a'; "),
        ({"seeds": [1]}, "judges.osnet.seeds is no setting; the settings here are backbone, "),
        ({"evaluate_on": "test"}, "judges.osnet.evaluate_on is no setting; "),
        ({"padding": 100}, "judges.osnet.padding is 100; expected less than 48"),
        ({"backbone": "osnet"}, "judges.osnet.backbone is 'osnet'; expected resnet10, "),
        ({"backbone": "given"}, "judges.osnet.backbone is given; expected resnet10 or resnet50"),
    ],
)
def test_a_bad_setting_of_a_judge_is_named(judge: dict[str, Any], sentence: str) -> None:
    (line,) = refusal(changed({"judges": {"osnet": judge}}))
    assert line.startswith(sentence)


def test_an_arm_names_a_judge_that_is_there() -> None:
    (line,) = refusal(changed({"arms.other": {"generator": "all", "judge": "osnet"}}))
    assert line == "arms.other.judge is osnet; expected a key of judges (none yet)"
    (line,) = refusal(changed({"judges": {"reid": {}}}))
    assert line.startswith("judges.reid: the judge of that name is the section reid")


def test_a_name_is_an_import_or_a_filter() -> None:
    (line,) = refusal(changed({"imports": {"twice": {"folder": "x"}}, "filters": {"twice": FILTER}}))
    assert line == "filters.twice: the name is taken by imports.twice; choose another"


def test_every_mistake_is_named_at_once() -> None:
    values = changed({"index.seed": -1})
    del values["plan"]
    assert [line.split()[0] for line in refusal(values)] == ["index.seed", "plan"]


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
    path.write_text("dataset: 1e-05")
    with pytest.raises(ParamsError, match=r"dataset is 1e-05; expected"):
        load_params(path)


KEYS = st.text("ab0_-:", max_size=5) | st.integers()
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
    | st.sampled_from(["", "given", "resnet50", "openpose", "validation", "epsilon", "no", "all", "subset"])
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(list(keys(VALUES))), NEAR, min_size=1, max_size=8))
def test_random_values_validate_or_are_refused_in_sentences(changes: dict[tuple[str, ...], Any]) -> None:
    """Several keys at once, with values near what is allowed; what validates can be split and trained."""
    values = copy.deepcopy(VALUES)
    for key, value in changes.items():
        section = values
        for part in key[:-1]:
            section = section[part] if isinstance(section, dict) else {}
        if isinstance(section, dict):
            section[key[-1]] = value
    try:
        params = parse_params(values)
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
    assert 0 < min(params.subset.percents) <= max(params.subset.percents) <= 100
    assert reid.padding < min(reid.height, reid.width) and reid.warmup_epochs <= reid.epochs
    assert all(math.isfinite(number) for number in numbers(params.model_dump()))


def numbers(values: Any) -> Iterator[float]:
    if isinstance(values, dict | list | tuple):
        for value in values.values() if isinstance(values, dict) else values:
            yield from numbers(value)
    elif isinstance(values, int | float):
        yield values


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(key=st.sampled_from(list(keys(VALUES))), value=ANYTHING)
def test_any_value_of_any_key_is_accepted_or_refused_by_name(key: tuple[str, ...], value: Any) -> None:
    try:
        params = parse_params(changed({".".join(key): value}))
    except ParamsError as error:
        assert all(key[0] in line.removeprefix("params.yaml: ") for line in str(error).splitlines())
    else:
        assert Params.model_validate(params.model_dump()) == params


@settings(max_examples=100, deadline=None)
@given(
    content=st.binary(max_size=60)
    | st.text(alphabet="a:-[]{}&*!|>'\"%@? \n#,.<1", max_size=40).map(str.encode)
)
def test_any_bytes_are_refused_in_sentences(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamsError):
        load_params(path)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("unet.heads", [1, 0, 4], "unet.heads[1] is 0; input should be greater than or equal to 1"),
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
        ("vae.learning_rate", 10.0, "vae.learning_rate is 10.0; input should be less than or equal to 1"),
        ("image_encoder.heads", 5, "image_encoder.heads is 5; expected a divisor of hidden_size, 192"),
    ],
)
def test_a_bad_key_of_the_foundation_is_named(key: str, value: Any, sentence: str) -> None:
    values = YAML_FILE.load(PROFILES / "foundation.yaml")
    section, name = key.split(".")
    values[section][name] = value
    with pytest.raises(ParamsError) as caught:
        parse(values, FoundationSettings, "foundation.yaml")
    assert str(caught.value).startswith(f"foundation.yaml: {sentence}")


def test_both_profiles_of_the_foundation_have_the_same_keys() -> None:
    rendered, photographed = (
        YAML_FILE.load(PROFILES / f"{name}.yaml") for name in ("foundation", "foundation_photographs")
    )
    settings = parse(photographed, FoundationSettings, "foundation_photographs.yaml")
    assert settings.photographed and rendered.keys() == photographed.keys()
    # So that the layers of start, which the denoiser goes on from, are found again.
    for section in ("image_encoder", "unet", "denoiser"):
        assert rendered[section] == photographed[section]


@pytest.mark.parametrize("page", ["arms.md", "judges.md"])
def test_every_recipe_of_the_docs_can_be_put_into_the_shipped_parameters(page: str) -> None:
    text = (REPOSITORY / "docs" / page).read_text()
    recipes = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    assert recipes
    values = copy.deepcopy(VALUES)
    for recipe in recipes:
        for section, entries in YAML_FILE.load(recipe).items():
            values[section] |= entries
    assert len(parse_params(values).arms) > len(VALUES["arms"])


def test_results_on_validation_identities_are_named_so() -> None:
    params = load_params(EMBEDDED)
    assert params.tested_on == "embedded world"
    section = params.reid.model_copy(update={"evaluate_on": "validation"})
    assert params.model_copy(update={"reid": section}).tested_on == "embedded world, validation identities"
