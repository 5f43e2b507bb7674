"""Take a network as a chain: a stem, residual blocks one after another, a head.

A block is `merge(shortcut(x) + residual(x))` (He 2015, arXiv 1512.03385, equation 1; after He 2016,
arXiv 1603.05027, the merge does nothing), so a measurement needs no hooks.

Shapes: N images, C H W, K classes; x_0 is the stem's output, x_l that of block l of n.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnets.study.tables import Row

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Block:
    """One residual block as three maps; `shortcut` is None in a plain network."""

    shortcut: Map | None
    residual: nn.Module
    merge: Map

    def __call__(self, x: Tensor) -> Tensor:
        """N C H W -> N C' H/s W/s."""
        residual = self.residual(x)
        return self.merge(residual if self.shortcut is None else self.shortcut(x) + residual)

    def removed(self, x: Tensor) -> Tensor:
        """Return the output with the branch at zero; a plain block becomes the identity."""
        return x if self.shortcut is None else self.merge(self.shortcut(x))


@dataclass(frozen=True, eq=False)
class Chain:
    """A network in parts; the modules are those of `network`."""

    network: nn.Module
    stem: Map
    blocks: tuple[Block, ...]
    head: Map

    def __call__(self, images: Tensor) -> Tensor:
        """N C H W -> logits N K."""
        return self.head(self.stream(images)[-1])

    def stream(self, images: Tensor) -> list[Tensor]:
        """Return x_0 to x_n."""
        return self.onward(self.stem(images))

    def onward(self, x: Tensor) -> list[Tensor]:
        """Return x_0 to x_n, from x_0."""
        return list(accumulate(self.blocks, lambda x, block: block(x), initial=x))

    def gradients(
        self, images: Tensor, targets: Tensor, *, reduction: str
    ) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Return x_0 to x_n and the cross-entropy's gradients there."""
        with torch.enable_grad():
            xs = self.onward(self.stem(images).detach().requires_grad_())
            loss = F.cross_entropy(self.head(xs[-1]), targets, reduction=reduction)
            return xs, torch.autograd.grad(loss, xs)

    @property
    def plain(self) -> bool:
        """Whether no block has a shortcut."""
        return all(block.shortcut is None for block in self.blocks)

    @property
    def depth(self) -> int:
        """Weighted layers as the names count them: those of the branches, the stem and the head."""
        inside = [name for block in self.blocks for name, _ in block.residual.named_children()]
        return sum(name.startswith("conv") for name in inside) + 2


@contextmanager
def batch_statistics(network: nn.Module, *, wanted: bool = True) -> Iterator[None]:
    """Let batch norms use statistics of the batch they see (Nado 2020, 2006.10963); no dropout."""
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
    """Return error (share of wrong images) and mean cross-entropy of logits N K."""
    wrong = (logits.argmax(1) != targets).double().mean()
    return {"error": float(wrong), "loss": float(F.cross_entropy(logits.double(), targets))}


def scored(
    metric: str, logits: Tensor | None, targets: Tensor, place: Row, *, recalibrated: bool = False
) -> list[Row]:
    """Return `score` as rows; without logits, where shapes differ, the rows say so."""
    found = None if logits is None else score(logits, targets)
    end = "_recalibrated" if recalibrated else ""
    return [
        {"metric": f"{metric}_{name}{end}", **place}
        | (finite(found[name]) if found else {"status": "shapes differ"})
        for name in ("error", "loss")
    ]


def through(blocks: Sequence[Map], x: Tensor) -> Tensor:
    """Apply the blocks one after another."""
    for block in blocks:
        x = block(x)
    return x


def finite(value: float) -> Row:
    """Return a value as a column, or a status in its place."""
    return {"value": value} if abs(value) < float("inf") else {"status": "not finite"}
