"""Measure how signals and gradients propagate through networks at initialisation, block by block.

Metrics of the forward pass, after blocks 0 ... L:
    log10_variance       log10 of q_l / q_0, q the mean square of the stream
    cosine_distance      1 - cosine of two inputs' streams; x is the cosine of the inputs
and of the backward pass, for each depth L:
    log10_gradient       log10 of |dL/dx_l| / |dL/dx_L|
    gradient_cosine      cosine of dL/dx_0 at two inputs; x is the cosine of the inputs
A row without a depth holds for networks of every depth; the column `unit` is the block.

Shapes: D draws, N inputs, R members, G gradients, C channels (H W); metrics in double precision.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from resnets.study.propagation.forward_backward import (
    NetworkSet,
    Range,
    Return,
    Station,
    backward_stations,
    forward_stations,
)
from resnets.study.propagation.init_variants import FAMILIES, stacks
from resnets.study.propagation.weight_sampling import Dense, Layer
from resnets.study.tables import Row

PER_DECADE = 8
# Cosines of inputs 1, 2, 3, 4 to input 0.
COSINES = (0.0, 0.5, 0.9, 0.99)
# Neighbours: pairs of inputs whose cosine is the last of COSINES.
PAIRS = ((0, 4), (5, 6), (7, 8), (9, 10))
# Inputs of a batch; batch norm sees them all.
INPUTS = 16


def measured_blocks(depths: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of the blocks to measure: eight to a decade, and every depth."""
    steps = range(math.ceil(PER_DECADE * math.log10(max(depths))) + 1)
    spread = {round(10 ** (step / PER_DECADE)) for step in steps}
    return tuple(sorted({0, *depths, *(block for block in spread if block <= max(depths))}))


@torch.inference_mode()
def propagate(
    layer: Layer, *, depths: Sequence[int], seed: int, draws: Sequence[int]
) -> dict[str, list[Row]]:
    """Send signals through all ten families at all depths, and gradients back: rows by table."""
    made = stacks(FAMILIES, depths=tuple(depths))
    blocks = measured_blocks(depths)
    networks = NetworkSet(layer, made, tuple(depths), blocks, seed, tuple(draws))
    forth, back = Range(), Range()
    inputs = make_inputs(layer.shape, seed=seed, draws=draws)
    readout = make_readout(layer.shape, seed=seed, draws=draws)
    stations = list(forward_stations(networks, inputs, left=forth))
    tables: dict[str, list[Row]] = {"forward": [], "backward": []}
    for station in stations:
        if station.block in blocks:
            tables["forward"] += _forward_rows(networks, station)
    for at in backward_stations(networks, stations, readout, left=back):
        if at.block in blocks:
            tables["backward"] += _backward_rows(networks, at)
    float32 = {"float32_forward": forth, "float32_backward": back}
    tables["float32"] = [
        row for name, left in float32.items() for row in _left(networks, left, name)
    ]
    kind = "init-dense" if isinstance(layer, Dense) else "init-conv"
    common = {"study": kind, "width": layer.width, "seed": seed}
    return {name: [common | row for row in rows] for name, rows in tables.items()}


def _forward_rows(networks: NetworkSet, station: Station) -> Iterator[Row]:
    for i, stack in enumerate(station.stacks):
        square = mean_square(station.streams[i])
        logs = square.log10() + 2 * station.exponents[i] * math.log10(2)
        distances = cosine_distances(station.streams[i])
        for k, member in enumerate(stack.members):
            cell = {"family": member.family.name, "depth": member.depth, "unit": station.block}
            yield from _draws(networks, logs[:, k], metric="log10_variance", **cell)
            for j, x in enumerate(COSINES):
                values = distances[:, j, k]
                yield from _draws(networks, values, metric="cosine_distance", x=x, **cell)


def _backward_rows(networks: NetworkSet, at: Return) -> Iterator[Row]:
    for i, g in enumerate(at.gradients):
        square = mean_square(g) * g[0, 0, 0].numel()
        logs = square.log10() / 2 + at.exponents[i] * math.log10(2)
        cosines = gradient_cosines(g)
        for k, (member, (depth, _)) in enumerate(zip(at.members(i), at.rows[i], strict=True)):
            cell = {"family": member.family.name, "depth": depth, "unit": at.block}
            yield from _draws(networks, logs[:, k], metric="log10_gradient", **cell)
            for j, x in enumerate(COSINES if at.block == 0 else ()):
                values = cosines[:, j, k]
                yield from _draws(networks, values, metric="gradient_cosine", x=x, **cell)


def _draws(networks: NetworkSet, values: Tensor, **about: Any) -> Iterator[Row]:
    """Yield a row for each draw; a signal that has vanished has a status and no value."""
    row = {name: value for name, value in about.items() if value is not None}
    for draw, value in zip(networks.draws, values.tolist(), strict=True):
        found = {"value": value} if math.isfinite(value) else {"status": "every entry is 0"}
        yield row | {"draw": draw} | found


def _left(networks: NetworkSet, left: Range, metric: str) -> Iterator[Row]:
    """Yield `overflow at unit k`: what ordinary float32 would have made of it."""
    for (place, family, depth), (block, how) in sorted(left.left.items(), key=str):
        row: Row = {"family": family, "unit": block, "draw": networks.draws[place]}
        row |= {"metric": metric, "status": f"{how} at unit {block}"}
        yield row if depth is None else row | {"depth": depth}


def make_inputs(shape: tuple[int, ...], *, seed: int, draws: Sequence[int]) -> Tensor:
    """Draw Gaussian inputs of mean square 1 with the cosines of COSINES and PAIRS: D N C (H W)."""
    targets = [(0, other, cosine) for other, cosine in enumerate(COSINES, 1)]
    targets += [(base, other, COSINES[-1]) for base, other in PAIRS[1:]]
    batches = []
    for draw in draws:
        flat = torch.randn(INPUTS, *shape, generator=_key(seed, draw, "inputs")).double().flatten(1)
        rows = normalize(flat, dim=-1)
        for base, other, cosine in targets:
            apart = rows[other] - (rows[other] @ rows[base]) * rows[base]
            rows[other] = cosine * rows[base] + (1 - cosine**2) ** 0.5 * normalize(apart, dim=0)
        batches.append(rows * math.sqrt(rows.shape[1]))
    inputs: Tensor = torch.stack(batches).float().unflatten(2, shape)
    return inputs


def make_readout(shape: tuple[int, ...], *, seed: int, draws: Sequence[int]) -> Tensor:
    """Draw dL/dx at the end: one direction of length 1 with a random sign an input, D N C (H W).

    Inputs that are compared have one sign. Were all equal, batch norm would see a special case.
    """
    groups = torch.tensor([0, 0, 0, 0, 0, 5, 5, 7, 7, 9, 9, 11, 12, 13, 14, 15])
    out = []
    for draw in draws:
        generator = _key(seed, draw, "readout")
        direction = torch.randn(shape, generator=generator)
        signs = (torch.randint(2, (INPUTS,), generator=generator) * 2 - 1)[groups]
        out.append(signs.view(-1, *[1] * len(shape)) * direction / direction.norm())
    return torch.stack(out)


def _key(seed: int, draw: int, what: str) -> torch.Generator:
    """Return a generator for what is no weight of a block."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {draw} {what}".encode()))


def mean_square(x: Tensor) -> Tensor:
    """Return the mean over inputs and channels of x^2: D N R C (H W) -> D R."""
    return x.double().square().mean((1, *range(3, x.ndim)))


def cosine_distances(x: Tensor) -> Tensor:
    """Return 1 - cos(x_0, x_i) for the four inputs at given cosines: D N R C (H W) -> D 4 R.

    As half the squared distance of the unit vectors, which keeps its digits when the cosine is 1.
    """
    flat = x[:, : 1 + len(COSINES)].double().flatten(3)
    rows = normalize(flat, dim=-1)
    return (rows[:, 1:] - rows[:, :1]).square().sum(-1) / 2


def gradient_cosines(g: Tensor) -> Tensor:
    """Return cosines of gradients for COSINES, the last over PAIRS: D N G C (H W) -> D 4 G."""
    rows = normalize(g.double().flatten(3), dim=-1)
    base, near = (list(side) for side in zip(*PAIRS, strict=True))
    neighbours = (rows[:, base] * rows[:, near]).sum(-1).mean(1, keepdim=True)
    others = (rows[:, 1 : len(COSINES)] * rows[:, :1]).sum(-1)
    return torch.cat([others, neighbours], dim=1)
