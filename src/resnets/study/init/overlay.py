"""Depths and a width enter, rows leave: the closed forms of `theory.py` beside what was measured.

Every metric of `measure.py` that has a closed form stands here with `theory_` before its name, for
the same family, width and units. Where a family has none, a width is small or there is a norm whose
closed form nobody knows, there is no row; convolutions have none. Nothing is fitted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from resnets.study import theory
from resnets.study.init.geometry import COSINES, INPUTS

LOG10 = math.log(10)
WEIGHTS = {"plain": "gaussian", "orthogonal": "orthogonal"}

Row = dict[str, Any]
Array = theory.Array


def theory_rows(*, depths: Sequence[int], width: int, units: Sequence[int], seed: int) -> list[Row]:
    """Rows for one width of dense networks."""
    rows: list[Row] = [*_forward(depths, width, units), *_backward(depths, width, units)]
    rows += _correlations(depths, units)
    return [{"study": "init-dense", "width": width, "seed": seed} | row for row in rows]


def _forward(depths: Sequence[int], width: int, units: Sequence[int]) -> Iterator[Row]:
    at = np.array(units, np.float64)
    logs: dict[str, Array] = {
        "residual": theory.residual_log_variance(at),
        "preact": np.log(theory.preactivation_variance(at)),
        "skipinit": 0 * at,
        "fixup": 0 * at,
    }
    for family, weights in WEIGHTS.items():
        logs[family] = at * theory.log_growth(width, weights=weights)
    for family, curve in logs.items():
        yield from _curve(family, None, "log10_variance", units, curve / LOG10)
    for depth in depths:
        curve = theory.residual_log_variance(at, beta=depth**-0.5)
        reached = [unit for unit in units if unit <= depth]
        yield from _curve("scaled", depth, "log10_variance", reached, curve / LOG10)


def _backward(depths: Sequence[int], width: int, units: Sequence[int]) -> Iterator[Row]:
    """log10 of the gradient's norm: half the logarithm of its square."""
    for depth in depths:
        reached = [unit for unit in units if unit <= depth]
        left = depth - np.array(reached, np.float64)
        growth = {
            "plain-bn": math.log(theory.batchnorm_growth(INPUTS)),
            "residual": math.log(2),
            "scaled": math.log1p(1 / depth),
            "skipinit": 0.0,
            "fixup": 0.0,
        }
        for family, weights in WEIGHTS.items():
            growth[family] = theory.log_growth(width, weights=weights)
        for family, rate in growth.items():
            yield from _curve(family, depth, "log10_gradient", reached, left * rate / 2 / LOG10)
        preact = theory.preactivation_log_gradient(depth, batch=INPUTS)[reached] / 2 / LOG10
        yield from _curve("preact", depth, "log10_gradient", reached, preact)


def _correlations(depths: Sequence[int], units: Sequence[int]) -> Iterator[Row]:
    """Cosines of streams and of gradients at two inputs, for each cosine of the inputs."""
    deepest = max(depths)
    betas = {"plain": math.inf, "orthogonal": math.inf, "residual": 1.0}
    betas |= {"skipinit": 0.0, "fixup": 0.0}
    for cosine in COSINES:
        for family, beta in betas.items():
            path = theory.correlation_path(cosine, depth=deepest, beta=beta)
            distances = 1 - path[list(units)]
            yield from _curve(family, None, "cosine_distance", units, distances, x=cosine)
            for depth in depths:
                value = theory.gradient_correlation(path[: depth + 1], beta=beta)
                yield from _curve(family, depth, "gradient_cosine", [0], [value], x=cosine)
        for depth in depths:
            beta = depth**-0.5
            path = theory.correlation_path(cosine, depth=depth, beta=beta)
            reached = [unit for unit in units if unit <= depth]
            distances = 1 - path[reached]
            yield from _curve("scaled", depth, "cosine_distance", reached, distances, x=cosine)
            value = theory.gradient_correlation(path, beta=beta)
            yield from _curve("scaled", depth, "gradient_cosine", [0], [value], x=cosine)


def _curve(
    family: str, depth: int | None, metric: str, units: Sequence[int],
    values: Array | Sequence[float], *, x: float | None = None,
) -> Iterator[Row]:  # fmt: skip
    for unit, value in zip(units, values, strict=False):
        row: Row = {"family": family, "unit": unit, "metric": f"theory_{metric}"}
        if depth is not None:
            row["depth"] = depth
        if x is not None:
            row["x"] = x
        yield row | {"value": float(value)}
