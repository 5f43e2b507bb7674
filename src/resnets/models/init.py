"""A new network enters, and leaves with its initial values: every law of initialisation.

The idea: depth is decided before the first step. A convolution's law sets what it does to the
variance of signals (He 2015b) or keeps the plain network near the identity: `dirac` and
`orthogonal` are the controls that go deep without a shortcut. Fixup lets a residual network do
without norms. Norms start at 1 and 0, biases at 0, and `fc` as PyTorch makes it.

Shapes: O channels out, I channels in, K the side of a filter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from resnets.models.blocks import last_weighted_layer
from resnets.models.config import ResNetConfig

BESIDE_DIRAC = 0.1
"""length of the random filter beside the identity's: b of Zagoruyko 2017"""


def initialise(network: nn.Module, config: ResNetConfig) -> None:
    """Draw all convolutions in torchvision's order, so that a seed gives its weights.

    The stem, which makes many channels of few, is always drawn by He's law.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            draw(module.weight, law=config.init if name.startswith("layer") else "fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if config.residual_init in ("zero", "fixup"):
        stages = [stage for name, stage in network.named_children() if name.startswith("layer")]
        units = [unit for stage in stages for unit in stage.children()]
        for unit in units:
            if config.residual_init == "fixup":
                shrink(unit, count=len(units))
            for parameter in last_weighted_layer(unit).parameters(recurse=False):
                nn.init.zeros_(parameter)
    if config.residual_init == "fixup":
        for parameter in network.get_submodule("fc").parameters():
            nn.init.zeros_(parameter)


@torch.no_grad()
def draw(weight: Tensor, *, law: str) -> None:
    """Fill filters O I K K.

    fan_out and fan_in: He 2015b (arXiv 1502.01852). dirac: the identity and a little noise
    (Zagoruyko 2017, arXiv 1706.00388). orthogonal: an orthogonal matrix at the filter's centre
    and zeros around it, times sqrt(2) for the ReLU (Xiao 2018, arXiv 1806.05393).
    """
    if law in ("fan_out", "fan_in"):
        nn.init.kaiming_normal_(weight, mode=law, nonlinearity="relu")  # type: ignore[arg-type]
        return
    if law == "dirac":
        # Differs from the paper: initial values only, where there the two factors are learned.
        noise = torch.randn(weight.shape)
        length = noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        nn.init.dirac_(weight).add_(BESIDE_DIRAC * noise / length)
        return
    middle = weight.shape[-1] // 2
    nn.init.zeros_(weight)
    weight[:, :, middle, middle] = nn.init.orthogonal_(
        torch.empty(weight.shape[:2]), gain=math.sqrt(2)
    )


@torch.no_grad()
def shrink(unit: nn.Module, *, count: int) -> None:
    """Fixup (Zhang 2019, arXiv 1901.09321, section 3): count^(-1/(2m-2)) for m convolutions."""
    convolutions = [layer for layer in unit.children() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions:
        layer.weight.mul_(count ** (-1 / (2 * len(convolutions) - 2)))
