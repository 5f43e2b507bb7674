"""Describe a figure as a row: its tables, its panels, the numbers of its caption.

A row holds no words. `captions.toml` has the words of each figure as Jinja templates, which get
the row's facts: numbers and booleans. So a title says what the numbers say, and thresholds are
facts, never part of a template.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import altair as alt
from jinja2 import Environment, StrictUndefined

from resnets.report.charts import Figure, Series, save_svg, together
from resnets.report.html import percent, picture_address, tidy
from resnets.study.report.evidence import Evidence as Tables
from resnets.study.report.evidence import Row
from resnets.study.report.figure_data import names_of
from resnets.study.report.words import Effect as Estimate

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Facts = Mapping[str, Any]
# The words of a figure; a key that captions.toml leaves out is empty.
PARTS = ("title", "subtitle", "note", "not_shown")
# Rows from which on a picture is a bitmap.
MANY = 2000


@dataclass(frozen=True)
class FigureRow:
    """A figure of the page.

    Args:
        name: Its key in captions.toml, its file, its anchor.
        tables: The tables that it is drawn from; `probe_paths` is that of every probed network.
        panels: Draws it; a figure without panels is left out.
        facts: The numbers of its caption, and what is true of them.
        columns: Panels beside each other.
    """

    name: str
    tables: tuple[str, ...]
    panels: Callable[[Tables], Iterator[Figure]]
    facts: Callable[[Tables], Facts]
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
    def series(self) -> Series | None:
        """The legend of all panels."""
        return self.panels[0].series

    @property
    def switched(self) -> bool:
        """Whether the reader can choose between a linear and a logarithmic axis."""
        return any(param["name"] == "axis" for param in self.panels[0].for_page()["params"])

    @property
    def picture(self) -> str:
        """All panels as the address of an image, for paper and without JavaScript."""
        rows = [len(found) for panel in self.panels for found in panel.data.values()]
        svg = together(self.panels, title="", subtitle="", columns=self.columns)
        return picture_address(svg, bitmap=max(rows) > MANY)

    def save(self, folder: Path) -> None:
        """Write NAME.svg and NAME.png."""
        title, subtitle = self.caption["title"], self.caption["subtitle"]
        svg = together(self.panels, title=title, subtitle=subtitle, columns=self.columns)
        save_svg(svg, folder / self.name)


def panel(
    title: str,
    chart: alt.LayerChart,
    data: dict[str, list[Row]],
    width: int = 400,
    height: int = 280,
    **options: Any,
) -> Figure:
    """Return a chart of a figure; `draw` names it."""
    return Figure("", title, "", chart, data, width, height, **options)


def draw(
    row: FigureRow, tables: Tables, verdicts: Mapping[str, str], command: str
) -> DrawnFigure | None:
    """Return a figure of these tables; None where they have nothing to show.

    Args:
        row: The figure.
        tables: Of the study.
        verdicts: On the claims, by name.
        command: That made the tables.
    """
    panels = list(row.panels(tables))
    if not panels:
        return None
    words = caption(row.name, row.facts(tables), verdicts)
    named = []
    for number, found in enumerate(panels, 1):
        description = ": ".join(filter(None, [found.title, words["title"]]))
        named.append(replace(found, name=f"{row.name}-{number}", description=description))
    names = (name for table in row.tables for name in names_of(tables, table))
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


def words_of(name: str) -> dict[str, Any]:
    """Return a table of captions.toml."""
    found: dict[str, Any] = _captions()[name]
    return found


@cache
def _captions() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("captions.toml").read_text("utf-8"))


def points(share: float) -> str:
    """Return a difference of shares in percentage points."""
    return f"{100 * share:.1f}"


def interval(found: Estimate, sign: int = 1) -> str:
    """Return the ends of an estimate's interval in percentage points, and what they are."""
    if found.low is None or found.high is None:
        return "no interval"
    low, high = sorted((100 * sign * found.low, 100 * sign * found.high))
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
    "points": points,
    "interval": interval,
    "times": times,
    "listed": listed,
    "capital": lambda words: words[:1].upper() + words[1:],
}
