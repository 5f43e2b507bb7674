"""Measure the size of each layer's activations, and of the loss's gradient at each block.

Shapes: N images, C H W; x_l is the output of block l, x_0 that of the stem.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnets.study.probes.residual_chain import Chain, batch_statistics, finite, no_grad_stream
from resnets.study.tables import Row


def layer_responses(chain: Chain, images: Tensor) -> list[Row]:
    """Measure the standard deviation of each layer's response over N, C, H, W.

    The response of a convolution is its norm's output, before the ReLU or the addition (He 2015,
    arXiv 1512.03385, figure 7); in pre-activation order, where the norm is first, the norm's;
    without norms the convolution's own. The column `x` counts the layers of the blocks from 1,
    `unit` is the block.
    """
    rows: list[Row] = []

    def keep(block: int, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        place = {"unit": block, "x": float(len(rows) + 1)}
        rows.append({"metric": "response_std", **place, **finite(float(output.std()))})

    for number, (block, x) in enumerate(
        zip(chain.blocks, no_grad_stream(chain, images), strict=False), 1
    ):
        layers = _responding(block.residual)
        hooks = [layer.register_forward_hook(partial(keep, number)) for layer in layers]
        with torch.no_grad():
            block.residual(x)
        for hook in hooks:
            hook.remove()
    return rows


def _responding(residual: nn.Module) -> list[nn.Module]:
    """The norms of a branch, or its convolutions where it has none."""
    children = list(residual.children())
    norms = [layer for layer in children if isinstance(layer, _BatchNorm | nn.GroupNorm)]
    if not norms:
        return [layer for layer in children if isinstance(layer, nn.Conv2d)]
    # timm's norms with a ReLU inside pass their output through `drop`, which does nothing, first.
    return [dict(layer.named_children()).get("drop", layer) for layer in norms]


def gradient_profile(chain: Chain, images: Tensor, targets: Tensor) -> list[Row]:
    """Measure ||dL/dx_l|| for l = 0 to n, L the mean cross-entropy of the batch.

    Batch norms use the batch's own statistics, as in training (Yang 2019, arXiv 1902.08129).
    """
    with batch_statistics(chain.network):
        _, gradients = chain.gradients(images, targets, reduction="mean")
    return [
        {"metric": "gradient_x", "unit": number, **finite(float(gradient.double().norm()))}
        for number, gradient in enumerate(gradients)
    ]
