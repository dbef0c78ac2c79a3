import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from generator import cost
from generator.model import IMAGPoseDenoiser
from generator.sample import IMAGPosePipeline
from generator.settings import SampleSettings
from pipeline.params import load_params
from tests import REPOSITORY
from tests.generator import tiny

PAPER = load_params(REPOSITORY / "profiles/market1501.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("stack_views", [False, True])
def test_the_count_is_that_of_the_real_model_at_work(stack_views):
    denoiser = tiny.denoiser(stack_views=stack_views)
    latents, tokens = torch.randn(1, *tiny.LATENT), torch.randn(1, tiny.TOKENS, tiny.WIDTH)
    with torch.no_grad():
        features = denoiser.encode_features(latents, tokens)
        denoiser.suit_device(torch.device("cpu"))  # plain matrix products, which the counter sees
        with FlopCounterMode(display=False) as counter:
            denoiser(**tiny.inputs(batch=1) | {"features": features})
    imagpose = IMAGPosePipeline(
        tiny.vae(), tiny.image_encoder(), denoiser, tiny.scheduler(), *tiny.VIEW_SIZE, *tiny.TOKEN_SIZE
    )
    assert cost.pipeline_flops(imagpose) == counter.get_total_flops() > 0


@pytest.mark.slow
def test_stable_diffusion_at_market_1501s_size_costs_what_was_counted_by_hand():
    """DESIGN.md, section 8: 133 GFLOP forward, 399 in training, 3.8 EFLOP for 300k steps of 32."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        denoiser = IMAGPoseDenoiser.from_unet(unet, 1536, PAPER.generator.denoiser, seed=0)
    forward = cost.forward_flops(denoiser, (16, 8), 129)
    assert forward / 1e9 == pytest.approx(133, rel=0.05)
    assert cost.training_flops(forward, PAPER.generator.train) / 1e18 == pytest.approx(3.8, rel=0.05)


def test_guidance_doubles_the_work():
    settings = SampleSettings(
        steps=5, guidance_scale=2.0, guidance_drop=("image",), batch_size=3, mixed_precision="no"
    )
    assert cost.sampling_flops(10, 4, settings) == 400
    assert cost.sampling_flops(10, 4, settings.model_copy(update={"guidance_scale": 1.0})) == 200
    assert cost.sampling_flops(10, 4, settings.model_copy(update={"guidance_share": 0.4})) == 280


def test_numbers_in_words():
    assert cost.in_words(3.83e18) == "3.83 EFLOP"
    assert cost.in_words(999) == "999 FLOP"
    assert cost.in_words(1e22) == "1e+04 EFLOP"


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_the_peak_of_a_gpu_is_known_by_its_name(name, peak, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert cost.peak_flops(torch.device("cuda")) == peak


def test_the_peak_of_a_cpu_is_not_known():
    assert cost.peak_flops(torch.device("cpu")) is None


def test_the_share_of_the_peak_counts_both_passes():
    assert cost.peak_share(forward=10, joint_images_per_second=5, peak=300) == 0.5
