"""One chart, exported three ways: a Vega-Lite specification for the page, an SVG and a PNG.

Enters an Altair chart without data, size or title, and these beside it; leaves JSON or files.
On the page a chart is as wide as its column and its title is HTML, so both wrap on a phone; in a
file the size is fixed and the title is drawn. Colours are of Okabe and Ito's palette ("Color
Universal Design", 2008), which colour-blind readers tell apart.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#667085", "#1d2939"
FONT = "'Helvetica Neue', Helvetica, Arial, 'Noto Sans', sans-serif"
_AXIS = {
    "labelColor": "#475467",
    "titleColor": "#344054",
    "titleFontWeight": "normal",
    "titleFontSize": 12,
    "labelFontSize": 11,
    "domainColor": "#98a2b3",
    "tickColor": "#98a2b3",
    "gridColor": "#eaecf0",
    "titlePadding": 8,
    "labelPadding": 5,
}
_CONFIG: dict[str, Any] = {
    "font": FONT,
    "background": "white",
    "view": {"stroke": None},
    "axis": _AXIS,
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"},
    "title": {"anchor": "start", "fontSize": 15, "fontWeight": 600, "color": INK, "offset": 12},
}


@dataclass(frozen=True, eq=False)
class Figure:
    """A chart with its data (name -> rows), its words, and its size as a file in pixels."""

    name: str
    title: str
    note: str
    chart: alt.TopLevelMixin
    data: dict[str, list[dict[str, Any]]]
    width: int
    height: int
    square: bool = False  # on the page, height follows width

    def for_page(self) -> dict[str, Any]:
        """The specification that fills the width of its column."""
        height = "container" if self.square else self.height
        # a drawing of thousands of cells is quicker as a bitmap
        renderer = "canvas" if max(map(len, self.data.values())) > 2000 else "svg"
        usermeta = {"embedOptions": {"renderer": renderer}}
        return {**self._specification(), "width": "container", "height": height} | {
            "usermeta": usermeta
        }

    def save(self, folder: Path) -> None:
        """Write NAME.svg and NAME.png."""
        save_svg(self.svg(), folder / self.name)

    def svg(self, *, padding: int = 16, prefix: str = "") -> str:
        """The drawing with its title; a prefix keeps its ids apart from those of its neighbours."""
        spec = self._specification()
        size = {"width": self.width, "height": self.height, "padding": padding}
        titled = {"title": self.title} if self.title else {}
        return _renumber(vl_convert.vegalite_to_svg(spec | size | titled), prefix)

    def _specification(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.chart.to_dict()
        # ours replaces whatever theme the process has set: the same input, the same bytes
        fit = {"type": "fit" if self.square else "fit-x", "contains": "padding"}
        return spec | {"config": _CONFIG, "datasets": self.data, "autosize": fit}


def save_svg(svg: str, place: Path) -> None:
    """Write PLACE.svg and PLACE.png."""
    place.with_name(place.name + ".svg").write_bytes(svg.encode())
    place.with_name(place.name + ".png").write_bytes(vl_convert.svg_to_png(svg, scale=2))


def _renumber(svg: str, prefix: str) -> str:
    """Vega counts gradients and clips through the life of the process; a file counts from 0."""
    pattern = re.compile(r'(?<= id=")(gradient_|clip)\d+(?=")|(?<=url\(#)(gradient_|clip)\d+(?=\))')
    numbers: dict[str, int] = {}
    return pattern.sub(
        lambda found: (
            prefix + (found[1] or found[2]) + str(numbers.setdefault(found[0], len(numbers)))
        ),
        svg,
    )


def tidy(text: str) -> str:
    """The text without characters that XML and UTF-8 forbid (file names may hold them)."""
    forbidden = ("Cc", "Cs", "Cn")
    return "".join("\ufffd" if unicodedata.category(c) in forbidden else c for c in text)


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def finite(value: Any) -> float | None:
    """The number, rounded for a page; None where there is none to draw (absent, NaN, infinite)."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


def percent(value: Any, digits: int = 1) -> str:
    number = finite(value)
    return "undefined" if number is None else f"{100 * number:.{digits}f}%"
