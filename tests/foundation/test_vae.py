import numpy as np
import pytest
import torch

from foundation.settings import VaeSettings
from foundation.vae import build_vae, latent_map, psnr, reconstruction_loss, train_vae, whiten
from generator.encoders import encode_latents, to_float
from pipeline.runtime.checkpoints import Checkpoints

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
    chroma_weight=1.0,
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
    grey = reconstruction_loss(images + 0.5, images, chroma_weight=2.0).item()
    assert grey == pytest.approx(0.5 * 3**0.5 / 3)  # brightness alone; a flat error has no edges
    stripes = torch.tensor([0.0, 1.0, 0.0, 1.0]).expand(1, 3, 4, 4)
    error = reconstruction_loss(stripes, images, chroma_weight=2.0).item()
    assert error == pytest.approx((0.5 + 1.0) * 3**0.5 / 3)


def test_an_error_of_hue_counts_by_its_weight_and_one_of_brightness_does_not():
    images = torch.zeros(1, 3, 4, 4)
    red_for_green = torch.tensor([0.5, -0.5, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    once, thrice = (reconstruction_loss(red_for_green, images, weight) for weight in (1.0, 3.0))
    assert thrice.item() == pytest.approx(3 * once.item())
    assert reconstruction_loss(images + 0.5, images, 1.0) == reconstruction_loss(images + 0.5, images, 3.0)


def test_a_vae_with_more_channels_begins_with_the_weights_that_fit(images, tmp_path):
    start = train_vae(images, SETTINGS.model_copy(update={"steps": 100}), 0, Checkpoints(tmp_path / "a"))
    more = SETTINGS.model_copy(update={"latent_channels": 6, "steps": 20})
    fresh = train_vae(images, more, 0, Checkpoints(tmp_path / "b"))
    grown = train_vae(images, more, 0, Checkpoints(tmp_path / "c"), start=start)
    assert grown.config.latent_channels == 6
    assert psnr(grown, images) > psnr(fresh, images)


def test_the_map_between_latents_is_exact_where_one_is_a_linear_function_of_the_other(images):
    torch.manual_seed(0)
    old = build_vae(SETTINGS).eval()
    new = build_vae(SETTINGS).eval()
    new.load_state_dict(old.state_dict())
    whiten(new, images)
    matrix, mean = latent_map(new, old, images)
    given, wanted = (encode_latents(vae, to_float(torch.from_numpy(images)))[0] for vae in (new, old))
    mapped = torch.einsum("dc,nchw->ndhw", matrix, given) + mean[:, None, None]
    torch.testing.assert_close(mapped, wanted, atol=1e-3, rtol=1e-3)
