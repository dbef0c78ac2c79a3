"""Names in any script on matplotlib's figures, and a $ that is a dollar."""

import sys
import warnings

import matplotlib
from matplotlib import font_manager

_BOXES = "Last Resort"  # matplotlib's font that has a box for every character


def show_names(*names: str) -> None:
    """Let the figures of this process show these names as they are written.

    Matplotlib's own font has the scripts of Europe. For other characters the machine's fonts are searched. If
    none has them, say so: then boxes stand in their place.
    """
    matplotlib.rcParams["text.parse_math"] = (
        False  # a name may hold dollars, and no label of ours is a formula
    )
    characters = {char for name in names for char in name if not char.isspace()}
    missing = _without(font_manager.FontProperties().get_name(), characters)
    fonts = [name for name in sorted(font_manager.get_font_names()) if not name.startswith(_BOXES)]
    for font in fonts if missing else []:
        rest = _without(font, missing)
        if rest < missing:  # this font comes after those that are there already
            matplotlib.rcParams["font.family"] = [*matplotlib.rcParams["font.family"], font]
            missing = rest
    if missing:
        print(
            f"no font on this machine has {''.join(sorted(missing))}: figures have boxes there; install one, "
            "such as the package fonts-noto-cjk for Chinese, Japanese and Korean",
            file=sys.stderr,
        )
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")  # it has been said


def _without(font: str, characters: set[str]) -> set[str]:
    """Return the characters that a font does not have."""
    file = font_manager.findfont(font_manager.FontProperties(family=[font]))
    return characters - set(map(chr, font_manager.get_font(file).get_charmap()))
