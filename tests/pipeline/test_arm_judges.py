"""A file for each arm that changes with the arm's own judge alone."""

from pathlib import Path
from typing import Any

import pytest

from pipeline import arm_judges
from pipeline.artifacts import ARM_JUDGES
from tests import embedded, write_params


def files(folder: Path, monkeypatch: pytest.MonkeyPatch, judges: dict[str, Any]) -> dict[str, str]:
    arms = {"imagpose": {"generator": "all"}, "one": {"generator": "all", "judge": "osnet"}}
    write_params(folder, embedded({"judges": judges, "arms": arms | {"two": arms["one"] | {"judge": "vit"}}}))
    monkeypatch.chdir(folder)
    arm_judges.main()
    return {file.stem: file.read_text() for file in ARM_JUDGES.iterdir()}


def test_a_change_of_a_judge_is_one_of_its_own_arms_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    osnet, vit = {"backbone": "torchreid:osnet_x0_25"}, {"backbone": "timm:vit_tiny_patch16_224"}
    before = files(tmp_path, monkeypatch, {"osnet": osnet, "vit": vit})
    after = files(tmp_path, monkeypatch, {"osnet": osnet, "vit": vit | {"iterations": 900}})
    assert set(before) == {"imagpose", "one", "two"}
    assert {arm for arm in before if before[arm] != after[arm]} == {"two"}
