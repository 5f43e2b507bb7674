"""Say how families look and what they are called, in all figures of the study."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import altair as alt

from resnets.report.charts import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    Axis,
    Layer,
    Mark,
    Series,
    axis,
    layer,
    plot,
)
from resnets.study.report.evidence import Row

MARKS = {
    "plain": Mark(ORANGE, (7, 3), "circle"),
    "residual": Mark(BLUE, (1, 0), "square"),
    "plain-bn": Mark("#E69F00", (3, 2), "up"),
    "residual-bn": Mark("#56B4E9", (1, 0), "diamond"),
    "preact": Mark("#009E73", (1, 0), "down"),
    "skipinit": Mark("#CC79A7", (8, 3, 2, 3), "plus"),
    "fixup": Mark("#8A63C7", (2, 3), "right"),
    "scaled": Mark(INK, (1, 0), "left"),
    "dirac": Mark(GREY, (5, 3), "star"),
    "orthogonal": Mark("#A86F2D", (2, 2), "ring"),
}
# Names at initialisation, short enough for two beside each other on a phone.
AT_INIT = {
    "plain": "plain without norm",
    "plain-bn": "plain with BN",
    "residual": "residual without norm",
    "residual-bn": "residual with BN",
    "preact": "pre-activation with BN",
    "skipinit": "SkipInit",
    "fixup": "Fixup",
    "scaled": "branch / √L",
    "dirac": "Dirac (plain)",
    "orthogonal": "orthogonal (plain)",
}
# Names of trained families; one that is not here keeps its own.
TRAINED = {
    "preact": "pre-activation",
    "skipinit": "SkipInit",
    "fixup": "Fixup",
    "scaled": "branch / √L",
    "dirac": "Dirac (plain)",
    "halved": "both halved",
    "gate": "gated shortcut",
    "conv": "1x1 shortcut",
    "dropout": "dropout on shortcut",
}
# From the first step or the shallowest network to the last.
ORDERED = (
    Mark("#56B4E9"),
    Mark("#0072B2", (8, 2)),
    Mark("#009E73", (5, 2)),
    Mark("#E69F00", (3, 2)),
    Mark("#D55E00", (2, 2)),
    Mark("#A0522D", (1, 2)),
)
# What a point that stands for a mean shows under the pointer.
RANGE = {"low:Q": "from|.2%", "high:Q": "to|.2%"}


def marks_of(names: Sequence[str]) -> dict[str, Mark]:
    """Return a mark for each name: its family's own, or the next that is free."""
    own = [MARKS[name] for name in names if name in MARKS]
    free = cycle(mark for mark in MARKS.values() if mark not in own)
    return {name: MARKS[name] if name in MARKS else next(free) for name in names}


def families_of(rows: Sequence[Row]) -> list[str]:
    """Return the families at initialisation of these rows, plain first."""
    found = {row["family"] for row in rows}
    return [name for name in AT_INIT if name in found]


def series_of(names: Sequence[str], *, like: Sequence[str] | None = None) -> Series:
    """Return the series of families, or of networks each of which looks `like` its family."""
    like = names if like is None or len(set(like)) < len(like) else like
    return Series(tuple(names), tuple(marks_of(like).values()))


def at_init(families: Sequence[str]) -> Series:
    """Return the series of families at initialisation."""
    return Series(tuple(AT_INIT[name] for name in families), tuple(marks_of(families).values()))


def ordered(words: Sequence[str]) -> Series:
    """Return the series of depths or steps, the colours as far apart as they can be."""
    gaps = max(1, len(words) - 1)
    places = [round(place * (len(ORDERED) - 1) / gaps) for place in range(len(words))]
    return Series(tuple(words), tuple(ORDERED[place] for place in places))


def log_axis(name: str, title: str, values: Sequence[float], form: str = "~s") -> Axis:
    """Return the logarithmic axis of depths or steps, with a tick at each."""
    ends, title = (values[0] / 1.12, values[-1] * 1.12), f"{title} (log scale)"
    return axis(name, title, "log", ends, values=list(values), format=form, grid=False)


def block_axis(title: str = "block") -> Axis:
    """Return the axis of blocks or layers, counted from the first to the last."""
    return axis("place", title, grid=False, tickMinStep=1, tickCount=9, zero=False, padding=8)


def share_axis(title: str, top: float | None = None) -> Axis:
    """Return the axis of an error or another share, from 0."""
    domain = None if top is None else (0, top)
    return axis("value", title, domain=domain, format=".0%", tickCount=6)


def mean_layers(hover: dict[str, str], **style: Any) -> tuple[Layer, ...]:
    """Return a line of means within a band from `low` to `high`, with values to hover over."""
    return (
        layer("area", "means", y="low", y2="high", where="isValid(datum.low)", **style),
        layer("line", "means", **style),
        layer("point", "means", hover=hover | RANGE, **style | {"size": 110, "opacity": 0}),
    )


def lost_layers(text: str, **style: Any) -> tuple[Layer, ...]:
    """Return a cross for each cell with runs that diverged, and a text beside it."""
    cross: dict[str, Any] = {"shape": "cross", "size": 60, "filled": False, "strokeWidth": 2}
    beside: dict[str, Any] = {"align": "left", "dx": 9} | style
    return (
        layer("point", "lost", color=INK, **cross),
        layer("text", "lost", encode={"text": text}, color=INK, **beside),
    )


def similarity_map(first: tuple[str, int], second: tuple[str, int]) -> alt.LayerChart:
    """Return a map of CKA from 0 to 1, with rings at equal shares of depth.

    Args:
        first: Title and last block of the horizontal side.
        second: The same of the vertical side.
    """
    ticks = [list(range(0, last + 1, max(1, round(last / 8)))) for _, last in (first, second)]
    x = axis("unit", first[0], "band", values=ticks[0])
    up = list(range(second[1], -1, -1))
    y = axis("other", second[0], "band", up, values=ticks[1], format="d")
    legend = alt.Legend(titleOrient="left", gradientLength=160, gradientThickness=8, tickCount=3)
    scale = alt.Scale(domain=[0, 1], scheme="viridis", clamp=True)
    colour = alt.Color("cka:Q", title="CKA", scale=scale, legend=legend)
    hover = {"unit:O": first[0], "other:O": second[0], "cka:Q": "CKA|.3f"}
    rings = layer("point", "matched", hover=hover, size=22, color="#ffffff", stroke="#1d1d1d")
    return plot(x, y, layer("rect", encode={"color": colour}, hover=hover), rings)
