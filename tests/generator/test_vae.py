import numpy as np
import pytest
import torch

from generator.base_settings import VaeSettings
from generator.encoders import encode_latents, to_float
from generator.vae import psnr, reconstruction_loss, train_vae
from pipeline.checkpoints import Checkpoints

SETTINGS = VaeSettings(
    unshuffle=2,
    latent_channels=4,
    channels=(8, 16),
    layers=1,
    norm_groups=4,
    steps=6,
    batch_size=4,
    learning_rate=3e-3,
    warmup_steps=2,
    max_grad_norm=1.0,
    kl_weight=1e-4,
    checkpoint_every=2,
)


@pytest.fixture(scope="module")
def images():
    """Eight flat images with a bright half."""
    rng = np.random.default_rng(0)
    images = np.broadcast_to(rng.integers(0, 128, (8, 1, 1, 3)), (8, 32, 16, 3)).astype(np.uint8).copy()
    images[:, :16] += 100
    return images


def test_training_makes_reconstructions_better_and_latents_white(images, tmp_path):
    start = train_vae(images, SETTINGS.model_copy(update={"steps": 1}), 0, Checkpoints(tmp_path / "a"))
    vae = train_vae(images, SETTINGS.model_copy(update={"steps": 150}), 0, Checkpoints(tmp_path / "b"))
    assert psnr(vae, images) > psnr(start, images) + 5
    latents = encode_latents(vae, to_float(torch.from_numpy(images)))[0].transpose(0, 1).flatten(1)
    # Seven colours and two halves do not need every direction; the one that says most has variance 1.
    assert torch.linalg.eigvalsh(latents.cov())[-1].item() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(latents.mean(1), torch.zeros(4), atol=1e-3, rtol=0)


def test_an_interrupted_training_ends_in_the_same_bits(images, tmp_path, monkeypatch):
    whole = train_vae(images, SETTINGS, 0, Checkpoints(tmp_path / "whole")).state_dict()
    checkpoints = Checkpoints(tmp_path / "torn")

    def save_and_stop(done, **parts):
        Checkpoints.save(checkpoints, done, **parts)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train_vae(images, SETTINGS, 0, checkpoints)
    resumed = train_vae(images, SETTINGS, 0, checkpoints).state_dict()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_loss_that_is_not_finite_is_refused(images, tmp_path):
    settings = SETTINGS.model_copy(update={"learning_rate": 1e30, "warmup_steps": 1, "max_grad_norm": 1e30})
    message = r"loss is .* at step 2 with learning rate .*; the last good state is no checkpoint; lower vae\."
    with pytest.raises(ValueError, match=message):
        train_vae(images, settings, 0, Checkpoints(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_reconstruction_loss_counts_pixels_and_their_differences():
    images = torch.zeros(1, 3, 4, 4)
    assert reconstruction_loss(images + 0.5, images).item() == pytest.approx(0.5)  # a flat error has no edges
    stripes = torch.tensor([0.0, 1.0, 0.0, 1.0]).expand(1, 3, 4, 4)
    assert reconstruction_loss(stripes, images).item() == pytest.approx(0.5 + 1.0)
