"""What Hugging Face's datasets and readers of Croissant need to know about an export as an imagefolder.

`load_dataset("FOLDER")` gives the splits train, query and gallery, by the front matter of README.md;
`load_dataset("imagefolder", data_dir="FOLDER")` train and test. Each image comes with the columns of
`COLUMNS`. croissant.json says the same in MLCommons' format, of which mlcroissant reads records.
"""

import hashlib
import json

import pandas as pd

from pipeline.params import Params
from tools.export.layouts import METADATA, PARTS

CROISSANT = "croissant.json"
COLUMNS = {  # of the metadata beside the images -> what they hold
    "pid": "identity; 0 is a distractor of the gallery, -1 junk there",
    "camid": "camera; -1 where none is known",
    "split": "train, query or gallery",
    "synthetic": "whether a generator made the image",
    "sources": "of a synthetic image, the real images that it was made from, joined by |; else empty",
    "pose": "of a synthetic image, the real image whose pose it takes; else empty",
}
_FILE = "file_name"


def metadata(rows: pd.DataFrame) -> dict[str, str]:
    """Return the metadata of each split as JSON lines, by the file's path in the export.

    No CSV: datasets guesses the types of its columns for each file, and refuses files with different ones.

    Args:
        rows: Files of the export, as `tools.export.layouts.contents` lists them.
    """
    texts = {}
    for split, part in PARTS.items():
        inside = rows[rows.split == split]
        table = inside[list(COLUMNS)].assign(**{_FILE: inside.file.str.removeprefix(f"{part}/")})
        lines = (json.dumps(row, ensure_ascii=False) for row in table[[_FILE, *COLUMNS]].to_dict("records"))
        texts[f"{part}/{METADATA}"] = "".join(f"{line}\n" for line in lines)
    return texts


def front_matter(params: Params) -> str:
    """Return the YAML before the data card that tells datasets, and the Hub, what the splits are."""
    splits = "\n".join(f'  - {{split: {split}, path: "{part}/**"}}' for split, part in PARTS.items())
    return f"""---
pretty_name: {json.dumps(params.dataset.name, ensure_ascii=False)}
license: other
tags: [person-re-identification, synthetic]
configs:
- config_name: default
  data_files:
{splits}
---
"""


def croissant(name: str, texts: dict[str, str], params: Params) -> str:
    """Describe an export in Croissant, as JSON-LD.

    Args:
        name: Name of the export.
        texts: The metadata of its splits, as `metadata` returns them.
        params: Parameters of the run.

    Raises:
        ValueError: mlcroissant is not installed.
    """
    try:
        import mlcroissant as mlc
    except ImportError:
        raise ValueError(
            "the layout imagefolder needs the package mlcroissant; "
            "`pip install -c constraints.txt -e '.[export]'` adds it"
        ) from None

    types = {"pid": mlc.DataType.INTEGER, "camid": mlc.DataType.INTEGER, "synthetic": mlc.DataType.BOOL}
    files, record_sets = [], []
    for split, part in PARTS.items():
        table, images = f"{split}-metadata", f"{split}-images"
        path = f"{part}/{METADATA}"
        files += [
            mlc.FileObject(
                id=table,
                name=table,
                content_url=path,
                encoding_formats=["application/jsonlines"],
                sha256=hashlib.sha256(texts[path].encode()).hexdigest(),
            ),
            mlc.FileSet(
                id=images,
                name=images,
                encoding_formats=["image/jpeg", "image/png"],
                includes=[f"{part}/{kind}/*" for kind in ("real", "synthetic")],
            ),
        ]
        fields = [
            # Images are joined with their metadata by their paths.
            mlc.Field(
                id=f"{split}/{_FILE}",
                name=_FILE,
                description=f"path of the image in {part}/",
                data_types=[mlc.DataType.TEXT],
                source=mlc.Source(
                    file_set=images,
                    extract=mlc.Extract(file_property="fullpath"),
                    transforms=[mlc.Transform(regex=f"^(?:{part}/)?(.+)$")],
                ),
                references=mlc.Source(file_object=table, extract=mlc.Extract(column=_FILE)),
            ),
            mlc.Field(
                id=f"{split}/image",
                name="image",
                description="the image",
                data_types=[mlc.DataType.IMAGE_OBJECT],
                source=mlc.Source(file_set=images, extract=mlc.Extract(file_property="content")),
            ),
            *(
                mlc.Field(
                    id=f"{split}/{column}",
                    name=column,
                    description=text,
                    data_types=[types.get(column, mlc.DataType.TEXT)],
                    source=mlc.Source(file_object=table, extract=mlc.Extract(column=column)),
                )
                for column, text in COLUMNS.items()
            ),
        ]
        record_sets.append(mlc.RecordSet(id=split, name=split, key=f"{split}/{_FILE}", fields=fields))
    about = mlc.Metadata(
        name=name,
        description=f"A training set for person re-identification: images of {params.dataset.name}, real and "
        "synthetic. README.md says which are synthetic, from what they were made, and under which licences.",
        license=["README.md"],
        url="README.md",
        distribution=files,
        record_sets=record_sets,
    )
    return json.dumps(about.to_json(), indent=2, ensure_ascii=False, default=str) + "\n"
