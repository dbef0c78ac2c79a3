"""Every format of files, in its true form, gives the same figure; what is wrong is named with the mend."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.keypoints.files import FILES, check_places, match_names
from pipeline.keypoints.layouts import BODY_25, COCO, OPENPOSE
from pipeline.keypoints.people import NOBODY
from tests.pipeline.keypoints.figure import FIGURE, SIZE, in_layout
from tests.pipeline.market import keypoints_frame

IMAGES = ["bounding_box_train/0002_c1s1_000451_03.jpg", "query/0003_c2s1_000001_00.jpg"]
NAMES = [Path(image).name for image in IMAGES]


def read(source: str, path: Path, images: list[str]) -> list[Any]:
    """Read the people of images of 64 x 128 pixels, as the stage does."""
    found = FILES[source].read(path, images)
    people = [NOBODY if one is None else one for one in found]
    check_places(source, path, images, people, np.array([SIZE] * len(images)))
    return found


def flat(points: np.ndarray) -> list[float]:
    """Return x, y and score of a person as the lists of JSON files have them."""
    return [round(float(number), 4) for number in points.ravel()]


def openpose_person(count: int, **changes: Any) -> dict[str, Any]:
    """Return a person as OpenPose 1.5 writes it with --write_json."""
    empty: list[float] = []
    return {
        "person_id": [-1],
        "pose_keypoints_2d": flat(in_layout(count)),
        "face_keypoints_2d": empty,
        "hand_left_keypoints_2d": empty,
        "hand_right_keypoints_2d": empty,
        "pose_keypoints_3d": empty,
    } | changes


def openpose_file(folder: Path, name: str, *people: dict[str, Any]) -> Path:
    """Write one of OpenPose's files."""
    file = folder / f"{name.removesuffix('.jpg')}_keypoints.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"version": 1.3, "people": list(people)}))
    return file


def flags(points: np.ndarray, flag: int = 2) -> list[float]:
    """Return a person with COCO's flags in place of scores."""
    return flat(np.where([True, True, False], points, flag))


def coco_annotations() -> dict[str, Any]:
    """Return a file of annotations like person_keypoints_val2017.json: two people in the first image."""
    box = {"iscrowd": 0, "area": 900.0, "bbox": [10.0, 8.0, 44.0, 108.0], "category_id": 1}
    people = [in_layout(COCO, FIGURE * np.float32([0.5, 0.5, 1])), in_layout(COCO)]
    return {
        "info": {"description": "ours", "year": 2026},
        "licenses": [],
        "images": [
            {"id": 397133 + number, "file_name": name, "width": 64, "height": 128}
            for number, name in enumerate(NAMES)
        ],
        "annotations": [
            box | {"id": number, "image_id": 397133, "num_keypoints": 17, "keypoints": flags(person)}
            for number, person in enumerate(people, start=1)
        ],
        "categories": [
            {"id": 1, "name": "person", "supercategory": "person", "keypoints": [], "skeleton": []}
        ],
    }


def coco_results() -> list[dict[str, Any]]:
    """Return results like AlphaPose's alphapose-results.json, whose scores may exceed 1."""
    person = in_layout(COCO)
    person[0, 2] = 1.2
    return [{"image_id": NAMES[0], "category_id": 1, "keypoints": flat(person), "score": 2.9, "idx": [0.0]}]


def pose_transfer_row(name: str, points: np.ndarray = FIGURE) -> str:
    """Return a row as PATN's compute_coordinates.py prints it."""
    places = np.where(points[:, 2:] > 0, points[:, :2], -1).astype(int)
    return f"{name}: {places[:, 1].tolist()}: {places[:, 0].tolist()}"


def pose_transfer_file(path: Path, *rows: str) -> Path:
    """Write a CSV of the Pose-Transfer line of papers."""
    path.write_text("\n".join(["name:keypoints_y:keypoints_x", *rows]) + "\n")
    return path


def write(path: Path, content: Any) -> Path:
    """Write JSON."""
    path.write_text(json.dumps(content))
    return path


def our_table(path: Path, *names: str) -> Path:
    """Write keypoints.csv of the figure."""
    frame = keypoints_frame(list(names))
    frame.iloc[:, 1:] = FIGURE.ravel()
    frame.to_csv(path, index=False)
    return path


# --- the true forms -----------------------------------------------------------------------------------------


def test_our_table(tmp_path: Path) -> None:
    path = our_table(tmp_path / "keypoints.csv", IMAGES[0], "another.jpg")
    first, second = read("annotations", path, IMAGES)
    assert first is not None
    np.testing.assert_allclose(first, FIGURE[None])
    assert second is None


@pytest.mark.parametrize("count", [OPENPOSE, BODY_25])
@pytest.mark.parametrize("folder", ["", "bounding_box_train/", "out/bounding_box_train/"])
def test_openpose_json(folder: str, count: int, tmp_path: Path) -> None:
    openpose_file(tmp_path, folder + NAMES[0], openpose_person(count), openpose_person(count))
    openpose_file(tmp_path, IMAGES[1])
    first, second = read("openpose_json", tmp_path, IMAGES)
    assert first is not None and second is not None
    np.testing.assert_allclose(first, [FIGURE, FIGURE], rtol=1e-4)
    assert second.shape == (0, 18, 3), "an empty list of people is nobody"
    (none,) = read("openpose_json", tmp_path, ["query/0009.jpg"])
    assert none is None, "an image without a file is no image without a person"


def test_openpose_json_of_the_first_versions(tmp_path: Path) -> None:
    file = openpose_file(tmp_path, NAMES[0])
    write(file, {"version": 1.1, "people": [{"pose_keypoints": flat(FIGURE), "face_keypoints": []}]})
    (people,) = read("openpose_json", tmp_path, IMAGES[:1])
    assert people is not None
    np.testing.assert_allclose(people[0], FIGURE, rtol=1e-4)


def test_coco_annotations(tmp_path: Path) -> None:
    content = coco_annotations()
    content["annotations"][1]["keypoints"][2] = 1  # the nose is hidden, and its place is known
    content["annotations"][1]["keypoints"][-3:] = [0, 0, 0]
    first, second = read("coco_json", write(tmp_path / "a.json", content), IMAGES)
    assert first is not None and second is not None
    assert first.shape == (2, 18, 3)
    np.testing.assert_allclose(np.delete(first[1], 10, 0), np.delete(FIGURE, 10, 0) * [1, 1, 0] + [0, 0, 1])
    assert not first[1, 10].any(), "the right ankle, COCO's last keypoint, is not labelled"
    assert second.shape == (0, 18, 3), "an image without an annotation shows nobody"


def test_coco_results(tmp_path: Path) -> None:
    first, second = read("coco_json", write(tmp_path / "a.json", coco_results()), IMAGES)
    assert first is not None and second is None, "results tell nothing of an image without a person"
    np.testing.assert_allclose(first[0, 1:], FIGURE[1:], rtol=1e-4)


def test_coco_results_beside_the_images_of_the_data_set(tmp_path: Path) -> None:
    content = coco_annotations()
    content["annotations"] = [coco_results()[0] | {"image_id": 397134}]
    first, second = read("coco_json", write(tmp_path / "a.json", content), IMAGES)
    assert first is not None and len(first) == 0 and second is not None
    assert second[0, 1, 2] == pytest.approx(0.9), "with scores, since the person has one"


@pytest.mark.parametrize("is_folder", [False, True])
def test_pose_transfer(is_folder: bool, tmp_path: Path) -> None:
    person, nobody = FIGURE.copy(), FIGURE * 0
    person[4] = 0
    train = pose_transfer_file(tmp_path / "market-annotation-train.csv", pose_transfer_row(NAMES[0], person))
    pose_transfer_file(tmp_path / "market-annotation-test.csv", pose_transfer_row(NAMES[1], nobody))
    (tmp_path / "market-pairs-test.csv").write_text("from,to\n")
    first, second = read("pose_transfer", tmp_path if is_folder else train, IMAGES)
    assert first is not None
    np.testing.assert_array_equal(first[0], person * [1, 1, 0] + (person[:, 2:] > 0) * [0, 0, 1])
    assert (second is None) != is_folder and (second is None or len(second) == 0)


def test_a_keypoint_that_lacks_one_coordinate_is_missing(tmp_path: Path) -> None:
    row = f"a.jpg: {[5, -1, *[7] * 16]}: {[-1, 5, *[9] * 16]}"
    (people,) = read("pose_transfer", pose_transfer_file(tmp_path / "a.csv", row), ["a.jpg"])
    assert people is not None and not people[0, :2].any() and people[0, 2:].all()


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "matches"),
    [
        (["train/a.jpg", "query/a.jpg"], ["train/a.jpg", "query/a.jpg"]),
        (["/data/set/train/a.jpg", "set/query/a.jpg"], ["/data/set/train/a.jpg", "set/query/a.jpg"]),
        (["train/a.jpg"], ["train/a.jpg", None]),
        (["train/a.jpg", "b.jpg"], ["train/a.jpg", None]),
        (["gallery/a.jpg", "xa.jpg", "a.jpg.jpg"], [None, None]),
    ],
)
def test_an_entry_belongs_to_the_image_whose_path_it_ends(
    entries: list[str], matches: list[str | None]
) -> None:
    assert match_names(["train/a.jpg", "query/a.jpg"], entries, Path("f")) == matches


def test_the_longest_entry_wins() -> None:
    assert match_names(["train/a.jpg"], ["a.jpg", "train/a.jpg"], Path("f")) == ["train/a.jpg"]


def test_entries_that_could_be_of_two_images_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"f: the entry a.jpg fits train/a.jpg and query/a.jpg; write the path"
    ):
        match_names(["train/a.jpg", "query/a.jpg"], ["a.jpg"], Path("f"))
    with pytest.raises(
        ValueError, match=r"f: train/a.jpg has two entries, x/train/a.jpg and y/train/a.jpg; le"
    ):
        match_names(["train/a.jpg"], ["x/train/a.jpg", "y/train/a.jpg"], Path("f"))


# --- what is wrong ------------------------------------------------------------------------------------------

OUTSIDE = "lies outside the image; a keypoint that is not visible has the score 0"


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("nose_x", 63.6, f"nose of query/a.jpg (63.6, 5, score 0.5) {OUTSIDE}"),
        ("nose_x", -0.6, f"nose of query/a.jpg (-0.6, 5, score 0.5) {OUTSIDE}"),
        ("nose_y", 127.6, f"nose of query/a.jpg (5, 127.6, score 0.5) {OUTSIDE}"),
        ("nose_y", None, "nose of query/a.jpg (5, nan, score 0.5) is not finite"),
        ("nose_score", None, "nose of query/a.jpg (5, 5, score nan) is not finite"),
        ("nose_x", float("inf"), "nose of query/a.jpg (inf, 5, score 0.5) is not finite"),
        ("nose_score", 1.1, "nose of query/a.jpg (5, 5, score 1.1) has a score outside 0 to 1"),
        ("nose_score", -0.1, "nose of query/a.jpg (5, 5, score -0.1) has a score outside 0 to 1"),
        ("image", "query/b.jpg", "query/b.jpg has two rows; leave one"),
        ("tail_x", 1.0, "column 'tail_x' is none of the 18 OpenPose keypoints"),
        ("nose_x", "left", "line 3, column 'nose_x' is 'left', expected a number"),
    ],
)
def test_rows_that_cannot_be_are_refused(column: str, value: object, sentence: str, tmp_path: Path) -> None:
    images = ["query/b.jpg", "query/a.jpg", "query/c.jpg"]
    frame = keypoints_frame(images)
    frame.loc[1, ["nose_x", "nose_y", "nose_score"]] = [5.0, 5.0, 0.5]
    frame[column] = frame[column].astype(object) if column in frame else 0.0
    frame.loc[1, column] = value
    frame.to_csv(tmp_path / "keypoints.csv", index=False)
    with pytest.raises(ValueError) as caught:
        read("annotations", tmp_path / "keypoints.csv", images)
    assert str(caught.value) == f"{tmp_path / 'keypoints.csv'}: {sentence}"


def test_a_keypoint_that_is_not_visible_is_zero_wherever_it_is_in_a_table(tmp_path: Path) -> None:
    frame = keypoints_frame(IMAGES)
    frame.loc[0, ["nose_x", "nose_y", "nose_score"]] = [900.0, -7.0, 0.0]
    frame.loc[1, ["nose_x", "nose_y", "nose_score"]] = [None, float("inf"), 0.0]
    frame.to_csv(tmp_path / "keypoints.csv", index=False)
    for people in read("annotations", tmp_path / "keypoints.csv", IMAGES):
        assert people is not None and not people[0, 0].any()


def test_the_edge_of_the_image_belongs_to_it(tmp_path: Path) -> None:
    frame = keypoints_frame(IMAGES)
    frame.loc[1, ["nose_x", "nose_y", "nose_score"]] = [63.5, -0.5, 0.5]
    frame.to_csv(tmp_path / "keypoints.csv", index=False)
    read("annotations", tmp_path / "keypoints.csv", IMAGES)


def test_a_table_of_seventeen_keypoints_is_refused(tmp_path: Path) -> None:
    keypoints_frame(IMAGES).drop(columns="l_ear_score").to_csv(tmp_path / "keypoints.csv", index=False)
    with pytest.raises(ValueError, match=r"keypoints.csv: it has no column 'l_ear_score'"):
        FILES["annotations"].check(tmp_path / "keypoints.csv")


def shares_table(path: Path) -> Path:
    table = pd.read_csv(our_table(path, *IMAGES))
    for axis, side in (("x", 64), ("y", 128)):
        table.loc[:, table.columns.str.endswith(f"_{axis}")] /= side
    table.to_csv(path, index=False)
    return path


def coco(**changes: Any) -> Callable[[Path], Path]:
    """Return a function that writes COCO's annotations with changes; None removes a key."""
    content = {key: value for key, value in (coco_annotations() | changes).items() if value is not None}
    return lambda folder: write(folder / "a.json", content)


def coco_person(**changes: Any) -> Callable[[Path], Path]:
    """Return a function that writes COCO's annotations with changes in the first of its people."""
    content = coco_annotations()
    first = content["annotations"][0] | changes
    content["annotations"][0] = {key: value for key, value in first.items() if value is not None}
    return lambda folder: write(folder / "a.json", content)


def result(**changes: Any) -> Callable[[Path], Path]:
    return lambda folder: write(folder / "a.json", [coco_results()[0] | changes])


def openpose(*people: Any) -> Callable[[Path], Path]:
    return lambda folder: openpose_file(folder, NAMES[0], *people).parent


def text(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def write_text(folder: Path) -> Path:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder if name == JSON else folder / name

    return write_text


def pose_transfer(*rows: str) -> Callable[[Path], Path]:
    return lambda folder: pose_transfer_file(folder / "a.csv", *rows)


JSON = "0002_c1s1_000451_03_keypoints.json"
GOOD, TITLES = pose_transfer_row(NAMES[0]), "name:keypoints_y:keypoints_x"
LARGE = in_layout(OPENPOSE) * np.float32([4, 4, 1])
SHARES = FIGURE / np.float32([64, 128, 1])


@pytest.mark.parametrize(
    ("source", "make", "sentence"),
    [
        (
            "annotations",
            lambda folder: folder / "none.csv",
            "none.csv, there is no such file; expected a table",
        ),
        (
            "annotations",
            lambda folder: shares_table(folder / "k.csv"),
            "k.csv: all coordinates lie between 0 and",
        ),
        (
            "openpose_json",
            lambda folder: folder / "none",
            "none, there is no such folder; expected the folder in",
        ),
        (
            "openpose_json",
            lambda folder: folder,
            "which holds no *_keypoints.json; expected a file of OpenPose",
        ),
        (
            "openpose_json",
            text(JSON, "{"),
            "_keypoints.json: it is no JSON (Expecting property",
        ),
        ("openpose_json", text(JSON, b"\xff\xfe{"), "_keypoints.json: it is no text in UTF-8"),
        ("openpose_json", text(JSON, "[]"), '_keypoints.json: it has no list "people"'),
        (
            "openpose_json",
            openpose({}),
            "pose_keypoints_2d is None; expected 54 numbers (18 keypoints) or 75",
        ),
        ("openpose_json", openpose(3), "a person's pose_keypoints_2d is None; expected 54 numbers"),
        (
            "openpose_json",
            openpose({"pose_keypoints_2d": [1.0] * 45}),
            "is a list of 45; expected 54 numbers",
        ),
        (
            "openpose_json",
            openpose({"pose_keypoints_2d": ["a"] * 54}),
            "is a list of 54; expected 54 numbers",
        ),
        (
            "openpose_json",
            openpose({"pose_keypoints_2d": [float("nan")] * 54}),
            "a number that is not finite",
        ),
        (
            "openpose_json",
            openpose({"pose_keypoints_2d": flat(LARGE)}),
            "keypoints lie outside their images; exp",
        ),
        (
            "openpose_json",
            openpose({"pose_keypoints_2d": flat(SHARES)}),
            "all coordinates lie between 0 and 1",
        ),
        (
            "coco_json",
            lambda folder: folder / "none.json",
            "none.json, there is no such file; expected annotati",
        ),
        (
            "coco_json",
            text("a.json", '"x"'),
            'a.json: expected a list of results, or "images" and "annotations"',
        ),
        ("coco_json", coco(images=None), 'a.json: expected "images", each with id and file_name'),
        ("coco_json", coco(images=[{"id": 1}]), 'a.json: expected "images", each with id and file_name'),
        (
            "coco_json",
            coco(images=[{"id": [1], "file_name": "a"}]),
            'a.json: expected "images", each with id and file_name',
        ),
        (
            "coco_json",
            coco(annotations=None),
            'a.json: expected a list of results, or "images" and "annotations"',
        ),
        (
            "coco_json",
            coco(images=coco_annotations()["images"] * 2),
            'two entries of "images" have one id or one',
        ),
        ("coco_json", coco_person(image_id=3), 'entry 1 of 2 has image_id 3, which no entry of "images" has'),
        ("coco_json", coco_person(image_id=[3]), "entry 1 of 2 has image_id [3], which no"),
        (
            "coco_json",
            coco_person(image_id=None),
            "a.json: entry 1 of 2 has no image_id; expected that of an",
        ),
        ("coco_json", coco_person(keypoints=None), "entry 1 of 2 has no keypoints; expected 17 of a person"),
        (
            "coco_json",
            coco_person(keypoints=[0.0] * 133 * 3),
            "entry 1 of 2: keypoints is a list of 399; expected",
        ),
        ("coco_json", result(image_id=17), "has image_id 17, expected the name of a file; put the list as"),
        (
            "coco_json",
            result(keypoints=[[1, 2]]),
            "keypoints is a list of 1; expected 51 numbers (17 keypoints)",
        ),
        ("coco_json", result(keypoints=flat(in_layout(COCO, LARGE))), "keypoints lie outside their images"),
        (
            "pose_transfer",
            lambda folder: folder / "none.csv",
            "none.csv, there is no such file; expected a file ",
        ),
        ("pose_transfer", lambda folder: folder, "which holds no *annotation*.csv; expected PATN's files"),
        ("pose_transfer", text("a.csv", "from,to\n"), f"a.csv: its first line is not {TITLES}"),
        ("pose_transfer", text("a.csv", ""), f"a.csv: its first line is not {TITLES}"),
        (
            "pose_transfer",
            pose_transfer(GOOD, "a.jpg: [1, 2]: [1, 2]"),
            "a.csv: line 3 is no name with 18 y and",
        ),
        ("pose_transfer", pose_transfer(GOOD, GOOD[:-9]), "a.csv: line 3 is no name with 18 y and 18 x"),
        ("pose_transfer", pose_transfer("a.jpg"), "a.csv: line 2 is no name with 18 y and 18 x"),
        ("pose_transfer", pose_transfer("a.jpg: left: right"), "a.csv: line 2 is no name with 18 y and 18 x"),
        (
            "pose_transfer",
            pose_transfer(f"a: {[None] * 18}: {[1] * 18}".replace("None", "null")),
            "line 2 is no",
        ),
        ("pose_transfer", pose_transfer(GOOD, GOOD), f"a.csv: line 3: {NAMES[0]} has two rows; leave one"),
    ],
)
def test_what_is_wrong_is_named(
    source: str, make: Callable[[Path], Path], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read(source, make(tmp_path), IMAGES)
    assert sentence in str(caught.value) and str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_few_keypoints_outside_are_no_other_size(tmp_path: Path) -> None:
    points = in_layout(OPENPOSE)
    points[:8, 0] += 100
    openpose_file(tmp_path, NAMES[0], openpose_person(OPENPOSE, pose_keypoints_2d=flat(points)))
    (people,) = read("openpose_json", tmp_path, IMAGES[:1])
    assert people is not None and people is not NOBODY


@pytest.mark.parametrize(
    ("source", "make"),
    [
        ("annotations", lambda folder: our_table(folder / "k.csv", *IMAGES)),
        ("openpose_json", openpose(openpose_person(BODY_25))),
        ("coco_json", coco()),
        ("coco_json", result()),
        ("pose_transfer", pose_transfer(GOOD)),
    ],
)
def test_the_look_before_a_run_accepts_what_is_right(
    source: str, make: Callable[[Path], Path], tmp_path: Path
) -> None:
    FILES[source].check(make(tmp_path))
