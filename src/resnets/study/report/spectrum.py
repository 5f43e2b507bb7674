"""Singular values of the Jacobian at initialisation enter, the figure of the spectra leaves.

Saxe 2014; Pennington 2017 (arXiv 1711.04735): where singular values lie near each other, errors of
every direction come through the network; where one is far above the rest, only its own does.
"""

from __future__ import annotations

import math

import altair as alt

from resnets.report.charts import Figure, finite
from resnets.study.report.evidence import Row, median_by, select
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.look import AT_INIT, Drawn, Series, data, faded
from resnets.study.report.words import and_

FLOOR = -8.0
"""decades below the largest, beyond which nothing is drawn"""


def spectrum(rows: list[Row], command: str) -> Exhibit | None:
    """Singular values at the deepest, and the directions that come through by depth."""
    rows = select(rows, metric="log10_singular_value")
    width = 1 + int(max((row["x"] for row in rows), default=0))
    known = [{"value": -math.inf} | row for row in rows]  # what was lost in rounding is small
    values = median_by(known, "family", "depth", "x")
    families = [name for name in AT_INIT if any(key[0] == name for key in values)]
    if not families:
        return None
    relative = [
        {"series": AT_INIT[family], "depth": depth, "rank": rank + 1,
         "size": finite(value - values[family, depth, 0]), "log10": finite(value)}
        for (family, depth, rank), value in values.items()
        if family in AT_INIT and value - values[family, depth, 0] >= FLOOR
    ]  # fmt: skip
    deepest = max(row["depth"] for row in relative)
    counts: dict[tuple[str, int], int] = {}
    for row in relative:
        key = row["series"], row["depth"]
        counts[key] = counts.get(key, 0) + (row["size"] > -1)
    by_depth = [{"series": s, "depth": d, "directions": n} for (s, d), n in counts.items()]
    last = [row for row in relative if row["depth"] == deepest]
    return Exhibit(
        name="spectrum",
        sentence=spectrum_sentence(
            {s: n for (s, d), n in counts.items() if d == deepest}, deepest, width
        ),
        note="Singular values of the derivative of the last layer by the input, in double "
        "precision, medians over draws. Left: relative to the largest, down to a hundred "
        "millionth. Right: how many are at least a tenth of the largest. A ReLU alone switches "
        "half of the directions off at each layer of a plain network.",
        panels=(
            _panel("values", f"at {deepest:,} layers", families, last),
            _panel("directions", "by depth", families, by_depth),
        ),
        tables=("init_jacobian",),
        command=command,
        columns=2,
    )


def spectrum_sentence(counts: dict[str, int], depth: int, width: int) -> str:
    """How many directions come through a deep network at about equal strength."""
    half = width / 2
    many = [f"{name} ({count})" for name, count in counts.items() if count >= half]
    few = [f"{name} ({count})" for name, count in counts.items() if count < half]
    parts = []
    if many:
        parts.append(f"most of the {width} directions of an error come through {and_(many)}")
    if few:
        parts.append(f"few come through {and_(few)}")
    counted = "counted are those with at least a tenth of the strongest"
    return f"At {depth:,} layers {'; '.join(parts)} ({counted})."


def _panel(way: str, title: str, families: list[str], rows: list[Row]) -> Figure:
    ticks = sorted({row["depth"] for row in rows}) if way == "directions" else [1, 16, 32, 48, 64]
    return Figure(
        name=f"spectrum-{way}", title=title, note="", chart=_chart(way, families, ticks),
        data={"rows": rows}, width=400, height=320,
    )  # fmt: skip


def _chart(way: str, families: list[str], ticks: list[int]) -> Drawn:
    series = Series.of(families, words=AT_INIT)
    pick = series.pick()
    family = alt.Tooltip("series:N", title="family")
    if way == "values":
        x = alt.X("rank:Q", title="singular values, from the largest").scale(nice=False, padding=8)
        y = alt.Y("size:Q", title="decades below the largest").scale(domain=(FLOOR, 0))
        tooltip = [
            family,
            alt.Tooltip("rank:Q", title="place"),
            alt.Tooltip("size:Q", title="log10, relative", format=".2f"),
            alt.Tooltip("log10:Q", title="log10 of the value", format=".2f"),
        ]
    else:
        x = alt.X("depth:Q", title="layers").scale(type="log", padding=10, nice=False)
        y = alt.Y("directions:Q", title="directions that come through").scale(zero=True)
        tooltip = [family, alt.Tooltip("depth:Q", title="layers", format=",d"),
                   alt.Tooltip("directions:Q")]  # fmt: skip
    x = x.axis(grid=False, format="~s", values=ticks)
    rows = data().encode(x=x, y=y, color=series.colour)
    return alt.layer(
        rows.mark_line(strokeWidth=1.8).encode(strokeDash=series.dash, opacity=faded(pick, 0.9)),
        rows.mark_point(filled=True, size=14 if way == "values" else 55)
        .encode(shape=series.shape, opacity=faded(pick), tooltip=tooltip)
        .add_params(pick)
        .properties(name="measured"),
    )
