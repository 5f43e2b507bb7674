"""How strongly the layers of a trained network answer, and how strongly the loss asks of them.

Enters: a chain (`units.py`), images, targets. Leaves: rows of a table, one number each.

Shapes: N images, C H W; x_l is what leaves unit l, x_0 the stem.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnets.study.probes.residual_chain import Chain, batch_statistics, no_grad_stream
from resnets.study.tables import Row


def layer_responses(chain: Chain, images: Tensor) -> list[Row]:
    """Standard deviation of each layer's response: sqrt(Var over N, C, H, W), one number a layer.

    The response of a convolution is what its norm makes of it, before the ReLU or the addition
    (He 2015, arXiv 1512.03385, section 4.2 and figure 7): layers of a residual network respond
    weaker, and the weaker the deeper it is. In pre-activation order the norm stands before the
    convolution, and its answer is taken; without norms the convolution's own. `x` counts the layers
    of the units from 1, `unit` says in which unit they are.
    """
    rows: list[Row] = []

    def keep(unit: int, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        place = {"unit": unit, "x": float(len(rows) + 1)}
        rows.append({"metric": "response_std", **place, **finite(float(output.std()))})

    for number, (unit, x) in enumerate(
        zip(chain.units, no_grad_stream(chain, images), strict=False), 1
    ):
        layers = _answering(unit.residual)
        hooks = [layer.register_forward_hook(partial(keep, number)) for layer in layers]
        with torch.no_grad():
            unit.residual(x)
        for hook in hooks:
            hook.remove()
    return rows


def _answering(residual: nn.Module) -> list[nn.Module]:
    """The norms of a branch, or its convolutions where it has none."""
    children = list(residual.children())
    norms = [layer for layer in children if isinstance(layer, _BatchNorm | nn.GroupNorm)]
    if not norms:
        return [layer for layer in children if isinstance(layer, nn.Conv2d)]
    # timm's norms with a ReLU inside pass their answer through `drop`, which does nothing, first.
    return [dict(layer.named_children()).get("drop", layer) for layer in norms]


def gradient_profile(chain: Chain, images: Tensor, targets: Tensor) -> list[Row]:
    """||dL/dx_l|| for l = 0 to n.

    L is the mean cross-entropy of the batch, norms are over the whole tensor. Batch norms use the
    batch's own statistics, as in training: there a plain network's gradient grows backwards
    (Yang 2019, arXiv 1902.08129), and it is measured which way it goes, not assumed.
    """
    with batch_statistics(chain.network), torch.enable_grad():
        xs = [chain.stem(images).detach().requires_grad_()]
        for unit in chain.units:
            xs.append(unit(xs[-1]))
        loss = F.cross_entropy(chain.head(xs[-1]), targets)
        gradients = torch.autograd.grad(loss, xs)
    return [
        {"metric": "gradient_x", "unit": unit, **finite(float(gradient.double().norm()))}
        for unit, gradient in enumerate(gradients)
    ]


def finite(value: float) -> Row:
    """A value, or a status in its place."""
    return {"value": value} if abs(value) < float("inf") else {"status": "not finite"}
