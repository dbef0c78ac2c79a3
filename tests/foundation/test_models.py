"""What a training begins with when it goes on from weights."""

import numpy as np
import torch

from foundation.models import follow_latents
from foundation.vae import map_latents
from generator.encoders import encode_latents, to_float
from tests.generator import tiny


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
