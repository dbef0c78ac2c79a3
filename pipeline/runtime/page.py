"""Self-contained HTML pages: templates, and the pictures and figures inside them."""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from PIL import Image

_MOST_ROWS = 256  # pixels; taller photographs are made smaller, so that a page can be sent by mail
# Okabe and Ito's colours, which colour-blind readers can tell apart; the first is for the arm `standard`.
COLOURS = ("#8c8c8c", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#010101"  # lines of this colour in a figure take the colour of the page's text


@dataclass(frozen=True)
class Picture:
    """An image inside a page."""

    src: str  # data URI
    alt: str
    width: int  # pixels
    height: int


def photograph(file: Path, alt: str, size: tuple[int, int] | None = None) -> Picture:
    """Put an image file into a page: a small JPEG byte for byte, anything else made smaller.

    Args:
        file: Image file.
        alt: Its description for readers who cannot see it.
        size: (width, height) in pixels. With it the image is always decoded, resized and encoded anew, so
            that its metadata are gone.
    """
    data = file.read_bytes()
    with Image.open(BytesIO(data)) as image:
        rows = min(image.height, _MOST_ROWS)
        width, height = size or (max(1, round(image.width * rows / image.height)), rows)
        if size or image.size != (width, height) or image.format != "JPEG":
            buffer = BytesIO()
            image.convert("RGB").resize((width, height)).save(buffer, "JPEG", quality=95)
            data = buffer.getvalue()
    return Picture(_data_uri(data, "jpeg"), alt, width, height)


def graphic(image: Image.Image, alt: str) -> Picture:
    """Put a drawing, such as a skeleton, into a page without loss."""
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return Picture(_data_uri(buffer.getvalue(), "png"), alt, image.width, image.height)


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def figure(draw: Callable[[], Figure], alt: str) -> Markup:
    """Put a figure into a page as SVG, in the page's font and text colour, so that it fits light and dark."""
    keys = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: dict[Any, Any] = dict.fromkeys(keys, INK) | {
        "svg.fonttype": "none",
        "svg.hashsalt": alt,
        "font.size": 9,
    }
    buffer = BytesIO()
    with matplotlib.rc_context(style):
        draw().savefig(buffer, format="svg", transparent=True, metadata={"Date": None})

    # Drop matplotlib's header and its date; the page sets the text colour.
    svg = buffer.getvalue().decode()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor").replace("#000000", "currentColor")
    # Matplotlib numbers its elements, and two figures on a page have the same numbers: keep those in use.
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", svg)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1))


def render(template: str, **values: Any) -> str:
    """Fill in a template of pipeline/runtime/templates; text is escaped, a missing value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.runtime"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)
