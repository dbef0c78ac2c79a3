"""Names in any script on matplotlib's figures, and a $ that is a dollar."""

import logging
import sys
import warnings
from pathlib import Path

import matplotlib
from matplotlib import font_manager

_BOXES = "LastResort"  # matplotlib's font that has a box for every character


def show_names(*names: str) -> None:
    """Let the figures of this process show these names as they are written.

    Matplotlib's own font has the scripts of Europe. For other characters the machine's fonts are searched. If
    none has them, say so: then boxes stand in their place.
    """
    # A name may hold dollars, and no label of ours is a formula.
    matplotlib.rcParams["text.parse_math"] = False
    characters = {char for name in names for char in name if not char.isspace()}
    missing = characters - _characters(font_manager.findfont(font_manager.FontProperties()))
    for file in sorted(font_manager.findSystemFonts()) if missing else []:
        if Path(file).name.startswith(_BOXES):
            continue
        try:
            found = missing & _characters(file)
        except (OSError, RuntimeError):  # a damaged font, or one without a table of characters
            continue
        if found:  # it comes after the fonts that are there already
            font_manager.fontManager.addfont(file)
            name = font_manager.get_font(file).family_name
            matplotlib.rcParams["font.family"] = [*matplotlib.rcParams["font.family"], name]
            missing -= found
            logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it has one weight: no news
    if missing:
        print(
            f"no font on this machine has {''.join(sorted(missing))}: figures have boxes there; install one, "
            "such as the package fonts-noto-cjk for Chinese, Japanese and Korean",
            file=sys.stderr,
        )
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")  # it has been said


def _characters(file: str) -> set[str]:
    """Return the characters that a font has."""
    return set(map(chr, font_manager.get_font(file).get_charmap()))
