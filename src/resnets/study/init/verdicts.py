"""Rows of measurements enter, a verdict for each family, width and depth leaves.

The thresholds were fixed before anything was measured. They judge networks at initialisation: what
a step of training would change is not asked here. Forward and backward are told apart, because a
network can be healthy in one direction only, and a cell can have more than one illness.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from resnets.study.init.families import FAMILIES

DECADES = 4.0
"""a norm explodes or vanishes that changes by a factor beyond 10^4: half precision ends there"""
COLLAPSED = 0.99
"""inputs at right angles collapse when the cosine of their streams is larger"""
SHATTERED, NEIGHBOURS = 0.5, 0.99
"""gradients shatter when at two inputs of cosine 0.99 the cosine of theirs is smaller than 0.5"""

Row = dict[str, Any]
Cell = tuple[str, str, int, int]
"""study, family, width, depth"""


@dataclass(frozen=True)
class Verdict:
    """What is wrong with one cell in either direction, or `healthy`; by medians over draws."""

    study: str
    family: str
    width: int
    depth: int
    forward: str
    backward: str
    forward_slope: float | None  # fitted change of log q a layer, towards the output
    backward_slope: float | None  # fitted change of log |g|^2 a layer, towards the input

    def rows(self) -> Iterator[Row]:
        """As rows of a table."""
        cell: Row = {"study": self.study, "family": self.family}
        cell |= {"width": self.width, "depth": self.depth}
        for way in ("forward", "backward"):
            slope = getattr(self, f"{way}_slope")
            found: Row = {"status": "every entry is 0"} if slope is None else {"value": slope}
            yield cell | {"metric": f"{way}_slope"} | found
            yield cell | {"metric": f"verdict_{way}", "status": getattr(self, way)}


def judge(
    forward: Iterable[Row], backward: Iterable[Row], *, depths: Sequence[int]
) -> list[Verdict]:
    """A verdict for each cell that was measured both ways."""
    there = _cells(forward, depths=depths)
    back = _cells(backward, depths=depths)
    names = [family.name for family in FAMILIES]
    verdicts = [_verdict(cell, there[cell], back[cell]) for cell in there if cell in back]
    return sorted(verdicts, key=lambda v: (v.study, v.width, names.index(v.family), v.depth))


def fitted_slope(units: Sequence[float], logs: Sequence[float]) -> float:
    """Least squares: the change of a natural logarithm a layer."""
    return float(np.polyfit(units, logs, 1)[0])


def _cells(rows: Iterable[Row], *, depths: Sequence[int]) -> dict[Cell, list[Row]]:
    """Rows by cell; one without a depth belongs to every network that is deep enough."""
    cells: dict[Cell, list[Row]] = defaultdict(list)
    for row in rows:
        for depth in [row["depth"]] if "depth" in row else depths:
            if row["unit"] <= depth:
                cells[row["study"], row["family"], row["width"], depth].append(row)
    return dict(cells)


def _verdict(cell: Cell, forward: list[Row], backward: list[Row]) -> Verdict:
    study, family, width, depth = cell
    there = _middle(forward, "log10_variance", unit=depth)
    back = _middle(backward, "log10_gradient", unit=0)
    distance = _middle(forward, "cosine_distance", unit=depth, x=0.0)
    shared = _middle(backward, "gradient_cosine", unit=0, x=NEIGHBOURS)
    ahead = [_size(there / 2), "collapses" if 1 - distance > COLLAPSED else ""]
    behind = [_size(back), "shatters" if shared < SHATTERED else ""]
    return Verdict(
        study, family, width, depth,
        forward=", ".join(filter(None, ahead)) or "healthy",
        backward=", ".join(filter(None, behind)) or "healthy",
        forward_slope=_slope(forward, "log10_variance", 1.0),
        backward_slope=_slope(backward, "log10_gradient", -2.0),
    )  # fmt: skip


def _size(decades: float) -> str:
    if abs(decades) <= DECADES:
        return ""
    return "explodes" if decades > 0 else "vanishes"


def _middle(rows: list[Row], metric: str, *, unit: int, x: float | None = None) -> float:
    """The median over draws; a draw whose signal has died is as small as can be."""
    dead = -math.inf if metric.startswith("log10") else 0.0
    chosen = [r for r in rows if (r["metric"], r["unit"], r.get("x")) == (metric, unit, x)]
    return float(median(row.get("value", dead) for row in chosen))


def _slope(rows: list[Row], metric: str, factor: float) -> float | None:
    """The median over draws of the fitted change of the natural logarithm, times a factor."""
    draws: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for row in rows:
        if row["metric"] == metric and "value" in row:
            draws[row["draw"]].append((row["unit"], row["value"] * factor * math.log(10)))
    alive = [points for points in draws.values() if len(points) > 1]
    return median(fitted_slope(*zip(*points, strict=True)) for points in alive) if alive else None
