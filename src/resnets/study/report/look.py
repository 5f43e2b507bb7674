"""How kinds of networks look, in all figures: a colour, a dash, a shape and words for each.

Colours are Okabe and Ito's, which colour-blind readers tell apart; dash and shape say the same
again, for print in grey. Charts of curves are made here, so that all behave alike: values under the
pointer, a click in the legend leaves one family, a switch between linear and logarithmic axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import altair as alt

from resnets.report.charts import BLUE, GREY, INK, ORANGE
from resnets.study.tables import Row

Drawn = alt.LayerChart | alt.FacetChart
"""what Altair says of layers"""
ROWS = "rows"
"""the name of a panel's own data"""


@dataclass(frozen=True)
class Mark:
    """What a series looks like."""

    colour: str
    dash: tuple[int, ...]
    shape: str


STAR = "M0,-1L.25,-.3L1,-.3L.4,.15L.6,.9L0,.45L-.6,.9L-.4,.15L-1,-.3L-.25,-.3Z"
RING = "M-1,0A1,1,0,1,1,1,0A1,1,0,1,1,-1,0ZM-.5,0A.5,.5,0,1,0,.5,0A.5,.5,0,1,0,-.5,0Z"

MARKS = {
    "plain": Mark(ORANGE, (7, 3), "circle"),
    "residual": Mark(BLUE, (1, 0), "square"),
    "plain-bn": Mark("#E69F00", (3, 2), "triangle-up"),
    "residual-bn": Mark("#56B4E9", (1, 0), "diamond"),
    "preact": Mark("#009E73", (1, 0), "triangle-down"),
    "skipinit": Mark("#CC79A7", (8, 3, 2, 3), "cross"),
    "fixup": Mark("#6A3D9A", (2, 3), "triangle-right"),
    "scaled": Mark(INK, (1, 0), "triangle-left"),
    "dirac": Mark(GREY, (5, 3), STAR),
    "orthogonal": Mark("#8C5A1A", (2, 2), RING),
}

AT_INIT = {
    "plain": "plain, no norm",
    "plain-bn": "plain + BN",
    "residual": "residual, no norm",
    "residual-bn": "residual + BN",
    "preact": "pre-act. + BN",
    "skipinit": "SkipInit",
    "fixup": "Fixup",
    "scaled": "branch / √L",
    "dirac": "plain, Dirac",
    "orthogonal": "plain, orthogonal",
}
"""words for the families of the atlas, short enough for two beside each other on a phone"""


def marks_of(names: Sequence[str]) -> dict[str, Mark]:
    """A mark for each name: its family's own, or the next that is free."""
    own = [MARKS[name] for name in names if name in MARKS]
    free = cycle(mark for mark in MARKS.values() if mark not in own)
    return {name: MARKS[name] if name in MARKS else next(free) for name in names}


def families_of(rows: Sequence[Row]) -> list[str]:
    """Return the families of these rows in the order of the legend, plain first."""
    found = {row["family"] for row in rows}
    return [name for name in AT_INIT if name in found]


@dataclass(frozen=True, eq=False)
class Series:
    """The encodings that tell series apart; `words` are what the legend and the rows call them."""

    words: tuple[str, ...]
    marks: tuple[Mark, ...]
    columns: int = 2  # of the legend

    @property
    def legend(self) -> alt.Legend:
        # A stroke would be dashed, and eat into small symbols.
        return alt.Legend(
            orient="top", title=None, symbolSize=90, symbolStrokeWidth=0, symbolOpacity=1,
            labelLimit=240, columnPadding=10, columns=self.columns,
        )  # fmt: skip

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        *,
        words: dict[str, str] | None = None,
        like: Sequence[str] | None = None,
    ) -> Series:
        """Series of families, in this order; or of networks, each `like` its family."""
        if like is None or len(set(like)) < len(like):
            marks = marks_of(names)
        else:
            marks = dict(zip(names, marks_of(like).values(), strict=True))
        titles = tuple((words or {}).get(name, name) for name in names)
        return cls(titles, tuple(marks[name] for name in names))

    @property
    def colour(self) -> alt.Color:
        scale = alt.Scale(domain=self.words, range=[mark.colour for mark in self.marks])
        return alt.Color("series:N", title=None, scale=scale, legend=self.legend)

    @property
    def dash(self) -> alt.StrokeDash:
        scale = alt.Scale(domain=self.words, range=[list(mark.dash) for mark in self.marks])
        return alt.StrokeDash("series:N", title=None, scale=scale, legend=self.legend)

    @property
    def shape(self) -> alt.Shape:
        scale = alt.Scale(domain=self.words, range=[mark.shape for mark in self.marks])
        return alt.Shape("series:N", title=None, scale=scale, legend=self.legend)

    def pick(self) -> alt.Parameter:
        """Chosen in the legend; nothing chosen is everything."""
        return alt.selection_point(name="pick", fields=["series"], bind="legend", toggle="true")


def data(name: str = ROWS) -> alt.Chart:
    return alt.Chart(alt.NamedData(name=name))


def faded(pick: alt.Parameter, opacity: float = 1.0) -> Any:
    """Opaque where chosen."""
    return alt.when(pick).then(alt.value(opacity)).otherwise(alt.value(0.06))


def switch(start: str) -> alt.Parameter:
    """Chooses between a linear and a logarithmic axis; see `switched`."""
    kinds = alt.binding_radio(options=["linear", "log"], name="axis ")
    return alt.param(name="axis", value=start, bind=kinds)


def switched(chart: alt.Chart, *fields: str) -> alt.Chart:
    """Adds FIELD_shown for each field: itself, or its logarithm where the switch says so.

    A scale's type cannot follow a switch, so the values do, and `switched_axis` undoes it in words.
    """
    return chart.transform_calculate(
        **{
            f"{name}_shown": f"isValid(datum.{name}) && (axis == 'linear' || datum.{name} > 0) ? "
            f"(axis == 'log' ? log(datum.{name}) / LN10 : datum.{name}) : null"
            for name in fields
        }
    )


def switched_axis(low: float, high: float) -> tuple[alt.Scale, alt.Axis]:
    """From `low` (from 0, if linear) to `high`, with ticks of 1, 2 and 5 or of decades."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    mantissas = (1, 2, 5) if last - first < 4 else (1,)
    powers = range(first, last + 1)
    marks = [math.log10(m) + power for power in powers for m in mantissas]
    logs = [round(mark, 6) for mark in marks if math.log10(low) <= mark <= math.log10(high)]
    step = next(
        m * 10.0**power
        for power in range(first - 1, last + 1)
        for m in (1, 2, 5)
        if high / (m * 10.0**power) <= 6
    )
    linear = [float(f"{step * place:.6g}") for place in range(int(high / step) + 1)]
    ends = f"[{math.log10(low):.6f}, {math.log10(high):.6f}] : [0, {high:.6g}]"
    scale = alt.Scale(domain=alt.ExprRef(f"axis == 'log' ? {ends}"), nice=False)
    label = "axis == 'log' ? format(pow(10, datum.value), '.2~r') : format(datum.value, '.3~r')"
    values = alt.ExprRef(f"axis == 'log' ? {logs} : {linear}")
    return scale, alt.Axis(labelExpr=label, values=values)


def count_axis(title: str) -> alt.X:
    """Units or layers, counted from the first to the last."""
    scale = alt.Scale(nice=False, zero=False, padding=8)
    return alt.X("place:Q", title=title, scale=scale).axis(grid=False, tickMinStep=1, tickCount=9)


def beside_theory(families: Sequence[str], rows: Sequence[Row], y: alt.Y, *, form: str) -> Drawn:
    """At each depth `value` as a point, `theory` as a line, and 0 as a thin rule.

    `y` places `value`, whose axis and scale theory shares; `form` is D3's format of both.
    """
    series = Series.of(families, words=AT_INIT)
    pick = series.pick()
    depths = sorted({row["depth"] for row in rows})
    x = alt.X("depth:Q", title="layers").scale(type="log", padding=10, nice=False)
    x = x.axis(grid=False, format="~s", values=depths)
    tooltip = [
        alt.Tooltip("series:N", title="family"),
        alt.Tooltip("depth:Q", title="layers", format=",d"),
        alt.Tooltip("value:Q", title="measured", format=form),
        alt.Tooltip("theory:Q", format=form),
    ]
    drawn = data().encode(x=x, color=series.colour)
    return alt.layer(
        data().mark_rule(stroke=GREY, strokeWidth=0.6).encode(y=alt.datum(0)),
        drawn.transform_filter("isValid(datum.theory)")
        .mark_line(strokeWidth=1.4)
        .encode(
            y=alt.Y("theory:Q", title=y["title"]), strokeDash=series.dash, opacity=faded(pick, 0.9)
        ),
        drawn.mark_point(filled=True, size=60)
        .encode(y=y, shape=series.shape, opacity=faded(pick), tooltip=tooltip)
        .add_params(pick)
        .properties(name="measured"),
    )
