"""Cosines of two inputs' signals enter, the figure of the correlation map leaves.

Poole 2016 and Schoenholz 2017 (arXiv 1611.01232): a plain ReLU network makes all inputs alike, and
its closed form says how fast; a shortcut or a norm changes it.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from resnets.report.charts import GREY, Figure, finite
from resnets.study.report.evidence import Row, median_by, select
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.look import AT_INIT, Drawn, Series, data, faded
from resnets.study.report.words import and_

ROUNDING = 1e-8
"""1 - c below this is not drawn"""


def families_of(rows: Sequence[Row]) -> list[str]:
    """In the order of the legend, plain first."""
    found = {row["family"] for row in rows}
    return [name for name in AT_INIT if name in found]


def correlation(forward: list[Row], theory: list[Row], command: str) -> Exhibit:
    measured = _curves(select(forward, metric="cosine_distance", x=0.0))
    closed = _curves(select(theory, metric="theory_cosine_distance", x=0.0))
    tail = [
        {"unit": row["unit"], "distance": finite(row["value"])}
        for row in select(theory, metric="theory_cosine_distance_tail")
    ]
    deepest = max(row["unit"] for row in measured)
    figure = Figure(
        name="correlation",
        title="",
        note="",
        chart=_correlation_chart(families_of(forward), deepest),
        data={"measured": measured, "theory": closed, "tail": tail},
        width=760,
        height=400,
    )
    return Exhibit(
        name="correlation",
        sentence=correlation_sentence(measured, closed),
        note="How different two inputs at right angles still are after l layers: 1 - c, with c the "
        "cosine of their signals; medians over draws. Thin lines: theory for infinite width, not "
        "fitted; grey dots: its tail 9π²/2l². A finite width makes inputs alike sooner. A family "
        "whose law depends on the depth is drawn "
        "at its deepest. Both axes are logarithmic; below 1e-8 rounding begins.",
        panels=(figure,),
        tables=("init_forward", "init_theory"),
        command=command,
    )


def correlation_sentence(measured: list[Row], closed: list[Row]) -> str:
    """How alike two inputs have become after a hundred plain layers, and where they have not."""
    name = AT_INIT["plain"]
    plain = [row for row in measured if row["series"] == name]
    if not plain:
        return "Without plain networks there is nothing to compare these curves with."
    near = min(plain, key=lambda row: abs(row["unit"] - 100))
    expected = next(
        (r["distance"] for r in closed if (r["series"], r["unit"]) == (name, near["unit"])), None
    )
    cosine = 1 - near["distance"]
    seen = "look the same" if cosine > 0.99 else "are still told apart"
    beside = "" if expected is None else f" (theory: {1 - expected:.4f})"
    last = {row["series"]: row for row in measured}  # rows are in the order of units
    kept = [series for series, row in last.items() if 1 - row["distance"] <= 0.99]
    end = max(row["unit"] for row in last.values())
    rest = f"; at {end:,} layers they still differ in {and_(kept)}" if kept else ""
    return (
        f"After {near['unit']} plain layers without norm two inputs at right angles {seen}: the "
        f"cosine of their signals is {cosine:.4f}{beside}{rest}."
    )


def _curves(rows: list[Row]) -> list[Row]:
    """Medians over draws by family and unit; of a family with many depths the deepest."""
    curves = []
    for family in families_of(rows):
        own = select(rows, family=family)
        own = select(own, depth=max((row.get("depth") or 0) for row in own) or None)
        for (unit,), value in sorted(median_by(own, "unit").items()):
            if value > ROUNDING and unit > 0:
                curves.append({"series": AT_INIT[family], "unit": unit, "distance": finite(value)})
    return curves


def _correlation_chart(families: Sequence[str], deepest: int) -> Drawn:
    series = Series.of(families, words=AT_INIT)
    pick = series.pick()
    x = alt.X("unit:Q", title="layer l").scale(type="log", domain=[1, deepest], nice=False)
    x = x.axis(grid=False, format="~s", tickCount=5)
    y = alt.Y("distance:Q", title="1 - cosine of two inputs").scale(
        type="log", domain=[ROUNDING, 1]
    )
    y = y.axis(format=".0e", tickCount=5)
    tooltip = [
        alt.Tooltip("series:N", title="family"),
        alt.Tooltip("unit:Q", title="layer"),
        alt.Tooltip("distance:Q", title="1 - cosine", format=".3g"),
    ]
    return alt.layer(
        data("tail").mark_line(stroke=GREY, strokeDash=[2, 4], strokeWidth=1.6).encode(x=x, y=y),
        data("theory").mark_line(strokeWidth=1).encode(
            x=x, y=y, color=series.colour, opacity=faded(pick, 0.9)
        ),
        data("measured")
        .mark_point(filled=True, size=46)
        .encode(
            x=x, y=y, color=series.colour, shape=series.shape, opacity=faded(pick),
            tooltip=tooltip,
        )
        .add_params(pick)
        .properties(name="measured"),
    )  # fmt: skip
