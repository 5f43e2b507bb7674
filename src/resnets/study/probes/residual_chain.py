"""A trained network enters, a chain leaves: a stem, units one after another, a head.

The idea: whatever a residual network is called, a unit is `merge(shortcut(x) + residual(x))` (He
2015, arXiv 1512.03385, equation 1; after He 2016, arXiv 1603.05027, the merge does nothing). With
the three in hand a measurement can remove a branch, change the order or follow one path, without a
hook. `adapters.py` makes chains of networks.

Shapes: N images, C H W channels, height, width, K classes; x_0 is what leaves the stem, x_l what
leaves unit l of n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Map = Callable[[Tensor], Tensor]
STEM_AND_HEAD = 2  # weighted layers outside the units, as the names of networks count them


@dataclass(frozen=True, eq=False)
class Unit:
    """One residual unit in three maps; `shortcut` is None in a plain network."""

    name: str
    stage: int  # from 1
    shortcut: Map | None
    residual: nn.Module
    merge: Map

    def __call__(self, x: Tensor) -> Tensor:
        """N C H W -> N C' H/s W/s."""
        return self.add(x, self.residual(x))

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """The unit's output, given its input and what its branch has made of it."""
        return self.merge(residual if self.shortcut is None else self.shortcut(x) + residual)

    def removed(self, x: Tensor) -> Tensor:
        """The output with the branch at zero; a plain unit becomes the identity."""
        return x if self.shortcut is None else self.merge(self.shortcut(x))


@dataclass(frozen=True, eq=False)
class Chain:
    """A network taken apart; the modules are those of `network`."""

    network: nn.Module
    stem: Map
    units: tuple[Unit, ...]
    head: Map

    def __call__(self, images: Tensor) -> Tensor:
        """N C H W -> logits N K."""
        return self.head(self.stream(images)[-1])

    def stream(self, images: Tensor) -> list[Tensor]:
        """x_0 to x_n."""
        xs = [self.stem(images)]
        for unit in self.units:
            xs.append(unit(xs[-1]))
        return xs

    @property
    def plain(self) -> bool:
        """Whether no unit has a shortcut."""
        return all(unit.shortcut is None for unit in self.units)

    @property
    def depth(self) -> int:
        """Weighted layers as the names count them: those of the branches, the stem and the head."""
        inside = [name for unit in self.units for name, _ in unit.residual.named_children()]
        return sum(name.startswith("conv") for name in inside) + STEM_AND_HEAD


@contextmanager
def batch_statistics(network: nn.Module, *, wanted: bool = True) -> Iterator[None]:
    """Batch norms use mean and variance of the batch they see, and remember nothing.

    That re-estimates their statistics on the images at hand, for the network as it is then (Nado
    2020, arXiv 2006.10963). Dropout and stochastic depth stay off.
    """
    norms = [m for m in network.modules() if wanted and isinstance(m, _BatchNorm)]
    before = [(norm, norm.training, norm.track_running_stats) for norm in norms]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm, training, tracks in before:
            norm.training, norm.track_running_stats = training, tracks


def score(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Error (share of wrong images) and mean cross-entropy of logits N K."""
    wrong = (logits.argmax(1) != targets).double().mean()
    return {"error": float(wrong), "loss": float(F.cross_entropy(logits.double(), targets))}


def through(units: Sequence[Map], x: Tensor) -> Tensor:
    """What leaves the last of the units."""
    for unit in units:
        x = unit(x)
    return x


def no_grad_stream(chain: Chain, images: Tensor) -> list[Tensor]:
    """x_0 to x_n without a graph."""
    with torch.no_grad():
        return chain.stream(images)
