"""What a training begins with when it goes on from weights."""

import numpy as np
import torch

from foundation.models import build_vae, follow_latents, widen_vae
from foundation.settings import VaeSettings
from foundation.vae import map_latents
from generator.encoders import decode_latents, encode_latents, to_float
from tests.foundation.test_vae import SETTINGS
from tests.generator import tiny


def trained_vae(settings: VaeSettings):
    """A VAE whose weights and biases are all different, as training leaves them."""
    vae = build_vae(settings, 1)
    torch.manual_seed(0)
    for weight in vae.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    vae.register_to_config(scaling_factor=0.5, shift_factor=0.25)
    return vae.eval().requires_grad_(False)


def test_a_widened_vae_reconstructs_what_it_did_before() -> None:
    vae = trained_vae(SETTINGS)
    wide = widen_vae(vae, SETTINGS.model_copy(update={"latent_channels": 6}), 0).eval().requires_grad_(False)
    images = to_float(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 32, 16, 3), np.uint8)))
    (old, old_deviation), (new, new_deviation) = (encode_latents(model, images) for model in (vae, wide))
    torch.testing.assert_close(new[:, :4], old)
    torch.testing.assert_close(new_deviation[:, :4], old_deviation)
    torch.testing.assert_close(decode_latents(wide, new), decode_latents(vae, old))


def test_the_new_channels_of_a_widened_vae_can_learn() -> None:
    vae = trained_vae(SETTINGS)
    wide = widen_vae(vae, SETTINGS.model_copy(update={"latent_channels": 6}), 0)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 32, 16, 3), np.uint8))
    latents, deviations = encode_latents(wide, to_float(images))
    assert (latents[:, 4:].std(dim=(0, 2, 3)) > 0.01).all()  # they differ from place to place
    torch.testing.assert_close(deviations[:, 4:], torch.full_like(deviations[:, 4:], 0.5 * np.exp(-3)))
    wide.requires_grad_(True)
    wide.decode(wide.encode(torch.randn(2, 12, 16, 8)).latent_dist.mean).sample.sum().backward()
    assert wide.decoder.conv_in.weight.grad[:, 4:].abs().min() > 0


def test_a_denoiser_of_turned_latents_predicts_the_turned_prediction() -> None:
    """For a rotation the maps are exact: it knows what it knew."""
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(4, 4)).Q
    denoiser, given = tiny.denoiser(trained=True), tiny.inputs()
    moved = follow_latents(denoiser, turn.T, turn).eval()

    def turned(latents: torch.Tensor) -> torch.Tensor:
        return torch.einsum("dc,nchw->ndhw", turn, latents)

    latents, tokens = torch.randn(2, *tiny.LATENT), torch.randn(2, tiny.TOKENS, tiny.WIDTH)
    with torch.no_grad():
        given["features"] = denoiser.encode_features(latents, tokens)
        expected = turned(denoiser(**given))
        given["features"] = moved.encode_features(turned(latents), tokens)
        given |= {name: turned(given[name]) for name in ("noisy", "visible")}
        torch.testing.assert_close(moved(**given), expected, rtol=1e-3, atol=1e-4)


def test_latents_are_mapped_by_least_squares() -> None:
    """A VAE with channels in another order has the permutation as its map."""
    before, after = tiny.vae(), tiny.vae()
    order = torch.tensor([2, 0, 3, 1])
    conv = after.quant_conv
    with torch.no_grad():
        for part in (conv.weight, conv.bias):
            part.copy_(torch.cat([part[:4][order], part[4:]]))
    images = np.random.default_rng(0).integers(0, 256, (16, 64, 32, 3), np.uint8)
    to_old, to_new = map_latents(before, after, images)
    old, new = (encode_latents(vae, to_float(torch.from_numpy(images)))[0] for vae in (before, after))
    torch.testing.assert_close(torch.einsum("cd,ndhw->nchw", to_old, new), old, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.einsum("dc,nchw->ndhw", to_new, old), new, rtol=1e-3, atol=1e-3)
