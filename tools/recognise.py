"""Ask another re-ID network whom generated images show: `python -m tools.recognise FILE`.

FILE is ONNX, from tools.export_reid or from another code. The network compares every generated image with all
real training images but the sources that it was made from. A question is answered right at rank k if one of
the k nearest images shows the person. Each image is asked about twice: among all these images, and without
those of the person from the cameras of its sources, so that only other cameras can answer.

The same is asked about two kinds of photographs: all real training images, each among the others, and the
first source of each generated image in its place, which is what a copy of the source would reach. Prints the
shares with 95 % intervals over people, and writes them to reports/recognised.csv. It needs the extra `onnx`.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.artifacts import read_index, read_needs
from pipeline.datasets.images import load_images
from pipeline.datasets.synthetic import read_synthetic
from pipeline.params import load_params
from pipeline.runtime.outputs import write_csv
from pipeline.runtime.stage import command_line, progress, stage_main
from pipeline.shared.statistics import aligned_table, interval_over_people
from reid.cameras import NO_CAMERA, cameras_separate
from reid.data import normalise

REPORT = Path("reports/recognised.csv")
RANKS = (1, 5)
_BATCH = 64  # images at once through a network that takes any number
_BLOCK = 256  # images compared with all real ones at once

Network = Callable[[list[Path]], np.ndarray]  # maps image files to features float32 [N, D] of length 1


def load_network(file: Path) -> Network:
    """Load a re-ID network from an ONNX file.

    Its input is either float [N, 3, H, W] in RGB, normalised as for ImageNet, or uint8 [N, H, W, 3] as from
    tools.export_reid; its first output is [N, D]. N, height and width are those of the file; where it leaves
    height and width free, 256 x 128.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The package onnxruntime is missing, or the file is no network of that form.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise ValueError(
            "onnxruntime is not installed; `pip install -c constraints.txt -e '.[onnx]'` adds it"
        )
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; expected a re-ID network as ONNX")
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has a dozen kinds without a common one
        raise ValueError(f"{file} is no network that ONNX Runtime can load ({error})") from None
    entry, *others = session.get_inputs()
    answer = session.get_outputs()[0]
    takes_pixels = entry.type == "tensor(uint8)"
    has_form = not others and len(entry.shape) == 4 and entry.shape[3 if takes_pixels else 1] == 3
    if not has_form or len(answer.shape) != 2 or not (takes_pixels or entry.type == "tensor(float)"):
        shapes = ", ".join(f"{one.name} {one.type} {one.shape}" for one in session.get_inputs())
        raise ValueError(
            f"{file} maps {shapes} to {answer.name} {answer.shape}; expected images, float [N, 3, H, W] or "
            "uint8 [N, H, W, 3], and features [N, D]"
        )
    size = entry.shape[1:3] if takes_pixels else entry.shape[2:]
    count, height, width = (
        side if isinstance(side, int) else usual
        for side, usual in zip((entry.shape[0], *size), (_BATCH, 256, 128), strict=True)
    )
    is_fixed = isinstance(entry.shape[0], int)

    def features(files: list[Path]) -> np.ndarray:
        parts = []
        starts = range(0, len(files), count)
        for start in progress(starts, len(starts), "features"):
            batch = files[start : start + count]
            filled = batch + batch[-1:] * (count - len(batch)) if is_fixed else batch
            images = load_images(filled, height, width)
            if not takes_pixels:
                images = np.ascontiguousarray(normalise(torch.from_numpy(images)).numpy())
            (found,) = session.run([answer.name], {entry.name: images})
            parts.append(found[: len(batch)])
        vectors = np.concatenate(parts)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)

    return features


def ranks(
    queries: np.ndarray, query_pids: np.ndarray, gallery: np.ndarray, pids: np.ndarray, left_out: np.ndarray
) -> np.ndarray:
    """Rank the nearest image of each query's own person among those of the others.

    Args:
        queries: Features of the queries, float [N, D] of length 1.
        query_pids: Their identities, int [N].
        gallery: Features of the images to compare with, float [M, D] of length 1.
        pids: Their identities, int [M].
        left_out: Images that a query is not compared with, bool [N, M].

    Returns:
        Ranks from 1, int [N]; 0 where no image of the person is left. Of two equally near images that of
        another person comes first.
    """
    similarity = np.where(left_out, -np.inf, queries @ gallery.T)
    is_own = query_pids[:, None] == pids
    own = np.where(is_own, similarity, -np.inf).max(axis=1)  # [N]
    nearer = (~is_own & (similarity >= own[:, None])).sum(axis=1)
    return np.where(np.isneginf(own), 0, 1 + nearer)


def answers(
    queries: np.ndarray, table: pd.DataFrame, real: pd.DataFrame, features: np.ndarray
) -> list[dict[str, Any]]:
    """Ask about images, among all cameras and among other ones.

    Args:
        queries: Features of the images, float [N, D].
        table: Columns pid, and sources: names of the real images that must not answer, a tuple each, which is
            empty where they are not known.
        real: Real images: columns image, pid, camid.
        features: Their features, float [M, D].

    Returns:
        One row for the answers of all cameras and, where all sources are known and cameras can be told
        apart, one for those of other cameras: the cameras, the number of images that can be answered, and for
        each rank the share with its interval. A row about no image is left out.
    """
    place = pd.Series(np.arange(len(real)), real.image)
    pids, camids, own = real.pid.to_numpy(), real.camid.to_numpy(), table.pid.to_numpy()
    sources = [place[list(names)].to_numpy(int) for names in table.sources]
    found: dict[str, list[np.ndarray]] = {"all": [], "other": []}
    for start in range(0, len(table), _BLOCK):
        block = slice(start, start + _BLOCK)
        is_source = np.zeros((len(sources[block]), len(real)), bool)
        same_camera = np.zeros_like(is_source)
        for row, at in enumerate(sources[block]):
            is_source[row, at] = True
            known = np.setdiff1d(camids[at], [NO_CAMERA])
            same_camera[row] = (pids == own[start + row]) & np.isin(camids, known)
        for cameras, left_out in (("all", is_source), ("other", is_source | same_camera)):
            found[cameras].append(ranks(queries[block], own[block], features, pids, left_out))
    if not all(map(len, sources)) or not cameras_separate(camids, camids):
        del found["other"]

    rows = []
    for cameras, parts in found.items():
        rank = np.concatenate(parts)
        can = rank > 0
        if not can.any():
            continue
        cells: dict[str, Any] = {"cameras": cameras, "images": int(can.sum())}
        people = pd.Series(own[can])
        for k in RANKS:
            is_right = pd.Series(100.0 * (rank[can] <= k))
            low, high = interval_over_people(is_right, people, "people recognised")
            cells |= {f"rank{k}": is_right.mean(), f"rank{k}_low": low, f"rank{k}_high": high}
        rows.append(cells)
    return rows


def recognise(network: Network) -> pd.DataFrame:
    """Ask about the generated images of all arms, and about photographs.

    Returns:
        Columns shown (generated, source, or photograph), generator, percent (0 for photographs), and those of
        `answers`.
    """
    params = load_params()
    index = read_index()
    real = index[index.split == "train"].reset_index(drop=True)
    features = network([params.dataset.root / image for image in real.image])
    place = pd.Series(np.arange(len(real)), real.image)

    def rows(shown: str, generator: str, percent: int, queries: np.ndarray, table: pd.DataFrame) -> None:
        about = {"shown": shown, "generator": generator, "percent": percent}
        gathered.extend(about | row for row in answers(queries, table, real, features))

    gathered: list[dict[str, Any]] = []
    themselves = pd.DataFrame({"pid": real.pid, "sources": [(image,) for image in real.image]})
    rows("photograph", "", 0, features, themselves)
    for generator in dict.fromkeys(arm.generator for arm in params.arms.values()):
        for percent in read_needs(generator):
            folder, table = read_synthetic(generator, percent, set(real.pid))
            has_sources = "sources" in table
            sources = table.sources.str.split("|").map(tuple) if has_sources else [()] * len(table)
            table = pd.DataFrame({"name": table.name, "pid": table.pid, "sources": sources})
            rows("generated", generator, percent, network([folder / name for name in table.name]), table)
            if has_sources:
                first = place[[names[0] for names in table.sources]].to_numpy()
                rows("source", generator, percent, features[first], table)
    return pd.DataFrame(gathered)


def main() -> None:
    """Run the command."""
    parser = command_line("recognise", __doc__, "tools")
    parser.add_argument("file", type=Path, help="the network, ONNX")
    table = recognise(load_network(parser.parse_args().file))
    write_csv(table, REPORT, "%.2f")
    header = ["shown", "generator", "real", "cameras", "images", *(f"rank-{rank} (%)" for rank in RANKS)]
    lines = [
        [
            row["shown"],
            row["generator"] or "-",
            f"{row['percent']} %" if row["percent"] else "-",
            row["cameras"],
            str(row["images"]),
            *(
                f"{row[f'rank{rank}']:.1f} ({row[f'rank{rank}_low']:.1f} to {row[f'rank{rank}_high']:.1f})"
                for rank in RANKS
            ),
        ]
        for row in table.to_dict("records")
    ]
    print(aligned_table(header, lines, left=4))
    print(f"The numbers are in {REPORT}")


if __name__ == "__main__":
    stage_main(main)
