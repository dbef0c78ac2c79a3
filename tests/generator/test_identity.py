"""Tests of the network that tells people apart by their latents."""

import torch

from generator.identity import IdentityNetwork
from generator.weights import load_model
from tests.generator import tiny


def test_features_have_length_one_and_know_the_halves_of_a_body():
    network = tiny.identity()
    latents = torch.randn(5, 4, 64, 4, generator=torch.Generator().manual_seed(0))
    features = network.features(latents)
    assert features.shape == (5, network.width) == (5, 16)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(5))
    changed = latents.clone()
    changed[..., 63:, :] = 0.0  # shoes
    before, after = network(latents)[0], network(changed)[0]
    assert torch.equal(before[:, :8], after[:, :8]) and not torch.equal(before[:, 8:], after[:, 8:])


def test_a_saved_network_is_the_same(tmp_path):
    network = tiny.identity()
    network.save_pretrained(tmp_path)
    latents = torch.randn(2, 4, 4, 2)
    loaded = load_model(IdentityNetwork, tmp_path)
    assert torch.equal(loaded.features(latents), network.features(latents))
