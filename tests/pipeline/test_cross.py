"""Trained models are tested on further data sets without being trained again."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline import cross as stage
from pipeline import table4
from pipeline.artifacts import CROSS, INDEX, REID_MODELS, REID_RESULTS, read_index
from pipeline.datasets.indexing import index_dataset
from pipeline.params import CrossSettings, IndexSettings, JudgeSettings, Params, load_params
from pipeline.runtime.outputs import write_csv
from pipeline.shared import reid_models
from pipeline.shared.reid_models import ImageSet
from pipeline.world import __main__ as world
from reid.model import BoT, save_model
from tests import REPOSITORY

SHIPPED = REPOSITORY / "profiles/embedded.yaml"


def params_with(changes: dict[str, Any], **sections: Any) -> Params:
    params = load_params(SHIPPED)
    small = {"channels": 8, "height": 64, "width": 32, "seeds": (0,), "mixed_precision": "no", **changes}
    subset = params.subset.model_copy(update={"percents": (20,)})
    return params.model_copy(
        update={"reid": params.reid.model_copy(update=small), "subset": subset, **sections}
    )


@pytest.fixture
def params(market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Parameters with the small data set as a further one, and the weights of all models of the table."""
    monkeypatch.chdir(tmp_path)
    params = params_with({}, cross_datasets={"other": CrossSettings(root=market)})
    for seed, name in enumerate(("standard/20-0", "standard/100-0", "imagpose/20-0")):
        torch.manual_seed(seed)
        path = REID_MODELS / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(BoT(params.reid, 5), path)
    write_csv(index_dataset("market1501", market, IndexSettings(validation_identities=0, seed=0))[0], INDEX)
    return params


def test_every_model_is_tested_and_the_table_shows_it(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    results = stage.evaluate_all("other", params)[0]
    assert "other: 3 models to test, 6 queries against 14 images each\n" in capsys.readouterr().out
    assert results[["arm", "percent", "seed"]].values.tolist() == [
        ["standard", 20, 0],
        ["standard", 100, 0],
        ["imagpose", 20, 0],
    ]
    measures = ["rank1_other", "mAP_other", "rank1_rerank_other", "mAP_rerank_other"]
    assert results.columns.tolist() == ["arm", "percent", "seed", *measures]
    assert results[measures].stack().between(0, 100).all() and results.mAP_other.nunique() == 3

    write_csv(results, CROSS / "other.csv")
    for arm, models in results.groupby("arm"):
        own = {
            "train_on": "x",
            "n_real": 1,
            "n_synthetic": 0,
            "iterations": 1,
            "rank1": 1,
            "mAP": 1,
            "mINP": 1,
        }
        rows = models[["arm", "percent", "seed"]].assign(**own)
        write_csv(rows, REID_RESULTS / f"{arm}.csv")
        write_csv(rows, REID_RESULTS / f"{arm}.queries.csv")  # no table of models
    rows = table4.collect(params)
    assert rows.mAP_other.tolist() == results.mAP_other.tolist()
    assert "rank-1, re-ranked, other" in table4.render(table4.summarise(rows), "x")
    without = params.model_copy(update={"cross_datasets": {}})
    assert "mAP_other" not in table4.collect(without)


@pytest.mark.slow
def test_a_known_result_is_read_again_and_belongs_to_its_weights(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stage.evaluate_all("other", params)[0]
    with monkeypatch.context() as patch:
        patch.setattr(reid_models, "load_model", None)  # nothing is computed
        pd.testing.assert_frame_equal(stage.evaluate_all("other", params)[0], before)
    save_model(BoT(params.reid, 5), REID_MODELS / "imagpose/20-0.safetensors")
    after = stage.evaluate_all("other", params)[0]
    assert (after.mAP_other != before.mAP_other).tolist() == [False, False, True]
    plain = params.model_copy(update={"reid": params.reid.model_copy(update={"rerank": False})})
    assert "mAP_rerank_other" not in stage.evaluate_all("other", plain)[0]


def test_models_of_another_judge_see_the_images_at_its_size(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stage.evaluate_all("other", params)[0]
    wide = JudgeSettings.model_validate({"height": 96, "width": 48})
    params = params.model_copy(update={"judges": {"wide": wide}})
    for percent in (20, 100):
        path = REID_MODELS / f"standard@wide/{percent}-0.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_model(BoT(params.reid_of("standard@wide"), 5), path)
    after = stage.evaluate_all("other", params)[0]
    assert after.arm.tolist() == ["standard"] * 2 + ["imagpose"] + ["standard@wide"] * 2
    pd.testing.assert_frame_equal(after[:3], before)
    stale = params.model_copy(update={"judges": {"wide": wide.model_copy(update={"height": 64})}})
    with pytest.raises(ValueError, match=r"was trained with height 96, which is 64 in the present settings"):
        stage.evaluate_all("other", stale)


def test_files_that_are_not_used_are_listed(
    params: Params, market: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (market / "query/notes.txt").touch()
    monkeypatch.setattr(stage, "load_params", lambda: params)
    monkeypatch.setattr("sys.argv", ["cross", "other"])
    stage.main()
    file = CROSS / "other.rejected.csv"
    assert pd.read_csv(file).values.tolist() == [
        ["query/notes.txt", "its name does not end in .jpg, .jpeg, .png"]
    ]
    assert f"cross: 1 files are not used, see {file}\n" in capsys.readouterr().err


def test_training_images_that_it_tests_with_are_listed(
    params: Params, market: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage, "load_params", lambda: params)
    monkeypatch.setattr("sys.argv", ["cross", "other"])
    stage.main()
    file = CROSS / "other.leaked.csv"
    assert pd.read_csv(file).columns.tolist() == ["train", "test"] and not len(pd.read_csv(file))
    assert "same file" not in capsys.readouterr().err
    index = read_index().set_index("split")
    trained, query = index.image["train"].iloc[0], index.image["query"].iloc[0]
    (market / query).write_bytes((market / trained).read_bytes())
    stage.main()
    assert pd.read_csv(file).values.tolist() == [[trained, query]]
    sentence = (
        f"cross: 1 pairs of a training image and one of its test images are the same file, see {file}\n"
    )
    assert sentence in capsys.readouterr().err


def test_a_missing_model_is_named(params: Params) -> None:
    (REID_MODELS / "imagpose/20-0.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"imagpose/20-0.safetensors is missing; run the stage"):
        stage.evaluate_all("other", params)


def test_the_rankings_of_the_queries(params: Params, market: Path) -> None:
    """They agree with the summaries, name images of the data set, and say nothing where nothing is right."""
    index, *_ = index_dataset("market1501", market, IndexSettings(validation_identities=0, seed=0))
    # Nobody else has seen this person: the query has no right image.
    index = index[~((index.split == "gallery") & (index.pid == 1501) & (index.camid == 2))]
    query, gallery = (
        ImageSet.read(rows, [market / image for image in rows.image], params.reid)
        for rows in (index[index.split == split] for split in ("query", "gallery"))
    )
    weights = REID_MODELS / "standard/20-0.safetensors"
    values, queries = reid_models.evaluate_model(weights, query, gallery, params.reid)
    assert queries["query"].tolist() == query.table.image.tolist()
    assert queries.ap.mean() == pytest.approx(values["mAP"], abs=1e-3)
    assert 100 * (queries.first_match <= 1).sum() / queries.ap.count() == pytest.approx(values["rank1"])
    lost = queries[queries["query"].str.contains("1501_c1")]
    assert lost[["ap", "first_match", "ap_c1", "ap_c2"]].isna().all(axis=None)
    camids = gallery.table.set_index("image").camid
    for row, camid, pid in zip(queries.itertuples(), query.table.camid, query.table.pid, strict=True):
        top = row.top.split(" ")
        assert len(top) == min(10, len(camids) - 1 - (camids.filter(like=f"/{pid:04d}_") == camid).sum())
        assert not any(image.startswith("bounding_box_test/-1") for image in top)
        right = [n for n, image in enumerate(top, start=1) if f"/{pid:04d}_" in image]
        assert right[:1] == ([] if pd.isna(row.first_match) or row.first_match > 10 else [row.first_match])
        other = {1: row.ap_c2, 2: row.ap_c1}[camid]  # right images are in one camera alone
        assert np.isnan({1: row.ap_c1, 2: row.ap_c2}[camid]) and (np.isnan(row.ap) or other >= row.ap - 1e-3)


def test_a_data_set_that_params_yaml_does_not_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(SHIPPED.read_text())
    monkeypatch.setattr("sys.argv", ["cross", "elsewhere"])
    with pytest.raises(ValueError, match=r"is elsewhere; params\.yaml has under cross_datasets: none"):
        stage.main()


@pytest.mark.slow
def test_another_world_is_rendered_to_a_new_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = SHIPPED.read_text()
    for key, number in (
        ("train_identities", 2),
        ("test_identities", 2),
        ("images_per_identity", 4),
        ("distractors", 0),
        ("junk", 0),
    ):
        line = next(line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
        text = text.replace(line, f"  {key}: {number}", 1)
    Path("params.yaml").write_text(text)
    for seed in ("0", "1"):
        monkeypatch.setattr("sys.argv", ["world", f"world{seed}", "--seed", seed])
        world.main()
    names = [sorted(file.name for file in Path(folder).rglob("*.jpg")) for folder in ("world0", "world1")]
    assert len(names[0]) == len(names[1]) == 16 and names[0] != names[1]
    with pytest.raises(ValueError, match="world1 exists"):
        world.main()
