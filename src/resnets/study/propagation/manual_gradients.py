"""Compute one block forward and backward, for all families at once, with gradients by hand.

Ten thousand small autograd graphs would take minutes; a test compares the two.

Shapes: D N R C (H W): D draws of weights, N images, R members of a stack, or gradients on their way
back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from resnets.study.propagation.init_variants import Norm, Stack, Weights
from resnets.study.propagation.weight_sampling import Layer

Matrices = dict[Weights, Tensor]
Product = Callable[[Tensor, Tensor], Tensor]

# Added to variances, as torch's batch norm does.
EPS = 1e-5


@dataclass(frozen=True)
class Tape:
    """What the forward pass of one block of one stack keeps for the backward pass."""

    normal: Tensor  # the normalised activations, where there are any
    scale: Tensor  # 1/std that normalised them: D 1 R C (1 1)
    positive: Tensor  # 1 where the block's ReLU passes, else 0; a float, which multiplies faster


@dataclass(frozen=True)
class Group:
    """The law of some members, in either direction, as numbers."""

    norm: Norm
    runs: tuple[tuple[Weights, int], ...]  # weights, and how many members in a row have them
    shortcut: Tensor  # s and b of each member: R 1 (1 1)
    strength: Tensor


def group(stack: Stack, layer: Layer) -> Group:
    """Return the numbers of a stack's members."""
    shape = (len(stack.members),) + (1,) * len(layer.shape)
    shortcut = torch.tensor([float(member.family.shortcut) for member in stack.members])
    strength = torch.tensor([member.strength for member in stack.members])
    runs = groupby(member.family.weights for member in stack.members)
    lengths = tuple((law, len(list(run))) for law, run in runs)
    return Group(stack.norm, lengths, shortcut.view(shape), strength.view(shape))


def normalise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Apply batch norm without learned numbers: (x - mean) / std over N (H W), and 1/std."""
    dims = (1, *range(4, x.ndim))
    centred = x - x.mean(dims, keepdim=True)
    scale = (centred.square().mean(dims, keepdim=True) + EPS).rsqrt()
    return centred * scale, scale


def normalise_back(g: Tensor, normal: Tensor, scale: Tensor) -> Tensor:
    """Return dL/dx = (g - mean g - z mean(g z)) / std, z the normalised x; means over N (H W)."""
    dims = (1, *range(4, g.ndim))
    along = (g * normal).mean(dims, keepdim=True)
    return (g - g.mean(dims, keepdim=True) - normal * along) * scale


def forward(
    groups: Sequence[Group], streams: Sequence[Tensor], weights: Matrices, layer: Layer
) -> tuple[list[Tensor], list[Tape]]:
    """Compute s x + b W relu(x), s x + b W relu(BN(x)) or relu(s x + BN(W x)), by the norm."""
    before = []
    for law, x in zip(groups, streams, strict=True):
        normal, scale = normalise(x) if law.norm == "before" else (x, x)
        before.append((normal if law.norm == "after" else torch.relu(normal), normal, scale))
    products = together(groups, [seen for seen, _, _ in before], weights, layer.apply)
    out, tapes = [], []
    for law, x, (seen, normal, scale), z in zip(groups, streams, before, products, strict=True):
        if law.norm == "after":
            branch, scale = normalise(z)
            y = torch.relu(torch.addcmul(branch, law.shortcut, x))
            tapes.append(Tape(branch, scale, y.sign()))
        else:
            y = torch.addcmul(law.strength * z, law.shortcut, x)
            tapes.append(Tape(normal, scale, seen.sign()))
        out.append(y)
    return out, tapes


def backward(
    groups: Sequence[Group],
    gradients: Sequence[Tensor],
    tapes: Sequence[Tape],
    weights: Matrices,
    layer: Layer,
) -> list[Tensor]:
    """Return dL/dx from dL/dx': the chain rule of `forward`, with the batch's statistics."""
    at_weights, passed = [], []
    for law, g, tape in zip(groups, gradients, tapes, strict=True):
        if law.norm == "after":
            g = g * tape.positive
            at_weights.append(normalise_back(g, tape.normal, tape.scale))
        else:
            at_weights.append(law.strength * g)
        passed.append(law.shortcut * g)
    pulled = together(groups, at_weights, weights, layer.pull)
    out = []
    for law, g, tape, through in zip(groups, passed, tapes, pulled, strict=True):
        if law.norm != "after":
            through = through * tape.positive
        if law.norm == "before":
            through = normalise_back(through, tape.normal, tape.scale)
        out.append(g + through)
    return out


def together(
    groups: Sequence[Group], rows: list[Tensor], weights: Matrices, product: Product
) -> list[Tensor]:
    """Make one product for all members of the same weights, side by side: D N R C (H W)."""
    laws = [law for group in groups for law, _ in group.runs]
    lengths = [[length for _, length in group.runs] for group in groups]
    parts = [part for x, of in zip(rows, lengths, strict=True) for part in x.split(of, dim=2)]
    for law, matrix in weights.items():
        places = [place for place, other in enumerate(laws) if other == law]
        joined = torch.cat([parts[place] for place in places], dim=2)
        sizes = [parts[place].shape[2] for place in places]
        for place, part in zip(places, product(joined, matrix).split(sizes, dim=2), strict=True):
            parts[place] = part
    rest = iter(parts)
    return [torch.cat([next(rest) for _ in of], dim=2) for of in lengths]
