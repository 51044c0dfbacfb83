"""How a figure of a report is drawn: once by matplotlib, as SVG for the page and as PDF and PNG for a paper.

In the page the colours are those of its style sheet, light or dark. matplotlib is imported when the first figure is
drawn, and its global state is left as it was.
"""

import contextlib
import functools
import io
import json
import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

INK, SOFT, RULE, STRONG, PAPER, BAD = "#1c1e21", "#62666c", "#dddcd6", "#8b8d8f", "#fdfdfb", "#9c2f24"
"""The light colours of report.css."""
_NAMES = {INK: "--ink", SOFT: "--soft", RULE: "--rule", STRONG: "--strong", PAPER: "--paper", BAD: "--bad"}
DASHED: Mapping[str, Any] = {"color": INK, "linewidth": 1, "linestyle": (0, (3, 3))}
"""Of a line of reference."""

_WIDTH = 520
"""Points in a file, units of the viewBox in the page."""
_STYLE: Mapping[str, Any] = {
    **{"svg.fonttype": "none", "pdf.fonttype": 42, "text.parse_math": False, "font.size": 12, "text.color": INK},
    **{"figure.facecolor": "none", "axes.facecolor": "none", "axes.edgecolor": STRONG, "axes.labelcolor": SOFT},
    **{f"axes.spines.{side}": False for side in ("left", "right", "top")},
    **{"axes.formatter.useoffset": False, "axes.formatter.limits": (-5, 6), "axes.labelpad": 7},
    **{f"{axis}tick.{part}": colour for axis in "xy" for part, colour in (("color", STRONG), ("labelcolor", SOFT))},
    **{"ytick.major.size": 0, "grid.color": RULE, "grid.linewidth": 0.75, "lines.markeredgecolor": PAPER},
    "axes.axisbelow": True,
}


@dataclass(frozen=True)
class Drawn:
    """A figure that is drawn.

    Attributes:
        name: of its files, without the suffix.
        svg: for the page.
        files: content by suffix.
        rows: of the table of cells, those that the legend names.
    """

    name: str
    svg: Markup
    files: Mapping[str, bytes]
    rows: tuple[int, ...] = ()


@contextlib.contextmanager
def our_style() -> Iterator[None]:
    """matplotlib with our settings only; also a decorator of functions that draw."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it reports that it builds its font cache
    import matplotlib.style

    with warnings.catch_warnings(), matplotlib.style.context(["default", dict(_STYLE)]):
        warnings.simplefilter("ignore", UserWarning)  # a character that the font of the files does not have
        yield


def blank(height: float) -> "Figure":
    """An empty figure of a height in points."""
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH / 72, height / 72), dpi=72)


def colour(hue: int | None) -> str:
    """`oklch(0.56 0.13 hue)` of CSS as `#rrggbb`, clipped to sRGB (Ottosson 2020); ink without a hue in degrees."""
    if hue is None:
        return INK
    a, b = 0.13 * math.cos(math.radians(hue)), 0.13 * math.sin(math.radians(hue))
    lms = (0.56 + np.array([[0.3963, 0.2158], [-0.1056, -0.0639], [-0.0895, -1.2915]]) @ [a, b]) ** 3
    rgb = np.array([[4.0767, -3.3077, 0.2310], [-1.2684, 2.6098, -0.3413], [-0.0042, -0.7034, 1.7076]]) @ lms
    rgb = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb.clip(0) ** (1 / 2.4) - 0.055).clip(0, 1)
    return f"#{(255 * rgb).round().astype(np.uint8).tobytes().hex()}"


def explain(artist: "Artist", tips: Sequence[str], *, row: int | None = None) -> None:
    """Give the marks of an artist their tooltips, one a mark in the order of drawing, and the row of their cell."""
    artist.set_gid(json.dumps([row, [with_minus_signs(one_line(tip)) for tip in tips]]))


def finish(figure: "Figure", name: str, label: str, *, rows: Sequence[int] = ()) -> Drawn:
    """A figure in all of its formats; what its lines are labelled becomes a legend of the files.

    Args:
        figure: from `blank`.
        name: of the files; unique in a page.
        label: what it shows, for those who do not see it.
        rows: as in `Drawn`.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    ConstrainedLayoutEngine().execute(figure)  # once, where savefig would do it for each format
    svg = _for_page(_saved(figure, name, "svg", metadata={"Date": None}), label)
    lines, labels = figure.axes[0].get_legend_handles_labels()
    if labels:
        columns = min(4, 72 // (4 + max(map(len, labels))) or 1)
        figure.set_figheight(figure.get_figheight() + (10 + 16 * math.ceil(len(labels) / columns)) / 72)
        figure.legend(lines, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=10)
        ConstrainedLayoutEngine().execute(figure)
    pdf = _saved(figure, name, "pdf", metadata={"CreationDate": None})
    return Drawn(name, svg, {"pdf": pdf, "png": _saved(figure, name, "png", dpi=200)}, tuple(rows))


def _saved(figure: "Figure", name: str, suffix: str, **options: Any) -> bytes:
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format=suffix, facecolor="none" if suffix == "svg" else "white", **options)
    return file.getvalue()


def _for_page(svg: bytes, label: str) -> Markup:
    """An SVG as part of a page: with the page's colours and fonts, our marks, and no identifier twice."""
    root = ElementTree.fromstring(svg.replace(b'xmlns="http://www.w3.org/2000/svg"', b""))
    for child in root.findall("metadata") + root.findall("defs[style]"):  # its style would hold for the whole page
        root.remove(child)
    for element in list(root.iter()):
        mark = element.attrib.pop("id", "") if element.tag == "g" else ""
        given = ((name.rpartition("}")[2], value) for name, value in element.items() if "rotate(-0 " not in value)
        element.attrib = {name: _value(value) for name, value in given}
        element.text, element.tail = element.text if element.tag == "text" else None, None
        if mark.startswith("["):
            row, tips = json.loads(mark)
            shapes = [one for one in element.iter() if one.tag in {"use", "path", "text"} and "id" not in one.attrib]
            for shape, tip in zip(shapes, tips, strict=False):
                ElementTree.SubElement(shape, "title").text = tip
            element.attrib |= {} if row is None else {"data-series": str(row)}
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _value(text: str) -> str:
    """The value of an attribute: short numbers, no font but its weight, and the colours of the page."""
    text = re.sub(r"\d+\.\d{2,}", lambda found: f"{float(found[0]):.1f}", text.replace("\n", ""))
    text = re.sub(r"font: (?:(\d{3}) )?[^;]*", lambda found: f"font-weight: {found[1] or 400}", text)
    text = re.sub(r"font-(size|family): [^;]*; ?", "", text)
    return re.sub("#[0-9a-f]{6}", lambda found: _in_page().get(found[0], found[0]), text)


@functools.cache
def _in_page() -> Mapping[str, str]:
    """Colours of the files to those of the page, where the lightness of a series depends on the paper."""
    of_series = {colour(hue): f"oklch(var(--series-lightness) 0.13 {hue})" for hue in range(360)}
    return of_series | {light: f"var({name})" for light, name in _NAMES.items()}


def one_line(text: str, width: int = 1000) -> str:
    """A text without line breaks and control characters, cut at a width in characters."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def with_minus_signs(text: object) -> str:
    """Text as it is set on a page: a true minus before a number, and an arrow for `->`."""
    return re.sub(r"(?<![\w.=])-(?=\d)", "\N{MINUS SIGN}", str(text)).replace("->", "\N{RIGHTWARDS ARROW}")
