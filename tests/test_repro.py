"""The whole pipeline on a tiny world, as a user runs it."""

import json
import os
import re
import shutil
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from pipeline.runtime.hashes import md5
from tests import REPOSITORY, change, embedded, read_yaml, stages, write_params
from tests.stages import run

TINY = {
    "world.train_identities": 8,
    "world.test_identities": 6,
    "world.images_per_identity": 6,
    "world.distractors": 4,
    "world.junk": 3,
    "index.validation_identities": 2,
    "subset.percents": [50],
    "generator.train.steps": 2,
    "generator.train.batch_size": 2,
    "generator.train.checkpoint_every": 1,
    "generate.sample.steps": 2,
    "reid.iterations": 6,
    "reid.identities_per_batch": 4,
    "reid.seeds": [0, 1],
    "contact_sheets.rows": 2,
}


def clone(folder: Path) -> Path:
    """Make a clean clone's files, with a tiny params.yaml."""
    for name in run(REPOSITORY, "git", "ls-files", "-co", "--exclude-standard").stdout.splitlines():
        if (REPOSITORY / name).is_file() and name != "params.yaml" and not name.startswith("reports/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    run(folder, "git", "init", "-q")
    write_params(folder, embedded(TINY))
    return folder


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompletedProcess[str]]:
    """A clone after one `dvc repro`, and what the command printed."""
    folder = clone(tmp_path_factory.mktemp("repro") / "project")
    return folder, run(folder, "dvc", "repro")


@pytest.fixture
def project(first_run: tuple[Path, CompletedProcess[str]]) -> Path:
    """The clone; a test leaves it as it was."""
    return first_run[0]


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    """A copy of the clone, for a test that changes it; without checkpoints, which are large."""
    shutil.copytree(project, tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns(".scratch"))
    return tmp_path / "copy"


def set_params(project: Path, changes: dict[str, Any]) -> None:
    """Write params.yaml with changes of the tiny parameters."""
    write_params(project, change(embedded(TINY), changes))


def repro(project: Path, *arguments: str, **options: Any) -> list[str]:
    """Run `dvc repro`; returns the names of the stages that it ran, sorted."""
    return stages_in(run(project, "dvc", "repro", *arguments, **options))


def stages_in(done: CompletedProcess[str]) -> list[str]:
    return sorted(re.findall(r"Running stage '(.+?)'", done.stdout))


def checksums(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): md5(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def outputs(folder: Path) -> dict[str, str]:
    """Return the MD5 of every output in dvc.lock, by its path."""
    lock = read_yaml(folder / "dvc.lock")
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}


# --- what one run leaves ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_model_has_its_row_in_table_4(project: Path) -> None:
    table = pd.read_csv(project / "reports/table4.csv")
    rows = {(row.arm, row.train_on, row.percent, row.seed) for row in table.itertuples()}
    assert rows == {
        (arm, train_on, percent, seed)
        for arm, train_on, percent in [
            ("standard", "none", 50),
            ("standard", "none", 100),
            ("imagpose", "all", 50),
        ]
        for seed in (0, 1)
    }
    assert table.iterations.unique().tolist() == [6]
    assert table[["rank1", "mAP", "mINP"]].stack().between(0, 100).all()
    full = table[table.percent == 100]
    augmented = table[table.arm == "imagpose"]
    assert (full.n_real == 6 * 6).all() and (full.n_synthetic == 0).all()
    assert (augmented.n_real == 18).all() and (augmented.n_real + augmented.n_synthetic == 36).all()


@pytest.mark.slow
def test_synthetic_images_follow_the_plan(project: Path) -> None:
    folder = project / "data/synthetic/all/50"
    plan = pd.read_csv(project / "data/plans/all/50.csv")
    assert sorted(plan.name) == sorted(file.name for file in folder.glob("*.jpg"))
    assert set("|".join(plan.sources).split("|")) <= set(pd.read_csv(project / "data/subsets/50.csv").image)
    for name, pid in zip(plan.name, plan.pid, strict=True):
        match = re.fullmatch(r"(\d{4})_c[1-6]s\d_\d{6}_\d{2}_g\d{4}\.jpg", name)
        assert match and int(match[1]) == pid
        with Image.open(folder / name) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (64, 128), "RGB")


@pytest.mark.slow
def test_where_the_gain_comes_from_adds_up(project: Path) -> None:
    """The subset's size makes one group of all queries: its gain is Table 4's."""
    table = pd.read_csv(project / "reports/table4.csv").query("percent == 50").groupby("arm").mAP.mean()
    size = pd.read_csv(project / "reports/gains/subset_size.csv")
    assert size.gain.tolist() == pytest.approx([table["imagpose"] - table["standard"]], abs=2e-3)
    pairs = pd.read_csv(project / "reports/gains/camera_pair.csv")
    assert len(pairs) and (pairs.group.str[0] != pairs.group.str[-1]).all()


@pytest.mark.slow
def test_stages_that_take_long_say_what_they_cost(first_run: tuple[Path, CompletedProcess[str]]) -> None:
    for cost in (
        r"36 images to encode, 2 steps x 2 joint images to train on, [\d.]+ .FLOP",
        r"\d+ images to generate in \d+ joint images, 2 steps each, [\d.]+ .FLOP",
        r"4 models, 6 iterations x 16 images each, 1 at a time",
    ):
        assert re.search(cost, first_run[1].stdout), cost


@pytest.mark.slow
def test_dvc_plots_shows_table_4_curves_and_contact_sheets(project: Path, tmp_path: Path) -> None:
    run(project, "dvc", "plots", "show", "--out", tmp_path / "plots page")
    page = (tmp_path / "plots page/index.html").read_text()
    for name in (
        "reports/table4.csv",
        "reports/generator/all.csv",
        "data/reid/standard.curves.csv",
        "data/reid/imagpose.curves.csv",
        "contact_sheets",
    ):
        assert name in page
    assert "real training images (%)" in page and "real images (%)" in page, "the templates of .dvc/plots"


@pytest.mark.slow
def test_the_lines_of_the_readme_generate_images(project: Path) -> None:
    (lines,) = re.findall(r"```python\n(.+?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    check = "\nassert [image.size for image in images] == [(64, 128)] * 3\n"
    (project / "lines.py").write_text(lines + check)
    run(project, "python", "lines.py")
    (project / "lines.py").unlink()


@pytest.mark.slow
def test_format_and_lint_hold_where_everything_has_been_run(project: Path) -> None:
    """Whatever a run makes, such as the folder dvclive/, is no code of ours."""
    assert (project / "dvclive").is_dir()
    run(project, "ruff", "format", "--check", ".")
    run(project, "ruff", "check", ".")


# --- a second run -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_another_run_elsewhere_has_the_same_bytes(project: Path, tmp_path: Path) -> None:
    """In another folder, in a shell that expands nothing, and with another order of sets.

    Only the page that tells how long stages took may differ.
    """
    other = clone(tmp_path / "project")
    shell = tmp_path / "shell"
    shell.write_text("#!/bin/sh\nset -f\nexec $2\n")  # called as `shell -c command`: words without syntax
    shell.chmod(0o755)
    with stages.fork_server(hash_seed=2) as clients:
        environment = {"SHELL": str(shell), "PATH": f"{clients}:{os.environ['PATH']}"}
        run(other, "dvc", "repro", environment=environment)
    here, there = outputs(project), outputs(other)
    assert there.keys() == here.keys()
    assert {path for path in there if there[path] != here[path]} <= {"reports/report.html"}


@pytest.mark.slow
def test_stages_start_with_the_plain_interpreter(project: Path, tmp_path: Path) -> None:
    """All other runs start them in a process that has imported the libraries already."""
    other = clone(tmp_path / "project")
    plain = {"PATH": f"{stages.SCRIPTS}:{os.environ['PATH']}", "SHELL": "/bin/sh"}
    (other / "data").mkdir()
    shutil.copy(project / "data/checked.txt", other / "data")
    assert repro(other, "--single-item", "world", environment=plain) == ["world"]
    assert checksums(other / "data/world") == checksums(project / "data/world")


@pytest.mark.slow
def test_a_second_run_does_nothing(project: Path) -> None:
    assert repro(project) == []


# --- what changes rerun -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_missing_stops_the_run_before_any_work_starts(copy: Path) -> None:
    set_params(copy, {"poses.source": "openpose", "poses.path": "body_pose_model.pth", "world.seed": 1})
    done = run(copy, "dvc", "repro", code=255)
    assert stages_in(done) == ["check"]
    assert "check: poses.path is body_pose_model.pth, there is no such file" in done.stderr


@pytest.mark.slow
def test_a_changed_parameter_reruns_what_depends_on_it_and_nothing_else(copy: Path) -> None:
    before = (copy / "reports/table4.csv").read_bytes()
    set_params(copy, {"arms.imagpose": {"generator": "all", "rate": 0.5}})
    own = ["arm_judges", "augmented@imagpose", "gains", "identity@imagpose", "report", "table4"]
    assert repro(copy) == sorted([*own, "plan"]), "the plan is the same"
    assert (copy / "reports/table4.csv").read_bytes() != before
    set_params(copy, {})
    assert repro(copy, "table4") == ["table4"], "DVC has kept the models of these parameters"
    assert (copy / "reports/table4.csv").read_bytes() == before


@pytest.mark.slow
def test_a_change_in_what_poses_path_names_reruns_poses(copy: Path) -> None:
    own = copy / "own.csv"
    shutil.copy(copy / "data/world/keypoints.csv", own)
    set_params(copy, {"poses.path": "own.csv"})
    assert repro(copy, "poses") == ["check", "poses"]
    own.write_text(own.read_text() + "another.jpg" + ",0.0" * 54 + "\n")  # passed over
    assert repro(copy, "plan") == ["poses"], "the keypoints are the same"


@pytest.mark.slow
def test_a_new_arm_and_a_new_test_set_are_an_edit_of_params_and_train_nothing_else(copy: Path) -> None:
    """Images of another generator make an arm; all models are tested on the people of another world."""
    (copy / "elsewhere").mkdir()
    for number, file in enumerate(sorted((copy / "data/synthetic/all/50").glob("*.jpg"))):
        shutil.copy(file, copy / "elsewhere" / f"{file.name[:7]}_fake{number}.jpg")
    run(copy, "python", "-m", "pipeline.world", "data/other_world", "--seed", "1")
    before = pd.read_csv(copy / "reports/table4.csv")
    changes = {
        "imports": {"pidm": {"folder": "elsewhere"}},
        "arms": {"imagpose": {"generator": "all"}, "pidm": {"generator": "pidm"}},
        "cross_datasets": {"other": {"root": "data/other_world"}},
    }
    set_params(copy, changes)
    assert repro(copy) == [
        "arm_judges",
        "augmented@pidm",
        "check",
        "cross@other",
        "gains",
        "identity@pidm",
        "import_images@pidm",
        "plan",
        "report",
        "table4",
    ]
    after = pd.read_csv(copy / "reports/table4.csv")
    new = after[after.arm == "pidm"]
    assert (new.train_on == "other").all() and len(new) == 2
    old = after[after.arm != "pidm"].reset_index(drop=True)
    pd.testing.assert_frame_equal(old[before.columns], before)
    assert set(after.columns) - set(before.columns) == {
        f"{measure}_other" for measure in ("rank1", "mAP", "rank1_rerank", "mAP_rerank")
    }
    assert after.mAP_other.notna().all() and (after.mAP_other != after.mAP).any()
    set_params(copy, {})
    assert repro(copy, "table4") == ["table4"]


@pytest.mark.slow
def test_another_judge_is_an_edit_of_params_and_reruns_its_own_arms_alone(copy: Path) -> None:
    before = pd.read_csv(copy / "reports/table4.csv")
    vit = {"backbone": "timm:vit_tiny_patch16_224", "height": 64, "width": 32, "optimizer": "adamw"}
    vit["backbone_options"] = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    arms = {"imagpose": {"generator": "all"}, "imagpose_vit": {"generator": "all", "judge": "vit"}}
    set_params(copy, {"judges": {"vit": vit}, "arms": arms})
    assert repro(copy) == [
        "arm_judges",
        "augmented@imagpose_vit",
        "check",
        "gains",
        "identity@imagpose_vit",
        "plan",
        "report",
        "standard_of@vit",
        "subset",
        "table4",
    ]
    after = pd.read_csv(copy / "reports/table4.csv")
    assert {name: set(rows.arm) for name, rows in after.groupby("judge")} == {
        "reid": {"standard", "imagpose"},
        "vit": {"standard@vit", "imagpose_vit"},
    }
    old = after[after.judge == "reid"].reset_index(drop=True)
    pd.testing.assert_frame_equal(old[before.columns], before)
    means = after[after.percent == 50].groupby("arm").mAP.mean()
    size = pd.read_csv(copy / "reports/gains/subset_size.csv").set_index("arm")
    expected = means["imagpose_vit"] - means["standard@vit"]
    assert size.gain["imagpose_vit"] == pytest.approx(expected, abs=2e-3)
    assert "| imagpose_vit | all           | vit   |" in (copy / "reports/table4.md").read_text()
    assert "judge: vit" in (copy / "reports/report.html").read_text()

    run(copy, "python", "-m", "tools.export_reid", "imagpose_vit", "50", "0")
    exported = sorted(file.name for file in (copy / "exports/reid-imagpose_vit-50-0").iterdir())
    assert exported == ["README.md", "model.json", "model.safetensors"]

    # A change of a judge that no arm names trains the models of others no more.
    other = {"other": vit | {"iterations": 2}}
    set_params(copy, {"judges": {"vit": vit} | other, "arms": arms})
    assert repro(copy, "table4") == ["arm_judges", "check", "standard_of@other", "subset", "table4"]


# --- several processes --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_runs_at_once_and_a_stage_by_hand_leave_one_whole_result(copy: Path) -> None:
    """DVC lets one run work at a time; a stage beside it waits for its scratch and finds the work done."""
    before = checksums(copy / "data/reid")
    set_params(copy, {"arms.imagpose": {"generator": "all", "rate": 0.7}})
    by_hand = ("python", "-m", "pipeline.train_reid", "imagpose")
    commands = (("dvc", "repro", "table4"), ("dvc", "repro", "table4"), by_hand)
    processes = [stages.start(copy, *command) for command in commands]
    texts = ["".join(process.communicate()) for process in processes]
    refusals = [text for text, process in zip(texts, processes, strict=True) if process.returncode]
    assert all("lock" in text for text in refusals) and len(refusals) < 2, texts
    repro(copy, "table4")
    both = checksums(copy / "data/reid")
    assert both != before
    shutil.rmtree(copy / ".scratch/train_reid")
    repro(copy, "--force", "--single-item", "augmented@imagpose")
    assert checksums(copy / "data/reid") == both


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        stages.TWO_PROCESSES,
        # On CPUs it starts one process, however many are asked for.
        {
            "LAUNCH": "accelerate launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no "
            "--dynamo_backend no"
        },
    ],
    ids=["torchrun", "accelerate"],
)
def test_a_launcher_in_the_environment_generates_the_same_bytes(
    project: Path, launcher: dict[str, str]
) -> None:
    before = checksums(project / "data/synthetic")
    shutil.rmtree(project / ".scratch/generate")
    command = ("dvc", "repro", "--force", "--single-item", "generate@all-50")
    done = run(project, *command, environment=launcher)
    assert done.stdout.count("images to generate") == 1, "the main process alone speaks"
    assert checksums(project / "data/synthetic") == before
    assert repro(project) == []


@pytest.mark.slow
def test_a_failing_stage_says_one_sentence_and_keeps_what_was_there(project: Path) -> None:
    before = checksums(project / "data/synthetic/all/50")
    plan = (project / "data/plans/all/50.csv").rename(project / "data/plans/away.csv")
    done = run(project, "python", "-m", "pipeline.generate", "all", "50", code=1)
    plan.rename(project / "data/plans/all/50.csv")
    assert (
        done.stderr == "generate: data/plans/all/50.csv is missing; run the stage 'plan', which writes it\n"
    )
    assert checksums(project / "data/synthetic/all/50") == before


# --- DVC alone ----------------------------------------------------------------------------------------------


def stage_graph(folder: Path) -> set[tuple[str, str]]:
    """Return the edges between the stages, which DVC makes of dvc.yaml and params.yaml alone."""
    return set(re.findall(r'"(.+?)" -> "(.+?)"', run(folder, "dvc", "dag", "--dot").stdout))


def empty_project(folder: Path, changes: dict[str, Any]) -> Path:
    """Make a project that DVC can look at: its stages and parameters, and no code."""
    for name in ("dvc.yaml", "profiles/foundation.yaml", "experiments/scores/dvc.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    write_params(folder, embedded(changes))
    run(folder, "dvc", "init", "-q", "--no-scm")
    return folder


@pytest.mark.slow
def test_imports_filters_and_leak_free_generators_are_stages_only_where_an_arm_asks_for_them(
    tmp_path: Path,
) -> None:
    empty_project(tmp_path, {"subset.percents": [50]})
    shipped = stage_graph(tmp_path)
    changes = {
        "subset.percents": [50],
        "generator.train_on": ["all", "subset"],
        "imports": {"pidm": {"folder": "elsewhere"}},
        "filters": {"sure": {"generator": "all", "min_agreement": 0.9}},
        "arms": {
            "imagpose": {"generator": "all"},
            "leak_free": {"generator": "subset"},
            "pidm": {"generator": "pidm"},
            "filtered": {"generator": "sure"},
        },
    }
    write_params(tmp_path, embedded(changes))
    graph = stage_graph(tmp_path)
    assert shipped < graph
    assert {stage for edge in graph - shipped for stage in edge} - {s for edge in shipped for s in edge} == {
        "train_generator@subset",
        "generate@subset-50",
        "contact_sheets@subset-50",
        "import_images@pidm",
        "filter@sure",
        "augmented@leak_free",
        "augmented@pidm",
        "augmented@filtered",
        "identity@leak_free",
        "identity@pidm",
        "identity@filtered",
    }
    for edge in (
        ("generate@subset-50", "augmented@leak_free"),
        ("import_images@pidm", "augmented@pidm"),
        ("generate@all-50", "filter@sure"),
        ("filter@sure", "augmented@filtered"),
        ("filter@sure", "identity@filtered"),
        ("identity@filtered", "report"),
    ):
        assert edge in graph, edge


@pytest.mark.slow
def test_the_columns_of_experiments_are_the_few_numbers_of_the_summary(tmp_path: Path) -> None:
    """`dvc exp show` has a column for each number of each metrics file; Table 4 has hundreds."""
    empty_project(tmp_path, {})
    (tmp_path / "reports").mkdir()
    for name in ("summary", "table4", "scores"):
        (tmp_path / "reports" / f"{name}.json").write_text(f'{{"{name}": {{"gain_20": 1.5}}}}')
    (metrics,) = json.loads(run(tmp_path, "dvc", "metrics", "show", "--json").stdout).values()
    assert metrics["data"] == {"reports/summary.json": {"data": {"summary": {"gain_20": 1.5}}}}


@pytest.mark.slow
def test_machines_that_share_a_remote_find_what_others_made(tmp_path: Path) -> None:
    """The commands of docs/paper_scale.md, on stages of a moment."""
    origin, machines = tmp_path / "origin", [tmp_path / name for name in "abc"]
    origin.mkdir()
    run(origin, "git", "init", "-q")
    run(origin, "dvc", "init", "-q")
    (origin / ".dvc/config").write_text(
        f"[core]\nremote = store\n['remote \"store\"']\nurl = {tmp_path}/store\n"
    )
    (origin / "seed").write_text("0")
    dependencies = {
        "images": "seed",
        "standard": "images",
        "augmented": "images",
        "table": "standard, augmented",
    }
    entries = "".join(
        f"  {name}:\n    cmd: ls > {name}\n    deps: [{read}]\n    outs: [{name}]\n"
        for name, read in dependencies.items()
    )
    (origin / "dvc.yaml").write_text(f"stages:\n{entries}")
    run(origin, "git", "add", ".")
    run(origin, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "stages")
    for machine in machines:
        run(tmp_path, "git", "clone", "-q", origin, machine)
    first, second, third = machines

    repro(first, "images")
    run(first, "bash", "-c", "ls > standard")  # by hand, as accelerate over several machines is started
    run(first, "dvc", "commit", "-f", "standard")
    assert repro(first, "standard") == []
    run(first, "dvc", "push", "--run-cache")
    assert repro(second, "--pull", "augmented") == ["augmented"]
    run(second, "dvc", "push", "--run-cache")
    assert repro(third, "--pull") == ["table"]
    assert (third / "standard").read_bytes() == (first / "standard").read_bytes()
    assert (third / "augmented").read_bytes() == (second / "augmented").read_bytes()
