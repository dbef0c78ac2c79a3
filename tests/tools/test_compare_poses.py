"""Agreement of two sources of keypoints: its definition, and the two ways to name a source."""

import sys
from pathlib import Path

import numpy as np
import pytest

from generator.keypoints import KEYPOINT_NAMES
from pipeline.keypoints import sources
from pipeline.params import Params
from pipeline.poses import to_frame
from pipeline.runtime.outputs import write_csv
from tests.pipeline.keypoints.figure import FIGURE
from tools import compare_poses
from tools.compare_poses import agreement

NOSE, NECK = KEYPOINT_NAMES.index("nose"), KEYPOINT_NAMES.index("neck")


def test_the_same_keypoints_agree_wholly() -> None:
    table = agreement(FIGURE[None], FIGURE[None], 128)
    assert list(table.index) == ["all", *KEYPOINT_NAMES]
    assert (table[["seen by A", "seen by B", "both", "PCK@5"]] == 100).all(axis=None)
    assert (table[["median", "p90"]] == 0).all(axis=None)


def test_agreement_by_hand() -> None:
    """Four images 100 pixels high; the nose is 0, 4, 6 and 10 pixels away where both see it."""
    a = np.zeros((5, 18, 3))
    b = np.zeros((5, 18, 3))
    a[:, NOSE] = [50, 20, 0.5]
    b[:, NOSE] = [50, 20, 0.9]
    b[:4, NOSE, 1] += [0, 4, 6, 10]
    b[4, NOSE, 2] = 0
    b[0, NECK] = [1, 1, 0.1]
    table = agreement(a, b, 100)
    assert table.loc["nose"].tolist() == pytest.approx([100, 80, 80, 5, 8.8, 50])
    neck = table.loc["neck"]
    assert neck.iloc[:3].tolist() == [0, 20, 0] and neck.iloc[3:].isna().all()
    assert table.loc["all", "both"] == pytest.approx(100 * 4 / 6)
    assert table.loc["l_ear"].iloc[2:].isna().all(), "nobody sees it"


@pytest.mark.slow
def test_tables_and_sources_are_compared(
    workspace: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["compare_poses", *arguments])
        compare_poses.main()
        return capsys.readouterr().out

    keypoints = workspace.dataset.root / "keypoints.csv"
    text = run("data/poses.csv", f"annotations={keypoints}", "--sample", "0")
    assert "44 images; a person is seen by both in 44, by A alone in 0" in text
    assert text.splitlines()[-19].startswith("| all | ") and "| 0.0 | 0.0 | 100.0 |" in text
    assert "7 images; " in run("data/poses.csv", f"annotations={keypoints}", "--sample", "7")

    # A detector sees the images of the sample alone.
    seen: list[str] = []

    def detect(
        source: str, path: Path, root: Path, images: list[str], checksums: list[str]
    ) -> list[np.ndarray]:
        seen.extend(images)
        return [FIGURE[None] for _ in images]

    monkeypatch.setattr(sources, "detect", detect)
    text = run("data/poses.csv", "vitpose=models/vitpose", "--sample", "5")
    assert len(seen) == 5 and "5 images; a person is seen by both in 5" in text
    write_csv(to_frame(["other.jpg"], FIGURE[None]), "other.csv")
    write_csv(to_frame([seen[0]] * 2, np.stack([FIGURE] * 2)), "twice.csv")
    for arguments, sentence in (
        (("data/poses.csv", "other.csv"), "data/poses.csv and other.csv have no image in common"),
        (("data/poses.csv", "twice.csv"), f"twice.csv: {seen[0]} has two rows"),
        (
            ("none.csv", "other.csv"),
            "none.csv is no file; expected a table of keypoints, or SOURCE=PATH with ann",
        ),
        (
            ("kinect=a", "other.csv"),
            "kinect=a is no file; expected a table of keypoints, or SOURCE=PATH with ann",
        ),
    ):
        with pytest.raises(ValueError) as caught:
            run(*arguments)
        assert sentence in str(caught.value)
