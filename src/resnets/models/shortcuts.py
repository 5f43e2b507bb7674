"""A unit's input enters, what is added to its residual leaves: the shortcuts.

The idea (He et al. 2015, arXiv 1512.03385, section 3.2): the identity wherever shapes are equal,
and where they change the least that makes them equal: A pads with zeros, B projects, C projects
everywhere, D (He et al. 2019, arXiv 1812.01187) averages before it projects. The plain network,
the control of every experiment on depth, has none. He et al. 2016 (arXiv 1603.05027, table 1) ask
what becomes of depth when the identity is weakened: by a constant, a gate, or dropout.

Shapes: N images, C channels, H height, W width; s stride, C' channels out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.models.config import ResNetConfig
from resnets.models.layers import Scale, convolution, normalisation

DROPPED = 0.5
"""of He 2016's shortcut with dropout"""


@dataclass(frozen=True)
class BlockConfig:
    """Where a unit stands in its network; every unit is planned before the first is built."""

    in_channels: int
    width: int  # channels of the 3x3 convolutions
    out_channels: int
    stride: int
    dilation_before: int  # up to and with the strided convolution
    dilation: int  # after it
    drop_path: float


class NoShortcut(nn.Module):
    """The plain network: nothing is added to the residual."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())


class PadShortcut(nn.Module):
    """Option A: every other pixel, and channels of zeros on both sides; no parameters."""

    # The paper does not say where the zeros go. Centred, as in akamaster's weights; zeros at the
    # end (fb.resnet.torch) compute the same function of permuted channels.

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]  # N C H W -> N C H/s W/s
        return F.pad(x, [0, 0, 0, 0, self.before, self.after])  # -> N C' H/s W/s


class Gate(nn.Module):
    """He 2016's shortcut-only gate: (1 - g(x)) x with g = sigmoid(W x + b), one for each number."""

    # Where the shape changes, the gate sees what option A made of x.

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (1 - torch.sigmoid(self.conv(x))) * x


class DilatedAverage(nn.Module):
    """The 2x2 average of option D where a stride has become dilation: four pixels d apart."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        d = self.dilation
        x = F.pad(x, [0, d, 0, d], mode="replicate")
        rows = x[:, :, :-d] + x[:, :, d:]
        return (rows[..., :-d] + rows[..., d:]) / 4


def make_shortcut(plan: BlockConfig, config: ResNetConfig) -> nn.Module:
    """The shortcut of equal shape, and what weakens it, if anything does."""
    if config.plain:
        return NoShortcut()
    shortcut = shaped_shortcut(plan, config)
    weaker: list[nn.Module] = []
    if config.shortcut == "gate":
        weaker.append(Gate(plan.out_channels))
    if config.shortcut == "dropout":
        weaker.append(nn.Dropout(DROPPED))
    if config.shortcut_strength != 1:
        weaker.append(Scale(config.shortcut_strength))
    if not weaker:
        return shortcut
    layers = shortcut if isinstance(shortcut, nn.Sequential) else [shortcut]
    return nn.Sequential(*layers, *weaker)


def shaped_shortcut(plan: BlockConfig, config: ResNetConfig) -> nn.Module:
    """The one place that decides how input and residual come to have equal shapes."""
    same = plan.stride == 1 and plan.in_channels == plan.out_channels
    if same and config.shortcut != "conv_all":
        return nn.Identity()
    if config.shortcut in ("pad", "gate", "dropout"):
        return PadShortcut(plan.in_channels, plan.out_channels, stride=plan.stride)
    averaged = config.shortcut == "avg_conv"
    stride = 1 if averaged else plan.stride
    layers: list[nn.Module] = [_average(plan)] if averaged else []
    layers.append(
        convolution(plan.in_channels, plan.out_channels, kernel=1, config=config, stride=stride)
    )
    if config.order == "post":
        layers.append(normalisation(plan.out_channels, config=config))
    return nn.Sequential(*layers)


def projects(shortcut: nn.Module) -> bool:
    """Whether a convolution stands in the shortcut's way, as in options B, C and D."""
    return any(isinstance(layer, nn.Conv2d) for layer in shortcut.children())


def _average(plan: BlockConfig) -> nn.Module:
    if plan.stride > 1:
        # Sizes are rounded up and the border is averaged over what exists, so odd maps fit.
        return nn.AvgPool2d(2, plan.stride, ceil_mode=True, count_include_pad=False)
    if plan.dilation != plan.dilation_before:
        return DilatedAverage(plan.dilation_before)
    return nn.Identity()
