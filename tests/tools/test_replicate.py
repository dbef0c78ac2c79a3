"""Replication on a repository whose only stage writes a table that tells its parameters."""

import fcntl
import shutil
import subprocess

import pandas as pd
import pytest

from pipeline.artifacts import is_standard
from pipeline.params import load, load_params
from pipeline.runtime.scratch import SCRATCH, release
from tests import REPOSITORY
from tools import replicate as stage
from tools.replicate import Replication, change_params, gains, reach_untracked, replicate

STAGE = """
import pandas as pd
from ruamel.yaml import YAML
values = YAML(typ="safe", pure=True).load(open("params.yaml"))
row = {"arm": "standard", "train_on": "none", "percent": 100, "n_real": 1, "n_synthetic": 0, "iterations": 1,
       "rank1": float(values["world"]["seed"]), "mAP": 0.0, "mINP": 0.0}
rows = pd.DataFrame([row | {"seed": seed} for seed in values["reid"]["seeds"]])
rows.to_csv("reports/table4.csv", index=False)
with open("runs.log", "a") as log:
    log.write("run\\n")
"""
DVC = """
stages:
  table4:
    cmd: mkdir -p reports && python code/stage.py
    params: [world.seed, reid.seeds]
    deps: [code]
    metrics:
      - reports/table4.csv: {cache: false}
"""

SCORES_DVC = """
stages:
  scores:
    wdir: ../..
    cmd: >-
      echo '{"T1": {"ssim": 0.5, "fid": null}}' > reports/scores.json
    metrics:
      - reports/scores.json: {cache: false}
"""


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    for name, text in {
        "profiles/embedded.yaml": (REPOSITORY / "profiles/embedded.yaml").read_text(),
        "params.yaml": "the user's own, which no run reads\n",
        "dvc.yaml": DVC,
        "code/stage.py": STAGE,
        ".gitignore": "/runs.log\n",
        ".dvc/config": "[core]\n    analytics = false\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


def settings(*changes, every=None):
    runs = [{"columns": {"world_seed": number}, "changes": change} for number, change in enumerate(changes)]
    return Replication.model_validate({"table": "study.csv", "every": every or {}, "runs": runs})


@pytest.mark.slow
def test_every_run_has_its_own_parameters_and_its_rows_say_which(repository, tmp_path):
    experiment = settings({"world.seed": 5}, {"world.seed": 6}, every={"reid.seeds": [3, 4]})
    rows = replicate(repository, experiment, tmp_path / "scratch")
    assert list(rows.columns[:3]) == ["world_seed", "arm", "train_on"]
    assert rows[["world_seed", "seed", "rank1"]].to_numpy().tolist() == [
        [0, 3, 5], [0, 4, 5], [1, 3, 6], [1, 4, 6],
    ]  # fmt: skip
    # Once more, with a file that is gone: nothing is left to do, and nothing of the old code stays.
    (repository / "code/old.py").write_text("")
    replicate(repository, experiment, tmp_path / "scratch")
    (repository / "code/old.py").unlink()
    again = replicate(repository, experiment, tmp_path / "scratch")
    assert again.equals(rows)
    workspace = tmp_path / "scratch" / "world_seed-0"
    assert not (workspace / "code/old.py").exists()
    assert (workspace / "runs.log").read_text().count("run") == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"world.sead": 1},
            "embedded.yaml, as a run changes it: world.sead is no setting; the settings here",
        ),
        ({"world.seed": -1}, "world.seed is -1; input should be greater than or equal to 0"),
        ({"arms.new": {"synthetic": "data/synthetic/all"}}, "arms.new.generator is missing"),
        ({"world.seed.deeper": 1}, "embedded.yaml has no section for the key world.seed.deeper, which a run"),
    ],
)
def test_a_bad_change_is_named_before_anything_runs(repository, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        replicate(repository, settings({"world.seed": 5}, change), tmp_path / "scratch")
    assert not list((tmp_path / "scratch").rglob("runs.log"))


def test_two_runs_that_nothing_tells_apart_are_refused(repository, tmp_path):
    experiment = settings({"world.seed": 5}, {"world.seed": 6})
    experiment = experiment.model_copy(update={"runs": [experiment.runs[0], experiment.runs[0]]})
    with pytest.raises(
        ValueError, match=r"two runs have the columns .*-.*, which tell runs apart; give each its own"
    ):
        replicate(repository, experiment, tmp_path / "scratch")


def test_what_git_does_not_track_is_read_where_it_lies(repository, tmp_path):
    (tmp_path / "disk/other").mkdir(parents=True)
    for name in ("datasets/mine/images.csv", "models/net.pth", "data/world/images.csv", "weights/w/x"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).touch()
    (repository / "linked").symlink_to(tmp_path / "disk")
    (repository / ".gitignore").write_text("/datasets/\n/models/\n/data/\n")
    values = {
        "dataset": {
            "root": "datasets/mine",
            "height": 128,
            "gone": "datasets/gone",
            "linked": "linked/other",
        },
        "poses": {"path": "data/world"},
        "generator": {"base": "weights/w", "train_on": ["all", "models/net.pth"], "null": None, "empty": ""},
        "absolute": str(tmp_path),
    }
    changed = reach_untracked(values, repository)
    assert changed["dataset"] == values["dataset"] | {
        "root": str(repository / "datasets/mine"),
        "linked": str(repository / "linked/other"),
    }
    assert changed["generator"]["train_on"] == ["all", str(repository / "models/net.pth")]
    values["generator"]["train_on"] = changed["generator"]["train_on"]
    values["dataset"] = changed["dataset"]
    assert changed == values  # nothing else


def test_a_second_replication_waits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["replicate", str(REPOSITORY / "experiments/study.yaml")])

    def at_work(*_):
        with (SCRATCH / "replicate/lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        raise ValueError("seen")

    monkeypatch.setattr(stage, "replicate", at_work)
    with pytest.raises(ValueError, match="seen"):
        stage.main()
    release(SCRATCH / "replicate")


def test_gains_are_paired_within_each_run_and_over_all():
    """One arm gains 1, 2, 3 points in a run and 11, 12, 13 in another, over standards far apart."""
    rows = pd.DataFrame(
        {
            "world": world,
            "arm": arm,
            "train_on": "none" if arm == "standard" else "all",
            "percent": 20,
            "seed": seed,
            "n_real": 1,
            "n_synthetic": 0,
            "iterations": 1,
            "rank1": standard + (0 if arm == "standard" else gain + seed),
            "mAP": 0.0,
            "mINP": 0.0,
            "score_ssim": world / 10,
        }
        for world, standard, gain in ((0, 20.0, 1), (1, 60.0, 11))
        for arm in ("standard", "new")
        for seed in range(3)
    )
    experiment = settings({}, {}).model_copy(update={"pooled": True, "scores": "T1"})
    run = experiment.runs[0].model_copy(update={"columns": {"world": 0}})
    lines = gains(rows, experiment.model_copy(update={"runs": [run]})).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "| new" in line]
    assert [row[0] for row in cells] == ["0", "1", "all"]
    assert [row[4] for row in cells] == ["3", "3", "6"]
    assert [row[6].split(" ± ")[0] for row in cells] == ["+2.0", "+12.0", "+7.0"]
    halves = [float(row[6].split(" ± ")[1]) for row in cells]
    assert halves[2] < halves[0] == halves[1]  # six pairs about the mean of their run
    assert [row[-1] for row in cells] == ["0", "0.1", "0.05"]
    assert "Arms against each other" not in "".join(lines), "there is one alone"


def test_arms_are_compared_with_the_first_one():
    """Over the first arm's gain of 1, 2, 3 points the second has 4 more in one run and 6 in the other."""
    rows = pd.DataFrame(
        {
            "world": world,
            "arm": arm,
            "train_on": train_on,
            "percent": 20,
            "seed": seed,
            "n_real": 1,
            "n_synthetic": 0,
            "iterations": 1,
            "rank1": 20.0 + gain * seed + more,
            "mAP": 0.0,
            "mINP": 0.0,
        }
        for world in (0, 1)
        for arm, train_on, gain, more in (
            ("standard", "none", 0, 0),
            ("new", "all", 1, 1),
            ("newer", "subset", 1, 5 + 2 * world),
        )
        for seed in range(3)
    )
    experiment = settings({}, {}).model_copy(update={"pooled": True})
    run = experiment.runs[0].model_copy(update={"columns": {"world": 0}})
    text = gains(rows, experiment.model_copy(update={"runs": [run]}))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert [row for row in cells if "newer - new" in row] == [
        ["0", "20 %", "newer - new", "+4.0 ± 0.0", "+0.0 ± 0.0"],
        ["1", "20 %", "newer - new", "+6.0 ± 0.0", "+0.0 ± 0.0"],
        ["all", "20 %", "newer - new", "+5.0 ± 0.0", "+0.0 ± 0.0"],
    ]


def test_gains_are_over_real_images_under_the_own_judge():
    """The arms gain 1 and 10 points over standards 40 apart, and are not compared with each other."""
    rows = pd.DataFrame(
        {
            "world": world,
            "arm": arm,
            "train_on": "none" if gain == 0 else "all",
            "percent": 20,
            "seed": seed,
            "n_real": 1,
            "n_synthetic": 0,
            "iterations": 1,
            "rank1": standard + gain + seed,
            "mAP": 0.0,
            "mINP": 0.0,
            "judge": judge,
        }
        for world in (0, 1)
        for judge, arm, standard, gain in (
            ("reid", "standard", 20.0, 0),
            ("reid", "new", 20.0, 1),
            ("osnet", "standard@osnet", 60.0, 0),
            ("osnet", "new_osnet", 60.0, 10),
        )
        for seed in range(3)
    )
    experiment = settings({}, {}).model_copy(update={"pooled": True})
    run = experiment.runs[0].model_copy(update={"columns": {"world": 0}})
    text = gains(rows, experiment.model_copy(update={"runs": [run]}))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert [row[:8] for row in cells if row[0] == "all" and row[2].startswith("new")] == [
        ["all", "20 %", "new", "all", "reid", "6", "22.0 ± 1.1", "+1.0 ± 0.0"],
        ["all", "20 %", "new_osnet", "all", "osnet", "6", "71.0 ± 1.1", "+10.0 ± 0.0"],
    ]
    assert "Arms against each other" not in text


@pytest.mark.slow
def test_scores_of_a_run_with_a_profile_of_its_own_stand_beside_the_rows(repository, tmp_path):
    (repository / "experiments/scores").mkdir(parents=True)
    (repository / "experiments/scores/dvc.yaml").write_text(SCORES_DVC)
    text = (repository / "profiles/embedded.yaml").read_text()
    assert text.count("seeds: [0, 1, 2]") == 1
    (repository / "profiles/own.yaml").write_text(text.replace("seeds: [0, 1, 2]", "seeds: [7]"))
    experiment = settings({"world.seed": 5}).model_copy(
        update={"scores": "T1", "profile": "profiles/own.yaml"}
    )
    rows = replicate(repository, experiment, tmp_path / "scratch")
    assert rows.seed.tolist() == [7]
    assert rows.score_ssim.tolist() == [0.5] * len(rows) and rows.score_fid.isna().all()


@pytest.mark.parametrize(
    "file", sorted((REPOSITORY / "experiments").glob("*.yaml")), ids=lambda file: file.stem
)
def test_the_shipped_experiments_fit_their_profiles(file):
    experiment = load(file, Replication)
    profile = load_params(REPOSITORY / experiment.profile).model_dump(mode="json", exclude_unset=True)
    for run in experiment.runs:
        change_params(profile, experiment.every | run.changes, file)
    names = [tuple(run.columns.values()) for run in experiment.runs]
    assert len(set(names)) == len(names), "two runs would share a workspace"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ablations", "arms", "choices", "judges", "study"])
def test_the_shipped_tables_are_of_the_shipped_runs_and_arms(name):
    """Nothing in reports/ is about a recipe that nobody can repeat."""
    experiment = load(REPOSITORY / f"experiments/{name}.yaml", Replication)
    rows = pd.read_csv(REPOSITORY / experiment.table)
    columns = list(experiment.runs[0].columns)
    assert [*rows[columns].drop_duplicates().itertuples(index=False, name=None)] == [
        tuple(run.columns.values()) for run in experiment.runs
    ]
    arms = {key.removeprefix("arms.") for key in experiment.every if key.count(".") == 1 and "arms." in key}
    assert {arm for arm in rows.arm if not is_standard(arm)} == {"imagpose", *arms}
    judges = {key.removeprefix("judges.") for key in experiment.every if key.startswith("judges.")}
    standards = {"standard", *(f"standard@{judge}" for judge in judges)}
    assert {arm for arm in rows.arm if is_standard(arm)} == standards
    report = (REPOSITORY / experiment.table).with_suffix(".md").read_text()
    assert report == gains(rows, experiment) + "\n"


def test_a_run_that_fails_is_named(repository, tmp_path):
    (repository / "code/stage.py").write_text("raise SystemExit(1)")
    with pytest.raises(ValueError, match="world_seed-0 failed"):
        replicate(repository, settings({"world.seed": 5}), tmp_path / "scratch")


def test_outside_git_there_is_one_sentence(repository, tmp_path):
    shutil.rmtree(repository / ".git")
    with pytest.raises(ValueError, match="is no git repository"):
        replicate(repository, settings({"world.seed": 5}), tmp_path / "scratch")
