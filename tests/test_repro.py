"""The whole pipeline on a tiny world, as a user runs it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML

REPOSITORY = Path(__file__).parents[1]
TINY = {
    "world.train_identities": 8,
    "world.test_identities": 6,
    "world.images_per_identity": 6,
    "world.distractors": 4,
    "world.junk": 3,
    "index.validation_identities": 2,
    "subset.fractions": [50],
    "generator.train.steps": 4,
    "generator.train.batch_size": 4,
    "generator.train.checkpoint_every": 2,
    "generate.sample.steps": 2,
    "reid.iterations": 12,
    "reid.identities_per_batch": 4,
    "reid.seeds": [0, 1],
    "contact_sheets.rows": 2,
}


def run(folder, *command):
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "2",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
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


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A clean clone's files with a tiny params.yaml, after one `dvc repro`."""
    folder = tmp_path_factory.mktemp("repro") / "project"
    tracked = run(REPOSITORY, "git", "ls-files", "-co", "--exclude-standard").splitlines()
    for name in tracked:
        if (REPOSITORY / name).is_file() and not name.startswith("reports/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    run(folder, "git", "init", "-q")
    set_params(folder, TINY)
    run(folder, "dvc", "repro")
    return folder


@pytest.mark.slow
def test_every_model_has_its_row_in_table_4(project):
    table = pd.read_csv(project / "reports/table4.csv")
    rows = {(row.arm, row.train_on, row.fraction, row.seed) for row in table.itertuples()}
    assert rows == {
        (arm, train_on, fraction, seed)
        for arm, train_on, fraction in [
            ("standard", "none", 50),
            ("standard", "none", 100),
            ("augmented", "all", 50),
        ]
        for seed in (0, 1)
    }
    assert table.iterations.unique().tolist() == [12]
    assert table[["rank1", "mAP", "mINP"]].stack().between(0, 100).all()
    full = table[table.fraction == 100]
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
def test_a_second_run_does_nothing(project):
    assert stages_run(run(project, "dvc", "repro")) == []


@pytest.mark.slow
def test_a_changed_parameter_reruns_what_depends_on_it_and_nothing_else(project):
    before = (project / "reports/table4.csv").read_bytes()
    set_params(project, {"arms.augmented.synthetic_share": 0.5})
    assert stages_run(run(project, "dvc", "repro")) == ["augmented@augmented", "table4"]
    set_params(project, {"arms.augmented.synthetic_share": 0.4})
    run(project, "dvc", "repro")
    assert (project / "reports/table4.csv").read_bytes() == before
