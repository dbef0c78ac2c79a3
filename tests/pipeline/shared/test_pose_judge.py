"""The judge of poses learns where the keypoints are, counts visible ones alone, and goes on after a kill."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.runtime.checkpoints import Checkpoints
from pipeline.shared import pose_judge
from pipeline.shared.pose_judge import pose_errors, train_pose_judge

HEIGHT, WIDTH = 32, 16


def dots(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images with one bright square on the person's nose, wherever it is, and all other keypoints hidden."""
    rng = np.random.default_rng(seed)
    images, keypoints = np.zeros((count, HEIGHT, WIDTH, 3), np.uint8), np.zeros((count, 18, 3), np.float32)
    for image, points in zip(images, keypoints, strict=True):
        x, y = rng.integers(3, WIDTH - 3), rng.integers(3, HEIGHT - 3)
        image[y - 2 : y + 3, x - 2 : x + 3] = 255
        points[0] = x, y, 1
    return images, keypoints


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pose_judge, "ITERATIONS", 60)
    monkeypatch.setattr(pose_judge, "_CHECKPOINT_EVERY", 20)


@pytest.mark.slow
def test_it_finds_what_it_was_shown_in_images_that_it_never_saw(tmp_path: Path) -> None:
    judge = train_pose_judge(*dots(200, 0), 0, Checkpoints(tmp_path))
    images, keypoints = dots(50, 1)
    near = pose_errors(judge, images, keypoints, 16)
    middle = np.linalg.norm(keypoints[:, 0, :2] + 0.5 - (WIDTH / 2, HEIGHT / 2), axis=1) / HEIGHT * 100
    assert near.mean() < 0.5 * middle.mean()
    moved = keypoints + np.array([0, HEIGHT / 2, 0], np.float32)
    assert pose_errors(judge, images, moved, 16).mean() > 40
    # Half a height away from where it was found: the distance is in percent of the height.
    hidden = keypoints.copy()
    hidden[3, 0, 2] = 0
    hidden[:, 1] = 7, 7, 0
    errors = pose_errors(judge, images, hidden, 50)
    assert np.isnan(errors[3])
    np.testing.assert_allclose(np.delete(errors, 3), np.delete(near, 3), rtol=1e-4)


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, keypoints = dots(20, 0)
    whole = train_pose_judge(images, keypoints, 3, Checkpoints(tmp_path / "whole"))
    calls = []

    def kill(*arguments: object) -> None:
        calls.append(1)
        if len(calls) == 47:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        shares = pose_judge._shares
        patch.setattr(pose_judge, "_shares", lambda *a: kill() or shares(*a))
        with pytest.raises(KeyboardInterrupt):
            train_pose_judge(images, keypoints, 3, Checkpoints(tmp_path / "killed"))
    again = train_pose_judge(images, keypoints, 3, Checkpoints(tmp_path / "killed"))
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_a_loss_that_is_not_finite_is_in_no_checkpoint(tmp_path: Path) -> None:
    images, keypoints = dots(20, 0)
    keypoints[:, 0, :2] = np.nan
    with pytest.raises(ValueError, match=r"the loss of the judge of poses is nan, .* at iteration 20; "):
        train_pose_judge(images, keypoints, 3, Checkpoints(tmp_path))
    assert not list(tmp_path.iterdir())
