"""What the stage refuses before anything is encoded, and how it encodes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from generator.sample import IMAGPosePipeline
from pipeline.params import DatasetSettings, Params, load_params
from pipeline.shared import imagpose
from pipeline.shared.imagpose import check_models
from tests import REPOSITORY
from tests.generator import tiny

SHIPPED = REPOSITORY / "profiles/embedded.yaml"


def changed(section: str, **values: Any) -> Params:
    params = load_params(SHIPPED)
    return params.model_copy(update={section: getattr(params, section).model_copy(update=values)})


def test_parts_that_fit_pass() -> None:
    check_models(load_params(SHIPPED), tiny.vae(), tiny.image_encoder(), tiny.denoiser())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("params", "latent_channels", "sentence"),
    [
        (
            changed("generator", token_width=66),
            4,
            "generator.token_width is 66; expected a multiple of 4, the patch of the image encoder",
        ),
        (
            changed("dataset", height=136),
            4,
            "dataset.height is 136; expected a multiple of 16: the VAE shrinks it by 8, the UNet by 2",
        ),
        (
            changed("generator"),
            16,
            "generator.base has a UNet with 4 input and 4 output channels; expected 16 of both, as its VAE's "
            "latents have",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(params: Params, latent_channels: int, sentence: str) -> None:
    vae = tiny.vae()
    vae.register_to_config(latent_channels=latent_channels)
    with pytest.raises(ValueError) as caught:
        check_models(params, vae, tiny.image_encoder(), tiny.denoiser())
    assert str(caught.value) == sentence


def tiny_imagpose() -> IMAGPosePipeline:
    return IMAGPosePipeline(
        tiny.vae(), tiny.image_encoder(), tiny.denoiser(), tiny.scheduler(), *tiny.VIEW_SIZE, *tiny.TOKEN_SIZE
    )


@pytest.mark.slow
def test_encoding_finds_a_batch_that_fits_and_gives_the_same(
    market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted(f"query/{file.name}" for file in (market / "query").glob("*.jpg"))
    monkeypatch.setattr(imagpose, "read_poses", lambda names: tiny.keypoints(len(names)))
    tried, encode_views = [], imagpose.encode_views

    def with_little_memory(*args, **kwargs):  # type: ignore[no-untyped-def]
        tried.append(kwargs["batch_size"])
        if kwargs["batch_size"] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode_views(*args, **kwargs)

    monkeypatch.setattr(imagpose, "encode_views", with_little_memory)
    height, width = tiny.VIEW_SIZE
    dataset = DatasetSettings.model_construct(root=market, height=height, width=width, border=0)
    arguments = dataset, images, np.arange(len(images)), tiny_imagpose()
    halved = imagpose.encode_images(*arguments, 8, flip=False)
    assert tried == [8, 7, 6, 5, 4, 3, 2]
    one = imagpose.encode_images(*arguments, 1, flip=False)
    torch.testing.assert_close(halved.tokens, one.tokens, atol=1e-3, rtol=1e-3)
    assert torch.equal(halved.skeletons, one.skeletons)
