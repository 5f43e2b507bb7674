"""Describe a figure as a row: its tables, its panels, the numbers of its caption.

A row holds no words. `captions.toml` has the words of each figure as Jinja templates, which get
the row's facts: numbers and booleans. So a title says what the numbers say, and thresholds are
facts, never part of a template.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from resnets.report.charts import Axis, Figure, Layer, Series, plot, save_svg, together
from resnets.report.html import finite, percent, picture_address, tidy
from resnets.study.report.figure_data import networks, words_of
from resnets.study.statistics import Estimate
from resnets.study.tables import PROBE, Row, Tables

# The numbers of a caption, and what is true of them.
Facts = Mapping[str, Any]
# The panels of a figure, and its facts.
Drawing = tuple[list[Figure], Facts]
# The words of a figure; a key that captions.toml leaves out is empty.
PARTS = ("title", "subtitle", "note", "not_shown")


@dataclass(frozen=True)
class FigureSpec:
    """A figure of the page."""

    name: str  # its key in captions.toml, its file, its anchor
    tables: tuple[str, ...]  # its sources; `probe_paths` is the table of every probed network
    draw: Callable[[Tables], Drawing]  # a figure without panels is left out
    columns: int = 2


@dataclass(frozen=True, eq=False)
class DrawnFigure:
    """A figure with its words, ready for the page and for a file."""

    name: str
    caption: Mapping[str, str]
    panels: tuple[Figure, ...]
    tables: tuple[str, ...]
    command: str
    columns: int

    @property
    def picture(self) -> str:
        """All panels as the address of an image, for paper and without JavaScript."""
        svg = together(self.panels, title="", subtitle="", columns=self.columns)
        return picture_address(svg, bitmap=any(panel.is_large for panel in self.panels))

    def save(self, folder: Path) -> None:
        """Write NAME.svg and NAME.png."""
        title, subtitle = self.caption["title"], self.caption["subtitle"]
        svg = together(self.panels, title=title, subtitle=subtitle, columns=self.columns)
        save_svg(svg, folder / self.name)


def panel(
    title: str,
    data: Mapping[str, Iterable[Row]],
    x: Axis,
    y: Axis,
    *layers: Layer,
    series: Series | None = None,
    width: int = 400,
    height: int = 280,
    square: bool = False,
) -> Figure:
    """Return a chart of a figure with the columns that it draws, rounded; `draw` names it."""
    chart = plot(x, y, *layers, series=series)
    used = set(re.findall(r'"field": "(\w+)"|datum\.(\w+)', json.dumps(chart)))
    names = {name for pair in used for name in pair if name}
    kept = {part: [_rounded(row, names) for row in rows] for part, rows in data.items()}
    return Figure("", title, chart, kept, width, height, square, series=series)


def _rounded(row: Row, names: set[str]) -> Row:
    kept = {name: value for name, value in row.items() if name in names}
    return {name: finite(v) if isinstance(v, float) else v for name, v in kept.items()}


def draw(
    row: FigureSpec, tables: Tables, verdicts: Mapping[str, str], command: str
) -> DrawnFigure | None:
    """Return a figure of these tables, which `command` made; None where nothing is to show."""
    panels, facts = row.draw(tables)
    if not panels:
        return None
    words = caption(row.name, facts, verdicts)
    named = []
    for number, found in enumerate(panels, 1):
        description = ": ".join(filter(None, [found.title, words["title"]]))
        named.append(replace(found, name=f"{row.name}-{number}", description=description))
    names: list[str] = []
    for table in row.tables:  # a name of probes stands for a table of each network
        probed = [f"{table}_{name}" for name in networks(tables, table.removeprefix(PROBE))]
        names += [table] if table in tables.tables else probed
    columns = min(row.columns, len(named))
    return DrawnFigure(row.name, words, tuple(named), tuple(names), command, columns)


def caption(name: str, facts: Facts, verdicts: Mapping[str, str]) -> dict[str, str]:
    """Return the words of a figure. Raises UndefinedError for a fact that a template misses."""
    environment = Environment(undefined=StrictUndefined, autoescape=False)  # the page escapes
    environment.filters |= FILTERS
    context = {**facts, "verdict": lambda claim: verdicts.get(claim, "not measured")}
    return {
        part: tidy(" ".join(environment.from_string(text).render(context).split()))
        for part, text in (dict.fromkeys(PARTS, "") | words_of(name)).items()
    }


def interval(found: Estimate, sign: int = 1) -> str:
    """Return the ends of an estimate's interval in percentage points, and what they are."""
    if found.spread is None:
        return "no interval"
    low, high = sorted(100 * sign * end for end in found.spread)
    return f"{'range of 3 seeds' if found.is_range else '95 %'}: {low:.1f} to {high:.1f}"


def times(decades: float) -> str:
    """Return 10 to the power of `decades` as a factor: 1.4, 320, 10^75."""
    if abs(decades) < 4:
        factor = 10**decades
        return f"{factor:,.0f}" if factor >= 100 else f"{factor:.3g}"
    return f"10^{decades:.0f}"


def listed(parts: Iterable[Any], template: str = "{}") -> str:
    """Return "a, b and c"; a template is filled with each part, or with its fields."""
    words = [
        template.format(**part) if isinstance(part, Mapping) else template.format(part)
        for part in parts
    ]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


FILTERS = {
    "pct": percent,
    "interval": interval,
    "times": times,
    "listed": listed,
    "capital": lambda words: words[:1].upper() + words[1:],
}
