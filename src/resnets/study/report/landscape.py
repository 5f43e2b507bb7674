"""The loss along random directions enters, the figure of landscapes leaves.

Li 2018 (arXiv 1712.09913), but with bands over many directions in place of one surface, because one
random plane shows what it happens to show.
"""

from __future__ import annotations

import statistics

import altair as alt

from resnets.report.charts import Figure, finite
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.look import Drawn, data, marks_of, switch, switched, switched_axis
from resnets.study.report.words import and_
from resnets.study.tables import Row, select

Networks = dict[str, list[Row]]
METRIC = "line_loss_recalibrated"
HALF = 0.5
"""of the way to weights as far off as they are long"""
FAIR = 2.0
"""losses that differ by more than this factor are not compared"""


def landscape(networks: Networks, tables: tuple[str, ...], command: str) -> Exhibit | None:
    """A panel a network: every direction thin, their median thick, the band of the middle 80 %."""
    found = {name: select(rows, metric=METRIC) for name, rows in networks.items()}
    found = {name: [r for r in rows if "value" in r] for name, rows in found.items()}
    found = {name: rows for name, rows in found.items() if rows}
    if not found:
        return None
    values = [row["value"] for rows in found.values() for row in rows]
    domain = (max(min(values) / 1.3, 1e-4), max(values) * 1.1)
    panels = tuple(
        Figure(
            name=f"landscape-{name}",
            title=name,
            note="",
            chart=_chart(networks[name][0]["family"], domain),
            data=_rows(rows),
            width=400,
            height=280,
        )
        for name, rows in found.items()
    )
    draws = len({row["draw"] for rows in found.values() for row in rows})
    return Exhibit(
        name="landscape",
        sentence=landscape_sentence(found),
        note=f"Loss when the weights are moved along {draws} random directions, each filter's step "
        "as long as the filter at 1 (filter-normalised); batch-norm statistics re-estimated at "
        "every point. Thick: the median; band: the middle 80 % of directions. Few images: shapes "
        "can be compared, the last digit cannot.",
        panels=panels,
        tables=tables,
        command=command,
        columns=2,
    )


def landscape_sentence(found: Networks) -> str:
    """What the loss becomes halfway, as the median over directions and both signs."""
    bases, rises, parts = {}, {}, []
    for name, rows in found.items():
        at = min({abs(row["x"]) for row in rows}, key=lambda x: abs(x - HALF))
        bases[name] = statistics.median(row["value"] for row in select(rows, x=0.0))
        away = statistics.median(row["value"] for row in rows if abs(row["x"]) == at)
        rises[name] = away - bases[name]
        parts.append(f"from {bases[name]:.2g} to {away:.2g} nats in {name}")
    sentence = f"A random step {at:.1g} times as long as the weights takes the loss {and_(parts)}"
    plain = [name for name in rises if found[name][0]["family"] == "plain"]
    others = [name for name in rises if name not in plain]
    if plain and others:
        if max(bases.values()) > FAIR * min(bases.values()):
            sentence += "; they begin at losses too different for a word on flatness"
        elif max(rises[name] for name in others) < min(rises[name] for name in plain):
            sentence += ": the residual network lies in the flatter place"
        else:
            sentence += ": the residual network does not lie in the flatter place"
    return sentence + "."


def _rows(rows: list[Row]) -> dict[str, list[Row]]:
    lines = [
        {"direction": row["draw"], "a": row["x"], "loss": finite(row["value"])} for row in rows
    ]
    band = []
    for a in sorted({row["x"] for row in rows}):
        values = [row["value"] for row in select(rows, x=a)]
        tenths = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else None
        band.append(
            {"a": a, "middle": finite(statistics.median(values)),
             "low": finite(tenths[0] if tenths else values[0]),
             "high": finite(tenths[-1] if tenths else values[0])}
        )  # fmt: skip
    return {"rows": lines, "band": band}


def _chart(family: str, domain: tuple[float, float]) -> Drawn:
    mark = marks_of([family])[family]
    x = alt.X("a:Q", title="step along the direction").axis(grid=False, tickCount=5)
    title = "loss (nats)"
    scale, axis = switched_axis(*domain)
    band = switched(data("band"), "middle", "low", "high").encode(x=x)
    lines = switched(data(), "loss").encode(
        x=x, y=alt.Y("loss_shown:Q", title=title, scale=scale, axis=axis), detail="direction:N"
    )
    tooltip = [
        alt.Tooltip("a:Q", title="step", format="+.1f"),
        alt.Tooltip("middle:Q", title="median loss", format=".3g"),
        alt.Tooltip("low:Q", title="80 % from", format=".3g"),
        alt.Tooltip("high:Q", title="to", format=".3g"),
    ]
    middle = band.encode(y=alt.Y("middle_shown:Q", title=title, scale=scale, axis=axis))
    return alt.layer(
        band.mark_area(opacity=0.2, color=mark.colour).encode(
            y=alt.Y("low_shown:Q", title=title, scale=scale, axis=axis), y2="high_shown:Q"
        ),
        lines.mark_line(strokeWidth=0.7, opacity=0.45, color=mark.colour),
        middle.mark_line(strokeWidth=2.6, color=mark.colour, strokeDash=list(mark.dash)),
        middle.mark_point(size=90, opacity=0, filled=True).encode(tooltip=tooltip),
    ).add_params(switch("log"))
