"""Gradients of a run's first steps and its last enter, the figure of their profiles leaves.

What initialisation decides is not what training sees: Yang 2019 (arXiv 1902.08129) finds that
gradients of plain networks with batch norm explode at step 0; one step may change much.
"""

from __future__ import annotations

import math

import altair as alt

from resnets.report.charts import Figure, finite
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.look import Drawn, count_axis, data, faded
from resnets.study.report.words import times
from resnets.study.tables import Row, select

Networks = dict[str, list[Row]]
COLOURS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#D55E00")
"""viridis, from the first step on, and the end in orange"""
DASHES = ((1, 0), (8, 3), (5, 3), (2, 2), (1, 0))


def gradients(networks: Networks, tables: tuple[str, ...], command: str) -> Exhibit | None:
    """|dL/dx| by unit, a line a step, a panel a network; without steps there is nothing to see."""
    profiles = {name: _profile(rows) for name, rows in networks.items()}
    profiles = {name: rows for name, rows in profiles.items() if rows}
    if not profiles:
        return None
    values = [row["gradient"] for rows in profiles.values() for row in rows]
    steps = list(dict.fromkeys(row["series"] for rows in profiles.values() for row in rows))
    ends = 10.0 ** math.floor(math.log10(min(values))), 10.0 ** math.ceil(math.log10(max(values)))
    return Exhibit(
        name="gradients",
        sentence=gradients_sentence(profiles),
        note="Norm of the gradient of the loss by what leaves each unit, on 128 images, with the "
        "batch's own statistics, after the steps of training in the legend. Unit 0 is the stem. "
        "The axis is logarithmic and the same for all networks.",
        panels=tuple(
            Figure(
                name=f"gradients-{name}", title=name, note="", chart=_chart(steps, ends),
                data={"rows": rows}, width=400, height=300,
            )
            for name, rows in profiles.items()
        ),
        tables=tables,
        command=command,
        columns=2,
    )  # fmt: skip


def gradients_sentence(profiles: Networks) -> str:
    """The gradient at the stem, relative to that at the last unit, before training and after."""
    parts = []
    for name, rows in profiles.items():
        decades = {}
        for step in (rows[0]["step"], rows[-1]["step"]):
            own = [row["gradient"] for row in rows if row["step"] == step]
            decades[step] = math.log10(own[0] / own[-1])
        first, last = decades.values()
        word = "evens it out" if abs(last) < abs(first) else "does not even it out"
        parts.append(
            f"in {name} the gradient at the stem is {times(first)} times that at the last unit "
            f"before training and {times(last)} times after step {rows[-1]['step']}: training "
            f"{word}"
        )
    joined = "; ".join(parts)
    return f"{joined[0].upper()}{joined[1:]}."


def _profile(rows: list[Row]) -> list[Row]:
    """By step, then by unit; nothing unless there are two steps to compare."""
    found = [
        {"series": f"step {row['step']}", "step": row["step"], "place": row["unit"],
         "gradient": finite(row["value"])}
        for row in select(rows, metric="gradient_x")
        if row.get("step") is not None and row.get("value", 0.0) > 0
    ]  # fmt: skip
    found.sort(key=lambda row: (row["step"], row["place"]))
    return found if len({row["step"] for row in found}) > 1 else []


def _chart(steps: list[str], ends: tuple[float, float]) -> Drawn:
    colours = [*COLOURS[: len(steps) - 1], COLOURS[-1]]
    legend = alt.Legend(
        orient="top", title=None, symbolSize=90, symbolStrokeWidth=0, columns=3, columnPadding=10
    )
    pick = alt.selection_point(name="pick", fields=["series"], bind="legend", toggle="true")
    lines = data().encode(
        x=count_axis("unit"),
        y=alt.Y("gradient:Q", title="|dL/dx|")
        .scale(type="log", domain=ends)
        .axis(format="~g", tickCount=5),
        color=alt.Color("series:N", legend=legend).scale(domain=steps, range=colours),
        opacity=faded(pick),
    )
    dash = alt.StrokeDash("series:N", legend=legend)
    dash = dash.scale(domain=steps, range=[*DASHES[: len(steps) - 1], DASHES[-1]])
    tooltip = [
        alt.Tooltip("series:N", title="after"),
        alt.Tooltip("place:Q", title="unit"),
        alt.Tooltip("gradient:Q", title="|dL/dx|", format=".3~g"),
    ]
    return alt.layer(
        lines.mark_line(strokeWidth=1.8).encode(strokeDash=dash),
        lines.mark_point(filled=True, size=26)
        .encode(tooltip=tooltip)
        .add_params(pick)
        .properties(name="points"),
    )
