"""Compute one block forward and backward, for all families at once, with gradients by hand.

Ten thousand small autograd graphs would take minutes; a test compares the two.

Shapes: D N R C (H W): D draws of weights, N images, R members of a stack, or gradients going back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resnets.study.propagation.init_variants import Stack, Weights
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
    stacks: Sequence[Stack], streams: Sequence[Tensor], weights: Matrices, layer: Layer
) -> tuple[list[Tensor], list[Tape]]:
    """Compute s x + b W relu(x), s x + b W relu(BN(x)) or relu(s x + BN(W x)), by the norm."""
    before = []
    for stack, x in zip(stacks, streams, strict=True):
        normal, scale = normalise(x) if stack.norm == "before" else (x, x)
        before.append((normal if stack.norm == "after" else torch.relu(normal), normal, scale))
    products = together(stacks, [seen for seen, _, _ in before], weights, layer.apply)
    out, tapes = [], []
    for stack, x, (seen, normal, scale), z in zip(stacks, streams, before, products, strict=True):
        shortcut, strength = _factors(stack, x)
        if stack.norm == "after":
            branch, scale = normalise(z)
            y = torch.relu(torch.addcmul(branch, shortcut, x))
            tapes.append(Tape(branch, scale, y.sign()))
        else:
            y = torch.addcmul(strength * z, shortcut, x)
            tapes.append(Tape(normal, scale, seen.sign()))
        out.append(y)
    return out, tapes


def backward(
    stacks: Sequence[Stack],
    gradients: Sequence[Tensor],
    tapes: Sequence[Tape],
    weights: Matrices,
    layer: Layer,
) -> list[Tensor]:
    """Return dL/dx from dL/dx': the chain rule of `forward`, with the batch's statistics."""
    at_weights, passed = [], []
    for stack, g, tape in zip(stacks, gradients, tapes, strict=True):
        shortcut, strength = _factors(stack, g)
        if stack.norm == "after":
            g = g * tape.positive
            at_weights.append(normalise_back(g, tape.normal, tape.scale))
        else:
            at_weights.append(strength * g)
        passed.append(shortcut * g)
    pulled = together(stacks, at_weights, weights, layer.pull)
    out = []
    for stack, g, tape, through in zip(stacks, passed, tapes, pulled, strict=True):
        if stack.norm != "after":
            through = through * tape.positive
        if stack.norm == "before":
            through = normalise_back(through, tape.normal, tape.scale)
        out.append(g + through)
    return out


def together(
    stacks: Sequence[Stack], rows: list[Tensor], weights: Matrices, product: Product
) -> list[Tensor]:
    """Make one product for all members of the same weights, side by side: D N R C (H W)."""
    laws = [law for stack in stacks for law, _ in stack.runs]
    lengths = [[length for _, length in stack.runs] for stack in stacks]
    parts = [part for x, of in zip(rows, lengths, strict=True) for part in x.split(of, dim=2)]
    for law, matrix in weights.items():
        places = [place for place, other in enumerate(laws) if other == law]
        joined = torch.cat([parts[place] for place in places], dim=2)
        sizes = [parts[place].shape[2] for place in places]
        for place, part in zip(places, product(joined, matrix).split(sizes, dim=2), strict=True):
            parts[place] = part
    rest = iter(parts)
    return [torch.cat([next(rest) for _ in of], dim=2) for of in lengths]


def _factors(stack: Stack, x: Tensor) -> Tensor:
    """S and b of each member beside its stream D N R C (H W): 2 R 1 (1 1)."""
    return stack.factors.view(2, -1, *[1] * (x.ndim - 3))
