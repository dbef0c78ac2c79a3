from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from generator import encoders, sample
from generator.data import encode_views
from generator.grid import split
from generator.micro_batches import SmallerParts
from generator.sample import IMAGPosePipeline, JointRequest, lay_out
from generator.settings import SampleSettings
from tests.generator import tiny

SETTINGS = SampleSettings(
    steps=2, guidance_scale=2.0, guidance_drop=("features", "image"), batch_size=2, mixed_precision="no"
)
PEOPLE = list(np.random.default_rng(0).integers(0, 256, (4, *tiny.VIEW_SIZE, 3), dtype=np.uint8))
POSES = tiny.keypoints(8)


def pipeline(denoiser=None, scheduler=None):
    imagpose = IMAGPosePipeline(
        tiny.vae(),
        tiny.image_encoder(),
        denoiser or tiny.denoiser(trained=True, levels=1),
        scheduler or tiny.scheduler(),
        *tiny.VIEW_SIZE,
        *tiny.TOKEN_SIZE,
    )
    imagpose.set_progress_bar_config(disable=True)
    return imagpose


def encode(surroundings=False):
    return encode_views(
        PEOPLE,
        POSES[:4],
        np.zeros(4, int),
        tiny.vae(),
        tiny.image_encoder(),
        view_size=tiny.VIEW_SIZE,
        token_size=tiny.TOKEN_SIZE,
        flip=False,
        batch_size=4,
        surroundings=surroundings,
    )


@pytest.fixture(scope="module")
def views():
    return encode()


def request(sources=(0,), targets=1, seed=5, fill="target", first=4):
    poses = POSES[first : first + targets]
    return JointRequest(tuple(sources), poses, tuple(range(seed, seed + targets)), fill)


def generate(views, *requests, imagpose=None, **changes):
    return list((imagpose or pipeline()).generate(views, requests, SETTINGS.model_copy(update=changes)))


# ---- what a user does ----


def test_from_images_to_images_in_five_lines_and_after_saving(tmp_path):
    pipeline().save_pretrained(tmp_path)
    imagpose = IMAGPosePipeline.from_pretrained(tmp_path)
    source = Image.fromarray(PEOPLE[0]).resize((40, 70))  # of any size, its keypoints in its own pixels
    images = imagpose([source], POSES[:1], POSES[4:7], seeds=[1, 2, 3], num_inference_steps=2).images
    assert [image.size for image in images] == [(16, 32)] * 3

    again = pipeline()([source], POSES[:1], POSES[4:7], seeds=[1, 2, 3], num_inference_steps=2).images
    for one, other in zip(images, again, strict=True):
        np.testing.assert_array_equal(one, other)  # saving and loading changed nothing
    assert not list(tmp_path.rglob("*.bin"))
    assert imagpose.view_size == tiny.VIEW_SIZE and imagpose.token_size == tiny.TOKEN_SIZE


def test_a_batch_of_people_is_each_of_them():
    imagpose, pictures = pipeline(), [Image.fromarray(image) for image in PEOPLE]
    options = {"num_inference_steps": 2, "output_type": "np"}
    both = imagpose(
        [pictures[:1], pictures[1:3]], [POSES[:1], POSES[1:3]], [POSES[4:6], POSES[6:7]], **options
    ).images
    alone = imagpose(pictures[1:3], POSES[1:3], POSES[6:7], **options).images
    assert [len(images) for images in both] == [2, 1]
    # Another batch size may round otherwise, by a level at most.
    assert np.abs(both[1][0].astype(int) - alone[0]).max() <= 1


def test_numbers_that_do_not_fit_are_named():
    picture = Image.fromarray(PEOPLE[0])
    with pytest.raises(
        ValueError, match="1 sources and 4 target poses, where at least one of each and at most 4"
    ):
        pipeline()([picture], POSES[:1], POSES[:4])
    with pytest.raises(ValueError, match="2 seeds for 1 target poses"):
        pipeline()([picture], POSES[:1], POSES[:1], seeds=[1, 2])
    with pytest.raises(ValueError, match="sources of 2 persons, source poses of 1"):
        pipeline()([[picture], [picture]], [POSES[:1]], [POSES[:1]])


def test_a_person_is_put_into_the_surroundings_of_the_image_that_lends_the_pose():
    imagpose, picture = pipeline(), Image.fromarray(PEOPLE[0])
    places = [Image.fromarray(image) for image in PEOPLE[1:3]]
    points = np.zeros((2, 18, 3), np.float32)
    points[:, :3] = [[3, 8, 1], [5, 8, 1], [4, 20, 1]]
    options = {"num_inference_steps": 2, "output_type": "np"}

    def make(around, poses=points):
        return imagpose([picture], POSES[:1], poses, surroundings=around, **options).images

    plain, there, swapped = make(None), make(places), make(places[::-1])
    assert not np.array_equal(plain, there) and not np.array_equal(there, swapped)
    both = imagpose(
        [[picture], [picture]],
        [POSES[:1]] * 2,
        [points[:1], points[1:]],
        surroundings=[places[:1], places[1:]],
        **options,
    ).images
    assert [len(images) for images in both] == [1, 1]
    with pytest.raises(ValueError, match="surroundings for 1 of 2 target poses: one each is needed, or none"):
        JointRequest((0,), points, (1, 2), surroundings=(0,))


# ---- scenarios ----


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sources", "targets", "fill", "expected"),
    [
        (1, 1, "target", "S0 T0 T0' T0''"),  # T1
        (1, 1, "source", "S0 T0 S0' S0''"),  # T2
        (2, 1, "target", "S0 S1 T0 T0'"),  # T3
        (3, 1, "target", "S0 S1 S2 T0"),  # T3
        (1, 3, "target", "S0 T0 T1 T2"),  # IMAGPose*
        (2, 1, "source", "S0 S1 T0 S0'"),
        (1, 2, "source", "S0 T0 T1 S0'"),
        (2, 2, "target", "S0 S1 T0 T1"),
    ],
)
def test_the_slots_of_every_scenario(views, sources, targets, fill, expected):
    joint = request(range(sources), targets, fill=fill)
    names = [f"{kind[0].upper()}{index}{copy * chr(39)}" for kind, index, copy in joint.slots()]
    assert " ".join(names) == expected
    (images,) = generate(views, joint)
    assert images.shape == (targets, *tiny.VIEW_SIZE, 3) and images.dtype == np.uint8

    conditions, noise = lay_out(views, [joint])
    mask = [1.0 if name[0] == "S" else 0.0 for name in names]
    corners = [0, 0, -1, -1], [0, -1, 0, -1]
    assert conditions.mask[0, 0][corners].tolist() == mask
    assert len(set(noise[0, 0][corners].tolist())) == 4  # no copied noise


def test_only_sources_are_shown_and_the_first_is_flcs(views):
    conditions, _ = lay_out(views, [request((2, 0), 2)])
    upper, lower = conditions.visible[0].chunk(2, dim=1)
    expected = torch.cat([views.latent_mean[2, 0], views.latent_mean[0, 0]], dim=2).float()
    assert torch.equal(upper, expected)
    assert torch.equal(lower, torch.cat([views.black] * 2, dim=2))
    assert torch.equal(conditions.source_tokens[0], views.tokens[2, 0].float())
    assert torch.equal(conditions.source_latents[0], views.latent_mean[2, 0].float())


def test_a_target_shows_the_surroundings_of_its_view_and_a_source_the_whole_of_its_own():
    views = encode(surroundings=True)
    views = replace(views, outside=torch.rand(views.outside.shape) < 0.5)
    joint = replace(request((2,), 2), surroundings=(3, 1))  # S T0 / T1 T0'
    conditions, noise = lay_out(views, [joint])
    mask, visible = split(conditions.mask)[0], split(conditions.visible)[0]
    assert mask[0].all() and torch.equal(visible[0], views.latent_mean[2, 0].float())
    for slot, view in ((1, 3), (2, 1), (3, 3)):
        assert torch.equal(mask[slot] == 1, views.outside[view, 0])
        expected = torch.where(views.outside[view, 0], views.surroundings[view, 0].float(), views.black)
        assert torch.equal(visible[slot], expected)
    assert torch.equal(noise, lay_out(views, [request((2,), 2)])[1])
    with pytest.raises(ValueError, match="the views were encoded without them"):
        lay_out(replace(views, surroundings=None), [joint])


# ---- sampling ----


@pytest.mark.slow
def test_a_sample_does_not_depend_on_its_neighbours(views):
    joint = request(targets=3)
    first, _ = generate(views, joint, request((1,), seed=50))
    again, _ = generate(views, joint, request((3, 2), 2, seed=99, first=5))
    np.testing.assert_array_equal(first, again)
    *_, third = generate(views, request((1,)), request((3,)), joint)
    np.testing.assert_allclose(third.astype(int), first, atol=1)  # alone in its batch


def test_a_part_that_starts_with_a_batch_is_the_whole(views):
    joints = [request((i,), i, seed=10 * i) for i in (1, 2, 3)] + [request((0,), 2, seed=7)]
    whole = generate(views, *joints)
    for one, other in zip(whole[2:], generate(views, *joints[2:]), strict=True):
        np.testing.assert_array_equal(one, other)


def run_out_of_memory(monkeypatch, imagpose, largest, step="denoise"):
    """Let one step fail as a GPU does for more joint images than `largest`; returns the sizes tried."""
    denoise, decode, sizes = imagpose.denoise, encoders.decode_latents, []

    def fail(at):
        if at == step and sizes[-1] > largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB.")

    def limited_denoise(conditions, black, noise, settings):
        sizes.append(len(noise))
        fail("denoise")
        return denoise(conditions, black, noise, settings)

    def limited_decode(vae, latents):
        fail("decode")
        return decode(vae, latents)

    monkeypatch.setattr(imagpose, "denoise", limited_denoise)
    monkeypatch.setattr(sample, "decode_latents", limited_decode)
    return sizes


@pytest.mark.slow
@pytest.mark.parametrize("step", ["denoise", "decode"])
@pytest.mark.parametrize(("largest", "tried"), [(2, [4, 2, 2, 2, 2]), (1, [4, 2] + [1] * 8)])
def test_a_batch_that_does_not_fit_is_made_in_parts_and_so_are_those_after_it(
    views, step, largest, tried, monkeypatch
):
    joints = [request((i % 4,), i % 3 + 1, seed=10 * i) for i in range(8)]
    imagpose = pipeline()
    sizes = run_out_of_memory(monkeypatch, imagpose, largest, step)
    with pytest.warns(SmallerParts, match=f"in parts of {largest} joint images"):
        images = generate(views, *joints, imagpose=imagpose, batch_size=4)
    assert sizes == tried
    whole, parts = (generate(views, *joints, batch_size=size) for size in (4, largest))
    for image, of_whole, of_part in zip(images, whole, parts, strict=True):
        np.testing.assert_allclose(image.astype(int), of_whole, atol=1)
        np.testing.assert_array_equal(image, of_part)  # the same bytes as with that batch size


def test_a_joint_image_that_does_not_fit_is_the_end(views, monkeypatch):
    imagpose = pipeline()
    assert run_out_of_memory(monkeypatch, imagpose, largest=0) == []
    with pytest.warns(SmallerParts), pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        generate(views, request(), request(), imagpose=imagpose)


@pytest.mark.slow
def test_seed_pose_and_source_matter(views):
    reference = generate(views, request())[0]
    for other in (request(seed=6), request(first=5), request((1,)), request((0, 1))):
        assert (generate(views, other)[0] != reference).any()
    np.testing.assert_array_equal(generate(views, request())[0], reference)


@pytest.mark.parametrize("drop", [("features",), ("image",), ("features", "image")])
def test_guidance_is_eq_5(views, drop):
    """The slow way: two passes per step; null tokens are zero, a dropped F_I is black with mask 0."""
    imagpose = pipeline()
    denoiser, scheduler = imagpose.denoiser, imagpose.scheduler
    conditions, noise = lay_out(views, [request(targets=2), request((1, 2))])
    mask, visible = conditions.mask, conditions.visible
    settings = SETTINGS.model_copy(update={"guidance_drop": drop, "guidance_scale": 3.0})
    with torch.no_grad():
        result = imagpose.denoise(conditions, views.black, noise, settings)
        features = denoiser.encode_features(conditions.source_latents, conditions.source_tokens)
        pose = denoiser.encode_pose(conditions.skeletons)
        latents = noise
        scheduler.set_timesteps(2)
        for timestep in scheduler.timesteps:
            conditional = denoiser(latents, timestep, features, pose, mask, visible)
            null = denoiser(
                latents,
                timestep,
                features * 0 if "features" in drop else features,
                pose,
                mask * 0 if "image" in drop else mask,
                views.black.repeat(1, 2, 2).expand_as(visible) if "image" in drop else visible,
            )
            guided = 3.0 * conditional + (1 - 3.0) * null
            latents = scheduler.step(guided, timestep, latents).prev_sample
    torch.testing.assert_close(result, latents, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_conditions_are_encoded_once_and_the_null_branch_only_when_needed(views, monkeypatch):
    imagpose, calls = pipeline(), []
    for name in ("encode_features", "encode_pose", "forward"):
        method = getattr(imagpose.denoiser, name)

        def spy(*args, name=name, method=method):
            calls.append((name, len(args[0])))
            return method(*args)

        monkeypatch.setattr(imagpose.denoiser, name, spy)
    generate(views, request(), imagpose=imagpose)
    assert calls == [("encode_features", 1), ("encode_pose", 1)] + [("forward", 2)] * 2
    calls.clear()
    generate(views, request(), imagpose=imagpose, guidance_scale=1.0)
    assert calls == [("encode_features", 1), ("encode_pose", 1)] + [("forward", 1)] * 2
    calls.clear()
    generate(views, request(), imagpose=imagpose, guidance_share=0.5)
    assert calls[2:] == [("forward", 2), ("forward", 1)]
    same, none = [{"guidance_share": 0.0}, {"guidance_scale": 1.0}]
    assert np.array_equal(generate(views, request(), **same)[0], generate(views, request(), **none)[0])


class Oracle(torch.nn.Module):
    """A denoiser that knows the clean latents."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, scheduler, clean):
        super().__init__()
        self.scheduler, self.clean = scheduler, clean

    def encode_features(self, latents, tokens):
        return tokens

    def encode_pose(self, skeletons):
        return skeletons

    def forward(self, noisy, timestep, *conditions):
        a = self.scheduler.alphas_cumprod[timestep]
        noise = (noisy - a.sqrt() * self.clean) / (1 - a).sqrt()
        if self.scheduler.config.prediction_type == "epsilon":
            return noise
        return a.sqrt() * noise - (1 - a).sqrt() * self.clean


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_ddim_with_a_perfect_denoiser_finds_the_clean_latents(views, prediction_type):
    zero_snr = prediction_type == "v_prediction"
    scheduler = tiny.scheduler(
        prediction_type=prediction_type, rescale_betas_zero_snr=zero_snr, timestep_spacing="trailing"
    )
    clean = torch.randn(1, 4, 8, 4)
    imagpose = pipeline(scheduler=scheduler)
    imagpose.register_modules(denoiser=Oracle(scheduler, clean))
    conditions, noise = lay_out(views, [request()])
    settings = SETTINGS.model_copy(update={"steps": 20, "guidance_scale": 1.0})
    result = imagpose.denoise(conditions, views.black, noise, settings)
    torch.testing.assert_close(result, clean, atol=1e-3, rtol=1e-3)


def test_reduced_precision_stays_close(views):
    exact, rough = (generate(views, request(), mixed_precision=precision)[0] for precision in ("no", "bf16"))
    assert 0 < np.abs(exact.astype(int) - rough).mean() < 12


def test_images_are_the_decoded_target_views(views):
    imagpose, joint = pipeline(), request((0,), 3)
    conditions, noise = lay_out(views, [joint])
    latents = imagpose.denoise(conditions, views.black, noise, SETTINGS)
    lower_right = encoders.decode_latents(imagpose.vae, latents[:, :, 4:, 2:])
    (images,) = generate(views, joint, imagpose=imagpose)
    np.testing.assert_allclose(images[2].astype(int), encoders.to_bytes(lower_right)[0].numpy(), atol=1)
