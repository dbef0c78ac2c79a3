"""The embedded world: poses, renderings, identities and the Market-1501 folder."""

import re
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest

from generator.keypoints import KEYPOINT_NAMES, LIMBS, flip_keypoints
from pipeline.world import __main__ as command
from pipeline.world.body import BONES, PARENTS, bone_transforms, pose_surface, rest_joints
from pipeline.world.camera import sample_camera, sample_view
from pipeline.world.dataset import GALLERY, QUERY, TRAIN, build, photos, stray_shot
from pipeline.world.person import sample_person
from pipeline.world.render import render
from pipeline.world.settings import WorldSettings
from pipeline.world.shots import purpose_camera, render_shot, shots
from pipeline.world.stance import sample_stance
from tests import REPOSITORY

SETTINGS = WorldSettings(
    seed=3, train_identities=3, test_identities=3, images_per_identity=6, cameras=6, distractors=5, junk=5,
    camera_strength=0.3, height=128, width=64,
)  # fmt: skip
JOINTS = {name: index for index, name in enumerate(KEYPOINT_NAMES)}


def neutral(camera):
    """The same camera without pitch, roll, noise and colour cast."""
    return replace(
        camera, pitch=0.0, roll=0.0, noise=0.0, colour=np.eye(3, dtype=np.float32),
        curve=np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2),
    )  # fmt: skip


def clear(view):
    return replace(view, pole=None, passer_by=None)


def portrait(index, heading, seed=0):
    person, stance = sample_person(seed, "test", index), sample_stance(seed, "pose", index, heading=heading)
    camera, view = neutral(sample_camera(seed, "c", 0, 1.0)), clear(sample_view(seed, "v", index))
    return render(person, stance, camera, view)


# --- pose ---


def test_bones_keep_their_length_and_the_lower_foot_stands_on_the_ground():
    for index in range(20):
        person, stance = sample_person(0, "train", index), sample_stance(0, "pose", index)
        joints = rest_joints(person.build)
        transforms = bone_transforms(person.build, stance)
        posed = np.einsum("bij,bj->bi", transforms[:, :, :3], joints) + transforms[:, :, 3]
        for bone in range(1, len(BONES)):
            parent = PARENTS[bone]
            length = np.linalg.norm(posed[bone] - posed[parent])
            assert length == pytest.approx(np.linalg.norm(joints[bone] - joints[parent]))
        vertices, _ = pose_surface(person.build, person.surface, stance)
        assert vertices[..., 1].min() == pytest.approx(0, abs=1e-6)


def test_posing_leaves_the_person_as_they_were():
    person = sample_person(0, "train", 0)
    before = person.surface.rings.copy()
    pose_surface(person.build, person.surface, sample_stance(0, "pose", 1))
    assert np.array_equal(before, person.surface.rings)


def test_a_skirt_covers_the_thighs_in_every_stride():
    skirted = [p for i in range(60) if "skirt" in (p := sample_person(0, "train", i)).description.split(", ")]
    assert skirted
    for person in skirted:
        index = person.surface.draped[0][0]
        for number in range(10):
            stance = sample_stance(0, "stride", number, heading=0.0)
            vertices, keypoints = pose_surface(person.build, person.surface, stance)
            rings = vertices[index]
            hem = rings[..., 1].min()
            for hip, knee in (("r_hip", "r_knee"), ("l_hip", "l_knee")):
                upper, lower = keypoints[JOINTS[hip]], keypoints[JOINTS[knee]]
                for t in np.linspace(0.2, 1, 8):
                    point = upper + t * (lower - upper)
                    if point[1] < hem:
                        continue
                    ring = rings[np.abs(rings[:, 0, 1] - point[1]).argmin()]
                    outline = ring[:, [0, 2]].astype(np.float32)
                    distance = cv2.pointPolygonTest(outline, (float(point[0]), float(point[2])), True)
                    assert distance > 0.06, "the leg's axis comes within 6 cm of the cloth"


# --- keypoints ---


def test_visible_keypoints_lie_on_the_person_and_invisible_ones_are_zero():
    seen = 0
    for pid in range(6):
        for shot in shots(1, "train", pid, 6, 6, 128, 64, 0.3):
            near = cv2.dilate(shot.mask.astype(np.uint8), np.ones((3, 3), np.uint8))
            for x, y, score in shot.keypoints:
                if score:
                    assert score == 1 and near[round(y), round(x)]
                    seen += 1
                else:
                    assert x == y == 0
    assert seen > 300


def test_right_is_the_persons_right():
    compared = 0
    for index in range(8):
        front, back = portrait(index, 0).keypoints, portrait(index, 180).keypoints
        for joint in ("shoulder", "hip", "eye"):
            right, left = JOINTS[f"r_{joint}"], JOINTS[f"l_{joint}"]
            # The right side of somebody who faces the camera is on the left of the image.
            for keypoints, way in ((front, 1), (back, -1)):
                if keypoints[right, 2] and keypoints[left, 2]:
                    assert way * (keypoints[left, 0] - keypoints[right, 0]) > 0
                    compared += 1
        assert front[JOINTS["nose"], 2] == 1 and back[JOINTS["nose"], 2] == 0
    assert compared > 20


@pytest.mark.parametrize(("heading", "near", "far"), [(90, "r", "l"), (270, "l", "r")])
def test_in_profile_only_the_nearer_ear_is_seen(heading, near, far):
    """Who walks towards the right edge (90 degrees) shows the camera their right side."""
    person = sample_person(0, "test", 2)
    camera, view = neutral(sample_camera(0, "c", 0, 1.0)), clear(sample_view(0, "v", 1))
    stance = sample_stance(0, "pose", 4, heading=float(heading))
    keypoints = render(person, replace(stance, angles=np.zeros_like(stance.angles)), camera, view).keypoints
    nose, ear = keypoints[JOINTS["nose"]], keypoints[JOINTS[f"{near}_ear"]]
    assert nose[2] == ear[2] == 1 and keypoints[JOINTS[f"{far}_ear"], 2] == 0
    assert (nose[0] > ear[0]) == (heading == 90)


def test_what_a_pole_hides_is_invisible_and_not_in_the_mask():
    person, stance = sample_person(0, "test", 0), sample_stance(0, "pose", 0, heading=0.0)
    camera, view = neutral(sample_camera(0, "c", 0, 1.0)), clear(sample_view(0, "v", 0))
    free = render(person, stance, camera, view)
    half = render(person, stance, camera, replace(view, pole=(0.0, 1.0, 0.5, 100.0)))
    lower = free.keypoints[:, 1] > 64
    assert free.keypoints[lower, 2].any() and not half.keypoints[half.keypoints[:, 1] > 64, 2].any()
    assert not half.mask[64:].any() and np.array_equal(half.mask[:64], free.mask[:64])


# --- rendering ---


def test_render_is_a_pure_function():
    person, stance = sample_person(0, "train", 1), sample_stance(0, "pose", 1)
    camera, view = sample_camera(0, "world", 2, 1.0), sample_view(0, "v", 2)
    first = render(person, stance, camera, view, passer_by=(sample_person(0, "other", 0), stance))
    again = render(person, stance, camera, view, passer_by=(sample_person(0, "other", 0), stance))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.keypoints, again.keypoints)


def test_cameras_change_the_picture_and_not_the_pose():
    """Limbs have the same directions when only colour, light and scenery differ."""
    person, stance, view = (
        sample_person(0, "train", 1),
        sample_stance(0, "pose", 1),
        clear(sample_view(0, "v", 1)),
    )
    one, two = sample_camera(0, "world", 0, 1.0), sample_camera(0, "world", 1, 1.0)
    geometry = {
        "pitch": one.pitch,
        "roll": one.roll,
        "distance": one.distance,
        "zoom": one.zoom,
        "aim": one.aim,
    }
    first, second = render(person, stance, one, view), render(person, stance, replace(two, **geometry), view)
    assert np.array_equal(first.keypoints, second.keypoints) and np.array_equal(first.mask, second.mask)
    assert np.abs(first.image[first.mask].astype(float) - second.image[second.mask]).mean() > 5


def test_front_and_back_differ():
    for index in range(8):
        front, back = portrait(index, 0), portrait(index, 180)
        face, nape = (shot.image[8:26][shot.mask[8:26]].astype(float).mean(0) for shot in (front, back))
        assert np.abs(face - nape).max() > 8


@pytest.mark.parametrize(("height", "width"), [(128, 64), (256, 128), (64, 32)])
def test_any_size_shows_the_same_view(height, width):
    person, stance = sample_person(0, "train", 3), sample_stance(0, "pose", 3)
    camera, view = neutral(sample_camera(0, "c", 0, 1.0)), clear(sample_view(0, "v", 3))
    small, large = render(person, stance, camera, view), render(person, stance, camera, view, height, width)
    assert large.image.shape == (height, width, 3)
    both = (small.keypoints[:, 2] > 0) & (large.keypoints[:, 2] > 0)
    assert both.sum() >= 8
    expected = (small.keypoints[both, :2] + 0.5) * height / 128 - 0.5
    assert np.allclose(large.keypoints[both, :2], expected, atol=1e-2)


def test_all_of_the_person_is_in_a_good_box():
    inside = [shot.mask.mean() for pid in range(4) for shot in shots(0, "train", pid, 6, 6, 128, 64, 0.3)]
    assert 0.12 < np.median(inside) < 0.5


# --- identities and cameras ---


def test_people_are_functions_of_seed_purpose_and_index():
    reference = sample_person(0, "train", 0).texture
    sample_person.cache_clear()
    assert np.array_equal(reference, sample_person(0, "train", 0).texture)
    for other in (sample_person(1, "train", 0), sample_person(0, "test", 0), sample_person(0, "train", 1)):
        assert other.texture.shape != reference.shape or not np.array_equal(other.texture, reference)


def test_train_and_test_see_the_same_cameras_and_the_foundation_others():
    scenes = [purpose_camera(0, purpose, 1, 1.0).scene for purpose in ("train", "test", "foundation")]
    assert np.array_equal(scenes[0], scenes[1]) and not np.array_equal(scenes[0], scenes[2])


def test_a_camera_of_strength_zero_is_neutral():
    camera = sample_camera(0, "world", 0, 0.0)
    assert np.array_equal(camera.colour, np.eye(3)) and camera.noise == 0
    assert np.abs(camera.curve[0].astype(int) - np.arange(256)[:, None]).max() <= 1
    assert np.array_equal(camera.scene, sample_camera(0, "world", 0, 1.0).scene)


def test_a_person_is_seen_by_four_to_six_cameras_and_walks_on_within_a_tracklet():
    for pid in range(5):
        own_shots = shots(0, "train", pid, 20, 6, 32, 16, 0.3)
        assert len(own_shots) == 20 and 4 <= len({shot.camid for shot in own_shots}) <= 6
        assert len({shot.name(pid) for shot in own_shots}) == 20
        tracklets: dict[tuple[int, int], list[float]] = {}
        for shot in own_shots:
            tracklets.setdefault((shot.camid, shot.sequence), []).append(shot.stance.heading)
        for headings in tracklets.values():
            turn = (np.array(headings) - headings[0] + 180) % 360 - 180
            assert np.abs(turn).max() < 90


def test_a_shot_can_be_rendered_again_in_another_camera():
    shot = shots(0, "train", 2, 6, 6, 128, 64, 0.3)[3]
    again = render_shot(0, "train", 2, shot.camid, shot.stance, shot.view, 128, 64, 0.3)
    other = render_shot(0, "train", 2, 1 + shot.camid % 6, shot.stance, shot.view, 128, 64, 0.3)
    assert np.array_equal(again.image, shot.image) and not np.array_equal(other.image, shot.image)


# --- the folder ---


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "world"
    build(SETTINGS, root, workers=1)
    return root


def contents(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_the_folder_is_market_1501(root):
    assert {path.name for path in root.iterdir()} == {"README.txt", TRAIN, QUERY, GALLERY, "keypoints.csv"}
    names = {
        folder: sorted(path.name for path in (root / folder).iterdir()) for folder in (TRAIN, QUERY, GALLERY)
    }
    pattern = re.compile(r"(-1|\d{4})_c([1-6])s(\d)_(\d{6})_(\d{2})\.jpg")
    pids = {}
    for folder, files in names.items():
        assert all(pattern.fullmatch(name) for name in files)
        pids[folder] = [int(pattern.fullmatch(name)[1]) for name in files]
    assert set(pids[TRAIN]) == {1, 2, 3} and len(names[TRAIN]) == 18
    assert set(pids[QUERY]) == {4, 5, 6} and set(pids[GALLERY]) == {-1, 0, 4, 5, 6}
    assert len(names[QUERY]) + len(names[GALLERY]) == 18 + 5 + 5
    assert pids[GALLERY].count(-1) == 5 and pids[GALLERY].count(0) == 5
    # One query per identity and camera, each with a match in another camera of the gallery.
    key = [pattern.fullmatch(name).group(1, 2) for name in names[QUERY]]
    assert len(set(key)) == len(key)
    gallery = [pattern.fullmatch(name).group(1, 2) for name in names[GALLERY]]
    assert all(any(pid == p and camid != c for p, c in gallery) for pid, camid in key)


def test_images_are_jpegs_of_the_asked_size_and_keypoints_cover_all(root):
    frame = pd.read_csv(root / "keypoints.csv")
    assert list(frame.columns) == [
        "image",
        *(f"{k}_{v}" for k in KEYPOINT_NAMES for v in ("x", "y", "score")),
    ]
    files = sorted(name for name in contents(root) if name.endswith(".jpg"))
    assert list(frame["image"]) == files
    for name in files:
        data = (root / name).read_bytes()
        assert data[:2] == b"\xff\xd8" and cv2.imdecode(np.frombuffer(data, np.uint8), 1).shape == (
            128,
            64,
            3,
        )
    assert not frame.drop(columns="image").isna().any(axis=None)


def test_files_show_the_shots(root):
    keypoints = pd.read_csv(root / "keypoints.csv", index_col="image")
    for name, shot in photos(SETTINGS, ("test", 1)):
        saved = cv2.imread(str(root / name))[..., ::-1]
        assert np.abs(saved.astype(float) - shot.image).mean() < 12  # JPEG loses the sensor noise
        assert np.allclose(keypoints.loc[name].to_numpy().reshape(18, 3), shot.keypoints, atol=0.006)


@pytest.mark.slow
def test_the_folder_does_not_depend_on_the_number_of_workers(root, tmp_path):
    build(SETTINGS, tmp_path / "again", workers=3)
    assert contents(tmp_path / "again") == contents(root)


def test_another_seed_is_another_world():
    one, two = (dict(photos(SETTINGS.model_copy(update={"seed": s}), ("train", 0))) for s in (3, 4))
    images = [np.stack([shot.image for shot in world.values()]) for world in (one, two)]
    assert np.abs(images[0].astype(float) - images[1]).mean() > 10


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_a_seed_that_is_none_is_refused(seed, monkeypatch):
    monkeypatch.setattr("sys.argv", ["world", "elsewhere", "--seed", seed])
    with pytest.raises(ValueError, match=rf"^--seed is {seed}; expected at least 0 and less than 2\*\*32$"):
        command.main()


def test_with_another_data_set_nothing_is_rendered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((REPOSITORY / "profiles/market1501.yaml").read_text())
    monkeypatch.setattr("sys.argv", ["world"])
    command.main()
    (note,) = (tmp_path / "data/world").iterdir()
    assert "Nothing is rendered here: dataset.root in params.yaml is " in note.read_text()
    monkeypatch.setattr("sys.argv", ["world", "elsewhere"])
    with pytest.raises(ValueError, match="world is null; expected its settings"):
        command.main()


def test_junk_misses_its_person_and_distractors_are_strangers():
    junk = [stray_shot(SETTINGS, "junk", k).keypoints[:, 2].sum() for k in range(40)]
    good = [shot.keypoints[:, 2].sum() for k in range(5) for shot in shots(3, "test", k, 8, 6, 128, 64, 0.3)]
    assert np.mean(junk) < 0.85 * np.mean(good)
    stranger = sample_person(SETTINGS.seed, "distractor", 0).texture
    for number in range(SETTINGS.test_identities):
        texture = sample_person(SETTINGS.seed, "test", number).texture
        assert texture.shape != stranger.shape or not np.array_equal(texture, stranger)


def test_a_mirrored_person_has_mirrored_keypoints():
    """Left and right follow the convention of generator.keypoints, in which a flip swaps them."""
    person, view = sample_person(0, "test", 5), replace(clear(sample_view(0, "v", 0)), shift=(0.0, 0.0))
    camera = replace(neutral(sample_camera(0, "c", 0, 1.0)), aim=(0.0, 0.0))
    stance = sample_stance(0, "pose", 6, heading=0.0)
    straight = replace(stance, angles=np.zeros_like(stance.angles))
    keypoints = render(person, straight, camera, view).keypoints
    limbs = sorted({k for limb in LIMBS for k in limb} - {JOINTS["nose"], JOINTS["neck"]})
    flipped = flip_keypoints(keypoints, 64)
    both = [k for k in limbs if keypoints[k, 2] and flipped[k, 2]]
    offset = flipped[both, 0] - keypoints[both, 0]
    assert (
        len(both) >= 10
        and np.ptp(offset) < 0.1
        and np.allclose(flipped[both, 1], keypoints[both, 1], atol=0.1)
    )
