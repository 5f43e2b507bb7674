"""Provide the size of a network in numbers: parameters, multiply-accumulates, and its layers.

Counted are convolutions and linear layers, one multiply-accumulate (MAC) each time a weight is
used; norms, ReLUs, pools, blurs and additions are free, as in torchvision's tables.

Shapes: N images, C channels, H height, W width, K classes.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from resnets.errors import UserError


@dataclass(frozen=True)
class LayerRow:
    """Describe one layer of a network, for one image."""

    name: str
    type: str
    shape: tuple[int, ...]  # of the output, without N: C H W, or K
    parameters: int
    macs: int


def count_parameters(model: nn.Module) -> int:
    """Return the number of learned values; running means and variances are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_size: int) -> int:
    """Return the multiply-accumulates of a network for one image; see `layer_table`."""
    return sum(row.macs for row in layer_table(model, input_size))


def layer_table(model: nn.Module, input_size: int) -> list[LayerRow]:
    """List the layers of a network in the order in which they are computed.

    Each call of a module without children, other than an identity, is a row. The image has
    `input_size` pixels a side; the network is neither run nor changed.
    """
    twin = copy.deepcopy(model).to("meta").eval()  # shapes only: nothing is computed
    first = next((layer for layer in twin.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None:
        raise UserError("the network has no convolution, so its image size cannot be measured")
    counter = FlopCounterMode(display=False)
    rows: list[LayerRow] = []
    before = 0

    def start(*_: object) -> None:
        nonlocal before
        before = counter.get_total_flops()

    def append_row(name: str, layer: nn.Module, output: Tensor) -> None:
        flops = counter.get_total_flops() - before
        macs = flops // 2 if isinstance(layer, nn.Conv2d | nn.Linear) else 0
        shape, parameters = tuple(output.shape[1:]), count_parameters(layer)
        rows.append(LayerRow(name, type(layer).__name__, shape, parameters, macs))

    for name, layer in twin.named_modules():
        if not any(layer.children()) and not isinstance(layer, nn.Identity):
            layer.register_forward_pre_hook(start)
            layer.register_forward_hook(
                lambda layer, _, output, name=name: append_row(name, layer, output)
            )
    with torch.no_grad(), counter:
        twin(torch.empty(1, first.in_channels, input_size, input_size, device="meta"))
    return rows
