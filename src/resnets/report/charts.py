"""Draw charts: Vega-Lite JSON for a page, SVG and PNG for files.

A chart is the layers and parameters of a Vega-Lite specification: `plot` builds it from two axes
and a list of layers; `Figure` adds data, title and size. Colours are those of Okabe and Ito ("Color
Universal Design", 2008), which colour-blind readers tell apart; a dash and a shape repeat what a
colour says. The colours of the page itself are parameters of each chart, so that a page can change
them for a dark screen.
"""

import json
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import vl_convert

from resnets.report.html import tidy

# A part of a Vega-Lite specification.
Spec = dict[str, Any]
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.4.1.json"
BLUE, ORANGE, GREY, INK, LINE = "#0072B2", "#D55E00", "#667085", "#1d2939", "#e4e7ec"
# Parameters of every chart with their light values; a page sets them from its CSS variables.
THEME = {"ink": INK, "muted": GREY, "line": LINE, "card": "white"}
# The name of a chart's main data.
ROWS = "rows"
# The letters of the kinds of a field.
KINDS = {"Q": "quantitative", "O": "ordinal", "N": "nominal"}
# How a mark looks where a layer does not say.
STYLES: dict[str, Spec] = {
    "line": {"strokeWidth": 2},
    "point": {"filled": True, "opacity": 1, "size": 36},
    "area": {"opacity": 0.16},
    "text": {"fontSize": 11},
}


@dataclass(frozen=True, eq=False)
class Figure:
    """What `plot` returns, with data sets by name, words, and the size of the plot in pixels.

    On a page a chart is as wide as its column, and a square one as high. The description says the
    finding to readers who do not see the chart. With `series` the page has a legend of its own.
    """

    name: str
    title: str
    chart: Spec
    data: dict[str, list[dict[str, Any]]]
    width: int
    height: int
    square: bool = False
    description: str = ""
    series: "Series | None" = None

    @property
    def is_large(self) -> bool:
        """Whether a bitmap is quicker to show than a drawing of so many parts."""
        return max(map(len, self.data.values())) > 2000

    def for_page(self) -> Spec:
        """Return the specification that fills the width of its column."""
        spec = self._spec if self.series is None else _changed(self._spec, _without_legend)
        renderer = "canvas" if self.is_large else "svg"
        page = {
            "datasets": self.data,
            "width": "container",
            "height": "container" if self.square else self.height,
            "background": "transparent",
            "usermeta": {"embedOptions": {"renderer": renderer}},
        }
        shown: Spec = _changed(spec | page, _tidied)
        return shown

    def save(self, folder: Path) -> None:
        """Write NAME.svg and NAME.png, with the title."""
        save_svg(self.svg(self.title), folder / self.name)

    def svg(self, title: str = "") -> str:
        """Return the drawing on white."""
        size = {"width": self.width, "height": self.height, "padding": 16, "background": "white"}
        spec = self._spec | {"datasets": self.data} | size
        return _drawn(spec | ({"title": title} if title else {}))

    @property
    def _spec(self) -> Spec:
        """All but the data and the size."""
        return self.chart | {
            "$schema": SCHEMA,
            "config": _style(),
            "description": self.description or self.title,
            "autosize": {"type": "fit" if self.square else "fit-x", "contains": "padding"},
        }


def together(figures: Sequence[Figure], *, title: str, subtitle: str, columns: int) -> str:
    """Return one SVG of several charts, row by row under one title, with one legend."""
    parts: list[Spec] = []
    params: Spec = {}
    data: Spec = {}
    for number, figure in enumerate(figures):
        params |= {param["name"]: param for param in figure.chart["params"]}
        data |= {f"{number}-{name}": rows for name, rows in figure.data.items()}
        layers = [
            layer | {"data": {"name": f"{number}-{layer['data']['name']}"}}
            for layer in figure.chart["layer"]
        ]
        heading = {"text": figure.title, "fontSize": 13, "offset": 8}
        part = {"layer": layers, "width": figure.width, "height": figure.height}
        parts.append(part | ({"title": heading} if figure.title else {}))
    width = sum(figure.width + 64 for figure in figures[:columns])
    heading = {
        "text": textwrap.wrap(tidy(title), int(width / 9)),
        "subtitle": textwrap.wrap(tidy(subtitle), int(width / 6.1)),
        "fontSize": 17,
        "subtitleFontSize": 13,
        "subtitleColor": {"expr": "muted"},
        "subtitlePadding": 6,
        "subtitleLineHeight": 17,
        "offset": 16,
    }
    shared = dict.fromkeys(("color", "shape", "strokeDash"), "shared")
    spec = {
        "$schema": SCHEMA,
        "concat": parts,
        "columns": columns,
        "spacing": 24,
        "padding": 20,
        "config": _style(),
        "datasets": data,
        "params": list(params.values()),
        "resolve": {"scale": shared, "legend": shared},
        "background": "white",
    }
    return _drawn(spec | ({"title": heading} if title else {}))


@cache
def _style() -> Spec:
    """Return the look of all charts, whose colours are the parameters of `THEME`."""
    style: Spec = json.loads(files(__package__).joinpath("templates/chart_style.json").read_bytes())
    return style


def save_svg(svg: str, place: Path) -> None:
    """Write PLACE.svg and PLACE.png."""
    place.with_name(place.name + ".svg").write_bytes(svg.encode())
    place.with_name(place.name + ".png").write_bytes(vl_convert.svg_to_png(svg, scale=2))


def _drawn(spec: Spec) -> str:
    """Draw, and count gradients and clips from 0: Vega counts through the life of the process."""
    pattern = re.compile(r'(?<= id=")(gradient_|clip)\d+(?=")|(?<=url\(#)(gradient_|clip)\d+(?=\))')
    numbers: dict[str, int] = {}
    return pattern.sub(
        lambda found: (found[1] or found[2]) + str(numbers.setdefault(found[0], len(numbers))),
        vl_convert.vegalite_to_svg(_changed(spec, _tidied)),
    )


def _changed(part: Any, change: Callable[[str, Any], Any], key: str = "") -> Any:
    """Return a part of a specification with each value as `change(key, value)` returns it."""
    part = change(key, part)
    if isinstance(part, dict):
        return {name: _changed(value, change, name) for name, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_changed(value, change) for value in part]
    return part


def _with_parameter(key: str, value: Any) -> Any:
    names = {colour: name for name, colour in THEME.items()}
    return {"expr": names[value]} if isinstance(value, str) and value in names else value


def _tidied(_: str, value: Any) -> Any:
    return tidy(value) if isinstance(value, str) else value


def _without_legend(key: str, value: Any) -> Any:
    return None if key == "legend" else value


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


# From the first step or the shallowest network to the last.
ORDERED = tuple(
    Mark(colour, dash)
    for colour, dash in zip(
        ("#56B4E9", BLUE, "#009E73", "#E69F00", ORANGE, "#A0522D"),
        ((1, 0), (8, 2), (5, 2), (3, 2), (2, 2), (1, 2)),
        strict=True,
    )
)
# What a point that stands for a mean shows under the pointer.
RANGE = {"low:Q": "from|.2%", "high:Q": "to|.2%"}


@dataclass(frozen=True)
class Series:
    """What tells series apart: the words of a column, and their marks."""

    words: tuple[str, ...]
    marks: tuple[Mark, ...]
    field: str = "series"

    @property
    def entries(self) -> list[tuple[str, Mark]]:
        """Words and marks, pair by pair."""
        return list(zip(self.words, self.marks, strict=True))

    def channels(self, mark: str) -> Spec:
        """Return the channels by which a layer of this mark shows its series."""
        looks: dict[str, list[Any]] = {"color": [mark.colour for mark in self.marks]}
        # A stroke would be dashed in the legend, and eat into small symbols.
        legend: Spec = {"symbolStrokeWidth": 0, "symbolType": "square"}
        legend["columns"] = 5 if len(self.words) > 6 else len(self.words)
        if mark in ("line", "rule"):
            looks["strokeDash"] = [mark.dash for mark in self.marks]
        if mark == "point":
            looks["shape"] = [SHAPES[mark.shape or "circle"] for mark in self.marks]
            del legend["symbolType"]
        field, shown = f"{self.field}:N", {"title": None, "legend": legend}
        return {
            name: channel(field, **shown, scale={"domain": self.words, "range": values})
            for name, values in looks.items()
        }


def ordered(words: Sequence[str]) -> Series:
    """Return the series of depths or steps, the colours as far apart as they can be."""
    gaps = max(1, len(words) - 1)
    places = [round(place * (len(ORDERED) - 1) / gaps) for place in range(len(words))]
    return Series(tuple(words), tuple(ORDERED[place] for place in places))


def channel(field: str, **options: Any) -> Spec:
    """Return a channel that shows a field: "depth:O", "mean(value):Q" or "count():Q"."""
    name, _, kind = field.rpartition(":")
    aggregate, _, name = name.rstrip(")").rpartition("(")
    shown = {"aggregate": aggregate, "field": name}
    return {key: value for key, value in shown.items() if value} | {"type": KINDS[kind]} | options


OF_SCALE = {"zero", "nice", "padding", "base"}


@dataclass(frozen=True)
class Axis:
    """A field of the rows, and how it is scaled.

    `kind` is a scale type of Vega-Lite, or `switch`: between linear and logarithmic as the page's
    parameter `axis` says, for which `domain` is needed. `options` are those of Vega-Lite's axis,
    and those of its scale that `OF_SCALE` names.
    """

    field: str
    title: str | None
    kind: str
    domain: Sequence[Any] | None
    options: Spec

    def hover(self) -> dict[str, str]:
        """Return what is shown of this axis under the pointer."""
        share = self.options.get("format", "").endswith("%")
        kind = "O" if self.kind == "band" else "Q"
        return {f"{self.field}:{kind}": f"{self.title or self.field}|{'.2%' if share else '~r'}"}

    def shown(self, field: str) -> str:
        """Return the name of the field that is drawn for a field."""
        return f"{field}_shown" if self.kind == "switch" else field

    def channel(self, field: str) -> Spec:
        """Return the channel that places a field on this axis."""
        if self.kind == "switch":
            assert self.domain is not None
            scale, options = _switch(*self.domain)
            return channel(f"{self.shown(field)}:Q", title=self.title, scale=scale, axis=options)
        options = {key: value for key, value in self.options.items() if key not in OF_SCALE}
        scale = {key: self.options[key] for key in OF_SCALE & self.options.keys()}
        if self.domain is not None:
            scale["domain"] = list(self.domain)
        if self.kind in ("ordinal", "point", "band"):
            options = {"ticks": False, "domain": False, "labelAngle": 0} | options
            return channel(f"{field}:O", title=self.title, scale=scale, axis=options, sort=None)
        scale = {"type": self.kind, "nice": False} | scale
        return channel(f"{field}:Q", title=self.title, scale=scale, axis=options)


def axis(
    field: str,
    title: str | None = None,
    kind: str = "linear",
    domain: Sequence[Any] | None = None,
    **options: Any,
) -> Axis:
    """Return an axis."""
    return Axis(field, title, kind, domain, options)


# Draws one mark over two axes, in the colours of a series.
Layer = Callable[[Axis, Axis, Series | None], Spec]


def layer(
    mark: str,
    data: str = ROWS,
    *,
    encode: Spec | None = None,
    hover: Mapping[str, str] | None = None,
    tip: bool = False,
    where: str = "",
    calculate: Mapping[str, str] | None = None,
    **options: Any,
) -> Layer:
    """Return one mark of Vega-Lite over one data set, to be drawn by `plot`.

    Args:
        mark: The kind of mark.
        data: Name of the data set.
        encode: Further channels: a field as `channel` takes it, or a part of a specification.
        hover: What is shown under the pointer, "title" or "title|format" by field.
        tip: Whether the fields of the series and the axes are shown too.
        where: Which rows are drawn.
        calculate: Expressions of further fields.
        options: Those of the mark; `x`, `y`, `x2` and `y2` are fields in place of the axes' own.
            None leaves the channel out, so a rule spans the plot.
    """
    own = {name: options.pop(name) for name in ("x", "y", "x2", "y2") if name in options}

    def drawn(x: Axis, y: Axis, series: Series | None) -> Spec:
        style = STYLES.get(mark, {}) | options
        fields: dict[str, Any] = {"x": x.field, "y": y.field} | own
        shown: Mapping[str, str] = hover or {}
        channels: Spec = {}
        if series is not None:
            channels = {k: v for k, v in series.channels(mark).items() if k not in options}
            opacity, style["opacity"] = style.get("opacity", 1.0), 1
            chosen = {"test": f"!chosen || datum.{series.field} == chosen", "value": opacity}
            channels["opacity"] = {"condition": [chosen], "value": 0.06 * bool(opacity)}
        if mark == "point" and "shape" not in channels:
            style["shape"] = SHAPES[style.get("shape", "circle")]
        channels |= {
            name: place.channel(fields[name])
            for name, place in (("x", x), ("y", y))
            if fields[name] is not None
        }
        if "x2" in fields:
            channels["x2"] = {"field": fields["x2"]}
        if "y2" in fields:
            channels["y2"] = {"field": y.shown(fields["y2"])}
        if tip:
            named = {} if series is None else {f"{series.field}:N": series.field}
            shown = named | x.hover() | y.hover() | dict(shown)
        if shown:
            channels["tooltip"] = [_tooltip(field, words) for field, words in shown.items()]
        for name, given in (encode or {}).items():
            channels[name] = channel(given) if isinstance(given, str) else given
        transform: list[Spec] = [{"filter": where}] if where else []
        transform += [{"calculate": how, "as": name} for name, how in (calculate or {}).items()]
        if y.kind == "switch":
            names = {fields[name] for name in ("y", "y2") if fields.get(name)}
            transform += [
                {"calculate": _switched(name), "as": y.shown(name)} for name in sorted(names)
            ]
        spec: Spec = {"mark": {"type": mark} | style, "data": {"name": data}, "encoding": channels}
        return spec | ({"transform": transform} if transform else {})

    return drawn


def plot(x: Axis, y: Axis, *layers: Layer, series: Series | None = None, **params: Any) -> Spec:
    """Return a chart of layers over two axes, from the back to the front.

    `series` tells rows apart, and a page can show one of them alone. `params` are values that
    expressions of the chart name.
    """
    values: Spec = THEME | ({} if series is None else {"chosen": ""})
    values |= ({"axis": "log"} if y.kind == "switch" else {}) | params
    return {
        "layer": _changed([drawn(x, y, series) for drawn in layers], _with_parameter),
        "params": [{"name": name, "value": value} for name, value in values.items()],
    }


def _tooltip(field: str, words: str) -> Spec:
    title, _, form = words.rpartition("|")
    return channel(field, title=title or form, format=form if title else "")


def _switched(name: str) -> str:
    """Return the expression of a field on an axis that switches."""
    value = f"datum.{name}"
    return (
        f"isValid({value}) && (axis == 'linear' || {value} > 0)"
        f" ? (axis == 'log' ? log({value}) / LN10 : {value}) : null"
    )


def log_axis(name: str, title: str, values: Sequence[float], form: str = "~s") -> Axis:
    """Return the logarithmic axis of depths or steps, with a tick at each."""
    ends, title = (values[0] / 1.12, values[-1] * 1.12), f"{title} (log scale)"
    return axis(name, title, "log", ends, values=list(values), format=form, grid=False)


def share_axis(title: str, top: float | None = None) -> Axis:
    """Return the axis of an error or another share, from 0."""
    domain = None if top is None else (0, top)
    return axis("value", title, domain=domain, format=".0%", tickCount=6)


def mean_layers(**style: Any) -> tuple[Layer, ...]:
    """Return a line of means within a band from `low` to `high`, with values to hover over."""
    return (
        layer("area", "means", y="low", y2="high", where="isValid(datum.low)", **style),
        layer("line", "means", **style),
        layer("point", "means", tip=True, hover=RANGE, **style | {"size": 110, "opacity": 0}),
    )


def lost_layers(text: str, **style: Any) -> tuple[Layer, ...]:
    """Return a cross for each cell with runs that diverged, and a text beside it."""
    cross: dict[str, Any] = {"shape": "cross", "size": 60, "filled": False, "strokeWidth": 2}
    beside: dict[str, Any] = {"align": "left", "dx": 9} | style
    return (
        layer("point", "lost", color=INK, **cross),
        layer("text", "lost", encode={"text": text}, color=INK, **beside),
    )


def _switch(low: float, high: float) -> tuple[Spec, Spec]:
    """Return a scale from `low` (from 0, if linear), with ticks of 1, 2 and 5 or of decades.

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
    label = "axis == 'log' ? format(pow(10, datum.value), '.2~r') : format(datum.value, '.3~r')"
    values = {"expr": f"axis == 'log' ? {logs} : {linear}"}
    scale: Spec = {"domain": {"expr": f"axis == 'log' ? {ends}"}, "nice": False}
    return scale, {"labelExpr": label, "values": values}
