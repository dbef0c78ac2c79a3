"""Marks inside synthetic images: a model made them, which one, and from what.

XMP carries IPTC's digital source type and its fields about AI (Photo Metadata Standard 2025.1), which search
engines, social networks and photo archives read. EXIF says the same in words. Images of baselines have
XMP alone. The pixels stay the same. A mark is a label and no proof: anybody can remove or forge it.
"""

from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Self
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from pipeline.params import BaselineKind

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
BASELINE_SOURCE_TYPES: dict[BaselineKind, str] = {
    "pasted": "http://cv.iptc.org/newscodes/digitalsourcetype/compositeCapture",
    "rendered": "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicMedia",
}
DESCRIPTION = "Synthetic image of a person in a pose, made by a generative model (IMAGPose); no photograph"

_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_OURS = "urn:reid-imagpose:mark:1.0/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"


def _packet(values: dict[str, str]) -> bytes:
    """Return an XMP packet with these properties and values."""
    attributes = "\n   ".join(f"{name}={quoteattr(value)}" for name, value in values.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/">\n <rdf:RDF xmlns:rdf="{_RDF}">\n'
        f'  <rdf:Description rdf:about=""\n   xmlns:Iptc4xmpExt="{_IPTC}"\n   xmlns:imagpose="{_OURS}"\n'
        f"   {attributes}/>\n"
        ' </rdf:RDF>\n</x:xmpmeta>\n<?xpacket end="r"?>'
    ).encode()


def _read_properties(packet: bytes) -> dict[str, str]:
    """Return the properties in a packet.

    Raises:
        ValueError: The packet is broken.
    """
    if b"<!DOCTYPE" in packet:
        raise ValueError("its XMP declares entities")  # a few nested ones can fill the memory
    try:
        root = ElementTree.fromstring(packet)
    except ElementTree.ParseError as error:
        raise ValueError(f"its XMP is broken ({error})") from None
    properties: dict[str, str] = {}
    for description in root.iter(f"{{{_RDF}}}Description"):
        properties |= description.attrib | {child.tag: child.text or "" for child in description}
    return properties


def _source_type(properties: dict[str, str]) -> str | None:
    """Return the digital source type among the properties of a packet."""
    return properties.get(f"{{{_IPTC}}}DigitalSourceType")


@dataclass(frozen=True)
class Mark:
    """The mark of one synthetic image.

    Attributes:
        generator: Hash of the model that made it (`pipeline.runtime.hashes.model_hash`).
        sources: Source images, joined by |, as in the manifest.
        pose: Image whose keypoints are the target pose.
        seed: Seed of the image's noise.
        guidance_scale: How strongly the image was led towards sources and pose; 1 is no guidance.
    """

    generator: str
    sources: str
    pose: str
    seed: int
    guidance_scale: float

    def to_xmp(self) -> bytes:
        """Return the mark as an XMP packet; equal marks give equal bytes."""
        values = {
            "Iptc4xmpExt:DigitalSourceType": DIGITAL_SOURCE_TYPE,
            "Iptc4xmpExt:AISystemUsed": "IMAGPose",
            "Iptc4xmpExt:AISystemVersionUsed": self.generator,
            # In place of words, which this model does not read
            "Iptc4xmpExt:AIPromptInformation": f"person of {self.sources}; pose of {self.pose}; "
            f"guidance scale {self.guidance_scale:g}; seed {self.seed}",
            **{f"imagpose:{name}": str(value) for name, value in asdict(self).items()},
        }
        return _packet(values)

    @classmethod
    def from_xmp(cls, packet: bytes) -> Self:
        """Read a packet; its properties may be attributes or elements, as other programs write them.

        Raises:
            ValueError: It does not say that a trained model made the image, or a property is missing.
        """
        properties = _read_properties(packet)
        if _source_type(properties) != DIGITAL_SOURCE_TYPE:
            raise ValueError("its XMP does not say that a model made it")
        try:
            generator, sources, pose, seed, guidance = (
                properties[f"{{{_OURS}}}{field.name}"] for field in fields(cls)
            )
        except KeyError as error:
            raise ValueError(f"its XMP has no {str(error).split('}')[-1][:-1]}") from None
        return cls(generator, sources, pose, int(seed), float(guidance))


def save_image(pixels: NDArray[np.uint8], path: Path, quality: int, mark: Mark) -> None:
    """Write a synthetic image [H, W, 3] as a JPEG with its mark; equal arguments give equal bytes."""
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = DESCRIPTION
    exif[ExifTags.Base.Software] = "reid-imagpose"
    _save_jpeg(Image.fromarray(pixels), path, quality, exif=exif, xmp=mark.to_xmp())


def save_baseline(pixels: NDArray[np.uint8], path: Path, quality: int, kind: BaselineKind) -> None:
    """Write an image [H, W, 3] of a baseline as a JPEG; its XMP says that it is no photograph."""
    values = {"Iptc4xmpExt:DigitalSourceType": BASELINE_SOURCE_TYPES[kind], "imagpose:baseline": kind}
    _save_jpeg(Image.fromarray(pixels), path, quality, xmp=_packet(values))


def save_composite(picture: Image.Image, path: Path) -> None:
    """Write a picture that shows synthetic images, as a .png or .jpg with IPTC's mark for such pictures."""
    packet = _packet({"Iptc4xmpExt:DigitalSourceType": COMPOSITE, "Iptc4xmpExt:AISystemUsed": "IMAGPose"})
    if path.suffix == ".png":
        chunks = PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", packet.decode())
        picture.save(path, pnginfo=chunks)
    else:
        _save_jpeg(picture, path, 90, xmp=packet)


def _save_jpeg(image: Image.Image, path: Path, quality: int, **marks: bytes | Image.Exif) -> None:
    """Write a JPEG; where the disk is too full for it, which Pillow does not notice, raise an OSError."""
    encoded = BytesIO()
    image.save(encoded, "JPEG", quality=quality, **marks)
    path.write_bytes(encoded.getvalue())


def read_mark(path: Path) -> Mark:
    """Read the mark of an image.

    Raises:
        ValueError: The file is no readable image or has no mark.
    """
    return Mark.from_xmp(_read_packet(path))


def is_marked_synthetic(path: Path) -> bool:
    """Return whether an image says that a trained model made it, by any program, or that a baseline did."""
    try:
        properties = _read_properties(_read_packet(path))
    except ValueError:
        return False
    return _source_type(properties) == DIGITAL_SOURCE_TYPE or f"{{{_OURS}}}baseline" in properties


def _read_packet(path: Path) -> bytes:
    """Read the XMP of an image.

    Raises:
        ValueError: The file is no readable image or has no XMP.
    """
    try:
        with Image.open(path) as image:
            packet = image.info.get("xmp")
    except (OSError, SyntaxError, Image.DecompressionBombError):
        raise ValueError("it is no readable image") from None
    if not packet:
        raise ValueError("it has no XMP")
    return bytes(packet)
