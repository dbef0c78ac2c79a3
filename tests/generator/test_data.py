from dataclasses import astuple, replace

import numpy as np
import pytest
import torch

from generator import encoders
from generator.data import EncodedViews, JointSampler, encode_views
from generator.grid import split
from generator.keypoints import flip_keypoints, resize_keypoints
from generator.pose import draw_silhouette, draw_skeleton
from tests.generator import tiny

T = 1000


def labelled(pids, mirrored=True):
    """Views whose every number says which view it is: n, plus a half in the mirrored copy; black is -1."""
    label = torch.arange(len(pids)).view(-1, 1) + torch.tensor([[0.0, 0.5]])[:, : 2 if mirrored else 1]
    return EncodedViews(
        latent_mean=label[:, :, None, None, None].expand(-1, -1, *tiny.LATENT).half(),
        latent_std=torch.zeros(*label.shape, *tiny.LATENT).half(),
        tokens=label[:, :, None, None].expand(-1, -1, tiny.TOKENS, tiny.WIDTH).half(),
        skeletons=(label * 2)[:, :, None, None, None].expand(-1, -1, 3, *tiny.VIEW_SIZE).to(torch.uint8),
        pids=torch.tensor(pids),
        black=torch.full(tiny.LATENT, -1.0),
    )


def read(batch):
    """(four views [B, 4], visible [B, 4], source [B], mirrored [B, 4]) of samples of labelled views."""
    four = split(batch.latents)[:, :, 0, 0, 0]
    visible = split(batch.conditions.mask)[:, :, 0, 0, 0] == 1
    return four.floor().long(), visible, batch.conditions.source_tokens[:, 0, 0].floor().long(), four % 1 > 0


def sampler(views, **changes):
    return JointSampler(views, tiny.TRAIN.model_copy(update={"batch_size": 256, **changes}), T, seed=3)


def tensors(batch):
    return [batch.latents, batch.noise, batch.timesteps, *astuple(batch.conditions)]


# ---- drawing ----


def test_a_draw_depends_on_seed_and_index_alone():
    views = tiny.views([1, 1, 1, 1, 1, 2, 2, 3])
    whole = sampler(views, batch_size=4)
    whole.draw(0)
    batch = whole.draw(5)
    fresh = sampler(views, batch_size=4).draw(5)
    shares = [sampler(views, batch_size=4).draw(5, rank, 2) for rank in (0, 1)]
    smaller = [sampler(views, batch_size=2).draw(step) for step in (10, 11)]
    for one, again, *parts in zip(
        tensors(batch), tensors(fresh), *map(tensors, shares + smaller), strict=True
    ):
        assert torch.equal(one, again)
        assert torch.equal(one, torch.cat(parts[:2]))  # two processes
        assert torch.equal(one, torch.cat(parts[2:]))  # batches of half the size
    other = JointSampler(views, whole.settings, T, seed=4).draw(5)
    assert not torch.equal(other.noise, batch.noise)
    assert not torch.equal(whole.draw(6).noise, batch.noise)


def test_a_noise_offset_shifts_each_channel_of_a_joint_image_as_a_whole_and_nothing_else():
    views = tiny.views([1, 1, 1, 1, 1, 2, 2, 3])
    plain, offset = (sampler(views, noise_offset=noise_offset).draw(0) for noise_offset in (0.0, 0.5))
    shifts = offset.noise - plain.noise  # [B, C, 2h, 2w]
    shift = shifts.mean(dim=(2, 3))  # [B, C]
    assert torch.allclose(shifts, shift[:, :, None, None], atol=1e-5)
    assert shift.std() == pytest.approx(0.5, rel=0.1)
    assert shift.flatten().unique().numel() == shift.numel()
    plain_rest, offset_rest = ([batch.latents, *tensors(batch)[2:]] for batch in (plain, offset))
    assert all(map(torch.equal, plain_rest, offset_rest))


def test_the_four_views_are_distinct_images_of_one_person():
    pids = [7] * 5 + [3] * 4 + [9] * 6
    four, *_ = read(sampler(labelled(pids)).draw(0))
    for views in four.tolist():
        assert len(set(views)) == 4
        assert len({pids[view] for view in views}) == 1


def test_people_with_few_images_repeat_them_and_use_all():
    pids = [1] + [2] * 2 + [3] * 3
    four, *_ = read(sampler(labelled(pids)).draw(0))
    for views in four.tolist():
        person = pids[views[0]]
        assert set(views) == {view for view, pid in enumerate(pids) if pid == person}
    assert {pids[views[0]] for views in four.tolist()} == {1, 2, 3}


def test_every_image_is_drawn_equally_often_in_every_slot():
    pids = [1] * 4 + [2] * 12
    four, *_ = read(sampler(labelled(pids), batch_size=1024).draw(0))
    for slot in range(4):
        counts = torch.bincount(four[:, slot], minlength=16)
        assert counts.min() > 32 and counts.max() < 96  # expected 64, standard deviation 8


@pytest.mark.parametrize("masked", [(1, 4), (2, 3), (4, 4)])
def test_the_number_of_masked_views_is_uniform_within_its_bounds(masked):
    _, visible, *_ = read(sampler(labelled([1] * 6), masked_views=masked, drop_image=0.0).draw(0))
    counts = torch.bincount((~visible).sum(1), minlength=5)
    least, most = masked
    expected = 256 / (most - least + 1)
    assert (counts[least : most + 1] > 0.6 * expected).all() and counts[:least].sum() == 0
    share = (~visible).float().mean(0)
    assert (share - (least + most) / 8).abs().max() < 0.12  # no slot is favoured


def test_the_source_is_visible_or_else_another_image_of_the_person():
    six = labelled([5] * 6 + [6] * 6)
    four, visible, source, _ = read(sampler(six, drop_image=0.0).draw(0))
    some = visible.any(1)
    assert some.any() and not some.all()
    for views, is_visible, own in zip(four[some], visible[some], source[some], strict=True):
        assert own in views[is_visible]
    for views, own in zip(four[~some], source[~some], strict=True):
        assert own not in views and own // 6 == views[0] // 6
    no_other = sampler(labelled([5] * 4), masked_views=(4, 4)).draw(0)
    four, _, source, _ = read(no_other)
    assert all(own in views for views, own in zip(four, source, strict=True))


def test_all_four_views_are_mirrored_together():
    batch = sampler(labelled([1] * 6)).draw(0)
    *_, mirrored = read(batch)
    assert (mirrored.all(1) | ~mirrored.any(1)).all()
    assert 0.4 < mirrored[:, 0].float().mean() < 0.6
    assert torch.equal(split(batch.conditions.skeletons)[:, :, 0, 0, 0] % 2 == 1, mirrored)
    assert torch.equal(batch.conditions.source_tokens[:, 0, 0] % 1 > 0, mirrored[:, 0])
    assert torch.equal(batch.conditions.source_latents[:, 0, 0, 0] % 1 > 0, mirrored[:, 0])


def test_flip_needs_mirrored_views():
    views = labelled([1] * 4, mirrored=False)
    with pytest.raises(ValueError, match=r"flip is 0\.5, but the views were encoded without"):
        sampler(views)
    assert not read(sampler(views, flip=0.0).draw(0))[3].any()


def test_features_and_image_are_dropped_independently():
    batch = sampler(labelled([1] * 6), drop_features=0.3, drop_image=0.5, masked_views=(1, 3)).draw(0)
    no_image = ~split(batch.conditions.mask).flatten(1).any(1)
    no_features = ~batch.conditions.keep_features
    assert abs(no_image.float().mean() - 0.5) < 0.1
    assert abs(no_features.float().mean() - 0.3) < 0.1
    assert abs((no_image & no_features).float().mean() - 0.15) < 0.08
    assert (batch.conditions.visible[no_image] == -1).all()


def test_nothing_of_a_hidden_view_reaches_the_inputs_and_visible_views_do():
    """The conditions may change only by the visible views, the FLC source, and the skeletons."""
    views = tiny.views([1] * 7)
    options = {"batch_size": 32, "drop_image": 0.0}
    before = astuple(sampler(views, **options).draw(0).conditions)
    four, visible, sources, _ = read(sampler(labelled([1] * 7), **options).draw(0))
    for view in range(7):
        changed = replace(views, latent_mean=views.latent_mean.clone(), tokens=views.tokens.clone())
        changed.latent_mean[view] += 1
        changed.tokens[view] += 1
        after = astuple(sampler(changed, **options).draw(0).conditions)
        same = [all(torch.equal(a[i], b[i]) for a, b in zip(before, after, strict=True)) for i in range(32)]
        is_read = ((four == view) & visible).any(1) | (sources == view)
        assert same == (~is_read).tolist()


def test_latents_are_sampled_from_the_posterior_and_conditions_are_its_mean():
    views = tiny.views([1] * 4)
    views = replace(
        views, latent_mean=torch.zeros_like(views.latent_mean), latent_std=views.latent_std * 0 + 0.5
    )
    batch = sampler(views, flip=0.0).draw(0)
    assert abs(batch.latents.std() - 0.5) < 0.01 and abs(batch.latents.mean()) < 0.01
    assert abs(batch.noise.std() - 1) < 0.01
    assert abs(torch.corrcoef(torch.stack([batch.noise.flatten(), batch.latents.flatten()]))[0, 1]) < 0.02
    assert not batch.conditions.source_latents.any()
    assert 0 <= batch.timesteps.min() < 50 and 950 < batch.timesteps.max() < T


def surrounded(views):
    """The same views with random surroundings: the right half of each is outside of the person's place."""
    shape = views.latent_mean.shape
    outside = torch.zeros(*shape[:2], 1, *shape[3:], dtype=torch.bool)
    outside[..., shape[-1] // 2 :] = True
    return replace(views, surroundings=torch.randn(shape).half(), outside=outside)


def test_surroundings_show_in_masked_views_alone_and_change_no_other_draw():
    views = surrounded(tiny.views([1] * 5 + [2] * 4))
    plain = sampler(views, drop_image=0.0).draw(0)
    batch = sampler(views, drop_image=0.0, surroundings=1.0).draw(0)
    assert torch.equal(batch.latents, plain.latents) and torch.equal(batch.noise, plain.noise)
    mask, before = split(batch.conditions.mask), split(plain.conditions.mask)  # [B, 4, 1, h, w]
    seen, seen_before = split(batch.conditions.visible), split(plain.conditions.visible)
    is_visible = before[:, :, 0, 0, 0] == 1
    assert torch.equal(seen[is_visible], seen_before[is_visible]) and (mask[is_visible] == 1).all()
    half = mask.shape[-1] // 2
    hidden, shown = mask[~is_visible][..., :half], mask[~is_visible][..., half:]
    assert not hidden.any() and shown.all()
    black = views.black.expand_as(seen[~is_visible])
    assert torch.equal(seen[~is_visible][..., :half], black[..., :half])
    assert not torch.equal(seen[~is_visible][..., half:], black[..., half:])


def test_surroundings_are_those_of_the_view_itself_mirrored_with_it():
    views = labelled([1] * 5 + [2] * 4)
    views = replace(
        views,
        surroundings=views.latent_mean + 100,
        outside=torch.ones_like(views.latent_mean[:, :, :1]).bool(),
    )
    batch = sampler(views, drop_image=0.0, surroundings=1.0).draw(0)
    four = split(batch.latents)
    is_hidden = split(batch.conditions.visible) >= 99
    assert is_hidden.any() and not is_hidden.all()
    expected = torch.where(is_hidden, four + 100, four)
    assert torch.equal(split(batch.conditions.visible), expected)


def test_surroundings_come_as_often_as_asked_for_and_go_with_the_image():
    views = surrounded(tiny.views([1] * 8))
    half = views.black.shape[-1] // 2

    def share(**changes):
        mask = split(sampler(views, masked_views=(4, 4), **changes).draw(0).conditions.mask)
        return (mask[..., half:] == 1).float().mean().item()

    assert share(surroundings=0.5, drop_image=0.0) == pytest.approx(0.5, abs=0.1)
    assert share(surroundings=1.0, drop_image=0.25) == pytest.approx(0.75, abs=0.1)
    assert share(surroundings=1.0, drop_image=1.0) == 0
    with pytest.raises(ValueError, match=r"surroundings is 0\.5, but the views were encoded without them"):
        sampler(tiny.views([1] * 8), surroundings=0.5)


# ---- encoding ----


def people(count=3, size=tiny.VIEW_SIZE):
    return list(np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8))


def encode(images, points, flip=True, batch_size=2, **options):
    return encode_views(
        images,
        points,
        np.arange(len(points)) + 5,
        tiny.vae(),
        tiny.image_encoder(),
        view_size=tiny.VIEW_SIZE,
        token_size=tiny.TOKEN_SIZE,
        flip=flip,
        batch_size=batch_size,
        **options,
    )


def test_views_are_encoded_as_one_by_one():
    images, points, done = people(), tiny.keypoints(3), []
    views = encode(images, points, progress=done.append)
    assert sum(done) == 3 and views.pids.tolist() == [5, 6, 7]
    for i, image in enumerate(images):
        for copy, (picture, pose) in enumerate(
            [(image, points[i]), (image[:, ::-1].copy(), flip_keypoints(points[i], 16))]
        ):
            pixels = encoders.to_float(torch.from_numpy(picture)[None])
            mean, std = encoders.encode_latents(tiny.vae(), pixels)
            tokens = encoders.encode_tokens(tiny.image_encoder(), pixels, tiny.TOKEN_SIZE)
            torch.testing.assert_close(views.latent_mean[i, copy].float(), mean[0], atol=2e-3, rtol=2e-3)
            torch.testing.assert_close(views.latent_std[i, copy].float(), std[0], atol=2e-3, rtol=2e-3)
            torch.testing.assert_close(views.tokens[i, copy].float(), tokens[0], atol=5e-3, rtol=5e-3)
            skeleton = draw_skeleton(pose, *tiny.VIEW_SIZE)
            np.testing.assert_array_equal(views.skeletons[i, copy].permute(1, 2, 0), skeleton)
    black = encoders.encode_latents(tiny.vae(), torch.full((1, 3, *tiny.VIEW_SIZE), -1.0))[0][0]
    assert torch.equal(views.black, black)


def test_surroundings_know_nothing_of_the_person():
    """Whatever is painted over the person's place, they are the same; and elsewhere they are not."""
    height, width = tiny.VIEW_SIZE
    points = np.zeros((1, 18, 3), np.float32)
    points[0, :3] = [[3, 8, 1], [5, 8, 1], [4, 20, 1]]  # on the left
    place = draw_silhouette(points[0], height, width, 0.12)
    assert 0 < place.mean() < 0.5
    image = people(1)[0]
    views = encode([image], points, surroundings=True)
    inside, elsewhere = image.copy(), image.copy()
    inside[place == 1] = 255 - inside[place == 1]
    elsewhere[place == 0] = 255 - elsewhere[place == 0]
    assert torch.equal(encode([inside], points, surroundings=True).surroundings, views.surroundings)
    assert not torch.equal(encode([elsewhere], points, surroundings=True).surroundings, views.surroundings)

    # A latent pixel is outside if none of its pixels is in the person's place; mirrored, on the other side.
    cell = height // tiny.LATENT[-2]
    cells = place.reshape(height // cell, cell, width // cell, cell).max((1, 3)) == 0
    np.testing.assert_array_equal(views.outside[0, 0, 0], cells)
    np.testing.assert_array_equal(
        views.outside[0, 1, 0],
        draw_silhouette(flip_keypoints(points[0], width), height, width, 0.12)
        .reshape(height // cell, cell, width // cell, cell)
        .max((1, 3))
        == 0,
    )
    assert encode([image], points).surroundings is None


def test_where_no_person_is_known_nothing_is_shown():
    views = encode(people(1), np.zeros((1, 18, 3), np.float32), surroundings=True)
    assert not views.outside.any()


def test_images_of_another_size_are_resized_with_their_keypoints():
    points = tiny.keypoints(1)
    double = resize_keypoints(points, np.array([2, 2]))
    large = [np.kron(people(1)[0], np.ones((2, 2, 1), np.uint8))]
    views, expected = encode(large, double, flip=False), encode(people(1), points, flip=False)
    assert torch.equal(views.skeletons, expected.skeletons)
    assert views.latent_mean.shape == expected.latent_mean.shape == (1, 1, *tiny.LATENT)


def test_images_keypoints_and_identities_must_be_equally_many():
    with pytest.raises(ValueError):
        encode(people(2), tiny.keypoints(3))
    with pytest.raises(ValueError, match="keypoints of 2 images and identities of 3"):
        encode_views(
            people(2),
            tiny.keypoints(2),
            np.arange(3),
            tiny.vae(),
            tiny.image_encoder(),
            view_size=tiny.VIEW_SIZE,
            token_size=tiny.TOKEN_SIZE,
            flip=False,
            batch_size=2,
        )


def test_views_that_fill_half_an_accelerators_memory_stay_where_they_are(monkeypatch):
    views = tiny.views([1] * 4)
    size = sum(tensor.nbytes for tensor in views.tensors().values())
    monkeypatch.setattr(type(views), "to", lambda self, device: "moved")
    for free, result in ((2 * size, "moved"), (2 * size - 2, views)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10 * size))
        assert views.near(torch.device("cuda")) is result
    assert views.near(torch.device("cpu")) == "moved"
