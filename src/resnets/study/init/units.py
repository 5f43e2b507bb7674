"""One unit forward and one unit backward, for all families at once, written out.

Forward: streams in, streams and a tape out. Backward: gradients at the unit's output and its tape
in, gradients at its input out. The derivatives are by hand because ten thousand small autograd
graphs would take minutes; a test compares them with autograd.

Shapes: D N R C (H W): D draws of weights, N images, R members of a stack, or gradients on their way
back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from resnets.study.init.families import Member, Norm, Weights
from resnets.study.init.weights import Layer

Matrices = dict[Weights, Tensor]
Product = Callable[[Tensor, Tensor], Tensor]

EPS = 1e-5
"""added to variances, as torch's batch norm does"""


@dataclass(frozen=True)
class Tape:
    """What one unit of one stack leaves for the way back."""

    normal: Tensor  # the normalised activations, where there are any
    scale: Tensor  # 1/std that normalised them: D 1 R C (1 1)
    positive: Tensor  # 1 where the unit's ReLU passes, else 0; a float, which multiplies faster


@dataclass(frozen=True)
class Group:
    """The law of some members, forward or on the way back, as numbers."""

    norm: Norm
    runs: tuple[tuple[Weights, int], ...]  # weights, and how many members in a row have them
    shortcut: Tensor  # s and b of each member: R 1 (1 1)
    strength: Tensor


def group(norm: Norm, members: Sequence[Member], *, layer: Layer) -> Group:
    """The numbers of some members."""
    shape = (len(members),) + (1,) * len(layer.shape)
    shortcut = torch.tensor([float(member.family.shortcut) for member in members])
    strength = torch.tensor([member.strength for member in members])
    runs = groupby(member.family.weights for member in members)
    lengths = tuple((law, len(list(run))) for law, run in runs)
    return Group(norm, lengths, shortcut.view(shape), strength.view(shape))


def normalise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Batch norm without learned numbers: (x - mean) / std over N (H W), and 1/std."""
    dims = (1, *range(4, x.ndim))
    centred = x - x.mean(dims, keepdim=True)
    scale = (centred.square().mean(dims, keepdim=True) + EPS).rsqrt()
    return centred * scale, scale


def normalise_back(g: Tensor, normal: Tensor, scale: Tensor) -> Tensor:
    """dL/dx = (g - mean g - z mean(g z)) / std with z the normalised x; means over N (H W)."""
    dims = (1, *range(4, g.ndim))
    along = (g * normal).mean(dims, keepdim=True)
    return (g - g.mean(dims, keepdim=True) - normal * along) * scale


def forward(
    groups: Sequence[Group], streams: Sequence[Tensor], weights: Matrices, layer: Layer
) -> tuple[list[Tensor], list[Tape]]:
    """The unit of each norm: s x + b W relu(x), s x + b W relu(BN(x)), relu(s x + BN(W x))."""
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
    """dL/dx from dL/dx': the chain rule of `forward`, the batch's statistics included."""
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
    """One product for all members of the same weights, put side by side: D N R C (H W)."""
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
