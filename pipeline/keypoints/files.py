"""Files of keypoints: this project's own table, and those that other tools write.

Each reader returns the people of every image, and None for an image of which the file says nothing. In a file
an image has its path in the data set, a longer one that ends with it, or the end of it, such as its name.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from generator.keypoints import KEYPOINT_NAMES
from pipeline.artifacts import POSE_COLUMNS, to_keypoints
from pipeline.keypoints.layouts import BODY_25, COCO, OPENPOSE, to_openpose
from pipeline.keypoints.people import NOBODY, People
from pipeline.runtime.outputs import read_csv

Sizes: TypeAlias = NDArray[np.integer]  # [N, 2]: width and height of images in pixels

_SUFFIX = "_keypoints.json"  # of OpenPose's files
_TITLES = "name:keypoints_y:keypoints_x"
_MISSING = -1  # coordinate of a keypoint that was not found, in the CSV of Pose-Transfer


class KeypointFiles(NamedTuple):
    """A format of files.

    Attributes:
        check: See that a path holds such files; raises a FileNotFoundError or ValueError.
        read: Read the people of images, by path and names of images; `check_places` follows.
    """

    check: Callable[[Path], None]
    read: Callable[[Path, Sequence[str]], list[People | None]]


# --- our own table ------------------------------------------------------------------------------------------


def check_table(path: Path) -> None:
    """See that keypoints.csv is there with its columns."""
    _need_file(path, "annotations", "a table with the columns image, nose_x, nose_y, nose_score, ...")
    names = read_csv(path, POSE_COLUMNS).columns
    unknown = [name for name in names if name not in POSE_COLUMNS]
    if unknown:
        raise ValueError(f"{path}: column '{unknown[0]}' is none of the 18 OpenPose keypoints")


def read_table(path: Path, images: Sequence[str]) -> list[People | None]:
    """Read keypoints.csv; rows of further images are passed over.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is no such table, an image has two rows, or a visible keypoint is not finite or has no
            score from 0 to 1.
    """
    check_table(path)
    frame = read_csv(path, POSE_COLUMNS)
    twice = frame.image[frame.image.duplicated()]
    if len(twice):
        raise ValueError(f"{path}: {twice.iloc[0]} has two rows; leave one")
    known = set(frame.image)
    rows = [row for row, image in enumerate(images) if image in known]
    keypoints = to_keypoints(frame, [images[row] for row in rows])

    scores = keypoints[..., 2]
    visible = scores != 0
    for valid, complaint in (
        (~visible | np.isfinite(keypoints).all(-1), "is not finite"),
        ((scores >= 0) & (scores <= 1), "has a score outside 0 to 1"),
    ):
        if not valid.all():
            row, point = np.argwhere(~valid)[0]
            raise ValueError(
                f"{path}: {_describe(images[rows[row]], point, keypoints[row, point])} {complaint}"
            )
    keypoints = np.where(visible[..., None], keypoints, np.float32(0))
    result: list[People | None] = [None] * len(images)
    for row, person in zip(rows, keypoints, strict=True):
        result[row] = person[None]
    return result


# --- OpenPose's JSON ----------------------------------------------------------------------------------------


def check_openpose_json(path: Path) -> None:
    """See that a folder holds files of OpenPose, and read the first."""
    files = _openpose_files(path)
    _read_openpose_json(next(iter(files.values())))


def read_openpose_json(path: Path, images: Sequence[str]) -> list[People | None]:
    """Read a folder of OpenPose's files, `<name of the image without suffix>_keypoints.json`.

    They may lie in folders as the images do. OpenPose writes a file for every image; where it finds nobody,
    the list of people is empty.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no such file, one is of another form, or two images share one.
    """
    files = _openpose_files(path)
    stems = [image.removesuffix(PurePosixPath(image).suffix) for image in images]
    entries = match_names(stems, files, path)
    return [None if entry is None else _read_openpose_json(files[entry]) for entry in entries]


def _openpose_files(path: Path) -> dict[str, Path]:
    """Return the files in a folder and its folders, by their paths in it without the ending."""
    if not path.is_dir():
        raise FileNotFoundError(
            f"poses.path is {path}, there is no such folder; expected the folder into which OpenPose wrote "
            "(--write_json), since poses.source is openpose_json"
        )
    files = {
        file.relative_to(path).as_posix().removesuffix(_SUFFIX): file
        for file in sorted(path.rglob(f"*{_SUFFIX}"))
        if not file.name.startswith("._")  # what macOS leaves in archives
    }
    if not files:
        raise ValueError(
            f"poses.path is {path}, which holds no *{_SUFFIX}; expected a file of OpenPose for every image"
        )
    return files


def _read_openpose_json(file: Path) -> People:
    content = _read_json(file)
    people = content.get("people") if isinstance(content, dict) else None
    if not isinstance(people, list):
        raise ValueError(f'{file}: it has no list "people"; expected a file of OpenPose')
    # OpenPose 1.2 and later, and earlier ones
    lists = [
        person.get("pose_keypoints_2d", person.get("pose_keypoints")) if isinstance(person, dict) else None
        for person in people
    ]
    points = [
        _triples(file, "a person's pose_keypoints_2d", numbers, (OPENPOSE, BODY_25)) for numbers in lists
    ]
    return _stack([to_openpose(person) for person in points])


# --- COCO's JSON --------------------------------------------------------------------------------------------


def check_coco_json(path: Path) -> None:
    """Read a file of COCO's format to its end."""
    _coco_people(path)


def read_coco_json(path: Path, images: Sequence[str]) -> list[People | None]:
    """Read COCO's 17 keypoints from a file of annotations or of results.

    Annotations list images and the people in them; an image without any shows nobody. Results are a list of
    people. They say in `image_id` the file's name, as AlphaPose writes it, and nothing of images without
    people. Where a person has a score, the third number of a keypoint is a score too; else it is COCO's flag,
    and keypoints that are marked (1: hidden, 2: visible) count.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of another form, or two images share an entry.
    """
    found = _coco_people(path)
    return [None if name is None else found[name] for name in match_names(images, found, path)]


def _coco_people(path: Path) -> dict[str, People]:
    """Return the people of each image of a file, by the image's name in it."""
    _need_file(path, "coco_json", "annotations or results in COCO's format")
    content = _read_json(path)
    if isinstance(content, dict):
        entries, names = content.get("annotations"), _coco_names(path, content.get("images"))
    else:
        entries, names = content, None
    if not isinstance(entries, list):
        raise ValueError(f'{path}: expected a list of results, or "images" and "annotations"')

    people: dict[str, list[NDArray[np.float32]]] = {name: [] for name in (names or {}).values()}
    for number, entry in enumerate(entries, start=1):
        what = f"entry {number} of {len(entries)}"
        if not isinstance(entry, dict) or "image_id" not in entry:
            raise ValueError(f"{path}: {what} has no image_id; expected that of an image")
        if "keypoints" not in entry:
            raise ValueError(f"{path}: {what} has no keypoints; expected {COCO} of a person")
        key = entry["image_id"]
        if names is None:
            if not isinstance(key, str):
                raise ValueError(
                    f"{path}: {what} has image_id {key!r}, expected the name of a file; put the list as "
                    '"annotations" beside the "images" of the data set, which say the names'
                )
            name = key
        elif isinstance(key, (int, str)) and key in names:
            name = names[key]
        else:
            raise ValueError(
                f'{path}: {what} has image_id {key!r}, which no entry of "images" has; add the image there, '
                "or remove the entry"
            )
        points = _triples(path, f"{what}: keypoints", entry["keypoints"], (COCO,))
        if entry.get("score") is None:
            points[:, 2] = points[:, 2] > 0
        people.setdefault(name, []).append(to_openpose(points))
    return {name: _stack(found) for name, found in people.items()}


def _coco_names(path: Path, images: Any) -> dict[Any, str]:
    """Return the names of images by their ids."""
    if not isinstance(images, list) or not all(
        isinstance(image, dict)
        and isinstance(image.get("file_name"), str)
        and isinstance(image.get("id"), int | str)
        for image in images
    ):
        raise ValueError(f'{path}: expected "images", each with id and file_name')
    names = {image["id"]: image["file_name"] for image in images}
    if len(names) < len(images) or len(set(names.values())) < len(names):
        raise ValueError(f'{path}: two entries of "images" have one id or one file_name; leave one')
    return names


# --- the CSV of Pose-Transfer -------------------------------------------------------------------------------


def check_pose_transfer(path: Path) -> None:
    """Read the files to their ends."""
    _pose_transfer_people(path)


def read_pose_transfer(path: Path, images: Sequence[str]) -> list[People | None]:
    """Read the CSV of PATN (Zhu et al., CVPR 2019) and the papers after it, for Market-1501 or DeepFashion.

    A row is `name: [y of 18 keypoints]: [x of 18 keypoints]`, -1 where nothing was found. `path` is such a
    file, or a folder whose *annotation*.csv are all read: names are in train or in test. DeepFashion's
    coordinates refer to images of 176 x 256 pixels; the caller scales them.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: A row is of another form, a name has two, or two images share one.
    """
    found = _pose_transfer_people(path)
    return [None if name is None else found[name] for name in match_names(images, found, path)]


def _pose_transfer_people(path: Path) -> dict[str, People]:
    """Return the person of each row, by the row's name."""
    files = sorted(path.glob("*annotation*.csv")) if path.is_dir() else [path]
    if not files:
        raise ValueError(
            f"poses.path is {path}, which holds no *annotation*.csv; expected PATN's files of keypoints, "
            "since poses.source is pose_transfer"
        )
    people: dict[str, People] = {}
    for file in files:
        _need_file(file, "pose_transfer", f"a file that begins with {_TITLES}")
        lines = _read_text(file).splitlines()
        if not lines or lines[0].replace(" ", "") != _TITLES:
            raise ValueError(f"{file}: its first line is not {_TITLES}")
        for number, line in enumerate(lines[1:], start=2):
            try:
                name, ys, xs = line.split(":")
                places = np.array([json.loads(xs), json.loads(ys)], np.float32).T
                if places.shape != (len(KEYPOINT_NAMES), 2) or not np.isfinite(places).all():
                    raise ValueError
            except (ValueError, TypeError):
                raise ValueError(f"{file}: line {number} is no name with 18 y and 18 x") from None
            if name.strip() in people:
                raise ValueError(f"{file}: line {number}: {name.strip()} has two rows; leave one")
            is_found = (places != _MISSING).all(-1)  # a missing one may lack x or y alone
            points = np.concatenate([places, is_found[:, None]], axis=1, dtype=np.float32)
            people[name.strip()] = to_openpose(points)[None] if is_found.any() else NOBODY
    return people


FILES: Mapping[str, KeypointFiles] = MappingProxyType(
    {
        "annotations": KeypointFiles(check_table, read_table),
        "openpose_json": KeypointFiles(check_openpose_json, read_openpose_json),
        "coco_json": KeypointFiles(check_coco_json, read_coco_json),
        "pose_transfer": KeypointFiles(check_pose_transfer, read_pose_transfer),
    }
)


# --- what the readers share ---------------------------------------------------------------------------------


def match_names(images: Sequence[str], entries: Iterable[str], path: Path) -> list[str | None]:
    """Find the entry of each image: one's path ends with the other's; the longest such entry wins.

    Args:
        images: Paths of images in the data set.
        entries: Names of images in a file.
        path: The file, for errors.

    Raises:
        ValueError: Two images have one entry, or an image has two.
    """
    by_name: dict[str, list[str]] = {}
    for entry in entries:
        by_name.setdefault(PurePosixPath(entry).name, []).append(entry)
    matches: list[str | None] = []
    image_of: dict[str, str] = {}
    for image in images:
        parts = PurePosixPath(image).parts
        common: dict[str, int] = {}  # entry -> parts that it shares with the image
        for entry in by_name.get(parts[-1], []):
            theirs = PurePosixPath(entry).parts
            count = min(len(parts), len(theirs))
            if parts[-count:] == theirs[-count:]:
                common[entry] = count
        best = [entry for entry, count in common.items() if count == max(common.values())]
        if len(best) > 1:
            raise ValueError(f"{path}: {image} has two entries, {best[0]} and {best[1]}; leave one")
        match = best[0] if best else None
        if match is not None and image_of.setdefault(match, image) != image:
            raise ValueError(
                f"{path}: the entry {match} fits {image_of[match]} and {image}; write the path of the image "
                "in the data set in its place"
            )
        matches.append(match)
    return matches


def _need_file(path: Path, source: str, expected: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(
            f"poses.path is {path}, there is no such file; expected {expected}, since poses.source is "
            f"{source}"
        )


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file}: it is no text in UTF-8") from None


def _read_json(file: Path) -> Any:
    try:
        return json.loads(_read_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file}: it is no JSON ({error})") from None


def _triples(file: Path, what: str, numbers: Any, counts: Sequence[int]) -> NDArray[np.float32]:
    """Return x, y and score [K, 3] from a flat list of them; K must be one of `counts`."""
    try:
        points = np.array(numbers, np.float32)
        if points.ndim != 1 or len(points) not in [3 * count for count in counts]:
            raise ValueError
    except (ValueError, TypeError):
        size = f"a list of {len(numbers)}" if isinstance(numbers, list) else repr(numbers)[:60]
        expected = " or ".join(f"{3 * count} numbers ({count} keypoints)" for count in counts)
        raise ValueError(f"{file}: {what} is {size}; expected {expected}") from None
    if not np.isfinite(points).all():
        raise ValueError(f"{file}: {what} holds a number that is not finite")
    return points.reshape(-1, 3)


def _stack(people: Sequence[NDArray[np.float32]]) -> People:
    return np.stack(people) if people else NOBODY


def check_places(
    source: str, path: Path, images: Sequence[str], people: Sequence[People], sizes: Sizes
) -> None:
    """See that keypoints are pixels of their images.

    Other tools place some keypoints beyond the edges, which do not count later. Our own table has none.

    Args:
        source: Key of `FILES`.
        path: What it read, for errors.
        images: Names of the images.
        people: People of each image, [P, 18, 3].
        sizes: Width and height of the images in pixels, [N, 2].

    Raises:
        ValueError: All seen keypoints are shares of an image's size, most lie outside, or one in a table.
    """
    counts = [len(found) for found in people]
    points = np.concatenate([NOBODY, *people])  # [all people, 18, 3]
    limits = np.repeat(sizes, counts, axis=0)[:, None] - 0.5  # pixel centres lie at integers
    seen = points[..., 2] > 0
    if seen.any() and points[seen][:, :2].max() <= 1:
        raise ValueError(
            f"{path}: all coordinates lie between 0 and 1, as shares of the image's width and height do; "
            "expected pixels: multiply x by the width and y by the height of each image"
        )
    outside = seen & ((points[..., :2] < -0.5) | (points[..., :2] > limits)).any(-1)
    if source == "annotations" and outside.any():
        person, point = np.argwhere(outside)[0]
        image = images[np.repeat(np.arange(len(images)), counts)[person]]
        raise ValueError(
            f"{path}: {_describe(image, point, points[person, point])} lies outside the image; a keypoint "
            "that is not visible has the score 0"
        )
    if outside.sum() > seen.sum() / 2:
        raise ValueError(
            f"{path}: {outside.sum()} of {seen.sum()} keypoints lie outside their images; expected pixels of "
            "the images in the data set, not of enlarged ones or of the whole photograph"
        )


def _describe(image: str, point: int, keypoint: NDArray[np.floating]) -> str:
    """Name a keypoint for an error."""
    x, y, score = keypoint
    return f"{KEYPOINT_NAMES[point]} of {image} ({x:g}, {y:g}, score {score:g})"
