"""A feature map enters a residual unit, the sum of a shortcut and a residual leaves it.

The idea (He et al. 2015, arXiv 1512.03385, equation 1): let the layers learn what to *add* to
their input, `y = activation(x + F(x))`, so that doing nothing is easy and depth does no harm.
`BasicBlock` and `Bottleneck` are that paper's units; `PreActBasicBlock` and `PreActBottleneck`
those of He et al. 2016 (arXiv 1603.05027), with nothing after the addition. A plain network, the
paper's control, is made of the same units with the shortcut `NoShortcut`: same parameters, same
names, same initial values.

Shapes: N images, C channels, H height, W width; a unit of stride s maps
N C H W to N C' ceil(H/s) ceil(W/s).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from resnets.models.config import ResNetConfig
from resnets.models.layers import (
    conv_stride,
    convolution,
    drop_path,
    gain,
    max_pooling,
    normalisation,
    squeeze_excite,
    subsampling,
)
from resnets.models.shortcuts import BlockConfig, make_shortcut, projects

Layer = Callable[[Tensor], Tensor]


# Convolutions of a residual branch ---------------------------------------------------------------


def two_convolutions(plan: BlockConfig, config: ResNetConfig) -> tuple[nn.Conv2d, nn.Conv2d]:
    """3x3 with the stride, 3x3."""
    first = convolution(
        plan.in_channels,
        plan.width,
        kernel=3,
        config=config,
        stride=conv_stride(config, stride=plan.stride),
        dilation=plan.dilation_before,
    )
    second = convolution(
        plan.width, plan.out_channels, kernel=3, config=config, dilation=plan.dilation
    )
    return first, second


def three_convolutions(
    plan: BlockConfig, config: ResNetConfig
) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
    """1x1 to the inner width, 3x3 in groups, 1x1 to the output width."""
    inner = inner_width(plan, config)
    stride = conv_stride(config, stride=plan.stride)
    # Differs from the paper: its stride is on the first 1x1, which then never sees three pixels of
    # four (`stride_on="1x1"`, "v1"); the 3x3 is today's usual place ("v1.5").
    early = config.stride_on == "1x1"
    reduce = convolution(
        plan.in_channels, inner, kernel=1, config=config, stride=stride if early else 1
    )
    spatial = convolution(
        inner,
        inner,
        kernel=3,
        config=config,
        stride=1 if early else stride,
        dilation=plan.dilation if early else plan.dilation_before,
        groups=config.groups,
    )
    expand = convolution(inner, plan.out_channels, kernel=1, config=config)
    return reduce, spatial, expand


def inner_width(plan: BlockConfig, config: ResNetConfig) -> int:
    """Xie 2017 (arXiv 1611.05431): groups of `group_width` channels where width is 64."""
    return int(plan.width * config.group_width / 64) * config.groups


# Residual units ----------------------------------------------------------------------------------


class BasicBlock(nn.Module):
    """conv3x3-norm-ReLU-conv3x3-norm, the addition, ReLU (He 2015, figure 5 left)."""

    downsample: Layer
    activation: Layer

    def __init__(self, plan: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        conv1, conv2 = two_convolutions(plan, config)
        self.conv1 = conv1
        self.pool = max_pooling(config, stride=plan.stride)
        self.bn1 = normalisation(plan.width, config=config)
        self.relu1 = nn.ReLU()
        self.blur = subsampling(config, stride=plan.stride)
        self.conv2 = conv2
        self.bn2 = normalisation(plan.out_channels, config=config)
        self.se = squeeze_excite(plan.out_channels, config)
        self.gain = gain(config)
        self.drop_path = drop_path(plan.drop_path)
        self.downsample = shortcut
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)  # N C H W -> N C' H/s W/s
        residual = self.blur(self.relu1(self.bn1(self.pool(self.conv1(x)))))  # -> N C' H/s W/s
        residual = self.bn2(self.conv2(residual))
        residual = self.drop_path(self.gain(self.se(residual)))
        return self.activation(shortcut + residual)


class Bottleneck(nn.Module):
    """1x1 to fewer channels, 3x3 there, 1x1 to four times the width (He 2015, figure 5 right)."""

    downsample: Layer
    activation: Layer

    def __init__(self, plan: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        inner = inner_width(plan, config)
        conv1, conv2, conv3 = three_convolutions(plan, config)
        self.conv1 = conv1
        self.bn1 = normalisation(inner, config=config)
        self.relu1 = nn.ReLU()
        self.conv2 = conv2
        self.bn2 = normalisation(inner, config=config)
        self.relu2 = nn.ReLU()
        self.blur = subsampling(config, stride=plan.stride)
        self.conv3 = conv3
        self.bn3 = normalisation(plan.out_channels, config=config)
        self.se = squeeze_excite(plan.out_channels, config)
        self.gain = gain(config)
        self.drop_path = drop_path(plan.drop_path)
        self.downsample = shortcut
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)  # N C H W -> N C' H/s W/s
        residual = self.relu1(self.bn1(self.conv1(x)))  # -> N inner H W
        residual = self.blur(self.relu2(self.bn2(self.conv2(residual))))  # -> N inner H/s W/s
        residual = self.bn3(self.conv3(residual))  # -> N C' H/s W/s
        residual = self.drop_path(self.gain(self.se(residual)))
        return self.activation(shortcut + residual)


class PreActBasicBlock(nn.Module):
    """norm-ReLU-conv3x3-norm-ReLU-conv3x3, the addition, nothing (He 2016, figure 1b).

    `dropout` sits between the two convolutions, as in wide networks (arXiv 1605.07146).
    """

    downsample: Layer

    def __init__(self, plan: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        conv1, conv2 = two_convolutions(plan, config)
        self.bn1 = normalisation(plan.in_channels, config=config)
        self.relu1 = nn.ReLU()
        self.conv1 = conv1
        self.bn2 = normalisation(plan.width, config=config)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.conv2 = conv2
        self.se = squeeze_excite(plan.out_channels, config)
        self.gain = gain(config)
        self.drop_path = drop_path(plan.drop_path)
        self.downsample = shortcut
        self.projects = projects(shortcut)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        shortcut = self.downsample(activated if self.projects else x)  # N C H W -> N C' H/s W/s
        residual: Tensor = self.conv1(activated)  # -> N C' H/s W/s
        residual = self.conv2(self.dropout(self.relu2(self.bn2(residual))))
        residual = self.drop_path(self.gain(self.se(residual)))
        return shortcut + residual


class PreActBottleneck(nn.Module):
    """The bottleneck with each norm and ReLU before its convolution (He 2016).

    Where the shape changes, the projection shares the first norm and ReLU with the residual and
    has no norm of its own: so does the authors' code, though the paper does not say it.
    """

    downsample: Layer

    def __init__(self, plan: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        inner = inner_width(plan, config)
        conv1, conv2, conv3 = three_convolutions(plan, config)
        self.bn1 = normalisation(plan.in_channels, config=config)
        self.relu1 = nn.ReLU()
        self.conv1 = conv1
        self.bn2 = normalisation(inner, config=config)
        self.relu2 = nn.ReLU()
        self.conv2 = conv2
        self.bn3 = normalisation(inner, config=config)
        self.relu3 = nn.ReLU()
        self.conv3 = conv3
        self.se = squeeze_excite(plan.out_channels, config)
        self.gain = gain(config)
        self.drop_path = drop_path(plan.drop_path)
        self.downsample = shortcut
        self.projects = projects(shortcut)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        shortcut = self.downsample(activated if self.projects else x)  # N C H W -> N C' H/s W/s
        residual: Tensor = self.relu2(self.bn2(self.conv1(activated)))  # -> N inner H W
        residual = self.conv2(residual)  # -> N inner H/s W/s
        residual = self.conv3(self.relu3(self.bn3(residual)))  # -> N C' H/s W/s
        residual = self.drop_path(self.gain(self.se(residual)))
        return shortcut + residual


BLOCKS = {
    ("basic", "post"): BasicBlock,
    ("bottleneck", "post"): Bottleneck,
    ("basic", "pre"): PreActBasicBlock,
    ("bottleneck", "pre"): PreActBottleneck,
}


def make_block(plan: BlockConfig, config: ResNetConfig) -> nn.Module:
    # The shortcut is made first: with the same seed, torchvision draws its weights in this order.
    shortcut = make_shortcut(plan, config)
    return BLOCKS[config.block, config.order](plan, config, shortcut=shortcut)


def last_weighted_layer(unit: nn.Module) -> nn.Module:
    """The layer that a residual leaves through: zero here, and the unit starts as its shortcut."""
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm)
    return [layer for layer in unit.children() if isinstance(layer, kinds)][-1]
