"""Ten families of networks as rows: how each builds a block from one layer of weights.

Every block holds one layer, so that depth counts the same in all of them and a draw's weights serve
them all: with stream x and weights W a block is

    norm none      x' = s x + b W relu(x)              s = 1 with a shortcut, else 0
    norm before    x' = s x + b W relu(BN(x))
    norm after     x' = relu(s x + BN(W x))

and b is the strength of the branch. The stream of a plain network is thus its pre-activation.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["none", "before", "after"]
Weights = Literal["gaussian", "dirac", "orthogonal"]


@dataclass(frozen=True)
class Family:
    """One way to build deep networks; `strength` None is 1/sqrt(L) in a network of L blocks."""

    name: str
    shortcut: bool
    norm: Norm
    strength: float | None
    weights: Weights
    source: str

    def strength_at(self, depth: int) -> float:
        return depth**-0.5 if self.strength is None else self.strength


FAMILIES = (
    Family("plain", False, "none", 1.0, "gaussian", "He 2015, arXiv 1502.01852"),
    Family("plain-bn", False, "before", 1.0, "gaussian", "Ioffe & Szegedy 2015, arXiv 1502.03167"),
    Family("residual", True, "none", 1.0, "gaussian", "He 2016, arXiv 1603.05027, without norm"),
    Family("residual-bn", True, "after", 1.0, "gaussian", "He 2015, arXiv 1512.03385"),
    Family("preact", True, "before", 1.0, "gaussian", "He 2016, arXiv 1603.05027"),
    Family("skipinit", True, "none", 0.0, "gaussian", "De & Smith 2020, arXiv 2002.10444"),
    # Of a branch's layers Fixup sets the last to 0, and ours have but one; the factor
    # L^(-1/(2m-2)) of the m - 1 layers before it therefore finds nothing to scale.
    Family("fixup", True, "none", 0.0, "gaussian", "Zhang 2019, arXiv 1901.09321"),
    Family("scaled", True, "none", None, "gaussian", "Hayou 2021; Bordelon 2023, arXiv 2309.16620"),
    Family("dirac", False, "none", 1.0, "dirac", "Zagoruyko 2017, arXiv 1706.00388"),
    Family("orthogonal", False, "none", 1.0, "orthogonal", "Saxe 2014; Xiao 2018, 1806.05393"),
)


@dataclass(frozen=True)
class Member:
    """A family in a sweep; `depth` is set where its law depends on the depth of the network."""

    family: Family
    depth: int | None


@dataclass(frozen=True)
class Stack:
    """Members that are computed as one tensor, because they normalise at the same place."""

    norm: Norm
    members: tuple[Member, ...]

    def reaching(self, block: int) -> "Stack":
        """Drop those that are less than `block` deep: they are last."""
        kept = tuple(m for m in self.members if m.depth is None or m.depth >= block)
        return Stack(self.norm, kept)

    def ending(self, depth: int) -> tuple[Member, ...]:
        """Return the networks of this depth, which are the first blocks of members."""
        return tuple(Member(m.family, depth) for m in self.members if m.depth in (None, depth))

    def place(self, network: Member) -> int:
        """Return the place of the member that such a network is the first blocks of."""
        depths = (None, network.depth)
        return [m.family is network.family and m.depth in depths for m in self.members].index(True)

    @cached_property
    def runs(self) -> list[tuple[Weights, int]]:
        """Weights, and how many members in a row have them."""
        found = groupby(member.family.weights for member in self.members)
        return [(law, len(list(run))) for law, run in found]

    @cached_property
    def factors(self) -> Tensor:
        """Return s and b of each member: 2 R."""
        families = [(member.family, member.depth or 0) for member in self.members]
        return torch.tensor([(float(f.shortcut), f.strength_at(depth)) for f, depth in families]).T


def stacks(families: tuple[Family, ...], *, depths: tuple[int, ...]) -> tuple[Stack, ...]:
    """Group families by norm, in each group those of equal weights side by side.

    A family whose law depends on L has one member for each depth, last, the deepest first.
    """
    ordered = sorted(families, key=lambda family: family.weights, reverse=True)
    members = [Member(family, None) for family in ordered if family.strength is not None]
    for family in families:
        if family.strength is None:
            members += [Member(family, depth) for depth in sorted(depths, reverse=True)]
    norms = dict.fromkeys(family.norm for family in ordered)
    return tuple(Stack(n, tuple(m for m in members if m.family.norm == n)) for n in norms)
