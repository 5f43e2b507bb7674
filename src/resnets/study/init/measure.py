"""A layer, draws and depths enter, rows leave: what propagates forward and backward, unit by unit.

Metrics of the way forward, at units 0 ... L (M1 and M2 of the field):
    log10_variance       log10 of q_l / q_0, q the mean square of the stream
    cosine_distance      1 - cosine of two inputs' streams; x is the cosine of the inputs
and of the way back (M4), for each depth L:
    log10_gradient       log10 of |dL/dx_l| / |dL/dx_L|
    gradient_cosine      cosine of dL/dx_0 at two inputs; x is the cosine of the inputs
A row without a depth holds for networks of every depth: their first units are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from resnets.study.init import geometry
from resnets.study.init.families import Member
from resnets.study.init.stream import (
    Chain,
    Range,
    Return,
    Station,
    backward_stations,
    forward_stations,
)
from resnets.study.init.weights import Dense, Layer

Row = dict[str, Any]
PER_DECADE = 8


def study(layer: Layer) -> str:
    """The column `study`: which kind of network."""
    return "init-dense" if isinstance(layer, Dense) else "init-conv"


def measured_units(depths: Sequence[int]) -> tuple[int, ...]:
    """Eight to a decade, and every depth."""
    steps = range(math.ceil(PER_DECADE * math.log10(max(depths))) + 1)
    spread = {round(10 ** (step / PER_DECADE)) for step in steps}
    return tuple(sorted({0, *depths, *(unit for unit in spread if unit <= max(depths))}))


@torch.inference_mode()
def propagate(
    layer: Layer, *, depths: Sequence[int], seed: int, draws: Sequence[int]
) -> dict[str, list[Row]]:
    """All ten families through all depths and back: rows of `forward`, `backward` and `float32`."""
    units = measured_units(depths)
    chain = Chain.of(layer, depths=depths, seed=seed, draws=draws, units=units)
    forth, back = Range(), Range()
    inputs = geometry.make_inputs(layer.shape, seed=seed, draws=draws)
    readout = geometry.make_readout(layer.shape, seed=seed, draws=draws)
    forward: list[Row] = []
    stations: list[Station] = []
    for station in forward_stations(chain, inputs, left=forth):
        if station.unit in chain.units:
            forward += _forward_rows(chain, station)
        stations.append(station)
    backward: list[Row] = []
    for at in backward_stations(chain, stations, readout, left=back):
        if at.unit in chain.units:
            backward += _backward_rows(chain, at)
    float32 = [*_left(chain, forth, "float32_forward"), *_left(chain, back, "float32_backward")]
    common = {"study": study(layer), "width": layer.width, "seed": seed}
    tables = {"forward": forward, "backward": backward, "float32": float32}
    return {name: [common | row for row in rows] for name, rows in tables.items()}


def _forward_rows(chain: Chain, station: Station) -> Iterator[Row]:
    for i, stack in enumerate(station.stacks):
        x = station.streams[i]
        square = geometry.mean_square(x)
        logs = square.log10() + 2 * station.exponents[i] * math.log10(2)
        metrics: list[tuple[str, float | None, Tensor]] = [("log10_variance", None, logs)]
        distances = geometry.cosine_distances(x)
        for k, cosine in enumerate(geometry.COSINES):
            metrics.append(("cosine_distance", cosine, distances[:, k]))
        for k, member in enumerate(stack.members):
            for name, at, values in metrics:
                yield from _draws(chain, member, member.depth, station.unit, name, at, values[:, k])


def _backward_rows(chain: Chain, at: Return) -> Iterator[Row]:
    for i, g in enumerate(at.gradients):
        square = geometry.mean_square(g) * g[0, 0, 0].numel()
        logs = square.log10() / 2 + at.exponents[i] * math.log10(2)
        cosines = geometry.gradient_cosines(g)
        for k, (member, (depth, _)) in enumerate(zip(at.members(i), at.rows[i], strict=True)):
            yield from _draws(chain, member, depth, at.unit, "log10_gradient", None, logs[:, k])
            if at.unit == 0:
                for j, cosine in enumerate(geometry.COSINES):
                    name, values = "gradient_cosine", cosines[:, j, k]
                    yield from _draws(chain, member, depth, 0, name, cosine, values)


def _draws(
    chain: Chain, member: Member, depth: int | None, unit: int, metric: str, x: float | None,
    values: Tensor,
) -> Iterator[Row]:  # fmt: skip
    """A row for each draw; of a signal that has died there is nothing but the fact."""
    for draw, value in zip(chain.draws, values.tolist(), strict=True):
        row: Row = {"family": member.family.name, "unit": unit, "draw": draw, "metric": metric}
        if depth is not None:
            row["depth"] = depth
        if x is not None:
            row["x"] = x
        yield row | ({"value": value} if math.isfinite(value) else {"status": "every entry is 0"})


def _left(chain: Chain, left: Range, metric: str) -> Iterator[Row]:
    """`overflow at unit k`: what ordinary float32 would have made of it."""
    for (place, family, depth), (unit, how) in sorted(left.left.items(), key=str):
        row: Row = {"family": family, "unit": unit, "draw": chain.draws[place], "metric": metric}
        if depth is not None:
            row["depth"] = depth
        yield row | {"status": f"{how} at unit {unit}"}
