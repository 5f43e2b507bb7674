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
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.models.config import ResNetConfig
from resnets.models.layers import (
    Scale,
    activation,
    attention,
    conv_stride,
    convolution,
    drop_path,
    gain,
    max_pooling,
    normalisation,
    subsampling,
)
from resnets.models.parts import BLOCKS, SHORTCUTS, register_block, register_shortcut


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
    stage: int = 0  # both count from 0
    position: int = 0

    @property
    def keeps_shape(self) -> bool:
        """Whether the identity is the shortcut: where dilation replaces a stride, it is not."""
        strides = self.stride > 1 or self.dilation != self.dilation_before
        return not strides and self.in_channels == self.out_channels


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
    """Return the shortcut of a block, weakened if the config says so."""
    if config.plain:
        return NoShortcut()
    shortcut = SHORTCUTS[config.shortcut](block, config)
    if config.shortcut_strength == 1:
        return shortcut
    layers = shortcut if isinstance(shortcut, nn.Sequential) else [shortcut]
    return nn.Sequential(*layers, Scale(config.shortcut_strength))


@register_shortcut("none")
def no_shortcut(block: BlockConfig, config: ResNetConfig) -> nn.Module:
    """Return nothing to add: a plain network."""
    return NoShortcut()


@register_shortcut("pad")
def padded(block: BlockConfig, config: ResNetConfig) -> nn.Module:
    """Return option A."""
    if block.keeps_shape:
        return nn.Identity()
    return PadShortcut(block.in_channels, block.out_channels, stride=block.stride)


@register_shortcut("gate")
def gated(block: BlockConfig, config: ResNetConfig) -> nn.Module:
    """Return option A behind a gate (He 2016, section 3.1)."""
    return nn.Sequential(padded(block, config), Gate(block.out_channels))


@register_shortcut("dropout")
def dropped(block: BlockConfig, config: ResNetConfig) -> nn.Module:
    """Return option A with dropout, at the rate of He 2016."""
    return nn.Sequential(padded(block, config), nn.Dropout(0.5))


@register_shortcut("conv_all")
def projected(block: BlockConfig, config: ResNetConfig) -> nn.Module:
    """Return option C: a 1x1 convolution everywhere."""
    make = partial(convolution, kernel=1, config=config)
    conv = make(block.in_channels, block.out_channels, stride=block.stride)
    return nn.Sequential(conv, *shortcut_norm(block, config))


@register_shortcut("conv")
def projected_where_needed(block: BlockConfig, config: ResNetConfig) -> nn.Module:
    """Return option B: a 1x1 convolution where the shape changes."""
    return nn.Identity() if block.keeps_shape else projected(block, config)


@register_shortcut("avg_conv")
def averaged(block: BlockConfig, config: ResNetConfig) -> nn.Module:
    """Return option D: an average, then a 1x1 convolution, where the shape changes."""
    if block.keeps_shape:
        return nn.Identity()
    conv = convolution(block.in_channels, block.out_channels, kernel=1, config=config)
    return nn.Sequential(_average(block), conv, *shortcut_norm(block, config))


def shortcut_norm(block: BlockConfig, config: ResNetConfig) -> list[nn.Module]:
    """Return the norm of a projection, which pre-activation blocks do not have."""
    return [normalisation(block.out_channels, config=config)] if config.order == "post" else []


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
    groups = inner // config.group_size if config.group_size else config.groups
    make = partial(convolution, config=config)
    return (
        make(block.in_channels, inner, kernel=1, stride=first),
        make(inner, inner, kernel=3, stride=second, dilation=dilation, groups=groups),
        make(inner, block.out_channels, kernel=1),
    )


def inner_width(block: BlockConfig, config: ResNetConfig) -> int:
    """Return the channels of a bottleneck's 3x3 (Xie 2017, arXiv 1611.05431)."""
    return int(block.width * config.group_width / 64) * config.groups


# Residual blocks ---------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Hold what all blocks share: the last layers of the residual, and the shortcut."""

    if TYPE_CHECKING:  # torch.jit.script would read these
        downsample: Callable[[Tensor], Tensor]
        activation: Callable[[Tensor], Tensor]

    expansion = 1
    # Fields of `parts.BLOCK_FIELDS` that the block knows of.
    uses: frozenset[str] = frozenset(
        ("se", "attention", "residual_init", "residual_scale", "drop_path", "output_stride")
    )

    def add_end(self, block: BlockConfig, config: ResNetConfig, shortcut: nn.Module) -> None:
        """Add what follows the last convolution and its norm, and the shortcut."""
        self.se = attention(block.out_channels, config)
        self.gain = gain(config)
        self.drop_path = drop_path(block.drop_path)
        self.downsample = shortcut


@register_block("basic", order="post")
class BasicBlock(ResidualBlock):
    """Apply conv3x3-norm-ReLU-conv3x3-norm, the addition, ReLU (He 2015, figure 5 left)."""

    uses = ResidualBlock.uses | {"halving", "blur"}

    def __init__(self, block: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1, conv2 = two_convolutions(block, config)
        self.pool = max_pooling(config, stride=block.stride)
        self.bn1 = normalisation(block.width, config=config)
        self.relu1 = activation(config)
        self.blur = subsampling(config, stride=block.stride)
        self.conv2 = conv2
        self.bn2 = normalisation(block.out_channels, config=config)
        self.add_end(block, config, shortcut)
        self.activation = activation(config)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)  # N C H W -> N C' H/s W/s
        residual = self.blur(self.relu1(self.bn1(self.pool(self.conv1(x)))))  # -> N C' H/s W/s
        residual = self.bn2(self.conv2(residual))
        residual = self.drop_path(self.gain(self.se(residual)))
        return self.activation(shortcut + residual)


@register_block("bottleneck", order="post")
class Bottleneck(ResidualBlock):
    """Apply 1x1 to fewer channels, 3x3, 1x1 to four times the width (He 2015, figure 5 right)."""

    expansion = 4
    uses = ResidualBlock.uses | {"stride_on", "groups", "group_width", "group_size", "blur"}

    def __init__(self, block: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        inner = inner_width(block, config)
        self.conv1, conv2, conv3 = three_convolutions(block, config)
        self.bn1 = normalisation(inner, config=config)
        self.relu1 = activation(config)
        self.conv2 = conv2
        self.bn2 = normalisation(inner, config=config)
        self.relu2 = activation(config)
        self.blur = subsampling(config, stride=block.stride)
        self.conv3 = conv3
        self.bn3 = normalisation(block.out_channels, config=config)
        self.add_end(block, config, shortcut)
        self.activation = activation(config)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)  # N C H W -> N C' H/s W/s
        residual = self.relu1(self.bn1(self.conv1(x)))  # -> N inner H W
        residual = self.blur(self.relu2(self.bn2(self.conv2(residual))))  # -> N inner H/s W/s
        residual = self.bn3(self.conv3(residual))  # -> N C' H/s W/s
        residual = self.drop_path(self.gain(self.se(residual)))
        return self.activation(shortcut + residual)


@register_block("bottleneck_inner_attention", order="post")
class BottleneckInnerAttention(Bottleneck):
    """Apply 1x1, 3x3, attention and 1x1: the attention sees the inner width, as in timm's 33ts."""

    def __init__(self, block: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__(block, config, shortcut=shortcut)
        self.se = attention(inner_width(block, config), config)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)  # N C H W -> N C' H/s W/s
        residual = self.relu1(self.bn1(self.conv1(x)))  # -> N inner H W
        residual = self.blur(self.relu2(self.bn2(self.conv2(residual))))  # -> N inner H/s W/s
        residual = self.bn3(self.conv3(self.se(residual)))  # -> N C' H/s W/s
        residual = self.drop_path(self.gain(residual))
        return self.activation(shortcut + residual)


@register_block("basic", order="pre")
class PreActBasicBlock(ResidualBlock):
    """Apply norm-ReLU-conv3x3-norm-ReLU-conv3x3 and the addition (He 2016, figure 1b).

    `dropout` is between the two convolutions, as in wide networks (arXiv 1605.07146).
    """

    def __init__(self, block: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        self.bn1 = normalisation(block.in_channels, config=config)
        self.relu1 = activation(config)
        self.conv1, conv2 = two_convolutions(block, config)
        self.bn2 = normalisation(block.width, config=config)
        self.relu2 = activation(config)
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


@register_block("bottleneck", order="pre")
class PreActBottleneck(ResidualBlock):
    """Apply the bottleneck with each norm and ReLU before its convolution (He 2016).

    Where the shape changes, the projection shares the first norm and ReLU with the residual and
    has no norm of its own: so does the authors' code, though the paper does not say it.
    """

    expansion = 4
    uses = ResidualBlock.uses | {"stride_on", "groups", "group_width", "group_size"}

    def __init__(self, block: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        inner = inner_width(block, config)
        self.bn1 = normalisation(block.in_channels, config=config)
        self.relu1 = activation(config)
        self.conv1, conv2, conv3 = three_convolutions(block, config)
        self.bn2 = normalisation(inner, config=config)
        self.relu2 = activation(config)
        self.conv2 = conv2
        self.bn3 = normalisation(inner, config=config)
        self.relu3 = activation(config)
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


def make_block(block: BlockConfig, config: ResNetConfig) -> nn.Module:
    """Return the residual block that a network of this configuration has here."""
    # The shortcut is made first: with the same seed, torchvision draws its weights in this order.
    shortcut = make_shortcut(block, config)
    return BLOCKS[config.order][config.block](block, config, shortcut=shortcut)


def last_weighted_layer(block: nn.Module) -> nn.Module:
    """Return the last layer of a residual: with zeros in it, a block is its shortcut."""
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm)
    parts = [part for name, part in block.named_children() if name not in ("se", "downsample")]
    return [layer for part in parts for layer in part.modules() if isinstance(layer, kinds)][-1]
