"""Say how families look and what they are called, in all figures of the study."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Any

import altair as alt

from resnets.report.charts import BLUE, GREY, INK, ORANGE, Axis, Layer, Mark, Series, axis, layer
from resnets.study.report.figure_row import words_of
from resnets.study.tables import Row

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
# Names at initialisation, and of trained families; a family that is not here keeps its own.
AT_INIT: dict[str, str] = words_of("at_init")
TRAINED: dict[str, str] = words_of("trained")


def marks_of(names: Sequence[str]) -> dict[str, Mark]:
    """Return a mark for each name: its family's own, or the next that is free."""
    own = [MARKS[name] for name in names if name in MARKS]
    free = cycle(mark for mark in MARKS.values() if mark not in own)
    return {name: MARKS[name] if name in MARKS else next(free) for name in names}


def families_of(rows: Iterable[Row]) -> list[str]:
    """Return the families at initialisation of these rows, plain first."""
    found = {row["family"] for row in rows}
    return [name for name in AT_INIT if name in found]


def series_of(
    names: Sequence[str], *, like: Sequence[str] | None = None, field: str = "series"
) -> Series:
    """Return the series of families, or of networks each of which looks `like` its family."""
    like = names if like is None or len(set(like)) < len(like) else like
    return Series(tuple(names), tuple(marks_of(like).values()), field)


def at_init(rows: Iterable[Row]) -> Series:
    """Return the series of the families at initialisation that these rows are of."""
    families = families_of(rows)
    return Series(tuple(AT_INIT[name] for name in families), tuple(marks_of(families).values()))


def block_axis(name: str = "unit", title: str = "block") -> Axis:
    """Return the axis of blocks or layers, counted from the first to the last."""
    return axis(name, title, grid=False, tickMinStep=1, tickCount=9, zero=False, padding=8)


def lost_layers(text: str, **style: Any) -> tuple[Layer, ...]:
    """Return a cross for each cell with runs that diverged, and a text beside it."""
    cross: dict[str, Any] = {"shape": "cross", "size": 60, "filled": False, "strokeWidth": 2}
    beside: dict[str, Any] = {"align": "left", "dx": 9} | style
    return (
        layer("point", "lost", color=INK, **cross),
        layer("text", "lost", encode={"text": text}, color=INK, **beside),
    )


def similarity_map(across: tuple[str, int], up: tuple[str, int]) -> tuple[Any, ...]:
    """Return axes and layers of CKA from 0 to 1, with rings; a side is a title and a last block."""
    ticks = [list(range(0, last + 1, max(1, round(last / 8)))) for _, last in (across, up)]
    legend = alt.Legend(titleOrient="left", gradientLength=160, gradientThickness=8, tickCount=3)
    scale = alt.Scale(domain=[0, 1], scheme="viridis", clamp=True)
    colour = {"color": alt.Color("value:Q", title="CKA", scale=scale, legend=legend)}
    return (
        axis("unit", across[0], "band", values=ticks[0]),
        axis("x", up[0], "band", list(range(up[1], -1, -1)), values=ticks[1], format="d"),
        layer("rect", encode=colour, tip=True, hover={"value:Q": "CKA|.3f"}),
        layer("point", "matched", size=22, color="#ffffff", stroke="#1d1d1d"),
    )
