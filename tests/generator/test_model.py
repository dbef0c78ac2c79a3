import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D

from generator import model
from generator.fit import MisfitError
from generator.grid import join, split
from generator.model import IMAGPoseDenoiser, load_denoiser
from tests.generator import tiny

ABLATIONS = {
    "B0": {"cva": False, "flc_texture": False, "ilc": False},
    "B1": {"cva": True, "flc_texture": False, "ilc": False},
    "B2": {"cva": False, "flc_texture": True, "ilc": False},
    "B3": {"cva": True, "flc_texture": False, "ilc": True},
    "B4": {"cva": False, "flc_texture": True, "ilc": True},
    "IMAGPose": {"cva": True, "flc_texture": True, "ilc": True},
}


def cross_view_attentions(denoiser):
    return [module for module in denoiser.modules() if isinstance(module, AnimateDiffTransformer3D)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ABLATIONS)
def test_at_initialisation_it_is_the_stock_unet(name):
    stock, denoiser, given = tiny.unet(), tiny.denoiser(**ABLATIONS[name]), tiny.inputs()
    skeletons = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = stock(given["noisy"], given["timesteps"], given["features"]).sample
        got = denoiser(**given | {"pose": denoiser.encode_pose(skeletons)})
    assert torch.equal(got, expected)


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_have_the_papers_parts(name):
    switches = ABLATIONS[name]
    denoiser = tiny.denoiser(**switches)
    assert denoiser.unet.conv_in.conv.in_channels == (9 if switches["ilc"] else 5)
    blocks = len(cross_view_attentions(denoiser))  # 2 in the down blocks, 1 in the middle, 4 in the up blocks
    assert blocks == (7 if switches["cva"] else 0)
    latents, tokens = torch.randn(2, *tiny.LATENT), torch.randn(2, tiny.TOKENS, tiny.WIDTH)
    texture = 2 if switches["flc_texture"] else 0
    assert denoiser.encode_features(latents, tokens).shape == (2, texture + tiny.TOKENS, 8)


@pytest.mark.parametrize(("ilc", "read"), [(True, {"noisy", "mask", "visible"}), (False, {"noisy", "mask"})])
def test_which_inputs_have_an_effect(ilc, read):
    denoiser, given = tiny.denoiser(trained=True, ilc=ilc), tiny.inputs()
    with torch.no_grad():
        reference = denoiser(**given)
        for name in ("noisy", "mask", "visible", "features", "pose"):
            changed = not torch.equal(denoiser(**given | {name: given[name] + 1}), reference)
            assert changed == (name in read | {"features", "pose"})


def test_features_are_texture_then_semantics_and_dropped_ones_are_zero():
    denoiser = tiny.denoiser(trained=True)
    latents, tokens = torch.randn(2, *tiny.LATENT), torch.randn(2, tiny.TOKENS, tiny.WIDTH)
    features = denoiser.encode_features(latents, tokens, keep=torch.tensor([True, False]))
    patches = latents[0].unfold(1, 2, 2).unfold(2, 2, 2).permute(1, 2, 0, 3, 4).reshape(2, -1)  # row by row
    texture = patches @ denoiser.texture_tokenizer.weight.flatten(1).T + denoiser.texture_tokenizer.bias
    torch.testing.assert_close(features[0, :2], texture)
    torch.testing.assert_close(features[0, 2:], denoiser.token_projection(tokens[0]))
    assert not features[1].any()


def test_no_projection_where_the_widths_agree():
    denoiser = IMAGPoseDenoiser.from_unet(tiny.unet(), 8, tiny.DENOISER, seed=0)
    tokens = torch.randn(1, 3, 8)
    assert torch.equal(denoiser.encode_features(torch.randn(1, *tiny.LATENT), tokens)[:, 2:], tokens)


class Unchanged(torch.nn.Module):
    """Stands in for a UNet's transformer."""

    def forward(self, hidden_states):
        return (hidden_states,)


def test_cva_mixes_views_at_one_place_and_nothing_else():
    """Every place of every view sees that place of all four views, and no other place.

    GroupNorm, whose statistics run over the whole joint image as everywhere in the UNet, is taken out.
    """
    block = tiny.denoiser(trained=True).unet.down_blocks[0].attentions[0]
    block.cross_view.norm = torch.nn.Identity()
    block.transformer = Unchanged()
    views = torch.randn(1, 4, 8, 3, 2, requires_grad=True)
    mixed = split(block(join(views))[0])
    view, row, column = 2, 1, 0
    mixed[0, view, :, row, column].sum().backward()
    seen = views.grad[0].abs().sum(dim=1) > 0  # [view, row, column]
    expected = torch.zeros(4, 3, 2, dtype=torch.bool)
    expected[:, row, column] = True
    assert torch.equal(seen, expected)


def test_cva_in_parts_is_cva(monkeypatch):
    denoiser, given, batches = tiny.denoiser(trained=True), tiny.inputs(batch=3), []
    first = cross_view_attentions(denoiser)[0]
    first.register_forward_pre_hook(lambda module, arguments: batches.append(len(arguments[0])))
    with torch.no_grad():
        whole = denoiser(**given)
        monkeypatch.setattr(model, "_MAX_ATTENTION_BATCH", 9)  # one joint image of 4x2 places at a time
        torch.testing.assert_close(denoiser(**given), whole)
    assert batches == [12, 4, 4, 4]  # views


def test_without_cva_no_transformer_is_wrapped_and_views_still_share_the_unet():
    """Self-attention of the joint image connects the views even in B0: they are one image."""
    denoiser, given = tiny.denoiser(trained=True, **ABLATIONS["B0"]), tiny.inputs(batch=1)
    given["noisy"].requires_grad_()
    split(denoiser(**given))[:, 0].sum().backward()
    assert split(given["noisy"].grad)[:, 3].abs().sum() > 0


def test_save_and_load_are_bit_exact(tmp_path):
    denoiser, given = tiny.denoiser(trained=True), tiny.inputs()
    denoiser.save_pretrained(tmp_path)
    assert [path.suffix for path in tmp_path.iterdir() if path.name != "config.json"] == [".safetensors"]
    for loaded in (
        IMAGPoseDenoiser.from_pretrained(tmp_path),
        load_denoiser(tmp_path, tiny.DENOISER, tiny.WIDTH, seed=9).eval(),
    ):
        torch.testing.assert_close(loaded.state_dict(), denoiser.state_dict(), rtol=0, atol=0)
        with torch.no_grad():
            assert torch.equal(loaded(**given), denoiser(**given))


def test_load_denoiser_makes_one_of_a_stock_unet(tmp_path):
    tiny.unet().half().save_pretrained(tmp_path)
    denoiser = load_denoiser(tmp_path, tiny.DENOISER, tiny.WIDTH, seed=0)
    expected = IMAGPoseDenoiser.from_unet(tiny.unet().half().float(), tiny.WIDTH, tiny.DENOISER, seed=0)
    torch.testing.assert_close(denoiser.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert "_name_or_path" not in denoiser.config.unet_config  # a path of this machine


@pytest.mark.slow
@pytest.mark.parametrize("name", ABLATIONS)
def test_a_saved_denoiser_loses_the_parts_that_are_switched_off_and_keeps_the_rest(name, tmp_path):
    switches, full, given = ABLATIONS[name], tiny.denoiser(trained=True), tiny.inputs()
    full.save_pretrained(tmp_path)
    smaller = load_denoiser(tmp_path, tiny.DENOISER.model_copy(update=switches), tiny.WIDTH, seed=0).eval()
    latents, tokens = torch.randn(2, *tiny.LATENT), torch.randn(2, tiny.TOKENS, tiny.WIDTH)
    with torch.no_grad():
        features = smaller.encode_features(latents, tokens)
        assert torch.equal(features, full.encode_features(latents, tokens)[:, -features.shape[1] :])
        # The same parts silenced in the full denoiser.
        if not switches["cva"]:
            for attention in cross_view_attentions(full):
                attention.proj_out.weight.zero_()
                attention.proj_out.bias.zero_()
        if not switches["ilc"]:
            full.unet.conv_in.conv.weight[:, 5:] = 0
        given["features"] = features
        torch.testing.assert_close(smaller(**given), full(**given))
    assert smaller.config.cva == switches["cva"]  # so that it is saved as what it is


def test_a_part_that_a_saved_denoiser_lacks_is_refused(tmp_path):
    tiny.denoiser(ilc=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="was saved with ilc False, where the settings say True"):
        load_denoiser(tmp_path, tiny.DENOISER, tiny.WIDTH, seed=0)


def test_the_initial_weights_follow_from_the_seed_alone():
    a, b, c = (IMAGPoseDenoiser.from_unet(tiny.unet(), tiny.WIDTH, tiny.DENOISER, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.token_projection.weight, b.token_projection.weight)
    assert not torch.equal(a.token_projection.weight, c.token_projection.weight)


def test_wrong_folders_and_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match="is not the folder of a saved model"):
        load_denoiser(tmp_path, tiny.DENOISER, tiny.WIDTH, seed=0)
    tiny.vae().save_pretrained(tmp_path / "vae")
    with pytest.raises(
        ValueError, match="kind AutoencoderKL; expected UNet2DConditionModel or IMAGPoseDenoiser"
    ):
        load_denoiser(tmp_path / "vae", tiny.DENOISER, tiny.WIDTH, seed=0)
    tiny.denoiser().save_pretrained(tmp_path / "saved")
    other = tiny.DENOISER.model_copy(update={"cva_heads": 4})
    with pytest.raises(ValueError, match="was saved with cva_heads 2, where the settings say 4"):
        load_denoiser(tmp_path / "saved", other, tiny.WIDTH, seed=0)
    with pytest.raises(ValueError, match="was saved with encoder_width 12, where the settings say 13"):
        load_denoiser(tmp_path / "saved", tiny.DENOISER, 13, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("saved", ["unet", "denoiser"])
def test_on_the_meta_device_a_denoiser_has_all_shapes_and_no_values(tmp_path, saved):
    getattr(tiny, saved)().save_pretrained(tmp_path)
    for switches in (ABLATIONS["IMAGPose"], ABLATIONS["B0"]):
        settings = tiny.DENOISER.model_copy(update=switches)
        loaded = load_denoiser(tmp_path, settings, tiny.WIDTH, seed=0, meta=True)
        real = load_denoiser(tmp_path, settings, tiny.WIDTH, seed=0)
        assert {tensor.device.type for tensor in loaded.state_dict().values()} == {"meta"}
        shapes = [{name: t.shape for name, t in each.state_dict().items()} for each in (loaded, real)]
        assert shapes[0] == shapes[1]


def test_a_unet_that_does_not_fit_is_refused():
    inpainting = UNet2DConditionModel.from_config({**tiny.unet().config, "in_channels": 9})
    with pytest.raises(MisfitError, match="base has a UNet with 9 input and 4 output channels; expected 4"):
        IMAGPoseDenoiser.from_unet(inpainting, tiny.WIDTH, tiny.DENOISER, seed=0)
    with pytest.raises(MisfitError, match="cva_heads is 3; expected a divisor of the UNet's 8 channels"):
        tiny.denoiser(cva_heads=3)


def test_gradient_checkpointing_saves_memory_and_changes_nothing():
    def run(checkpointing):
        denoiser, kept = tiny.denoiser(trained=True).train(), 0
        if checkpointing:
            denoiser.enable_gradient_checkpointing()

        def pack(tensor):
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = denoiser(**tiny.inputs()).square().mean()
        loss.backward()
        return kept, {name: parameter.grad for name, parameter in denoiser.named_parameters()}

    (plain_bytes, plain), (checkpointed_bytes, checkpointed) = run(False), run(True)
    assert checkpointed_bytes < 0.5 * plain_bytes
    torch.testing.assert_close(checkpointed, plain)


def test_plain_and_fused_attention_agree():
    denoiser, given = tiny.denoiser(trained=True), tiny.inputs()
    with torch.no_grad():
        fused = denoiser(**given)
        denoiser.suit_device(torch.device("cpu"))
        torch.testing.assert_close(denoiser(**given), fused, atol=1e-4, rtol=1e-4)


# ---- M1: the views one by one ----


@pytest.mark.parametrize("cva", [True, False])
def test_stacked_views_meet_in_cva_alone(cva):
    """M1 of Table 7: without CVA a view's prediction depends on no other view; with it, on all four."""
    denoiser = tiny.denoiser(trained=True, stack_views=True, cva=cva)
    given = tiny.inputs(batch=1)
    given["noisy"].requires_grad_()
    split(denoiser(**given))[:, 0].sum().backward()
    seen = split(given["noisy"].grad).abs().sum(dim=(0, 2, 3, 4)) > 0
    assert seen.tolist() == [True] + [cva] * 3


def test_at_initialisation_stacked_views_are_the_stock_unet_on_each_view():
    stock, denoiser, given = tiny.unet(), tiny.denoiser(stack_views=True), tiny.inputs()
    skeletons = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
    with torch.no_grad():
        got = split(denoiser(**given | {"pose": denoiser.encode_pose(skeletons)}))
        for view in range(4):
            noisy = split(given["noisy"])[:, view]
            expected = stock(noisy, given["timesteps"], given["features"]).sample
            torch.testing.assert_close(got[:, view], expected)
        scalar = denoiser(**given | {"timesteps": torch.tensor(5)})  # as the sampler calls it
        same = denoiser(**given | {"timesteps": torch.tensor([5, 5])})
    torch.testing.assert_close(scalar, same)


def test_each_stacked_view_has_its_own_skeleton():
    denoiser = tiny.denoiser(trained=True, stack_views=True)
    skeletons = torch.zeros(1, 3, 64, 32, dtype=torch.uint8)
    skeletons[:, :, :32, :16] = 255  # view 0
    with torch.no_grad():
        difference = denoiser.encode_pose(skeletons) - denoiser.encode_pose(torch.zeros_like(skeletons))
    changed = split(difference).abs().sum(dim=(0, 2, 3, 4)) > 0
    assert changed.tolist() == [True, False, False, False]


def test_a_saved_denoiser_can_be_run_either_way(tmp_path):
    tiny.denoiser(trained=True).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"stack_views": false,', ""))  # saved before there was M1
    settings = tiny.DENOISER.model_copy(update={"stack_views": True})
    stacked = load_denoiser(tmp_path, settings, tiny.WIDTH, seed=0).eval()
    with torch.no_grad():
        got = stacked(**tiny.inputs())
        torch.testing.assert_close(got, tiny.denoiser(trained=True, stack_views=True)(**tiny.inputs()))
        assert not torch.allclose(got, tiny.denoiser(trained=True)(**tiny.inputs()))
