"""One statement and its picture: panels that are drawn once, shown on a page, and kept as files.

Enters: a sentence made of numbers, and one `Figure` a panel. Leaves: SVG and PNG of all panels
together. On the page each panel is a chart of its own, so that they can stand in one column on a
phone; in a file they stand side by side under the sentence. Panels share fixed scales.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from html import escape
from pathlib import Path
from xml.etree import ElementTree

from resnets.report.charts import FONT, INK, Figure, save_svg, tidy
from resnets.study.report.words import RAISED

MARGIN, LINE, GAP = 20, 22, 14  # pixels
LOWERED = {after: before for before, after in RAISED.items()}
LETTER = 7.6  # pixels of a letter of the sentence, about


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A figure of the page: what to conclude, how to read it, what it is of, what made it."""

    name: str
    sentence: str
    note: str
    panels: tuple[Figure, ...]
    tables: tuple[str, ...]  # names of the tables that it is drawn from
    command: str
    columns: int = 1  # of panels, in a file and on a wide page

    def save(self, folder: Path) -> None:
        """Write NAME.svg and NAME.png."""
        save_svg(self._svg(), folder / self.name)

    def _svg(self) -> str:
        drawn = [
            panel.svg(padding=4, prefix=f"p{number}-") for number, panel in enumerate(self.panels)
        ]
        sizes = [_size(svg) for svg in drawn]
        cell = max(width for width, _ in sizes) + GAP
        width = 2 * MARGIN + cell * min(self.columns, len(drawn))
        lines = textwrap.wrap(tidy(self.sentence), int((width - 2 * MARGIN) / LETTER))
        top = MARGIN + LINE * len(lines) + GAP
        placed: list[str] = []
        for start in range(0, len(drawn), self.columns):
            row = slice(start, start + self.columns)
            for column, svg in enumerate(drawn[row]):
                placed.append(f'<g transform="translate({MARGIN + cell * column},{top})">{svg}</g>')
            top += max(height for _, height in sizes[row]) + GAP
        head = "".join(
            f'<text x="{MARGIN}" y="{MARGIN + LINE * number + 14}">{_raised(line)}</text>'
            for number, line in enumerate(lines)
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top + 6}" '
            f'viewBox="0 0 {width} {top + 6}"><rect width="100%" height="100%" fill="white"/>'
            f'<g font-family="{FONT}" font-size="15" font-weight="600" fill="{INK}">{head}</g>'
            f"{''.join(placed)}</svg>\n"
        )


def _raised(line: str) -> str:
    """Raised digits as plain ones set higher.

    Few fonts have them, and for one missing glyph a whole line is set in another font.
    """
    return re.sub(
        f"([{''.join(map(chr, LOWERED))}]+)([^ ]*)",
        lambda match: (
            f'<tspan dy="-5" font-size="10">{match[1].translate(LOWERED)}</tspan>'
            f'<tspan dy="5">{match[2]}</tspan>'
        ),
        escape(line),
    )


def _size(svg: str) -> tuple[int, int]:
    attributes = ElementTree.fromstring(svg).attrib
    return round(float(attributes["width"])), round(float(attributes["height"]))
