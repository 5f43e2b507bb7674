"""Fitted growth a layer enters, beside its closed form; the figure of slopes leaves.

The growth of log |g|^2 a layer towards the input, and of log q, the mean square of the signal,
towards the output: 0 is a network in which nothing grows or dies, log 2 doubles in every layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt

from resnets.report.charts import Figure, finite
from resnets.study.report.evidence import Row, one, select
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.look import AT_INIT, beside_theory

WAYS = {
    # title, theory's metric, the factor from its log10 to the logarithm of a square
    "backward": ("gradient, backward", "theory_log10_gradient", 2 * math.log(10)),
    "forward": ("signal, forward", "theory_log10_variance", math.log(10)),
}
TICKS = [-1, -0.3, -0.1, -0.03, -0.01, 0, 0.01, 0.03, 0.1, 0.3, 1]


def growth(init: list[Row], theory: list[Row], command: str) -> list[Exhibit]:
    """One panel a direction."""
    families = [name for name in AT_INIT if select(init, family=name)]
    panels = []
    everything: list[Row] = []
    for way, (title, metric, factor) in WAYS.items():
        rows = _rows(select(init, metric=f"{way}_slope"), theory, metric, factor, way)
        everything += rows
        panels.append(
            Figure(
                name=f"slopes-{way}",
                title=title,
                note="",
                chart=beside_theory(families, rows, _axis(way), form=".4f"),
                data={"rows": rows},
                width=400,
                height=340,
            )
        )
    if not everything:
        return []
    return [
        Exhibit(
            name="slopes",
            sentence=slopes_sentence(everything),
            note="Growth of the squared norm a layer, fitted over the whole depth: 0.69 doubles it "
            "in every layer. Points: median over draws; lines: theory, not fitted (for plain and "
            "orthogonal at this finite width, for batch norm at this batch). The upright axis is "
            "linear near 0 and logarithmic beyond 0.01.",
            panels=tuple(panels),
            tables=("init", "init_theory"),
            command=command,
            columns=2,
        )
    ]


def slopes_sentence(rows: Sequence[Row]) -> str:
    """How far measured growth is from theory at the deepest, and what plain batch norm does."""
    pairs = [row for row in rows if row["theory"] is not None and abs(row["theory"]) > 0.005]
    deepest = max(row["depth"] for row in rows)
    last = [row for row in pairs if row["depth"] == deepest]
    parts = []
    bn = next((r for r in last if (r["family"], r["way"]) == ("plain-bn", "backward")), None)
    if bn is not None:
        word = "grow" if bn["value"] > 0 else "shrink"
        parts.append(
            f"backwards, gradients of plain networks with batch norm {word}: their squared norm "
            f"takes a factor of {math.exp(bn['value']):.3f} a layer (theory: "
            f"{math.exp(bn['theory']):.3f})"
        )
    if last:
        misses = sorted((abs(row["value"] / row["theory"] - 1), row["series"]) for row in last)
        middle, (worst, name) = misses[len(misses) // 2][0], misses[-1]
        parts.append(
            f"at {deepest:,} layers half of the measured rates are within {100 * middle:.1f} % of "
            f"theory, the worst ({name}) within {100 * worst:.1f} %"
        )
    joined = "; ".join(parts) or "no closed form to compare with was measured"
    return f"{joined[0].upper()}{joined[1:]}."


def _rows(slopes: list[Row], theory: list[Row], metric: str, factor: float, way: str) -> list[Row]:
    rows = []
    for row in slopes:
        if row["family"] in AT_INIT and "value" in row:
            closed = _closed(theory, metric, row["family"], row["depth"], way)
            rows.append(
                {"series": AT_INIT[row["family"]], "family": row["family"], "depth": row["depth"],
                 "way": way, "value": finite(row["value"]),
                 "theory": None if closed is None else finite(closed * factor / row["depth"])}
            )  # fmt: skip
    return sorted(rows, key=lambda row: (row["series"], row["depth"]))


def _closed(theory: list[Row], metric: str, family: str, depth: int, way: str) -> float | None:
    """The logarithm's whole change through the depth, where its growth is the same in each layer.

    Of pre-activation it is not: there the slope is that of no line.
    """
    if family == "preact":
        return None
    unit = 0 if way == "backward" else depth
    for own in (depth, None):
        value = one(theory, metric=metric, family=family, depth=own, unit=unit)
        if value is not None:
            return value
    return None


def _axis(way: str) -> alt.Y:
    title = "growth of log |g|² a layer" if way == "backward" else "growth of log q a layer"
    scale = alt.Scale(type="symlog", constant=0.01)
    return alt.Y("value:Q", title=title, scale=scale).axis(values=TICKS, format=".2~f")
