"""Measure the loss along random filter-normalised directions (Li 2018, 1712.09913, section 4).

Each point is scored with the statistics that the batch norms learned, and (`..._recalibrated`) with
those of the moved network on these images.

Shapes: N images; W one weight tensor, O outputs first.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from resnets.study.probes.residual_chain import Chain, batch_statistics, finite, score
from resnets.study.tables import Row
from resnets.study.twins.study_config import ProbeConfig


def filter_normalised(network: nn.Module, *, seed: int) -> list[Tensor]:
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


@torch.no_grad()
def loss_lines(chain: Chain, images: Tensor, targets: Tensor, *, config: ProbeConfig) -> list[Row]:
    """Measure L(w + x d) for x in [-1, 1] along several directions d, counted by `draw`."""
    network, most = chain.network, config.points - 1
    rows: list[Row] = []
    for draw in range(config.directions):
        direction = filter_normalised(network, seed=config.seed + draw)
        for step in [(2 * place - most) / most for place in range(config.points)]:
            moved = {
                name: torch.add(weight, part, alpha=step)
                for (name, weight), part in zip(network.named_parameters(), direction, strict=True)
            }
            for metric, recalibrated in (("line_loss", False), ("line_loss_recalibrated", True)):
                with batch_statistics(network, wanted=recalibrated):
                    logits = functional_call(network, moved, (images,))
                value = finite(score(logits, targets)["loss"])
                rows.append({"metric": metric, "draw": draw, "x": step, **value})
    return rows
