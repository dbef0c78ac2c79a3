"""The whole pipeline on a tiny world, as a user runs it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML

from pipeline.runtime.scratch import md5
from tests import REPOSITORY
from tests.stages import TWO_PROCESSES

TINY = {
    "world.train_identities": 8,
    "world.test_identities": 6,
    "world.images_per_identity": 6,
    "world.distractors": 4,
    "world.junk": 3,
    "index.validation_identities": 2,
    "subset.percents": [50],
    "generator.train.steps": 4,
    "generator.train.batch_size": 4,
    "generator.train.checkpoint_every": 2,
    "generate.sample.steps": 2,
    "reid.iterations": 12,
    "reid.identities_per_batch": 4,
    "reid.seeds": [0, 1],
    "contact_sheets.rows": 2,
}


ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "OMP_NUM_THREADS": "2",
    "CUDA_VISIBLE_DEVICES": "",  # two processes need two GPUs, and the bytes of one are another's
}


def run(folder, *command):
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def set_params(folder, changes):
    yaml = YAML()
    values = yaml.load((folder / "params.yaml").read_text())
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = values
        for part in sections:
            section = section[part]
        assert name in section, key
        section[name] = value
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(values, file)


def stages_run(output):
    return re.findall(r"Running stage '(.+?)'", output)


def clone(folder):
    """A clean clone's files with a tiny params.yaml."""
    tracked = run(REPOSITORY, "git", "ls-files", "-co", "--exclude-standard").splitlines()
    for name in tracked:
        if (REPOSITORY / name).is_file() and not name.startswith("reports/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    run(folder, "git", "init", "-q")
    set_params(folder, TINY)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A clone after one `dvc repro`."""
    folder = clone(tmp_path_factory.mktemp("repro") / "project")
    run(folder, "dvc", "repro")
    return folder


def hashes(folder):
    """The MD5 of every output in dvc.lock, by its path."""
    lock = YAML(typ="safe", pure=True).load((folder / "dvc.lock").read_text())
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}


@pytest.mark.slow
def test_every_model_has_its_row_in_table_4(project):
    table = pd.read_csv(project / "reports/table4.csv")
    rows = {(row.arm, row.train_on, row.percent, row.seed) for row in table.itertuples()}
    assert rows == {
        (arm, train_on, percent, seed)
        for arm, train_on, percent in [
            ("standard", "none", 50),
            ("standard", "none", 100),
            ("augmented", "all", 50),
        ]
        for seed in (0, 1)
    }
    assert table.iterations.unique().tolist() == [12]
    assert table[["rank1", "mAP", "mINP"]].stack().between(0, 100).all()
    full = table[table.percent == 100]
    augmented = table[table.arm == "augmented"]
    assert (full.n_real == 6 * 6).all() and (full.n_synthetic == 0).all()
    assert (augmented.n_real == 18).all() and (augmented.n_real + augmented.n_synthetic == 36).all()


@pytest.mark.slow
def test_synthetic_images_follow_the_plan(project):
    folder = project / "data/synthetic/all/50"
    plan = pd.read_csv(project / "data/plans/50.csv")
    assert sorted(plan.name) == sorted(file.name for file in folder.glob("*.jpg"))
    assert set("|".join(plan.sources).split("|")) <= set(pd.read_csv(project / "data/subsets/50.csv").image)
    for name, pid in zip(plan.name, plan.pid, strict=True):
        match = re.fullmatch(r"(\d{4})_c[1-6]s\d_\d{6}_\d{2}_g\d{4}\.jpg", name)
        assert match and int(match[1]) == pid
        with Image.open(folder / name) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (64, 128), "RGB")


@pytest.mark.slow
def test_another_run_on_one_core_has_the_same_hashes(project, tmp_path):
    """As many threads, but one worker; only the page that tells how long stages took may differ."""
    other = clone(tmp_path / "project")
    one_core = f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}]); "
    run(other, sys.executable, "-c", one_core + "os.execvp('dvc', ['dvc', 'repro'])")
    found, expected = hashes(other), hashes(project)
    assert found.keys() == expected.keys()
    differing = {path for path, md5_ in found.items() if md5_ != expected[path]}
    assert differing <= {"reports/report.html"}


@pytest.mark.slow
def test_a_second_run_does_nothing(project):
    assert stages_run(run(project, "dvc", "repro")) == []


@pytest.mark.slow
def test_what_is_missing_stops_the_run_before_any_work_starts(project):
    wrong = {"poses.source": "openpose", "poses.openpose_model": "body_pose_model.pth", "world.seed": 1}
    set_params(project, wrong)
    done = subprocess.run(["dvc", "repro"], cwd=project, env=ENVIRONMENT, capture_output=True, text=True)
    set_params(project, {"poses.source": "annotations", "poses.openpose_model": None, "world.seed": 0})
    assert done.returncode and stages_run(done.stdout) == ["check"]
    sentence = "check: poses.openpose_model is body_pose_model.pth, there is no such file; expected OpenPose"
    assert sentence in done.stderr


@pytest.mark.slow
def test_a_changed_parameter_reruns_what_depends_on_it_and_nothing_else(project):
    before = (project / "reports/table4.csv").read_bytes()
    set_params(project, {"arms.augmented.synthetic_weight": 0.5})
    ran = stages_run(run(project, "dvc", "repro"))
    assert sorted(ran) == ["augmented@augmented", "check", "gains", "report", "table4"]
    set_params(project, {"arms.augmented.synthetic_weight": 1.0})
    run(project, "dvc", "repro")
    assert (project / "reports/table4.csv").read_bytes() == before


def edit_params(folder, edit):
    """Let `edit` change the values of params.yaml; returns the file's text as it was."""
    yaml, file = YAML(), folder / "params.yaml"
    before = file.read_text()
    values = yaml.load(before)
    edit(values)
    with file.open("w") as stream:
        yaml.dump(values, stream)
    return before


@pytest.mark.slow
def test_a_new_arm_runs_alone_on_the_images_of_another_generator(project):
    """Adding an arm is an edit of params.yaml and nothing else."""
    for number, file in enumerate(sorted((project / "data/synthetic/all/50").glob("*.jpg"))):
        (project / "elsewhere").mkdir(exist_ok=True)
        shutil.copy(file, project / "elsewhere" / f"{file.name[:7]}_fake{number}.jpg")

    def add(values):
        values["arms"]["pidm"] = {"synthetic": "elsewhere", "synthetic_share": 0.4, "synthetic_weight": 1.0}

    before = edit_params(project, add)
    assert sorted(stages_run(run(project, "dvc", "repro"))) == [
        "augmented@pidm",
        "check",
        "gains",
        "identity@pidm",
        "report",
        "table4",
    ]
    table = pd.read_csv(project / "reports/table4.csv")
    assert (table[table.arm == "pidm"].train_on == "other").all() and (table.arm == "pidm").sum() == 2
    (project / "params.yaml").write_text(before)
    assert sorted(stages_run(run(project, "dvc", "repro"))) == ["gains", "report", "table4"]


def stage_graph(folder):
    """Edges of the stages in a folder, pairs of names; DVC makes them of dvc.yaml and params.yaml alone."""
    return set(re.findall(r'"(.+?)" -> "(.+?)"', run(folder, "dvc", "dag", "--dot")))


def test_planned_poses_filters_and_leak_free_generators_are_stages_only_where_an_arm_asks_for_them(tmp_path):
    for name in ("dvc.yaml", "params.yaml", "profiles/foundation.yaml"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    run(tmp_path, "dvc", "init", "-q", "--no-scm")
    set_params(tmp_path, {"subset.percents": [50]})
    shipped = stage_graph(tmp_path)
    arm = {"synthetic_share": 0.4, "synthetic_weight": 1.0}
    recipe = {"judge": "subset", "min_agreement": 0.9, "min_diversity": 0.0, "seed": 0}

    def add(values):
        values["generator"]["train_on"] = ["all", "subset"]
        values["plan"]["planned"] = ["all"]
        values["filters"]["sure"] = recipe | {"synthetic": "data/synthetic/all"}
        values["arms"]["leak_free"] = arm | {"synthetic": "data/synthetic/subset"}
        values["arms"]["planned"] = arm | {"synthetic": "data/synthetic/all-planned"}
        values["arms"]["filtered"] = arm | {"synthetic": "data/filtered/sure"}

    edit_params(tmp_path, add)
    asked = stage_graph(tmp_path)
    assert shipped < asked
    assert {stage for edge in asked - shipped for stage in edge} - {s for edge in shipped for s in edge} == {
        "train_generator@subset",
        "generate@subset-50",
        "contact_sheets@subset-50",
        "generate_planned@all-50",
        "filter@sure",
        "augmented@leak_free",
        "augmented@planned",
        "augmented@filtered",
        "identity@leak_free",
        "identity@planned",
        "identity@filtered",
    }
    for edge in (
        ("generate@subset-50", "augmented@leak_free"),
        ("plan", "generate_planned@all-50"),
        ("train_generator@all", "generate_planned@all-50"),
        ("generate_planned@all-50", "augmented@planned"),
        ("generate@all-50", "filter@sure"),
        ("filter@sure", "augmented@filtered"),
        ("filter@sure", "identity@filtered"),
        ("identity@filtered", "report"),
    ):
        assert edge in asked, edge


def test_machines_that_share_a_remote_find_what_others_made(tmp_path):
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
    stages = "".join(
        f"  {name}:\n    cmd: ls > {name}\n    deps: [{read}]\n    outs: [{name}]\n"
        for name, read in dependencies.items()
    )
    (origin / "dvc.yaml").write_text(f"stages:\n{stages}")
    run(origin, "git", "add", ".")
    run(origin, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "stages")
    for machine in machines:
        run(tmp_path, "git", "clone", "-q", origin, machine)
    first, second, third = machines

    run(first, "dvc", "repro", "images")
    run(first, "bash", "-c", "ls > standard")  # by hand, as accelerate over several machines is started
    run(first, "dvc", "commit", "-f", "standard")
    assert stages_run(run(first, "dvc", "repro", "standard")) == []
    run(first, "dvc", "push", "--run-cache")
    assert stages_run(run(second, "dvc", "repro", "--pull", "augmented")) == ["augmented"]
    run(second, "dvc", "push", "--run-cache")
    assert stages_run(run(third, "dvc", "repro", "--pull")) == ["table"]
    assert (third / "standard").read_bytes() == (first / "standard").read_bytes()
    assert (third / "augmented").read_bytes() == (second / "augmented").read_bytes()


def test_the_columns_of_experiments_are_the_few_numbers_of_the_summary(tmp_path):
    """`dvc exp show` has a column for each number of each metrics file; Table 4 has hundreds."""
    for name in ("dvc.yaml", "params.yaml", "profiles/foundation.yaml", "experiments/scores/dvc.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    (tmp_path / "reports").mkdir()
    for name in ("summary", "table4", "scores"):
        (tmp_path / "reports" / f"{name}.json").write_text(f'{{"{name}": {{"gain_20": 1.5}}}}')
    run(tmp_path, "dvc", "init", "-q", "--no-scm")
    (shown,) = json.loads(run(tmp_path, "dvc", "metrics", "show", "--json")).values()
    assert shown["data"] == {"reports/summary.json": {"data": {"summary": {"gain_20": 1.5}}}}


@pytest.mark.slow
def test_models_are_tested_on_another_world_without_training_them_again(project):
    run(project, "python", "-m", "pipeline.world", "data/other_world", "--seed", "1")
    before = pd.read_csv(project / "reports/table4.csv")
    set_params(project, {"cross_datasets": {"other": "data/other_world"}})
    assert stages_run(run(project, "dvc", "repro", "table4")) == ["check", "cross@other", "table4"]
    after = pd.read_csv(project / "reports/table4.csv")
    pd.testing.assert_frame_equal(after[before.columns], before)
    assert set(after.columns) - set(before.columns) == {
        f"{measure}_other" for measure in ("rank1", "mAP", "rank1_rerank", "mAP_rerank")
    }
    assert after.mAP_other.notna().all() and (after.mAP_other != after.mAP).any()
    set_params(project, {"cross_datasets": {}})
    run(project, "dvc", "repro", "table4")


@pytest.mark.slow
def test_where_the_gain_comes_from_adds_up(project):
    """The subset's size makes one group of all queries: its gain is Table 4's."""
    table = pd.read_csv(project / "reports/table4.csv").query("percent == 50").groupby("arm").mAP.mean()
    size = pd.read_csv(project / "reports/gains/subset_size.csv")
    assert size.gain.tolist() == pytest.approx([table["augmented"] - table["standard"]], abs=2e-3)
    pairs = pd.read_csv(project / "reports/gains/camera_pair.csv")
    assert len(pairs) and (pairs.group.str[0] != pairs.group.str[-1]).all()


def checksums(folder):
    return {str(file.relative_to(folder)): md5(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def kill_when(folder, found, *command):
    """Start a stage and kill it as soon as a file or folder like `found` appears in its scratch."""
    shutil.rmtree(folder / ".scratch", ignore_errors=True)
    process = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    while not list((folder / ".scratch").glob(found)):
        assert process.poll() is None, "the stage ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("found", "output", "stage", "cost"),
    [
        (
            "train_generator/*/step-00000002",
            "models/generator/all",
            ["train_generator", "all"],
            r"36 images to encode, 4 steps x 4 joint images to train on, [\d.]+ .FLOP",
        ),
        (
            "generate/*/*_g0001.jpg",
            "data/synthetic/all/50",
            ["generate", "all", "50"],
            r"18 images to generate in \d+ joint images, 2 steps each, [\d.]+ .FLOP",
        ),
        (
            "test_reid/*/result.json",
            "data/reid",
            ["train_reid", "standard"],
            r"4 models, 12 iterations x 16 images each, \d+ at a time; \d+ queries against \d+ images",
        ),
    ],
)
def test_a_killed_stage_continues_to_the_same_bytes_and_says_what_it_costs(
    project, found, output, stage, cost
):
    command = [sys.executable, "-m", f"pipeline.{stage[0]}", *stage[1:]]
    before = checksums(project / output)
    kill_when(project, found, *command)
    assert checksums(project / output) == before, "what stood there before must stay until the stage is done"
    assert re.search(cost, run(project, *command))
    assert checksums(project / output) == before


@pytest.mark.slow
def test_two_runs_at_once_and_a_stage_by_hand_leave_one_whole_result(project):
    """DVC lets one run work at a time; a stage beside it waits for its scratch and finds the work done."""
    before = checksums(project / "data/reid")
    set_params(project, {"arms.augmented.synthetic_weight": 0.7})
    by_hand = [sys.executable, "-m", "pipeline.train_reid", "augmented"]
    processes = [
        subprocess.Popen(
            command, cwd=project, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for command in (["dvc", "repro"], ["dvc", "repro"], by_hand)
    ]
    said = [process.communicate()[0].decode() for process in processes]
    refused = [text for process, text in zip(processes, said, strict=True) if process.returncode]
    assert all("lock" in text for text in refused) and len(refused) < 2, said
    run(project, "dvc", "repro")
    both = checksums(project / "data/reid")
    assert both != before
    shutil.rmtree(project / ".scratch/train_reid")
    run(project, "dvc", "repro", "--force", "--single-item", "augmented@augmented")
    assert checksums(project / "data/reid") == both
    set_params(project, {"arms.augmented.synthetic_weight": 1.0})
    run(project, "dvc", "repro")
    assert checksums(project / "data/reid") == before


@pytest.mark.slow
def test_two_processes_generate_the_same_bytes_as_one(project):
    folder = project / "data/synthetic/all/50"
    before = checksums(folder)
    shutil.rmtree(project / ".scratch")
    command = ["torchrun", "--standalone", "--nproc_per_node", "2", "-m", "pipeline.generate", "all", "50"]

    def launch(**variables):
        return subprocess.run(
            command, cwd=project, env=ENVIRONMENT | variables, capture_output=True, text=True
        )

    strangers = launch()
    assert strangers.returncode != 0
    assert "set ACCELERATE_USE_CPU=1 to run them on the CPU" in strangers.stderr
    assert "in launched_processes" not in strangers.stderr, "a sentence, and no traceback"
    pair = launch(ACCELERATE_USE_CPU="1")
    assert pair.returncode == 0, pair.stdout + pair.stderr
    assert pair.stdout.count("images to generate") == 1, "the main process alone speaks"
    assert checksums(folder) == before


@pytest.mark.slow
def test_accelerates_own_launcher_generates_the_same_bytes(project):
    """It starts one process on CPUs, however many are asked for; several are tested with torchrun."""
    folder = project / "data/synthetic/all/50"
    before = checksums(folder)
    shutil.rmtree(project / ".scratch")
    launcher = ["accelerate", "launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    run(project, *launcher, "-m", "pipeline.generate", "all", "50")
    assert checksums(folder) == before


@pytest.mark.slow
def test_dvc_plots_shows_table_4_curves_and_contact_sheets(project):
    run(project, "dvc", "plots", "show", "--out", "plots page")
    page = (project / "plots page/index.html").read_text()
    shutil.rmtree(project / "plots page")
    for shown in (
        "reports/table4.csv",
        "reports/generator/all.csv",
        "data/reid/standard.curves.csv",
        "data/reid/augmented.curves.csv",
        "contact_sheets",
    ):
        assert shown in page
    assert "real training images (%)" in page and "real images (%)" in page, "the templates of .dvc/plots"


@pytest.mark.slow
def test_a_launcher_in_the_environment_starts_the_generators_stages(project):
    folder = project / "data/synthetic/all/50"
    before = checksums(folder)
    shutil.rmtree(project / ".scratch")
    command = ["dvc", "repro", "--force", "--single-item", "generate@all-50"]
    environment = ENVIRONMENT | TWO_PROCESSES
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert checksums(folder) == before
    assert stages_run(run(project, "dvc", "repro")) == []


@pytest.mark.slow
def test_the_lines_of_the_readme_generate_images(project):
    section = (REPOSITORY / "README.md").read_text().split("## Using the generator")[1]
    lines = section.split("```python\n")[1].split("```")[0]
    check = "\nassert [image.size for image in images] == [(64, 128)] * 3\n"
    run(project, "python", "-c", lines + check)


@pytest.mark.slow
def test_a_failing_stage_says_one_sentence_and_keeps_what_was_there(project):
    before = checksums(project / "data/synthetic/all/50")
    plan = (project / "data/plans/50.csv").rename(project / "data/plans/away.csv")
    command = [sys.executable, "-m", "pipeline.generate", "all", "50"]
    done = subprocess.run(command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True)
    plan.rename(project / "data/plans/50.csv")
    assert done.returncode == 1
    assert done.stderr == "generate: data/plans/50.csv is missing; run the stage 'plan', which writes it\n"
    assert checksums(project / "data/synthetic/all/50") == before
