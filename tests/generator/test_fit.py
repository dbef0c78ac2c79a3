"""One function says whether sizes, settings and models fit together, as far as they are known."""

from typing import Any

import pytest

from generator.fit import Design, block_size, misfits, vae_factor
from tests.generator import tiny

VAE = {"in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": [8, 8, 8, 8]}
UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
SIZES = {"view_height": 32, "view_width": 16, "token_height": 16, "token_width": 8}
WHOLE = {"denoiser": tiny.DENOISER, "vae": VAE, "unet": UNET, "image_encoder": {"patch_size": 4}}


def mistakes_of(**changes: Any) -> dict[str, str]:
    """The mistakes of a design that fits but for some changes; settings of the denoiser go by their names."""
    design = {name: changes.pop(name) for name in list(changes) if name in SIZES | WHOLE}
    denoiser = tiny.DENOISER.model_copy(update=changes)
    return dict(misfits(Design(**{**SIZES, **WHOLE, "denoiser": denoiser, **design})))


def test_a_design_that_fits_has_no_mistake_in_whole_or_in_part() -> None:
    assert misfits(Design()) == []
    for left_out in [(), *((name,) for name in SIZES | WHOLE), ("vae", "unet", "image_encoder")]:
        assert mistakes_of(**dict.fromkeys(left_out)) == {}


def test_the_configurations_of_loaded_models_are_understood() -> None:
    configs = {
        "vae": tiny.vae().config,
        "unet": tiny.denoiser().unet.config,
        "image_encoder": tiny.image_encoder().config.to_dict(),
    }
    assert mistakes_of(**configs) == {}
    assert mistakes_of(**configs, view_height=40, token_height=18).keys() == {"view_height", "token_height"}


@pytest.mark.parametrize(
    ("changes", "name", "sentence"),
    [
        (
            {"view_height": 40},
            "view_height",
            "is 40; expected a multiple of 16: the VAE shrinks it by 8, the UNet by 2",
        ),
        (
            {"view_width": 20, "unet": None},
            "view_width",
            "is 20; expected a multiple of 8: the VAE shrinks it by 8",
        ),
        (
            {"view_width": 20, "unet": None, "vae": None},
            "view_width",
            "is 20; expected a multiple of 8: the VAE shrinks it by 8, as pose_channels with 4 entries says",
        ),
        (
            {"token_width": 10},
            "token_width",
            "is 10; expected a multiple of 4, the patch of the image encoder",
        ),
        (
            {"texture_patch": 4},
            "texture_patch",
            "is 4; expected a divisor of 4 and 2, the sides of a view's latent",
        ),
        (
            {"pose_channels": (4, 8)},
            "pose_channels",
            "has 2 entries, which reach 1/2 of an image's size; expected 4, which reach 1/8 as latents do",
        ),
        ({"cva_heads": 3}, "cva_heads", "is 3; expected a divisor of the UNet's 8 channels"),
        (
            {"unet": UNET | {"in_channels": 9}},
            "base",
            "has a UNet with 9 input and 4 output channels; expected 4 of both, as its VAE's latents have",
        ),
        (
            {"unet": UNET | {"in_channels": 9}, "vae": None},
            "base",
            "has a UNet with 9 input and 4 output channels; expected 4 of both",
        ),
        (
            {"vae": VAE | {"latent_channels": 16}},
            "base",
            "has a UNet with 4 input and 4 output channels; expected 16 of both, as its VAE's latents have",
        ),
    ],
)
def test_a_mistake_is_one_sentence(changes: dict[str, Any], name: str, sentence: str) -> None:
    assert mistakes_of(**changes) == {name: sentence}


def test_all_mistakes_are_named_at_once() -> None:
    mistakes = mistakes_of(view_height=40, token_width=10, cva_heads=3, pose_channels=(4, 8))
    assert list(mistakes) == ["token_width", "pose_channels", "view_height", "cva_heads"]


def test_what_is_switched_off_need_not_fit() -> None:
    assert mistakes_of(texture_patch=4, flc_texture=False) == {}
    assert mistakes_of(cva_heads=3, cva=False) == {}


def test_heads_must_divide_the_levels_with_cross_attention_alone() -> None:
    plain = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    assert mistakes_of(cva_heads=16, unet=UNET | plain) == {}, "16 channels in the middle"
    assert "16 channels" in mistakes_of(cva_heads=32, unet=UNET | plain)["cva_heads"]
    assert mistakes_of(cva_heads=32, unet=UNET | plain | {"mid_block_type": None}) == {}
    one = {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}  # the last block up has the first level's
    assert "8 channels" in mistakes_of(cva_heads=16, unet=UNET | plain | one)["cva_heads"]


def test_blocks_of_pixels_count_to_the_factor_of_the_vae() -> None:
    blocks = {"in_channels": 12, "out_channels": 12, "block_out_channels": [8, 8, 8]}
    assert (block_size(VAE), vae_factor(VAE)) == (1, 8)
    assert (block_size(VAE | blocks), vae_factor(VAE | blocks)) == (2, 8)
    assert mistakes_of(vae=VAE | blocks) == {}
    for channels in ({"in_channels": 4}, {"in_channels": 6, "out_channels": 6}, {"in_channels": 1}):
        with pytest.raises(ValueError, match=f"The VAE has {channels['in_channels']} input and"):
            vae_factor(VAE | channels)
