"""Gradients along a line of inputs enter, the figure of shattering leaves.

Balduzzi 2017 (arXiv 1702.08591): in a deep plain network the gradients at neighbouring inputs are
as unlike as white noise; in a shallow one, or with strong shortcuts, they are alike as brown noise.
"""

from __future__ import annotations

import altair as alt

from resnets.report.charts import GREY, Figure, finite
from resnets.study.report.evidence import Row, median_by, select
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.look import AT_INIT, Drawn, Series, data, faded
from resnets.study.report.words import and_

NOISES = {"white-noise": "white noise", "brown-noise": "brown noise"}
ALIKE = 0.5
"""autocorrelation from which gradients are called alike, as for the decorrelation lag"""


def shattering(rows: list[Row], command: str) -> Exhibit | None:
    """Autocorrelation by depth with the nearest neighbour, and at the deepest by distance."""
    measured = select(rows, metric="autocorrelation")
    families = [name for name in AT_INIT if select(measured, family=name)]
    if not families:
        return None
    lags = median_by(measured, "family", "depth", "x")
    depths = sorted({row["depth"] for row in measured if row.get("depth") is not None})
    constant = [
        name for name in AT_INIT
        if select(rows, family=name, depth=depths[-1], metric="decorrelation_lag")
        and not select(measured, family=name, depth=depths[-1])
    ]  # fmt: skip
    near = min(row["x"] for row in measured)
    by_depth = [_row(key, value) for key, value in lags.items() if key[2] == near]
    by_lag = [_row(key, value) for key, value in lags.items() if key[1] in (depths[-1], None)]
    panels = (
        _panel("depth", "with the next place on the line", families, by_depth),
        _panel("lag", f"at {depths[-1]:,} layers", families, by_lag),
    )
    deepest = [row for row in by_depth if row["depth"] in (depths[-1], None)]
    return Exhibit(
        name="shattering",
        sentence=shattering_sentence(deepest, depths[-1], [AT_INIT[name] for name in constant]),
        note="Autocorrelation of the gradient along a line of 128 inputs, medians over draws "
        "(Balduzzi 2017). Grey: white noise, whose values have nothing to do with each other, and "
        "brown noise, its sum, measured in the same way. With batch norm the line is one batch, "
        "whose images see each other. A family whose gradient is the same everywhere, as that of "
        "an identity is, has no autocorrelation and is not drawn.",
        panels=panels,
        tables=("init_shattering",),
        command=command,
        columns=2,
    )


def shattering_sentence(deepest: list[Row], depth: int, constant: list[str]) -> str:
    """Where neighbours' gradients are still alike, and where they are not."""
    values = {row["series"]: row["alike"] for row in deepest if row["series"] in AT_INIT.values()}
    told = {name: f"{name} ({value:.2f})" for name, value in values.items()}
    alike = [told[name] for name, value in values.items() if value >= ALIKE]
    others = [told[name] for name, value in values.items() if value < ALIKE]
    parts = []
    if alike:
        parts.append(f"still alike in {and_(alike)}")
    if others:
        parts.append(f"shattered in {and_(others)}")
    if constant:
        parts.append(f"the same everywhere in {and_(constant)}, which begin as identities")
    return f"At {depth:,} layers the gradients of neighbouring inputs are {', '.join(parts)}."


def _row(key: tuple[object, ...], value: float) -> Row:
    name = str(key[0])
    series = AT_INIT.get(name) or NOISES[name]
    return {"series": series, "depth": key[1], "lag": key[2], "alike": finite(value),
            "noise": name in NOISES}  # fmt: skip


def _panel(way: str, title: str, families: list[str], rows: list[Row]) -> Figure:
    drawn = [row for row in rows if not row["noise"]]
    noise = [row for row in rows if row["noise"]]
    chart = _chart(way, families, ticks=sorted({row[way] for row in drawn}))
    return Figure(
        name=f"shattering-{way}", title=title, note="", chart=chart,
        data={"rows": drawn, "noise": noise}, width=400, height=320,
    )  # fmt: skip


def _chart(way: str, families: list[str], ticks: list[float]) -> Drawn:
    series = Series.of(families, words=AT_INIT)
    pick = series.pick()
    title = "layers" if way == "depth" else "places between the two inputs"
    x = alt.X(f"{way}:Q", title=title).scale(type="log", padding=10, nice=False)
    x = x.axis(grid=False, format="~s", values=ticks)
    y = alt.Y("alike:Q", title="autocorrelation of the gradient").scale(domain=(-0.4, 1))
    tooltip = [
        alt.Tooltip("series:N", title="family"),
        alt.Tooltip(f"{way}:Q", title=title),
        alt.Tooltip("alike:Q", title="autocorrelation", format=".2f"),
    ]
    rows, noise = data().encode(x=x, y=y, color=series.colour), data("noise").encode(y=y)
    controls: Drawn | alt.Chart
    if way == "depth":  # of noise, which has no layers
        words = noise.mark_text(align="right", dy=-7, color=GREY)
        controls = alt.layer(
            noise.mark_rule(stroke=GREY, strokeWidth=2, strokeDash=(1, 3)),
            words.encode(x=alt.value({"expr": "width - 4"}), text="series:N"),
        )
    else:
        controls = noise.mark_line(stroke=GREY, strokeWidth=2, strokeDash=(1, 3)).encode(
            x=x, detail="series:N"
        )
    return alt.layer(
        controls,
        rows.mark_line(strokeWidth=1.6).encode(strokeDash=series.dash, opacity=faded(pick, 0.9)),
        rows.mark_point(filled=True, size=55)
        .encode(shape=series.shape, opacity=faded(pick), tooltip=tooltip)
        .add_params(pick)
        .properties(name="measured"),
    )
