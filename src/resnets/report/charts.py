"""Draw charts: Vega-Lite JSON for a page, SVG and PNG for files.

A chart is an Altair chart without data, size or title; `Figure` adds these. `plot` builds one from
two axes and a list of layers. Colours are those of Okabe and Ito ("Color Universal Design", 2008),
which colour-blind readers tell apart; a dash and a shape repeat what a colour says. The colours of
the page itself are parameters of each chart, so that a page can change them for a dark screen.
"""

from __future__ import annotations

import dataclasses
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from resnets.report.html import tidy

BLUE, ORANGE, GREY, INK, LINE = "#0072B2", "#D55E00", "#667085", "#1d2939", "#e4e7ec"
FONT = "'Helvetica Neue', Helvetica, Arial, 'Noto Sans', sans-serif"
# Parameters of every chart with their light values; a page sets them from its CSS variables.
THEME = {"ink": INK, "muted": GREY, "line": LINE, "card": "white"}
# The name of a chart's main data.
ROWS = "rows"
# How a mark looks where a layer does not say.
STYLES: dict[str, dict[str, Any]] = {
    "line": {"strokeWidth": 2},
    "point": {"filled": True, "opacity": 1, "size": 36},
    "area": {"opacity": 0.16},
    "text": {"fontSize": 11},
}
_CONFIG: dict[str, Any] = {
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": GREY,
        "titleColor": GREY,
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "labelFontSize": 11,
        "domainColor": GREY,
        "tickColor": GREY,
        "gridColor": LINE,
        "titlePadding": 8,
        "labelPadding": 5,
    },
    "legend": {
        "labelFontSize": 12,
        "labelColor": INK,
        "labelLimit": 300,
        "titleFontSize": 12,
        "titleColor": GREY,
        "titleFontWeight": "normal",
        "orient": "top",
        "columnPadding": 14,
        "symbolSize": 90,
        "symbolOpacity": 1,
    },
    "title": {
        "anchor": "start",
        "fontSize": 15,
        "fontWeight": 600,
        "color": INK,
        "offset": 12,
        "frame": "group",
    },
}


@dataclass(frozen=True, eq=False)
class Figure:
    """A chart with its data, words and size.

    Args:
        name: Its id on the page and its name as a file.
        title: A heading; drawn in a file, HTML on a page.
        note: How to read it.
        chart: An Altair chart whose data is named.
        data: Rows by the name of their data set.
        width: Of the plot in a file, in pixels; on a page a chart is as wide as its column.
        height: Of the plot, in pixels.
        square: Whether on a page the height follows the width.
        description: The finding in words, for readers who do not see the chart.
        series: What the page's own legend shows; with it the chart draws none there.
    """

    name: str
    title: str
    note: str
    chart: alt.TopLevelMixin
    data: dict[str, list[dict[str, Any]]]
    width: int
    height: int
    square: bool = False
    description: str = ""
    series: Series | None = None

    def for_page(self) -> dict[str, Any]:
        """Return the specification that fills the width of its column."""
        height = "container" if self.square else self.height
        # A drawing of thousands of cells is quicker as a bitmap.
        renderer = "canvas" if max(map(len, self.data.values())) > 2000 else "svg"
        spec = self._specification() | {"width": "container", "height": height}
        if self.series is not None:
            spec = _without_legends(spec)
        return spec | {
            "background": "transparent",
            "usermeta": {"embedOptions": {"renderer": renderer}},
        }

    def save(self, folder: Path) -> None:
        """Write NAME.svg and NAME.png."""
        save_svg(self.svg(), folder / self.name)

    def svg(self) -> str:
        """Return the drawing with its title, on white."""
        size = {"width": self.width, "height": self.height, "padding": 16, "background": "white"}
        titled = {"title": self.title} if self.title else {}
        return _drawn(self._specification() | size | titled)

    def _specification(self) -> dict[str, Any]:
        spec: dict[str, Any] = _themed(self.chart.to_dict())
        params = [{"name": name, "value": colour} for name, colour in THEME.items()]
        fit = {"type": "fit" if self.square else "fit-x", "contains": "padding"}
        # This replaces whatever theme the process has set: the same input gives the same bytes.
        return spec | {
            "params": params + spec.get("params", []),
            "config": _themed(_CONFIG),
            "datasets": self.data,
            "autosize": fit,
            "description": self.description or self.title,
        }


def together(figures: Sequence[Figure], *, title: str, subtitle: str, columns: int) -> str:
    """Return one SVG of several charts under one title, with one legend.

    Args:
        figures: Charts, row by row.
        title: What to conclude.
        subtitle: The numbers.
        columns: Charts beside each other.
    """
    parts: list[dict[str, Any]] = []
    params: dict[str, Any] = {}
    data: dict[str, Any] = {}
    for number, figure in enumerate(figures):
        spec = figure._specification()
        params |= {param["name"]: param for param in spec.pop("params")}
        data |= {f"{number}-{name}": rows for name, rows in spec.pop("datasets").items()}
        for key in ("$schema", "config", "autosize", "description"):
            spec.pop(key, None)
        named = _renamed(spec, {name: f"{number}-{name}" for name in figure.data})
        part = {"width": figure.width, "height": figure.height}
        head = {"text": figure.title, "fontSize": 13, "offset": 8}
        parts.append(named | part | ({"title": head} if figure.title else {}))
    width = sum(figure.width + 64 for figure in figures[:columns])
    head = {
        "text": textwrap.wrap(tidy(title), int(width / 9)),
        "subtitle": textwrap.wrap(tidy(subtitle), int(width / 6.1)),
        "fontSize": 17,
        "subtitleFontSize": 13,
        "subtitleColor": GREY,
        "subtitlePadding": 6,
        "subtitleLineHeight": 17,
        "offset": 16,
    }
    shared = dict.fromkeys(("color", "shape", "strokeDash"), "shared")
    return _drawn(
        {
            "$schema": alt.SCHEMA_URL,
            "concat": parts,
            "columns": columns,
            "spacing": 24,
            "padding": 20,
            "config": _themed(_CONFIG),
            "datasets": data,
            "params": list(params.values()),
            "resolve": {"scale": shared, "legend": shared},
            "background": "white",
        }
        | ({"title": _themed(head)} if title else {})
    )


def save_svg(svg: str, place: Path) -> None:
    """Write PLACE.svg and PLACE.png."""
    place.with_name(place.name + ".svg").write_bytes(svg.encode())
    place.with_name(place.name + ".png").write_bytes(vl_convert.svg_to_png(svg, scale=2))


def _drawn(spec: dict[str, Any]) -> str:
    """Draw, and count gradients and clips from 0: Vega counts through the life of the process."""
    pattern = re.compile(r'(?<= id=")(gradient_|clip)\d+(?=")|(?<=url\(#)(gradient_|clip)\d+(?=\))')
    numbers: dict[str, int] = {}
    return pattern.sub(
        lambda found: (found[1] or found[2]) + str(numbers.setdefault(found[0], len(numbers))),
        vl_convert.vegalite_to_svg(spec),
    )


def _themed(part: Any) -> Any:
    """Put the parameter in place of each colour of the page."""
    if isinstance(part, dict):
        return {key: _themed(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_themed(value) for value in part]
    names = {colour: name for name, colour in THEME.items()}
    return {"expr": names[part]} if isinstance(part, str) and part in names else part


def _without_legends(part: Any) -> Any:
    if isinstance(part, list):
        return [_without_legends(value) for value in part]
    if not isinstance(part, dict):
        return part
    return {
        key: None if key == "legend" else _without_legends(value) for key, value in part.items()
    }


def _renamed(part: Any, names: Mapping[str, str]) -> Any:
    """Rename the data sets that a part of a specification draws."""
    if isinstance(part, list):
        return [_renamed(value, names) for value in part]
    if not isinstance(part, dict):
        return part
    found = {key: _renamed(value, names) for key, value in part.items()}
    data = found.get("data")
    if isinstance(data, dict) and data.get("name") in names:
        found["data"] = {"name": names[data["name"]]}
    return found


# Symbols within a square of side 2 about the origin; Vega and the page's legend draw the same.
SHAPES = {
    "circle": "M1,0A1,1,0,1,1,-1,0A1,1,0,1,1,1,0Z",
    "square": "M-.88,-.88H.88V.88H-.88Z",
    "diamond": "M0,-1.2L.9,0L0,1.2L-.9,0Z",
    "up": "M0,-1.1L1.05,.8H-1.05Z",
    "down": "M0,1.1L1.05,-.8H-1.05Z",
    "left": "M-1.1,0L.8,-1.05V1.05Z",
    "right": "M1.1,0L-.8,-1.05V1.05Z",
    "plus": "M-.35,-1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z",
    "star": "M0,-1.2L.3,-.36L1.2,-.36L.48,.18L.72,1.1L0,.55L-.72,1.1L-.48,.18L-1.2,-.36L-.3,-.36Z",
    "ring": "M-1,0A1,1,0,1,1,1,0A1,1,0,1,1,-1,0ZM-.5,0A.5,.5,0,1,0,.5,0A.5,.5,0,1,0,-.5,0Z",
    "cross": "M-1,-1L1,1M1,-1L-1,1",
}


@dataclass(frozen=True)
class Mark:
    """What a series looks like: a colour, a dash, and a name of `SHAPES` or nothing."""

    colour: str
    dash: tuple[int, ...] = (1, 0)
    shape: str = "circle"

    @property
    def path(self) -> str:
        """The symbol as an SVG path within a square of side 2 about the origin."""
        return SHAPES[self.shape]


@dataclass(frozen=True)
class Series:
    """What tells series apart: the words of the column `series`, and their marks."""

    words: tuple[str, ...]
    marks: tuple[Mark, ...]

    @property
    def entries(self) -> list[tuple[str, Mark]]:
        """Words and marks, pair by pair."""
        return list(zip(self.words, self.marks, strict=True))

    def channels(self, mark: str) -> dict[str, Any]:
        """Return the channels by which a layer of this mark shows its series."""
        looks: dict[str, list[Any]] = {"color": [mark.colour for mark in self.marks]}
        if mark in ("line", "rule"):
            looks["strokeDash"] = [list(mark.dash) for mark in self.marks]
        if mark == "point":
            looks["shape"] = [SHAPES[mark.shape or "circle"] for mark in self.marks]
        classes = {"color": alt.Color, "strokeDash": alt.StrokeDash, "shape": alt.Shape}
        # A stroke would be dashed in the legend, and eat into small symbols.
        columns = 5 if len(self.words) > 6 else len(self.words)
        legend = alt.Legend(symbolStrokeWidth=0, columns=columns, symbolType="square")
        if mark == "point":
            legend = alt.Legend(symbolStrokeWidth=0, columns=columns)
        return {
            name: classes[name](
                "series:N",
                title=None,
                legend=legend,
                scale=alt.Scale(domain=self.words, range=values),
            )
            for name, values in looks.items()
        }


@dataclass(frozen=True)
class Axis:
    """A field of the rows, and how it is scaled.

    `kind` is a scale type of Vega-Lite, or `switch`: between linear and logarithmic as the page's
    parameter `axis` says, for which `domain` is needed. `options` are those of Altair's axis.
    """

    field: str
    title: str | None = None
    kind: str = "linear"
    domain: Sequence[Any] | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    scale: dict[str, Any] = dataclasses.field(default_factory=dict)

    def channel(self, channel: type[alt.X] | type[alt.Y]) -> Any:
        """Return the encoding of this axis."""
        options = self.options
        if self.kind == "switch":
            assert self.domain is not None
            scale, axis = _switch(*self.domain)
            return channel(f"{self.field}_shown:Q", title=self.title, scale=scale, axis=axis)
        if self.kind in ("ordinal", "point", "band"):
            kept = self.scale | ({"domain": list(self.domain)} if self.domain else {})
            scale = alt.Scale(**kept)
            options = {"ticks": False, "domain": False, "labelAngle": 0} | options
            axis = alt.Axis(**options)
            return channel(f"{self.field}:O", title=self.title, scale=scale, axis=axis, sort=None)
        kept = {"type": self.kind, "nice": False} | self.scale
        if self.domain is not None:
            kept["domain"] = list(self.domain)
        axis = alt.Axis(**options)
        return channel(f"{self.field}:Q", title=self.title, scale=alt.Scale(**kept), axis=axis)


def axis(
    name: str,
    title: str | None = None,
    kind: str = "linear",
    domain: Sequence[Any] | None = None,
    **options: Any,
) -> Axis:
    """Return an axis; `zero`, `padding` and `base` are options of its scale."""
    scale: dict[str, Any] = {}
    scale |= {key: options.pop(key) for key in ("zero", "padding", "base") if key in options}
    return Axis(name, title, kind, domain, options, scale)


@dataclass(frozen=True)
class Layer:
    """One mark over one data set; a field given here takes the place of the axis' own."""

    mark: str
    data: str
    fields: dict[str, Any]  # x, y, x2, y2
    encode: dict[str, Any]
    hover: Mapping[str, str]  # field:type -> "title" or "title|format"
    where: str
    style: dict[str, Any]


def layer(
    mark: str,
    data: str = ROWS,
    *,
    encode: dict[str, Any] | None = None,
    hover: Mapping[str, str] | None = None,
    where: str = "",
    **options: Any,
) -> Layer:
    """Return a layer; other options are those of the mark.

    `x`, `y`, `x2` and `y2` are fields; None leaves the channel out, so a rule spans the plot.
    """
    fields: dict[str, Any] = {}
    fields |= {key: options.pop(key) for key in ("x", "y", "x2", "y2") if key in options}
    return Layer(mark, data, fields, encode or {}, hover or {}, where, options)


def plot(x: Axis, y: Axis, *layers: Layer, series: Series | None = None) -> alt.LayerChart:
    """Return a chart of layers over two axes.

    Args:
        x: The horizontal axis.
        y: The vertical axis.
        layers: From the back to the front.
        series: Tells rows apart by their column `series`; a page can show one of them alone.
    """
    chart: Any = alt.layer(*(_layered(x, y, part, series) for part in layers))
    if series is not None:
        chart = chart.add_params(alt.param(name="chosen", value=""))
    if y.kind == "switch":
        chart = chart.add_params(alt.param(name="axis", value="log"))
    drawn: alt.LayerChart = chart
    return drawn


def _layered(x: Axis, y: Axis, part: Layer, series: Series | None) -> alt.Chart:
    style = STYLES.get(part.mark, {}) | part.style
    if part.mark == "point":
        style["shape"] = SHAPES.get(style.get("shape", ""), style.get("shape", SHAPES["circle"]))
    channels: dict[str, Any] = {}
    if series is not None:
        channels = {
            name: found
            for name, found in series.channels(part.mark).items()
            if name not in part.style
        }
        shown, style["opacity"] = style.get("opacity", 1.0), 1
        when = alt.when("!chosen || datum.series == chosen").then(alt.value(shown))
        channels["opacity"] = when.otherwise(alt.value(0.06 * bool(shown)))
        if "shape" in channels:
            style.pop("shape")
    for name, along, kind in (("x", x, alt.X), ("y", y, alt.Y)):
        own = part.fields.get(name, along.field)
        if own is not None:
            channels[name] = replace(along, field=own).channel(kind)
    shown_suffix = "_shown" if y.kind == "switch" else ""
    if "x2" in part.fields:
        channels["x2"] = part.fields["x2"]
    if "y2" in part.fields:
        channels["y2"] = part.fields["y2"] + shown_suffix
    if part.hover:
        channels["tooltip"] = [
            alt.Tooltip(name, title=words.partition("|")[0], format=words.partition("|")[2])
            for name, words in part.hover.items()
        ]
    chart = alt.Chart(alt.NamedData(name=part.data))
    if part.where:
        chart = chart.transform_filter(part.where)
    if y.kind == "switch":
        names = {part.fields.get("y", y.field), part.fields.get("y2", y.field)} - {None}
        chart = chart.transform_calculate(
            **{
                f"{name}_shown": f"isValid(datum.{name}) && (axis == 'linear' || datum.{name} > 0)"
                f" ? (axis == 'log' ? log(datum.{name}) / LN10 : datum.{name}) : null"
                for name in sorted(names)
            }
        )
    made: alt.Chart = getattr(chart, f"mark_{part.mark}")(**style).encode(
        **(channels | part.encode)
    )
    return made


def _switch(low: float, high: float) -> tuple[alt.Scale, alt.Axis]:
    """Scale from `low` (from 0, if linear) to `high`, with ticks of 1, 2 and 5 or of decades.

    A scale's type cannot follow a parameter, so the values do, and the labels undo it.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    mantissas = (1, 2, 5) if last - first < 4 else (1,)
    marks = [math.log10(m) + power for power in range(first, last + 1) for m in mantissas]
    logs = [round(mark, 6) for mark in marks if math.log10(low) <= mark <= math.log10(high)]
    steps = (m * 10.0**power for power in range(first - 1, last + 1) for m in (1, 2, 5))
    step = next(step for step in steps if high / step <= 6)
    linear = [float(f"{step * place:.6g}") for place in range(int(high / step) + 1)]
    ends = f"[{math.log10(low):.6f}, {math.log10(high):.6f}] : [0, {high:.6g}]"
    scale = alt.Scale(domain=alt.ExprRef(f"axis == 'log' ? {ends}"), nice=False)
    label = "axis == 'log' ? format(pow(10, datum.value), '.2~r') : format(datum.value, '.3~r')"
    values = alt.ExprRef(f"axis == 'log' ? {logs} : {linear}")
    return scale, alt.Axis(labelExpr=label, values=values)
