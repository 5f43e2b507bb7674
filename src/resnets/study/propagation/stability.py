"""Judge networks at initialisation: explodes, vanishes, collapses, shatters, or healthy.

The thresholds were fixed before anything was measured. Forward and backward are judged separately,
and a cell can have more than one fault.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from resnets.study.propagation.init_variants import FAMILIES
from resnets.study.tables import Row

# A norm explodes or vanishes that changes by a factor beyond 10^4: half precision ends there.
DECADES = 4.0
# Inputs at right angles collapse when the cosine of their streams is larger.
COLLAPSED = 0.99
# Gradients shatter when at two inputs of cosine 0.99 the cosine of theirs is smaller than 0.5.
SHATTERED, NEIGHBOURS = 0.5, 0.99

# Study, family, width, depth.
Cell = tuple[str, str, int, int]


@dataclass(frozen=True)
class Stability:
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
        """Yield the rows of `init.csv`."""
        cell = {name: getattr(self, name) for name in ("study", "family", "width", "depth")}
        for way in ("forward", "backward"):
            slope = getattr(self, f"{way}_slope")
            found: Row = {"status": "every entry is 0"} if slope is None else {"value": slope}
            yield cell | {"metric": f"{way}_slope"} | found
            yield cell | {"metric": f"verdict_{way}", "status": getattr(self, way)}


def judge_stability(
    forward: Iterable[Row], backward: Iterable[Row], *, depths: Sequence[int]
) -> list[Stability]:
    """Judge each cell that was measured both ways."""
    there, back = _cells(forward, depths=depths), _cells(backward, depths=depths)
    found = [_judge(cell, there[cell], back[cell]) for cell in there if cell in back]
    names = [family.name for family in FAMILIES]
    return sorted(found, key=lambda v: (v.study, v.width, names.index(v.family), v.depth))


def fitted_slope(blocks: Sequence[float], logs: Sequence[float]) -> float:
    """Fit the change of a natural logarithm a layer by least squares."""
    return float(np.polyfit(blocks, logs, 1)[0])


def _cells(rows: Iterable[Row], *, depths: Sequence[int]) -> dict[Cell, list[Row]]:
    """Group rows by cell; one without a depth belongs to every network that is deep enough."""
    cells: dict[Cell, list[Row]] = defaultdict(list)
    for row in rows:
        for depth in [row["depth"]] if "depth" in row else depths:
            if row["unit"] <= depth:
                cells[row["study"], row["family"], row["width"], depth].append(row)
    return cells


def _judge(cell: Cell, forward: list[Row], backward: list[Row]) -> Stability:
    there = _middle(forward, "log10_variance", block=cell[-1])
    back = _middle(backward, "log10_gradient", block=0)
    cosine = 1 - _middle(forward, "cosine_distance", block=cell[-1], x=0.0)
    shared = _middle(backward, "gradient_cosine", block=0, x=NEIGHBOURS)
    return Stability(
        *cell,
        forward=_joined(there / 2, "collapses" if cosine > COLLAPSED else ""),
        backward=backward_verdict(back, shared),
        forward_slope=_slope(forward, "log10_variance", 1.0),
        backward_slope=_slope(backward, "log10_gradient", -2.0),
    )


def backward_verdict(decades: float, cosine: float) -> str:
    """Judge the growth of the gradient, and its cosine at two inputs whose own is NEIGHBOURS."""
    return _joined(decades, "shatters" if cosine < SHATTERED else "")


def _joined(decades: float, other: str) -> str:
    size = "" if abs(decades) <= DECADES else "explodes" if decades > 0 else "vanishes"
    return ", ".join(filter(None, [size, other])) or "healthy"


def _middle(rows: list[Row], metric: str, *, block: int, x: float | None = None) -> float:
    """Take the median over draws; a draw whose signal has vanished is as small as can be."""
    dead = -math.inf if metric.startswith("log10") else 0.0
    chosen = [r for r in rows if (r["metric"], r["unit"], r.get("x")) == (metric, block, x)]
    return float(median(row.get("value", dead) for row in chosen))


def _slope(rows: list[Row], metric: str, factor: float) -> float | None:
    """Take the median over draws of the fitted change of the natural logarithm, times a factor."""
    draws: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for row in rows:
        if row["metric"] == metric and "value" in row:
            draws[row["draw"]].append((row["unit"], row["value"] * factor * math.log(10)))
    alive = [points for points in draws.values() if len(points) > 1]
    return median(fitted_slope(*zip(*points, strict=True)) for points in alive) if alive else None
