"""Scores compare what a generator makes of strangers with their photographs, and say what is missing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision.models import alexnet

from generator.sample import IMAGPosePipeline
from pipeline import index as index_stage
from pipeline import poses as poses_stage
from pipeline import scores as stage
from pipeline.params import Params, ScoresSettings, load_params
from pipeline.runtime.hashes import md5
from pipeline.shared import pose_judge
from pipeline.shared.imagpose import joint_requests
from tests import REPOSITORY
from tests.generator import tiny
from tests.pipeline.market import deepfashion_folder

SHIPPED = load_params(REPOSITORY / "profiles/embedded.yaml")
IMAGES = pd.DataFrame({"image": [f"{pid}/{k}.jpg" for pid in range(5) for k in range(pid + 1)]})
IMAGES["pid"] = IMAGES.image.str[0].astype(int)  # one image of identity 0, five of identity 4


def settings(**changes: object) -> ScoresSettings:
    return SHIPPED.scores.model_copy(update=changes)


def test_pairs_are_two_images_of_one_identity() -> None:
    pairs = stage.draw_pairs(IMAGES, settings(sources=100))
    assert (pairs.source.str[0] == pairs.target.str[0]).all() and (pairs.source != pairs.target).all()
    assert not pairs.duplicated().any()
    assert sorted(pairs.source.unique()) == sorted(IMAGES.image[IMAGES.pid > 0]), "every image is a source"
    assert pairs.groupby("source").size().to_dict() == {
        image: min(3, int(image[0])) for image in IMAGES.image[IMAGES.pid > 0]
    }


def test_sources_spread_over_the_identities() -> None:
    pairs = stage.draw_pairs(IMAGES, settings(sources=5))
    assert pairs.groupby("pid").source.nunique().to_dict() in [
        {1: 1, 2: 1, 3: 1, 4: 1} | {extra: 2} for extra in (1, 2, 3, 4)
    ]
    pd.testing.assert_frame_equal(pairs, stage.draw_pairs(IMAGES.iloc[::-1], settings(sources=5)))
    assert not pairs.equals(stage.draw_pairs(IMAGES, settings(sources=5, seed=1)))


def test_identities_of_one_image_make_no_pair() -> None:
    with pytest.raises(ValueError, match=r"scores\.identities is validation; expected identities with two"):
        stage.draw_pairs(IMAGES[IMAGES.pid == 0], settings())


def test_a_public_list_of_pairs_is_read(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("from,to\n0.jpg,1.jpg\n2.jpg,1.jpg\n0.jpg,2.jpg\n")
    images = IMAGES[IMAGES.pid == 2]
    pairs = stage.read_pairs(file, images)
    assert pairs.to_numpy().tolist() == [
        [2, "2/0.jpg", "2/1.jpg"],
        [2, "2/0.jpg", "2/2.jpg"],
        [2, "2/2.jpg", "2/1.jpg"],
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("from,too\n", "it has no columns from and to"),
        ("from,to\n0.jpg,7.jpg\n", "7.jpg is no image of the identities that scores.identities names"),
        ("from,to\n0.jpg,0.jpg\n0.jpg,3.jpg\n", "line 3 pairs two identities"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    images = pd.DataFrame({"image": ["a/0.jpg", "b/3.jpg"], "pid": [1, 2]})
    with pytest.raises(ValueError, match=sentence):
        stage.read_pairs(tmp_path / "pairs.csv", images)
    with pytest.raises(FileNotFoundError, match=r"scores\.pairs is .*; there is no such file"):
        stage.read_pairs(tmp_path / "nothing.csv", images)


def test_the_plan_follows_the_papers_scenarios() -> None:
    pairs = stage.draw_pairs(IMAGES, settings(sources=100))
    plan = stage.make_plan(pairs, IMAGES, seed=0)
    assert plan.name.is_unique and list(plan.score.unique()) == list(stage.SCENARIOS)
    for _, rows in plan.groupby("score"):
        assert rows.pose.tolist() == pairs.target.tolist(), "the same pairs, in the same order"
        assert rows.seed.tolist() == plan.seed[: len(pairs)].tolist(), "with the same noise"
    numbers = {image: i for i, image in enumerate(IMAGES.image)}
    poses = {image: np.full((18, 3), i) for image, i in numbers.items()}
    slots = {
        "T1": [("source", 0), ("target", 0), ("target", 0), ("target", 0)],
        "T2": [("source", 0), ("target", 0), ("source", 0), ("source", 0)],
        "T3": [("source", 0), ("source", 1), ("source", 2), ("target", 0)],
        "IMAGPose*": [("source", 0), ("target", 0), ("target", 1), ("target", 2)],
    }
    for score, expected in slots.items():
        rows = plan[(plan.score == score) & (plan.sources.str[0] == "4")]
        requests = joint_requests(rows, numbers, poses)
        assert {tuple(slot[:2] for slot in request.slots()) for request in requests} == {tuple(expected)}
        for request, (_, group) in zip(requests, rows.groupby("joint", sort=False), strict=True):
            assert [pose[0, 0] for pose in request.poses] == [numbers[image] for image in group.pose]


def test_t3_shows_neither_the_target_nor_an_image_twice() -> None:
    plan = stage.make_plan(stage.draw_pairs(IMAGES, settings(sources=100)), IMAGES, seed=0)
    rows = plan[plan.score == "T3"]
    for sources, target in zip(rows.sources.str.split("|"), rows.pose, strict=True):
        own = IMAGES.image[IMAGES.image.str[0] == target[0]]
        assert len(set(sources)) == len(sources) == min(3, len(own) - 1) and target not in sources
    alone = rows[rows.sources.str[0] == "1"]
    assert set(alone.scenario) == {"T2"}, "two images: the source is repeated"


def test_people_are_known_by_other_images_than_the_targets_unless_they_have_no_others() -> None:
    references = stage.reference_images(IMAGES, {"1/0.jpg", "1/1.jpg", "2/0.jpg"})
    assert sorted(references.image) == sorted(set(IMAGES.image) - {"2/0.jpg"})


def test_weights_that_are_null_are_reported_and_those_that_are_named_must_be_there(tmp_path: Path) -> None:
    networks = stage.load_networks(settings())
    assert networks.missing == {
        metric: f"scores.{metric}_weights is null; expected a local file, nothing is downloaded"
        for metric in ("lpips", "fid")
    }
    with pytest.raises(FileNotFoundError, match=r"scores\.fid_weights is .*inception.pth; there is no such"):
        stage.load_networks(settings(fid_weights=tmp_path / "inception.pth"))


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """DeepFashion's files, indexed, with a tiny generator of 32 x 16 views that show 12 columns of image."""
    monkeypatch.chdir(tmp_path)
    root = deepfashion_folder(tmp_path / "fashion")
    lines = (root / "fasion-resize-pairs-test.csv").read_text().splitlines()
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("\n".join([*lines[:4], *lines[-2:]]) + "\n")
    size = {"format": "deepfashion", "root": root, "height": 32, "width": 16, "border": 2}
    token_size = {"token_height": tiny.TOKEN_SIZE[0], "token_width": tiny.TOKEN_SIZE[1]}
    compared = {
        "identities": "test",
        "pairs": pairs,
        "height": 24,
        "width": 16,
    }
    sample = SHIPPED.generate.sample.model_copy(update={"steps": 2, "mixed_precision": "no"})
    params = SHIPPED.model_copy(
        update={
            "dataset": SHIPPED.dataset.model_copy(update=size),
            "poses": SHIPPED.poses.model_copy(update={"source": "pose_transfer", "path": root}),
            "index": SHIPPED.index.model_copy(update={"validation_identities": 0}),
            "generator": SHIPPED.generator.model_copy(update=token_size),
            "generate": SHIPPED.generate.model_copy(update={"sample": sample}),
            "scores": settings(**compared),
        }
    )
    for module in (index_stage, poses_stage, stage):
        monkeypatch.setattr(module, "load_params", lambda: params)
    monkeypatch.setattr(pose_judge, "ITERATIONS", 2)
    index_stage.main()
    poses_stage.main()
    parts = tiny.vae(), tiny.image_encoder(), tiny.denoiser(trained=True), tiny.scheduler()
    imagpose = IMAGPosePipeline(*parts, *tiny.VIEW_SIZE, *tiny.TOKEN_SIZE)
    imagpose.save_pretrained(tmp_path / "models/generator/all/100")
    return params


@pytest.mark.slow
def test_table_1_runs_on_deepfashion_and_says_what_is_missing(
    fashion: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.main()
    printed = capsys.readouterr().out
    assert "20 images to generate in " in printed
    assert "20 generated images, 5 photographs and 9 training images to measure, a judge of poses" in printed
    scores = json.loads(stage.SCORES.read_text())
    assert (scores["people"], scores["pairs"], scores["training_images"]) == (2, 5, 9)
    for scenario in stage.SCENARIOS:
        assert scores[scenario]["lpips"] is None and scores[scenario]["fid"] is None
        assert -1 < scores[scenario]["ssim"] < 1 and scores[scenario]["frechet_image_encoder"] > 0
    for part in (scores["photographs"], *(scores[scenario] for scenario in stage.SCENARIOS)):
        assert 0 <= part["identity_agreement"] <= 1 and 0 <= part["identity_top1"] <= 100
        assert 0 < part["pose_error"] < 100
    assert scores["photographs"]["fid"] is None and scores["photographs"]["frechet_image_encoder"] > 0
    assert set(scores["missing"]) == {"lpips", "fid"} and scores["fid_network"] is None
    images = sorted(Path(".scratch/scores").rglob("*.jpg"))
    assert len(images) == 4 * 5
    with Image.open(images[0]) as image:
        assert image.size == (12, 32), "the border is cut off"

    before = {file: md5(file) for file in images}
    images[5].unlink()
    stage.SCORES.unlink()
    with pytest.warns(UserWarning, match=f"{images[5].name} is not as it was written; it is made again"):
        stage.main()
    assert {file: md5(file) for file in images} == before, "a killed run continues to the same bytes"
    assert json.loads(stage.SCORES.read_text()) == scores


@pytest.mark.slow
def test_one_held_out_person_resembles_nobody_else(fashion: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    index = stage.read_index()
    alone = index[index.split != "train"].pid.min()
    monkeypatch.setattr(stage, "read_index", lambda: index[index.split.eq("train") | index.pid.eq(alone)])
    changed = fashion.scores.model_copy(update={"pairs": None, "sources": 1})
    monkeypatch.setattr(stage, "load_params", lambda: fashion.model_copy(update={"scores": changed}))
    stage.main()
    scores = json.loads(stage.SCORES.read_text())
    assert scores["T1"]["identity_agreement"] is None and scores["T1"]["pose_error"] > 0
    assert "expected another" in scores["missing"]["identity_agreement"]


@pytest.mark.slow
def test_with_its_weights_a_metric_is_a_number(
    fashion: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lpips")
    features = {f"features.{name}": value for name, value in alexnet().features.state_dict().items()}
    torch.save(features, tmp_path / "alexnet.pth")
    changed = fashion.scores.model_copy(
        update={"lpips_weights": tmp_path / "alexnet.pth", "height": 64, "width": 64}
    )
    monkeypatch.setattr(stage, "load_params", lambda: fashion.model_copy(update={"scores": changed}))
    stage.main()
    scores = json.loads(stage.SCORES.read_text())
    assert all(scores[scenario]["lpips"] > 0 for scenario in stage.SCENARIOS)
    assert set(scores["missing"]) == {"fid"}


def test_wrong_weights_are_refused_before_anything_is_generated(
    fashion: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"fc.bias": torch.zeros(10)}, tmp_path / "other.pth")
    changed = fashion.scores.model_copy(update={"fid_weights": tmp_path / "other.pth"})
    monkeypatch.setattr(stage, "load_params", lambda: fashion.model_copy(update={"scores": changed}))
    with pytest.raises(ValueError, match=r"other\.pth holds no Inception v3"):
        stage.main()
    assert not Path(".scratch/scores").exists()


def test_without_a_generator_the_stage_names_what_makes_it(fashion: Params, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "models")
    with pytest.raises(FileNotFoundError, match="run the stage 'train_generator'"):
        stage.main()
