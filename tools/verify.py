"""Compare a folder of synthetic images with its manifest: what was altered, removed or added since.

`python -m tools.verify data/synthetic/all/20`, or `data/synthetic/all` for all subsets at once, or any copy
of such a folder. `--manifest` takes the manifest from elsewhere, which is safer: whoever alters images can
alter the manifest beside them. The exit code is 1 if anything differs.

With `--signatures` no manifest counts, but the signature inside each image (C2PA, `python -m tools.export
--sign`): of an export, those of its synthetic images, and else of all images in the folder. The exit code is
1 unless all are signed, by one of `--trust` if certificates are given.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.artifacts import MANIFEST
from pipeline.datasets.marks import DIGITAL_SOURCE_TYPE, read_mark
from pipeline.datasets.names import SUFFIXES
from pipeline.datasets.signatures import Signature, read_certificates, read_signature
from pipeline.runtime.hashes import md5
from pipeline.runtime.outputs import read_csv
from pipeline.runtime.stage import command_line, progress, stage_main
from tools.export.layouts import LIST

TABLES = (MANIFEST, "scores.csv")  # tables of stages beside images
COLUMNS = {"name": str, "md5": str}
MARKS = ("generator", "sources", "pose", "seed", "digital_source_type")


def read_manifest(path: Path, folder: Path) -> dict[Path, dict[str, Any]]:
    """Read a manifest: its rows, each by the file in `folder` that it describes.

    Raises:
        FileNotFoundError: The manifest is missing.
        ValueError: It is no such table, or a name leads out of the folder or comes twice.
    """
    rows: dict[Path, dict[str, Any]] = {}
    for row in read_csv(path, COLUMNS).to_dict("records"):
        name = row["name"]
        if Path(name).name != name or folder / name in rows:
            reason = "leads out of its folder" if Path(name).name != name else "is listed twice"
            raise ValueError(f"{path}: {name!r} {reason}; this is no manifest of `generate`")
        rows[folder / name] = {str(key): value for key, value in row.items()}
    return rows


def compare(folder: Path, manifest_rows: dict[Path, dict[str, Any]]) -> list[str]:
    """Compare the files in a folder with those that are listed; return a sorted sentence per difference.

    Tables of stages do not count. A linked folder counts as one file: its content may change behind it,
    and no manifest lists it. If a manifest says nothing about marks, as for another generator's images, only
    checksums are compared.

    Args:
        folder: Folder with images and with folders of images.
        manifest_rows: Rows of the manifests by their files, from `read_manifest`.
    """
    files = {
        file
        for file in folder.rglob("*")
        if (file.is_symlink() or not file.is_dir()) and file.name not in TABLES
    }
    differences = [f"removed: {file.relative_to(folder)}" for file in manifest_rows.keys() - files]
    differences += [f"added: {file.relative_to(folder)}" for file in files - manifest_rows.keys()]

    # Files that are there may have other bytes or another mark.
    present = sorted(files & manifest_rows.keys())
    for file in progress(present, total=len(present), desc="verifying"):
        row = manifest_rows[file]
        reasons = [] if md5(file) == row["md5"] else ["its checksum is another"]
        if all(column in row for column in MARKS):
            reasons += _compare_mark(file, row)
        if reasons:
            differences.append(f"altered: {file.relative_to(folder)}: {', '.join(reasons)}")
    return sorted(differences)


def _compare_mark(file: Path, row: dict[str, Any]) -> list[str]:
    """Compare the mark inside an image with its row of the manifest."""
    try:
        mark = read_mark(file)
    except ValueError as error:
        return [f"its mark is gone: {error}"]
    reasons = [
        f"its mark says {name} {getattr(mark, name)}, the manifest {row[name]}"
        for name in ("generator", "sources", "pose", "seed")
        if getattr(mark, name) != row[name]
    ]
    if row["digital_source_type"] != DIGITAL_SOURCE_TYPE:
        reasons.append("the manifest does not call it synthetic")
    return reasons


def signatures(folder: Path, trusted: bytes | None) -> dict[Path, Signature]:
    """Check the signatures of the synthetic images of an export, or of all images in another folder.

    Args:
        folder: The folder.
        trusted: The certificates whose signatures count; None takes any.

    Raises:
        FileNotFoundError: There is no image, or one that the export lists is missing.
    """
    if (folder / LIST).is_file():
        files = [folder / file for file in read_csv(folder / LIST, {"file": str}).file]
    else:
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(f"{folder} holds no synthetic images")
    if missing := [file for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{missing[0]} is missing, which {folder / LIST} lists")
    bar = progress(files, len(files), "verifying")
    return {file.relative_to(folder): read_signature(file, trusted) for file in bar}


def _verify_signatures(folder: Path, trust: Path | None) -> None:
    """Print what is wrong with the signatures in a folder, and exit with 1 if anything is."""
    found = signatures(folder, read_certificates(trust) if trust else None)
    words = {"stranger": "signed by a stranger", "void": "its signature is void"}
    for file, (state, detail) in found.items():
        if state != "signed":
            print(f"{words.get(state, state)}: {file}" + (f": {detail}" if detail else ""))
    signers = Counter(detail for state, detail in found.values() if state == "signed")
    for signer, count in signers.most_common():
        print(f"{count} signed by {signer}")
    if (wrong := len(found) - signers.total()) > 0:
        sys.exit(f"verify: {folder}: {wrong} of {len(found)} images are not as they were signed")
    print(f"{folder}: {len(found)} images, all as they were signed")


def main() -> None:
    """Run the command."""
    parser = command_line("verify", __doc__, "tools")
    parser.add_argument("folder", type=Path, help="folder of synthetic images, or of such folders")
    parser.add_argument("--manifest", type=Path, help="manifest of the folder, if not the one inside")
    parser.add_argument("--signatures", action="store_true", help="check signatures in place of a manifest")
    parser.add_argument(
        "--trust",
        type=Path,
        metavar="CERTIFICATES",
        help="PEM file of those whose signatures count, or of those who vouch for them",
    )
    arguments = parser.parse_args()
    folder, manifest = arguments.folder, arguments.manifest
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder")
    if arguments.trust and not arguments.signatures:
        raise ValueError("--trust has no meaning without --signatures")
    if arguments.signatures:
        if manifest:
            raise ValueError("--manifest has no meaning with --signatures")
        _verify_signatures(folder, arguments.trust)
        return
    manifests = {manifest: folder} if manifest else {path: path.parent for path in folder.rglob(MANIFEST)}
    if not manifests:
        raise FileNotFoundError(f"{folder} holds no {MANIFEST}; name one with --manifest")

    # Every manifest describes the images beside it, or those of the folder if it is given.
    manifest_rows = {
        file: row
        for path, images in sorted(manifests.items())
        for file, row in read_manifest(path, images).items()
    }
    differences = compare(folder, manifest_rows)
    for difference in differences:
        print(difference)
    count = f"{len(manifest_rows)} images in {len(manifests)} manifest{'s' if len(manifests) > 1 else ''}"
    if differences:
        sys.exit(f"verify: {folder}: {len(differences)} differences from {count}")
    print(f"{folder}: {count}, all as listed")


if __name__ == "__main__":
    stage_main(main)
