"""Parts that do not fit each other or the images are refused before anything is encoded."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.params import Params, load_params
from pipeline.train_generator import check_parts
from tests.generator import tiny

SHIPPED = Path(__file__).parents[2] / "params.yaml"


def changed(section: str, **values: Any) -> Params:
    params = load_params(SHIPPED)
    return params.model_copy(update={section: getattr(params, section).model_copy(update=values)})


def test_parts_that_fit_pass() -> None:
    check_parts(load_params(SHIPPED), tiny.vae(), tiny.image_encoder(), tiny.denoiser())


@pytest.mark.parametrize(
    ("params", "latent_channels", "sentence"),
    [
        (
            changed("generator", token_width=66),
            4,
            "generator.token_width is 66; expected a multiple of 4, the patch of "
            "weights/embedded/image_encoder",
        ),
        (
            changed("dataset", height=136),
            4,
            "dataset.height is 136, dataset.width is 64, generator.base is weights/embedded: Views are "
            "136x64 pixels, where both must be multiples of 16 (VAE 8 x UNet 2), so that the joint image "
            "splits at every level.",
        ),
        (
            changed("generator"),
            16,
            "generator.base is weights/embedded; expected parts of one model, but the latents of its vae "
            "have 16 channels and its denoiser takes 4",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(params: Params, latent_channels: int, sentence: str) -> None:
    vae = tiny.vae()
    vae.register_to_config(latent_channels=latent_channels)
    with pytest.raises(ValueError) as caught:
        check_parts(params, vae, tiny.image_encoder(), tiny.denoiser())
    assert str(caught.value) == sentence
