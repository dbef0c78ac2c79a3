import copy

import numpy as np
import pytest
import torch
from torch import nn

from foundation.models import build_vae
from foundation.perceptual import PerceptualDistance
from foundation.settings import PerceptualSettings, VaeSettings
from foundation.vae import psnr, reconstruct, reconstruction_loss, train_vae, whiten
from generator.encoders import decode_latents, encode_latents, to_float
from pipeline.runtime.checkpoints import Checkpoints
from reid.libraries import Backbone

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
    flip_probability=0.0,
    max_grad_norm=1.0,
    chroma_weight=1.0,
    perceptual=None,
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


def train(images, folder, vae=None, **changes):
    settings = SETTINGS.model_copy(update=changes)
    return train_vae(vae or build_vae(settings, 0), images, settings, 0, Checkpoints(folder))


@pytest.fixture(scope="module")
def vae(images, tmp_path_factory):
    return train(images, tmp_path_factory.mktemp("vae"), steps=80, learning_rate=1e-2)


def encode(vae, images):
    return encode_latents(vae, to_float(torch.from_numpy(images)))[0]


@pytest.mark.slow
def test_training_makes_reconstructions_better_and_latents_white(images, vae, tmp_path):
    assert psnr(vae, images) > psnr(train(images, tmp_path, steps=1), images) + 5
    latents = encode(vae, images).transpose(0, 1).flatten(1)
    # Seven colours and two halves do not need every direction; the one that says most has variance 1.
    assert torch.linalg.eigvalsh(latents.cov())[-1].item() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(latents.mean(1), torch.zeros(4), atol=1e-3, rtol=0)


@pytest.mark.slow
def test_training_goes_on_from_the_weights_that_it_is_given(images, vae, tmp_path):
    from_scratch = train(images, tmp_path / "a", steps=20)
    longer = train(images, tmp_path / "b", copy.deepcopy(vae), steps=20)
    assert psnr(longer, images) > psnr(from_scratch, images) + 3


def test_an_interrupted_training_ends_in_the_same_bits(images, tmp_path, monkeypatch):
    whole = train(images, tmp_path / "whole").state_dict()
    save = Checkpoints.save

    def save_and_stop(*args, **parts):
        save(*args, **parts)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(images, tmp_path / "torn")
    resumed = train(images, tmp_path / "torn").state_dict()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_photos_are_flipped_with_the_given_probability(images, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)

    def weights(photos, probability):
        folder = tmp_path / str(probability)
        return train(photos, folder, steps=2, flip_probability=probability).encoder.state_dict()

    mirrored = np.ascontiguousarray(noise[:, :, ::-1])
    never, always, some = weights(mirrored, 0.0), weights(noise, 1.0), weights(noise, 0.5)
    assert all(torch.equal(never[name], always[name]) for name in never)
    assert not torch.equal(some["conv_in.weight"], always["conv_in.weight"])


@pytest.mark.slow
def test_a_perceptual_distance_takes_part_with_its_weight(images, tmp_path):
    """A great weight brings the features nearer than no distance does; next to no weight changes nothing."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
    distance = PerceptualDistance(Backbone(net, 8), 32, 16)
    seen: list[dict[str, float]] = []

    def train_with(weight: float, steps: int):
        chosen = PerceptualSettings(backbone="torchvision:resnet18", weights="given above", weight=weight)
        changes = {"steps": steps, "learning_rate": 1e-2, "perceptual": chosen}
        settings = SETTINGS.model_copy(update=changes)
        checkpoints = Checkpoints(tmp_path / f"{weight}-{steps}")
        return train_vae(
            build_vae(settings, 0),
            images,
            settings,
            0,
            checkpoints,
            log=lambda step, values: seen.append(values),
            perceptual=distance,
        )

    pixels = to_float(torch.from_numpy(images))
    near, far = (
        distance(to_float(torch.from_numpy(reconstruct(vae, images))), pixels)
        for vae in (train_with(10.0, 40), train(images, tmp_path / "40", steps=40, learning_rate=1e-2))
    )
    assert near < 0.8 * far
    assert set(seen[-1]) == {"loss", "kl", "perceptual", "psnr", "learning_rate"}

    hardly, much, without = (
        reconstruct(vae, images).astype(int)
        for vae in (
            train_with(1e-9, 2),
            train_with(10.0, 2),
            train(images, tmp_path / "2", steps=2, learning_rate=1e-2),
        )
    )
    assert abs(hardly - without).max() <= 3 < abs(much - without).mean()  # grey levels


def test_a_distance_that_the_settings_ask_for_is_not_left_out(images, tmp_path):
    chosen = PerceptualSettings(backbone="torchvision:resnet18", weights="net.pth", weight=1.0)
    with pytest.raises(ValueError, match=r"^vae\.perceptual of the settings and the distance .* not agree"):
        train(images, tmp_path, perceptual=chosen)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_is_refused(images, tmp_path):
    message = r"loss is .* at step 2 with learning rate .*; the last good state is no checkpoint; lower vae\."
    with pytest.raises(ValueError, match=message):
        train(images, tmp_path, learning_rate=1e30, warmup_steps=1, max_grad_norm=1e30)
    assert not list(tmp_path.iterdir())


def test_whitening_changes_the_latents_and_no_reconstruction(images):
    vae = build_vae(SETTINGS, 0).eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=0.5, shift_factor=0.25)
    vae.quant_conv.weight[4:] = 0.0
    vae.quant_conv.bias[4:] = -20.0  # log-variance: the latents of a trained VAE say something
    noise = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
    before = decode_latents(vae, encode(vae, noise))
    whiten(vae, noise)
    latents = encode(vae, noise)
    values = latents.transpose(0, 1).flatten(1)
    torch.testing.assert_close(values.cov(), torch.eye(4), atol=0.01, rtol=0)
    torch.testing.assert_close(values.mean(1), torch.zeros(4), atol=0.01, rtol=0)
    torch.testing.assert_close(decode_latents(vae, latents), before, atol=1e-3, rtol=1e-3)


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
