"""A dense layer, draws and depths enter, the singular values of dx_L/dx_0 leave (M6).

The idea (Saxe 2014; Pennington 2017, arXiv 1711.04735): where all singular values are near 1,
errors of any direction come through. J is carried forward beside the streams: J' = (s I + b W D) J
with D the derivative of what stands before W. The statistics of batch norm are held at those of the
batch, as in a trained network. In double precision, and divided by powers of two.

Shapes: D draws, n tangents (one for each input number), R members, C = n channels: D n R C.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from resnets.study.init import geometry
from resnets.study.init.stream import Chain, Station, renormalised
from resnets.study.init.units import Group, Matrices, Tape, forward, group, together
from resnets.study.init.weights import Dense

PRECISION = 1e-12
"""singular values smaller than this, relative to the largest, are rounding errors"""

Row = dict[str, Any]


@torch.inference_mode()
def jacobian_spectra(
    layer: Dense, *, depths: Sequence[int], seed: int, draws: Sequence[int]
) -> list[Row]:
    """Rows of `log10_singular_value` (x is the rank from 0, the largest) and `log10_mean_square`.

    log10_mean_square is log10 of |J|^2 / n, whose mean over draws is the growth of |g|^2 where
    there is no norm; with one, g runs through the statistics of the batch and J does not.
    """
    chain = Chain.of(layer, depths=depths, seed=seed, draws=draws)
    counts = [len(stack.members) for stack in chain.stacks]
    inputs = geometry.make_inputs(layer.shape, seed=seed, draws=draws).double()
    streams = [inputs[:, :, None].expand(-1, -1, count, -1) for count in counts]
    eye = torch.eye(layer.width, dtype=torch.float64)[None, :, None]
    tangents = [eye.expand(len(draws), -1, count, -1) for count in counts]
    exponents = [torch.zeros(len(draws), count) for count in counts]
    groups = [group(stack.norm, stack.members, layer=layer) for stack in chain.stacks]
    rows: list[Row] = []
    for first, last in zip(chain.stops, chain.stops[1:], strict=False):
        for weights in chain.weights(range(first + 1, last + 1)):
            double = {law: matrix.double() for law, matrix in weights.items()}
            streams, tapes = forward(groups, streams, double, layer)
            tangents = _push(groups, tangents, tapes, double, layer)
        for i, law in enumerate(groups):
            tangents[i], exponents[i] = renormalised(tangents[i], exponents[i])
            if law.norm == "none":
                streams[i], _ = renormalised(streams[i], exponents[i])
        if last in depths:
            rows += _rows(Station(last, chain.stacks, tangents, exponents), draws)
    return [{"study": "init-dense", "width": layer.width, "seed": seed} | row for row in rows]


def _push(
    groups: Sequence[Group],
    tangents: Sequence[Tensor],
    tapes: Sequence[Tape],
    weights: Matrices,
    layer: Dense,
) -> list[Tensor]:
    """Tangents at the unit's output from those at its input, at the first input's activations."""
    at_weights = []
    for law, t, tape in zip(groups, tangents, tapes, strict=True):
        slope = tape.positive[:, :1] if law.norm != "after" else torch.ones(())
        scale = tape.scale if law.norm == "before" else torch.ones(())
        at_weights.append(t * (slope * scale))
    products = together(groups, at_weights, weights, layer.apply)
    out = []
    for law, t, tape, z in zip(groups, tangents, tapes, products, strict=True):
        if law.norm == "after":
            out.append(tape.positive[:, :1] * (law.shortcut * t + tape.scale * z))
        else:
            out.append(law.shortcut * t + law.strength * z)
    return out


def _rows(station: Station, draws: Sequence[int]) -> Iterator[Row]:
    for i, stack in enumerate(station.stacks):
        spectra = torch.linalg.svdvals(station.streams[i].transpose(1, 2))  # D R n, descending
        for k, member in enumerate(stack.members):
            if not member.serves(station.unit):
                continue
            for d, draw in enumerate(draws):
                name = member.family.name
                base: Row = {"family": name, "depth": station.unit, "draw": draw}
                power = float(station.exponents[i][d, k]) * math.log10(2)
                yield from (base | row for row in _spectrum(spectra[d, k].tolist(), power))


def _spectrum(values: list[float], power: float) -> Iterator[Row]:
    """Rows of one J, whose true singular values are these times 10 ^ power."""
    mean = math.fsum(value**2 for value in values) / len(values)
    if mean == 0:
        yield {"metric": "log10_mean_square", "status": "every entry is 0"}
        return
    yield {"metric": "log10_mean_square", "value": math.log10(mean) + 2 * power}
    for rank, value in enumerate(values):
        row: Row = {"metric": "log10_singular_value", "x": rank}
        if value < PRECISION * values[0]:
            yield row | {"status": f"below {PRECISION:g} of the largest"}
        else:
            yield row | {"value": math.log10(value) + power}
