"""Measure the loss along random filter-normalised directions (Li 2018, arXiv 1712.09913, section
4).

Each point is scored with the statistics that the batch norms learned, and (`..._recalibrated`) with
those of the moved network on these images.

Shapes: N images; W one weight tensor, O outputs first.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from resnets.study.probes.adapters import take_apart
from resnets.study.probes.residual_chain import Chain, batch_statistics, finite, score
from resnets.study.tables import Row
from resnets.study.twins.study_config import ProbeConfig

Direction = list[Tensor]  # one tensor a parameter


def filter_normalised(network: nn.Module, *, seed: int) -> Direction:
    """Draw d with ||d_o|| = ||w_o|| for every filter w_o; zero for biases and norms (Li 2018)."""
    generator = torch.Generator().manual_seed(seed)
    direction = []
    for weight in network.parameters():
        draw = torch.randn(weight.shape, generator=generator).to(weight)
        if weight.ndim < 2:
            direction.append(torch.zeros_like(weight))
            continue
        own, drawn = (t.detach().flatten(1).norm(dim=1) for t in (weight, draw))
        scale = own / drawn.clamp_min(torch.finfo(drawn.dtype).tiny)
        direction.append(draw * scale.reshape(-1, *[1] * (weight.ndim - 1)))
    return direction


def loss_lines(chain: Chain, images: Tensor, targets: Tensor, *, config: ProbeConfig) -> list[Row]:
    """Measure L(w + x d) for x in [-1, 1] along several directions d, counted by `draw`."""
    moved = take_apart(copy.deepcopy(chain.network))
    most = config.points - 1
    rows: list[Row] = []
    for draw in range(config.directions):
        direction = filter_normalised(moved.network, seed=config.seed + draw)
        for step in [(2 * place - most) / most for place in range(config.points)]:
            with _moved(moved.network, step, direction):
                for name, value in _losses(moved, images, targets).items():
                    row = {"metric": f"line_{name}", "draw": draw, "x": step}
                    rows.append({**row, **finite(value)})
    return rows


@torch.no_grad()
def _losses(chain: Chain, images: Tensor, targets: Tensor) -> dict[str, float]:
    found = {}
    for name, recalibrated in (("loss", False), ("loss_recalibrated", True)):
        with batch_statistics(chain.network, wanted=recalibrated):
            found[name] = score(chain(images), targets)["loss"]
    return found


@contextmanager
def _moved(network: nn.Module, step: float, direction: Direction) -> Iterator[None]:
    """Move the weights by a step along a direction, and put the old bits back."""
    weights = list(network.parameters())
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, part in zip(weights, direction, strict=True):
            weight.add_(part, alpha=step)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)
