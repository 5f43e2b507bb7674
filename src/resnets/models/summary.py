"""A network and an image size enter, its size in numbers leaves: parameters, MACs, activations.

The idea: a convolution costs the same multiplications whatever the values are, so a copy of the
network without values, on the meta device, is run once and each layer is asked for its shapes.
Counted are convolutions and linear layers, one multiply-accumulate (MAC) each time a weight is
used; norms, ReLUs, pools, blurs and additions are free, as in torchvision's tables.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from resnets.errors import UserError


@dataclass(frozen=True)
class LayerRow:
    """One layer of a network, as one image meets it."""

    name: str
    type: str
    shape: tuple[int, ...]  # of the output, without N: C H W, or K
    parameters: int
    macs: int


def count_parameters(model: nn.Module) -> int:
    """Learned numbers; running means and variances are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_size: int) -> int:
    """Multiply-accumulates for one square image of this side."""
    return sum(row.macs for row in layer_table(model, input_size))


def count_activations(model: nn.Module, input_size: int) -> int:
    """Numbers that the convolutions put out for one image: most of what training has to keep."""
    rows = layer_table(model, input_size)
    return sum(math.prod(row.shape) for row in rows if row.macs and len(row.shape) == 3)


def layer_table(model: nn.Module, input_size: int) -> list[LayerRow]:
    """Every layer without parts of its own, in the order in which an image meets them.

    The model itself is neither run nor changed.
    """
    twin = _valueless(model).eval()
    rows: list[LayerRow] = []
    for name, layer in twin.named_modules():
        if not any(layer.children()) and not isinstance(layer, nn.Identity):
            layer.register_forward_hook(partial(_append_row, rows, name))
    with torch.no_grad():
        twin(torch.empty(1, _input_channels(twin), input_size, input_size, device="meta"))
    return rows


def _append_row(
    rows: list[LayerRow], name: str, layer: nn.Module, _: tuple[Tensor, ...], output: Tensor
) -> None:
    shape = tuple(output.shape[1:])
    row = LayerRow(name, type(layer).__name__, shape, count_parameters(layer), _macs(layer, shape))
    rows.append(row)


def _macs(layer: nn.Module, shape: tuple[int, ...]) -> int:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        # Each output is a sum over one filter: as many products as the filter has weights.
        return math.prod(shape) * layer.weight[0].numel()
    return 0


def _valueless(model: nn.Module) -> nn.Module:
    """A copy on the meta device; the values themselves are never copied."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"))
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(model, memo)


def _input_channels(model: nn.Module) -> int:
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
    raise UserError("a network without a convolution has no image size to measure it at")
