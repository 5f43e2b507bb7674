"""Measure how signals and gradients propagate through networks at initialisation, block by block.

Metrics of the forward pass, after blocks 0 ... L:
    log10_variance       log10 of q_l / q_0, q the mean square of the stream
    cosine_distance      1 - cosine of two inputs' streams; x is the cosine of the inputs
and of the backward pass, for each depth L:
    log10_gradient       log10 of |dL/dx_l| / |dL/dx_L|
    gradient_cosine      cosine of dL/dx_0 at two inputs; x is the cosine of the inputs
A row without a depth holds for networks of every depth; the column `unit` is the block.

Shapes: D draws, N inputs, R members, C channels (H W); metrics in double precision.
"""

import math
import zlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from resnets.study.propagation.forward_backward import (
    NetworkSet,
    Range,
    Station,
    backward_stations,
    forward_stations,
)
from resnets.study.propagation.init_variants import FAMILIES, Stack, stacks
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
    inputs = make_inputs(layer.shape, seed=seed, draws=draws)
    readout = make_readout(layer.shape, seed=seed, draws=draws)
    forth, back = Range(), Range()
    tables: dict[str, list[Row]] = {"forward": [], "backward": [], "float32": []}
    stations = list(forward_stations(networks, inputs, left=forth))
    for station in stations:
        if station.block in blocks:
            tables["forward"] += _forward_rows(draws, station)
    for station in backward_stations(networks, stations, readout, left=back):
        if station.block in blocks:
            tables["backward"] += _backward_rows(draws, station)
    for way, left in (("forward", forth), ("backward", back)):
        for (place, family, depth), (block, how) in sorted(left.left.items(), key=str):
            cell = {"family": family, "depth": depth, "unit": block, "draw": draws[place]}
            status = {"metric": f"float32_{way}", "status": f"{how} at unit {block}"}
            tables["float32"].append(cell | status)
    kind = "init-dense" if isinstance(layer, Dense) else "init-conv"
    common = {"study": kind, "width": layer.width, "seed": seed}
    return {name: [common | row for row in rows] for name, rows in tables.items()}


def _forward_rows(draws: Sequence[int], at: Station) -> Iterator[Row]:
    for stack, x, exponents in zip(at.stacks, at.values, at.exponents, strict=True):
        logs = mean_square(x).log10() + 2 * exponents * math.log10(2)
        found = {"log10_variance": logs[:, None], "cosine_distance": cosine_distances(x)}
        yield from _rows(draws, at.block, stack, found)


def _backward_rows(draws: Sequence[int], at: Station) -> Iterator[Row]:
    for stack, g, exponents in zip(at.stacks, at.values, at.exponents, strict=True):
        square = mean_square(g) * g[0, 0, 0].numel()
        found = {"log10_gradient": (square.log10() / 2 + exponents * math.log10(2))[:, None]}
        if at.block == 0:
            found["gradient_cosine"] = gradient_cosines(g)
        yield from _rows(draws, at.block, stack, found)


def _rows(draws: Sequence[int], unit: int, stack: Stack, found: dict[str, Tensor]) -> Iterator[Row]:
    """Yield a row a member, metric, cosine of the inputs and draw, from D 1 R or D 4 R numbers.

    A signal that has vanished has a status and no value.
    """
    for k, member in enumerate(stack.members):
        own = {} if member.depth is None else {"depth": member.depth}
        cell = own | {"family": member.family.name, "unit": unit}
        for metric, numbers in found.items():
            for x, values in zip(COSINES, numbers[:, :, k].T.tolist(), strict=False):
                about = cell | {"metric": metric} | ({"x": x} if numbers.shape[1] > 1 else {})
                for draw, value in zip(draws, values, strict=True):
                    finite = math.isfinite(value)
                    result = {"value": value} if finite else {"status": "every entry is 0"}
                    yield about | {"draw": draw} | result


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
    """Return cosines of gradients for COSINES, the last over PAIRS: D N R C (H W) -> D 4 R."""
    rows = normalize(g.double().flatten(3), dim=-1)
    base, near = (list(side) for side in zip(*PAIRS, strict=True))
    neighbours = (rows[:, base] * rows[:, near]).sum(-1).mean(1, keepdim=True)
    others = (rows[:, 1 : len(COSINES)] * rows[:, :1]).sum(-1)
    return torch.cat([others, neighbours], dim=1)
