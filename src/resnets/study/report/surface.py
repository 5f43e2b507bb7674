"""The loss on a plane of two random directions enters, the figure of that surface leaves.

Li 2018 (arXiv 1712.09913, figure 1) drew such surfaces, a bowl with shortcuts and a rough land
without. It is the second view: one plane shows what it happens to show, and the bands of
`landscape.py` are over many directions. Shapes of networks are compared on one scale of colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import altair as alt

from resnets.report.charts import INK, Figure, finite
from resnets.study.report.evidence import Row, select
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.look import Drawn, data
from resnets.study.report.words import and_

Networks = dict[str, list[Row]]
Point = tuple[float, float]
Plane = dict[Point, float]
"""loss by the steps a and b along the two directions"""
METRIC = "plane_loss_recalibrated"
CLEAR = 0.05
"""of all steps outwards: a smaller difference is called none"""


def surface(networks: Networks, tables: tuple[str, ...], command: str) -> Exhibit | None:
    """A map of the loss a network, all in the same colours."""
    planes = {name: _plane(rows) for name, rows in networks.items()}
    planes = {name: plane for name, plane in planes.items() if len(plane) > 1}
    if not planes:
        return None
    losses = [loss for plane in planes.values() for loss in plane.values()]
    scale = max(min(losses), 1e-4), max(losses)
    return Exhibit(
        name="surface",
        sentence=surface_sentence(planes, {name: networks[name][0]["family"] for name in planes}),
        note="Loss when the weights are moved along two random filter-normalised directions at "
        "once (Li 2018, figure 1), batch-norm statistics re-estimated at every point; the trained "
        "network lies in the middle. Colours are logarithmic and the same for all networks, lines "
        "lie at the marks of their scale. Where a network only guesses, its loss goes up and down "
        "by little, and such steps count as well. It is one plane; the bands over many directions "
        "weigh more.",
        panels=tuple(_panel(name, plane, scale) for name, plane in planes.items()),
        tables=tuple(t for t in tables if t.removeprefix("probe_landscape_") in planes),
        command=command,
        columns=2,
    )


def surface_sentence(planes: dict[str, Plane], families: dict[str, str]) -> str:
    """How often the loss rises on the way outwards: always, if the surface is a bowl."""
    shares, parts = {}, []
    for name, plane in planes.items():
        steps = list(_outwards(plane))
        rises = sum(after > before for before, after in steps)
        shares[name] = rises / len(steps)
        parts.append(
            f"on {rises} of {len(steps)} steps outwards in {name} (from {_middle(plane):.2g} to at "
            f"most {max(plane.values()):.2g} nats)"
        )
    sentence = f"On a random plane through the weights the loss rises {and_(parts)}"
    plain = [shares[name] for name in shares if families[name] == "plain"]
    others = [shares[name] for name in shares if families[name] != "plain"]
    if plain and others:
        if min(others) > max(plain) + CLEAR:
            sentence += ": the residual network lies in more of a bowl, as in Li 2018"
        else:
            sentence += ": the residual network does not lie in more of a bowl, unlike in Li 2018"
    return sentence + "."


def _plane(rows: list[Row]) -> Plane:
    """`draw` counts b from -1 to 1."""
    found = select(rows, metric=METRIC)
    last = max((row["draw"] for row in found), default=0)
    return {
        (row["x"], 2 * row["draw"] / last - 1): row["value"]
        for row in found
        if "value" in row and last
    }


def _middle(plane: Plane) -> float:
    return plane[min(plane, key=lambda point: math.hypot(*point))]


def _outwards(plane: Plane) -> Iterator[tuple[float, float]]:
    """Loss before and after each step to the next point that is farther along its axis."""
    for way in (0, 1):
        for line in {point[1 - way] for point in plane}:
            points = sorted(point for point in plane if point[1 - way] == line)
            for pair in pairwise(points):
                before, after = sorted(pair, key=lambda point: abs(point[way]))
                yield plane[before], plane[after]


def _panel(name: str, plane: Plane, scale: tuple[float, float]) -> Figure:
    marks = _marks(*scale)
    half = 1 / max(1, len({a for a, _ in plane}) - 1)
    cells = [
        {"a": a, "b": b, "left": a - half, "right": a + half, "low": b - half, "high": b + half,
         "loss": finite(loss)}
        for (a, b), loss in plane.items()
    ]  # fmt: skip
    lines = [
        {"a": finite(a), "b": finite(b), "a2": finite(a2), "b2": finite(b2), "loss": mark}
        for mark in marks
        for (a, b), (a2, b2) in contour(plane, mark)
    ]
    return Figure(
        name=f"surface-{name}",
        title=name,
        note="",
        chart=_chart(scale, marks, 1 + half),
        data={"rows": cells, "lines": lines},
        width=360,
        height=360,
        square=True,
    )


def _marks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade between the ends."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [float(f"{m * 10.0**power:.6g}") for power in powers for m in (1, 2, 5)]
    return [mark for mark in marks if low < mark < high]


def contour(plane: Plane, level: float) -> list[tuple[Point, Point]]:
    """Segments where the loss is `level`, straight in each half of each square of the grid."""
    segments = []
    sides, heights = (sorted({point[way] for point in plane}) for way in (0, 1))
    for a, a2 in pairwise(sides):
        for b, b2 in pairwise(heights):
            for corner in ((a, b2), (a2, b)):
                crossed = list(_crossings(plane, ((a, b), corner, (a2, b2)), level))
                if len(crossed) == 2:
                    segments.append((crossed[0], crossed[1]))
    return segments


def _crossings(plane: Plane, corners: tuple[Point, Point, Point], level: float) -> Iterator[Point]:
    """Where the sides of a triangle cross the level; none where a corner is missing."""
    if not all(corner in plane for corner in corners):
        return
    for one, other in zip(corners, (*corners[1:], corners[0]), strict=True):
        low, high = plane[one], plane[other]
        if (low < level) != (high < level):
            t = (level - low) / (high - low)
            yield one[0] + t * (other[0] - one[0]), one[1] + t * (other[1] - one[1])


def _chart(ends: tuple[float, float], marks: list[float], edge: float) -> Drawn:
    square = alt.Scale(domain=[-edge, edge], nice=False)
    axis = alt.Axis(grid=False, values=[-1, -0.5, 0, 0.5, 1], format="~g")
    x = alt.X("left:Q", title="step along the first direction", scale=square, axis=axis)
    y = alt.Y("low:Q", title="step along the second", scale=square, axis=axis)
    colours = alt.Scale(type="log", domain=list(ends), scheme="viridis")
    legend = alt.Legend(
        orient="top", titleOrient="left", gradientLength=200, gradientThickness=8, values=marks,
        format="~g",
    )  # fmt: skip
    cells = (
        data()
        .mark_rect()
        .encode(
            x=x, y=y, x2="right:Q", y2="high:Q",
            color=alt.Color("loss:Q", title="nats", scale=colours, legend=legend),
            tooltip=[
                alt.Tooltip("a:Q", title="first step", format="+.2f"),
                alt.Tooltip("b:Q", title="second step", format="+.2f"),
                alt.Tooltip("loss:Q", title="loss (nats)", format=".3g"),
            ],
        )
    )  # fmt: skip
    lines = data("lines").encode(x="a:Q", y="b:Q", x2="a2:Q", y2="b2:Q")
    halo = lines.mark_rule(stroke="white", strokeWidth=2.6, strokeCap="round", tooltip=None)
    return alt.layer(cells, halo, lines.mark_rule(stroke=INK, strokeWidth=1.1, strokeCap="round"))
