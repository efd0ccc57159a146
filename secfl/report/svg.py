"""matplotlib figures as inline SVG: deterministic, themed by the page's style sheet, with a text alternative.

Colours leave here as CSS variables, so that one figure serves light, dark and print; text stays text.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from warnings import catch_warnings, filterwarnings

from protocols.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GRID", "HATCHES", "INK", "LINE_STYLES", "MARKERS", "SERIES", "plot_style", "to_svg"]

# Stand-ins, each replaced by the variable of the style sheet that has its colour in the theme at hand.
INK = "#111111"
GRID = "#dddddd"
PAPER = "#fefefe"
# Okabe and Ito's palette without yellow, which no white page shows, in the order of best contrast.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
# Each series also has its own marker, line and hatch: the figure reads in grey.
MARKERS = ("o", "s", "^", "D", "v", "P")
LINE_STYLES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "----")

_VARIABLES = {
    INK: "var(--ink)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)},
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "secfl",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.color": PAPER,
    "hatch.linewidth": 1.2,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.constrained_layout.use": True,
}
_HEX = re.compile(r"#[0-9a-f]{6}\b")
_LINK = re.compile(r"url\(#([^)]*)\)")
_XLINK = "{http://www.w3.org/1999/xlink}href"


@contextmanager
def plot_style() -> Iterator[None]:
    """Draw inside of this: the house style over matplotlib's defaults, whatever the user's own settings.

    :raises MissingExtra: matplotlib is not installed.
    """
    try:
        import matplotlib.style
    except ImportError as error:
        raise MissingExtra("the HTML report", "report") from error
    with matplotlib.style.context(["default", _STYLE]), catch_warnings():
        # Widths are measured with the bundled font; the reader's browser has the glyphs.
        filterwarnings("ignore", message=r"Glyph .* missing from font")
        yield


def to_svg(figure: Figure, key: str, title: str, description: str) -> str:
    """Return the figure as an ``<svg>`` element for the inside of an HTML page; call it within `plot_style`.

    :param key: prefix of every id in it; unique in the page.
    :param title: short name, read by screen readers.
    :param description: what the figure shows, in words and numbers.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ET.fromstring(buffer.getvalue())  # noqa: S314  made by matplotlib a line above; it escapes all texts
    for parent in list(root.iter()):
        for child in list(parent):
            # The metadata name outside addresses; the style element would apply to the whole page.
            if child.tag.rpartition("}")[2] in {"metadata", "style"}:
                parent.remove(child)
    for element in root.iter():
        _make_inline(element, key)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib.update({"class": "plot", "role": "img", "aria-labelledby": f"{key}-title {key}-desc"})
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        label = ET.Element(tag, {"id": f"{key}-{tag}"})
        label.text = text
        root.insert(position, label)
    return ET.tostring(root, encoding="unicode", short_empty_elements=False)


def _make_inline(element: ET.Element, key: str) -> None:
    """Drop name spaces, make ids and links the figure's own, and colours variables."""
    element.tag = element.tag.rpartition("}")[2]
    attributes = element.attrib
    if "id" in attributes:
        attributes["id"] = f"{key}-{attributes['id']}"
    if _XLINK in attributes:
        attributes["href"] = f"#{key}-{attributes.pop(_XLINK).removeprefix('#')}"
    for name in ("style", "clip-path", "fill", "stroke"):
        if name in attributes:
            linked = _LINK.sub(rf"url(#{key}-\1)", attributes[name])
            attributes[name] = _HEX.sub(lambda match: _VARIABLES[match[0]], linked)
