"""Streams of a batch enter, numbers about their shape leave: lengths and angles.

The inputs are chosen so that angles mean something: the first is the base, the next four stand at
given cosines to it, then come three pairs of neighbours; all others are independent.

Shapes: D draws, N inputs, R members, C channels (H W); everything is computed in double precision.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

COSINES = (0.0, 0.5, 0.9, 0.99)
"""of inputs 1, 2, 3, 4 to input 0"""
PAIRS = ((0, 4), (5, 6), (7, 8), (9, 10))
"""neighbours: inputs whose cosine is the last of these"""
INPUTS = 16
"""of a batch; batch norm sees them all"""


def make_inputs(shape: tuple[int, ...], *, seed: int, draws: Sequence[int]) -> Tensor:
    """Gaussian inputs of mean square 1, those of COSINES and PAIRS at exact ones: D N C (H W)."""
    targets = [(0, other, cosine) for other, cosine in enumerate(COSINES, 1)]
    targets += [(base, other, COSINES[-1]) for base, other in PAIRS[1:]]
    batches = []
    for draw in draws:
        flat = torch.randn(INPUTS, *shape, generator=key(seed, draw, "inputs")).double().flatten(1)
        units = normalize(flat, dim=-1)
        for base, other, cosine in targets:
            apart = units[other] - (units[other] @ units[base]) * units[base]
            units[other] = cosine * units[base] + (1 - cosine**2) ** 0.5 * normalize(apart, dim=0)
        batches.append(units * math.sqrt(units.shape[1]))
    inputs: Tensor = torch.stack(batches).float().unflatten(2, shape)
    return inputs


def make_readout(shape: tuple[int, ...], *, seed: int, draws: Sequence[int]) -> Tensor:
    """dL/dx at the end: one direction of length 1, D N C (H W), with a random sign.

    Inputs that are compared have the same sign. Were all equal, batch norm, which takes away what
    all inputs share, would see a special case.
    """
    groups = torch.tensor([0, 0, 0, 0, 0, 5, 5, 7, 7, 9, 9, 11, 12, 13, 14, 15])
    out = []
    for draw in draws:
        generator = key(seed, draw, "readout")
        direction = torch.randn(shape, generator=generator)
        signs = (torch.randint(2, (INPUTS,), generator=generator) * 2 - 1)[groups]
        out.append(signs.view(-1, *[1] * len(shape)) * direction / direction.norm())
    return torch.stack(out)


def key(seed: int, draw: int, what: str) -> torch.Generator:
    """A generator for what is no weight of a unit."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {draw} {what}".encode()))


def mean_square(x: Tensor) -> Tensor:
    """The mean q over inputs and channels of x^2: D N R C (H W) -> D R."""
    return x.double().square().mean((1, *range(3, x.ndim)))


def cosine_distances(x: Tensor) -> Tensor:
    """1 - cos(x_0, x_i) for the four inputs at given cosines: D N R C (H W) -> D 4 R.

    As half the squared distance of the unit vectors, which keeps its digits when the cosine is 1.
    """
    flat = x[:, : 1 + len(COSINES)].double().flatten(3)
    units = normalize(flat, dim=-1)
    return (units[:, 1:] - units[:, :1]).square().sum(-1) / 2


def gradient_cosines(g: Tensor) -> Tensor:
    """The cosine of the gradients at two inputs, for each of COSINES: D N G C (H W) -> D 4 G.

    The last is the mean over PAIRS.
    """
    units = normalize(g.double().flatten(3), dim=-1)
    base, near = (list(side) for side in zip(*PAIRS, strict=True))
    neighbours = (units[:, base] * units[:, near]).sum(-1).mean(1, keepdim=True)
    others = (units[:, 1 : len(COSINES)] * units[:, :1]).sum(-1)
    return torch.cat([others, neighbours], dim=1)
