"""Provide shortcuts and residual blocks: `y = activation(shortcut + residual)`.

He et al. 2015 (arXiv 1512.03385, equation 1) let layers learn what to add to their input; He et
al. 2016 (arXiv 1603.05027) move norm and ReLU before each convolution. A plain network, the control
of every experiment on depth, has the same blocks, parameters and initial values with `NoShortcut`.

Shapes: N images, C channels, H height, W width; a block of stride s maps
N C H W to N C' ceil(H/s) ceil(W/s).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.models.config import ResNetConfig
from resnets.models.layers import (
    Scale,
    conv_stride,
    convolution,
    drop_path,
    gain,
    max_pooling,
    normalisation,
    squeeze_excite,
    subsampling,
)

Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class BlockConfig:
    """Describe a block of a network; all are described before the first is built."""

    in_channels: int
    width: int  # channels of the 3x3 convolutions
    out_channels: int
    stride: int
    dilation_before: int  # up to and with the strided convolution
    dilation: int  # after it
    drop_path: float


# Shortcuts: the identity wherever shapes are equal, and elsewhere option A, B, C or D ------------


class NoShortcut(nn.Module):
    """Add nothing to the residual: a plain network."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())


class PadShortcut(nn.Module):
    """Option A: take every s-th pixel and pad channels of zeros on both sides; no parameters."""

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
    """Weaken a shortcut by (1 - g(x)) x with g = sigmoid(W x + b) (He 2016, shortcut-only gate)."""

    # Where the shape changes, the gate sees what option A made of x.

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (1 - torch.sigmoid(self.conv(x))) * x


class DilatedAverage(nn.Module):
    """Average four pixels d apart: option D's 2x2 average where dilation replaces a stride."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        d = self.dilation
        x = F.pad(x, [0, d, 0, d], mode="replicate")
        rows = x[:, :, :-d] + x[:, :, d:]
        return (rows[..., :-d] + rows[..., d:]) / 4


def make_shortcut(block: BlockConfig, config: ResNetConfig) -> nn.Module:
    """Return the shortcut of a block, with what weakens it."""
    if config.plain:
        return NoShortcut()
    shortcut = _shaped_shortcut(block, config)
    layers = list(shortcut) if isinstance(shortcut, nn.Sequential) else [shortcut]
    weaker: list[nn.Module] = []
    if config.shortcut == "gate":
        weaker.append(Gate(block.out_channels))
    if config.shortcut == "dropout":
        weaker.append(nn.Dropout(0.5))  # the rate of He 2016
    if config.shortcut_strength != 1:
        weaker.append(Scale(config.shortcut_strength))
    return nn.Sequential(*layers, *weaker) if weaker else shortcut


def _shaped_shortcut(block: BlockConfig, config: ResNetConfig) -> nn.Module:
    """Return the shortcut that gives the input the shape of the residual."""
    same = block.stride == 1 and block.in_channels == block.out_channels
    if same and config.shortcut != "conv_all":
        return nn.Identity()
    if config.shortcut in ("pad", "gate", "dropout"):
        return PadShortcut(block.in_channels, block.out_channels, stride=block.stride)
    averaged = config.shortcut == "avg_conv"
    stride = 1 if averaged else block.stride
    layers: list[nn.Module] = [_average(block)] if averaged else []
    layers.append(
        convolution(block.in_channels, block.out_channels, kernel=1, config=config, stride=stride)
    )
    if config.order == "post":
        layers.append(normalisation(block.out_channels, config=config))
    return nn.Sequential(*layers)


def _average(block: BlockConfig) -> nn.Module:
    if block.stride > 1:
        # Sizes are rounded up and the border is averaged over what exists, so odd maps fit.
        return nn.AvgPool2d(2, block.stride, ceil_mode=True, count_include_pad=False)
    if block.dilation != block.dilation_before:
        return DilatedAverage(block.dilation_before)
    return nn.Identity()


def projects(shortcut: nn.Module) -> bool:
    """Return whether a shortcut contains a convolution, as in options B, C and D."""
    return any(isinstance(layer, nn.Conv2d) for layer in shortcut.children())


# Convolutions of a residual ----------------------------------------------------------------------


def two_convolutions(block: BlockConfig, config: ResNetConfig) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Return a 3x3 convolution with the stride and one without."""
    make = partial(convolution, kernel=3, config=config)
    stride = conv_stride(config, stride=block.stride)
    return (
        make(block.in_channels, block.width, stride=stride, dilation=block.dilation_before),
        make(block.width, block.out_channels, dilation=block.dilation),
    )


def three_convolutions(
    block: BlockConfig, config: ResNetConfig
) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
    """Return a 1x1 to the inner width, a 3x3 in groups, and a 1x1 to the output width."""
    inner = inner_width(block, config)
    stride = conv_stride(config, stride=block.stride)
    # Differs from the paper: its stride is on the first 1x1, which then never sees three pixels of
    # four (`stride_on="1x1"`, "v1"); the 3x3 is today's usual place ("v1.5").
    early = config.stride_on == "1x1"
    first, second = (stride, 1) if early else (1, stride)
    dilation = block.dilation if early else block.dilation_before
    make = partial(convolution, config=config)
    return (
        make(block.in_channels, inner, kernel=1, stride=first),
        make(inner, inner, kernel=3, stride=second, dilation=dilation, groups=config.groups),
        make(inner, block.out_channels, kernel=1),
    )


def inner_width(block: BlockConfig, config: ResNetConfig) -> int:
    """Return the channels of a bottleneck's 3x3 (Xie 2017, arXiv 1611.05431)."""
    return int(block.width * config.group_width / 64) * config.groups


# Residual blocks ---------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Hold what all blocks share: the last layers of the residual, and the shortcut."""

    downsample: Layer
    activation: Layer

    def add_end(self, block: BlockConfig, config: ResNetConfig, shortcut: nn.Module) -> None:
        """Add what follows the last convolution and its norm, and the shortcut."""
        self.se = squeeze_excite(block.out_channels, config)
        self.gain = gain(config)
        self.drop_path = drop_path(block.drop_path)
        self.downsample = shortcut


class BasicBlock(ResidualBlock):
    """Apply conv3x3-norm-ReLU-conv3x3-norm, the addition, ReLU (He 2015, figure 5 left)."""

    def __init__(self, block: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1, conv2 = two_convolutions(block, config)
        self.pool = max_pooling(config, stride=block.stride)
        self.bn1 = normalisation(block.width, config=config)
        self.relu1 = nn.ReLU()
        self.blur = subsampling(config, stride=block.stride)
        self.conv2 = conv2
        self.bn2 = normalisation(block.out_channels, config=config)
        self.add_end(block, config, shortcut)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)  # N C H W -> N C' H/s W/s
        residual = self.blur(self.relu1(self.bn1(self.pool(self.conv1(x)))))  # -> N C' H/s W/s
        residual = self.bn2(self.conv2(residual))
        residual = self.drop_path(self.gain(self.se(residual)))
        return self.activation(shortcut + residual)


class Bottleneck(ResidualBlock):
    """Apply 1x1 to fewer channels, 3x3, 1x1 to four times the width (He 2015, figure 5 right)."""

    def __init__(self, block: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        inner = inner_width(block, config)
        self.conv1, conv2, conv3 = three_convolutions(block, config)
        self.bn1 = normalisation(inner, config=config)
        self.relu1 = nn.ReLU()
        self.conv2 = conv2
        self.bn2 = normalisation(inner, config=config)
        self.relu2 = nn.ReLU()
        self.blur = subsampling(config, stride=block.stride)
        self.conv3 = conv3
        self.bn3 = normalisation(block.out_channels, config=config)
        self.add_end(block, config, shortcut)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)  # N C H W -> N C' H/s W/s
        residual = self.relu1(self.bn1(self.conv1(x)))  # -> N inner H W
        residual = self.blur(self.relu2(self.bn2(self.conv2(residual))))  # -> N inner H/s W/s
        residual = self.bn3(self.conv3(residual))  # -> N C' H/s W/s
        residual = self.drop_path(self.gain(self.se(residual)))
        return self.activation(shortcut + residual)


class PreActBasicBlock(ResidualBlock):
    """Apply norm-ReLU-conv3x3-norm-ReLU-conv3x3 and the addition (He 2016, figure 1b).

    `dropout` is between the two convolutions, as in wide networks (arXiv 1605.07146).
    """

    def __init__(self, block: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        self.bn1 = normalisation(block.in_channels, config=config)
        self.relu1 = nn.ReLU()
        self.conv1, conv2 = two_convolutions(block, config)
        self.bn2 = normalisation(block.width, config=config)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.conv2 = conv2
        self.add_end(block, config, shortcut)
        self.projects = projects(shortcut)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        shortcut = self.downsample(activated if self.projects else x)  # N C H W -> N C' H/s W/s
        residual: Tensor = self.conv1(activated)  # -> N C' H/s W/s
        residual = self.conv2(self.dropout(self.relu2(self.bn2(residual))))
        residual = self.drop_path(self.gain(self.se(residual)))
        return shortcut + residual


class PreActBottleneck(ResidualBlock):
    """Apply the bottleneck with each norm and ReLU before its convolution (He 2016).

    Where the shape changes, the projection shares the first norm and ReLU with the residual and
    has no norm of its own: so does the authors' code, though the paper does not say it.
    """

    def __init__(self, block: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        inner = inner_width(block, config)
        self.bn1 = normalisation(block.in_channels, config=config)
        self.relu1 = nn.ReLU()
        self.conv1, conv2, conv3 = three_convolutions(block, config)
        self.bn2 = normalisation(inner, config=config)
        self.relu2 = nn.ReLU()
        self.conv2 = conv2
        self.bn3 = normalisation(inner, config=config)
        self.relu3 = nn.ReLU()
        self.conv3 = conv3
        self.add_end(block, config, shortcut)
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


def make_block(block: BlockConfig, config: ResNetConfig) -> nn.Module:
    """Return the residual block that a network of this configuration has here."""
    # The shortcut is made first: with the same seed, torchvision draws its weights in this order.
    shortcut = make_shortcut(block, config)
    return BLOCKS[config.block, config.order](block, config, shortcut=shortcut)


def last_weighted_layer(block: nn.Module) -> nn.Module:
    """Return the last layer of a residual: with zeros in it, a block is its shortcut."""
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm)
    return [layer for layer in block.children() if isinstance(layer, kinds)][-1]
