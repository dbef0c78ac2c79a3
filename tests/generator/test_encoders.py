import json

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPVisionModel, Dinov2Model

from generator import encoders
from tests.generator import tiny


def images(count=2, size=tiny.VIEW_SIZE):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_bytes_and_floats_are_inverse():
    data = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    floats = encoders.to_float(data)
    assert floats.shape == (1, 3, 16, 16) and floats.min() == -1 and floats.max() == 1
    assert torch.equal(encoders.to_bytes(floats), data)
    assert encoders.to_bytes(torch.full((1, 3, 1, 1), 7.0)).max() == 255


@pytest.mark.parametrize("blocks", [1, 2])
def test_latents_have_the_documented_size_and_scale(blocks):
    vae = tiny.vae(blocks)
    assert encoders.vae_factor(vae) == 8
    mean, std = encoders.encode_latents(vae, images())
    assert mean.shape == std.shape == (2, *tiny.LATENT)
    # Oracle: diffusers' own use of the scaling and shift factors.
    vae.register_to_config(scaling_factor=0.5, shift_factor=0.25)
    scaled, scaled_std = encoders.encode_latents(vae, images())
    torch.testing.assert_close(scaled, (mean / 0.18215 - 0.25) * 0.5)
    torch.testing.assert_close(scaled_std, std / 0.18215 * 0.5)
    assert encoders.decode_latents(vae, scaled).shape == (2, 3, *tiny.VIEW_SIZE)


def test_decoding_undoes_the_scaling():
    vae = tiny.vae()
    before = encoders.decode_latents(vae, encoders.encode_latents(vae, images())[0])
    vae.register_to_config(scaling_factor=3.0, shift_factor=-1.0)
    after = encoders.decode_latents(vae, encoders.encode_latents(vae, images())[0])
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_a_tiny_autoencoder_has_latents_without_a_variance(tmp_path):
    tiny.tiny_autoencoder().save_pretrained(tmp_path)
    vae = encoders.load_vae(tmp_path)
    assert encoders.vae_factor(vae) == 8 and not any(weight.requires_grad for weight in vae.parameters())
    mean, std = encoders.encode_latents(vae, images())
    assert mean.shape == (2, *tiny.LATENT) and not std.any()
    # Oracle: the model's own way there and back
    torch.testing.assert_close(
        encoders.decode_latents(vae, mean), vae.decode(vae.encode(images()).latents).sample
    )


def test_a_vae_for_other_images_is_refused(tmp_path):
    AutoencoderKL(in_channels=4, norm_num_groups=2, block_out_channels=(4,)).save_pretrained(tmp_path)
    for meta in (False, True):
        with pytest.raises(ValueError, match=f"{tmp_path}: The VAE has 4 input and 3 output channels"):
            encoders.load_vae(tmp_path, meta)


def test_tokens_are_the_encoders_own_on_the_whole_resized_normalised_image():
    encoder = tiny.image_encoder()
    tokens = encoders.encode_tokens(encoder, images(), tiny.TOKEN_SIZE)
    assert tokens.shape == (2, 1 + 4 * 2, tiny.WIDTH)
    resized = torch.nn.functional.interpolate(images(), size=(16, 8), mode="bicubic", antialias=True).clamp(
        -1, 1
    )
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    expected = encoder(((resized + 1) / 2 - mean) / std).last_hidden_state
    torch.testing.assert_close(tokens, expected)


def test_every_part_of_the_image_reaches_the_tokens():
    """No centre crop: the head and the feet count."""
    for row in (0, tiny.VIEW_SIZE[0] - 1):
        pixels = images().requires_grad_()
        with torch.enable_grad():
            encoders.encode_tokens.__wrapped__(tiny.image_encoder(), pixels, tiny.TOKEN_SIZE).sum().backward()
        assert pixels.grad[:, :, row].abs().sum() > 0


def test_a_patch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="token_height is 18; expected a multiple of 4, the patch"):
        encoders.encode_tokens(tiny.image_encoder(), images(), (18, 8))


def test_vae_folder_round_trip_in_single_precision(tmp_path):
    vae = tiny.vae()
    vae.half().save_pretrained(tmp_path)
    loaded = encoders.load_vae(tmp_path)
    assert loaded.dtype == torch.float32 and not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    torch.testing.assert_close(loaded.state_dict(), vae.float().state_dict(), rtol=0, atol=0)


def test_dinov2_folder_with_and_without_a_preprocessor_config(tmp_path):
    encoder = tiny.image_encoder()
    del encoder.config.image_mean, encoder.config.image_std
    encoder.half().save_pretrained(tmp_path)
    loaded = encoders.load_image_encoder(tmp_path)
    assert isinstance(loaded, Dinov2Model) and loaded.dtype == torch.float32
    assert loaded.config.image_mean == [0.485, 0.456, 0.406]
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]})
    )
    loaded = encoders.load_image_encoder(tmp_path)
    assert loaded.config.image_mean == [0.1, 0.2, 0.3]
    loaded.save_pretrained(tmp_path / "again")  # and it stays with the model
    assert encoders.load_image_encoder(tmp_path / "again").config.image_mean == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("whole", [True, False])
def test_clip_folder_whole_or_vision_half(tmp_path, whole):
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = CLIPModel(
        CLIPConfig(vision_config={**small, "patch_size": 4, "image_size": 16}, text_config=small)
    )
    vision = CLIPVisionModel(clip.config.vision_config)
    vision.load_state_dict(clip.vision_model.state_dict())
    (clip if whole else vision).save_pretrained(tmp_path)
    loaded = encoders.load_image_encoder(tmp_path)
    assert isinstance(loaded, CLIPVisionModel)
    torch.testing.assert_close(loaded.state_dict(), vision.state_dict(), rtol=0, atol=0)
    assert loaded.config.image_mean[0] == pytest.approx(0.48145466)
    assert encoders.encode_tokens(loaded, images(), (16, 8)).shape == (2, 9, 8)


def test_wrong_folders_are_named(tmp_path):
    for load in (encoders.load_vae, encoders.load_image_encoder):
        with pytest.raises(ValueError, match="is not the folder of a saved model"):
            load(tmp_path / "nowhere")
    UNet2DConditionModel.from_config(tiny.unet().config).save_config(tmp_path)
    with pytest.raises(
        ValueError,
        match="holds a model of kind UNet2DConditionModel; expected AutoencoderKL or AutoencoderTiny",
    ):
        encoders.load_vae(tmp_path)
    with pytest.raises(
        ValueError, match="kind UNet2DConditionModel; expected dinov2 or clip or clip_vision_model"
    ):
        encoders.load_image_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a model of kind None; expected"):
        encoders.load_image_encoder(tmp_path)


def test_a_patch_that_is_no_square_is_refused(tmp_path):
    tiny.image_encoder().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"patch_size": [4, 4]}))
    with pytest.raises(ValueError, match=r"has patch_size \[4, 4\]; expected pixels of a side"):
        encoders.load_image_encoder(tmp_path)


def test_on_the_meta_device_the_encoders_tell_the_sizes_of_what_they_make(tmp_path):
    tiny.vae().save_pretrained(tmp_path / "vae")
    tiny.image_encoder().save_pretrained(tmp_path / "encoder")
    vae = encoders.load_vae(tmp_path / "vae", meta=True)
    encoder = encoders.load_image_encoder(tmp_path / "encoder", meta=True)
    pixels = images().to("meta")
    mean, std = encoders.encode_latents(vae, pixels)
    assert mean.is_meta and mean.shape == std.shape == (2, *tiny.LATENT)
    assert encoders.encode_tokens(encoder, pixels, tiny.TOKEN_SIZE).shape == (2, tiny.TOKENS, tiny.WIDTH)
