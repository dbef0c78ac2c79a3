"""A data set's name stands on figures as it is written, whatever its script."""

import warnings
from collections.abc import Iterator
from io import BytesIO

import matplotlib
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure

from pipeline.runtime.fonts import show_names


@pytest.fixture(autouse=True)
def own_style() -> Iterator[None]:
    with matplotlib.rc_context(), warnings.catch_warnings():
        yield


def draw(title: str) -> bytes:
    figure = Figure(figsize=(3, 1))
    figure.suptitle(title)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["Märket 1501", "Данные", "δεδομένα"])
def test_the_scripts_of_europe_need_no_other_font(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    family = matplotlib.rcParams["font.family"]
    show_names(name)
    assert matplotlib.rcParams["font.family"] == family and capsys.readouterr().err == ""


def test_dollars_are_no_formula() -> None:
    show_names(r"$\foo$ set")
    assert draw(r"$\foo$ set") != draw("set")


def test_characters_that_no_font_has_are_named_and_drawn_without_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    show_names("数据集 1")
    assert capsys.readouterr().err.startswith("no font on this machine has 据数集: figures have boxes there")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")
        draw("数据集 1")


def test_a_font_of_the_machine_that_has_a_character_is_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def characters(font: str) -> set[str]:
        return set(map(chr, font_manager.get_font(font).get_charmap()))

    dejavu, other = (font_manager.findfont(name) for name in ("DejaVu Sans", "STIXGeneral"))
    character = max(characters(other) - characters(dejavu))
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [dejavu, other])
    show_names(f"a {character}")
    assert capsys.readouterr().err == ""
    assert matplotlib.rcParams["font.family"] == ["sans-serif", "STIXGeneral"]
