"""Provide the blocks of SKNet: 3x3 convolutions of two sizes, chosen channel by channel.

Li et al. 2019 (arXiv 1903.06586). Parameters are named as in timm.

Shapes: N images, C channels, H height, W width; a block of stride s maps
N C H W to N C' ceil(H/s) ceil(W/s).
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from resnets.models.blocks import BlockConfig, ResidualBlock, inner_width
from resnets.models.config import ResNetConfig
from resnets.models.layers import activation, convolution, normalisation
from resnets.models.parts import register_block

PATHS = 2


class KernelAttention(nn.Module):
    """Return the weight of each path in each channel, a softmax over the paths (section 3.1)."""

    def __init__(self, channels: int, config: ResNetConfig, *, hidden: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc_reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn = normalisation(hidden, config=config)
        self.act = activation(config)
        self.fc_select = nn.Conv2d(hidden, PATHS * channels, 1, bias=False)

    def forward(self, paths: Tensor) -> Tensor:
        mean = self.avgpool(paths.sum(1))  # N 2 C H W -> N C 1 1
        scores: Tensor = self.fc_select(self.act(self.bn(self.fc_reduce(mean))))  # -> N 2C 1 1
        weights: Tensor = scores.unflatten(1, (2, -1)).softmax(1)  # -> N 2 C 1 1
        return weights


class SelectiveKernel(nn.Module):
    """Apply a 3x3 convolution and one of twice the dilation; return their weighted sum (figure 1).

    With `config.splits` = 1 each path sees all channels, with 2 each its half of them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: ResNetConfig,
        *,
        hidden: int,
        stride: int,
        dilation: int,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.splits = config.splits
        self.paths = nn.ModuleList(
            conv_norm(
                in_channels // self.splits,
                out_channels,
                config,
                kernel=3,
                stride=stride,
                dilation=dilation * factor,
                groups=groups,
            )
            for factor in (1, PATHS)
        )
        self.attn = KernelAttention(out_channels, config, hidden=hidden)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(self.splits, 1)
        outputs: list[Tensor] = []
        for i, path in enumerate(self.paths):
            outputs.append(path(parts[i % self.splits]))  # N C H W -> N C' H/s W/s
        paths = torch.stack(outputs, 1)  # -> N 2 C' H/s W/s
        weighted: Tensor = paths * self.attn(paths)
        return weighted.sum(1)  # -> N C' H/s W/s


@register_block("sk_basic", order="post")
class SKBasicBlock(ResidualBlock):
    """Apply a selective 3x3 and a plain 3x3 convolution, each with its norm; from timm."""

    uses = ResidualBlock.uses | {"splits"}

    def __init__(self, block: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = SelectiveKernel(
            block.in_channels,
            block.width,
            config,
            hidden=max(16, block.width // 8),
            stride=block.stride,
            dilation=block.dilation_before,
        )
        self.conv2 = conv_norm(
            block.width,
            block.out_channels,
            config,
            kernel=3,
            dilation=block.dilation,
            activated=False,
        )
        self.add_end(block, config, shortcut)
        self.activation = activation(config)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)  # N C H W -> N C' H/s W/s
        residual = self.conv2(self.conv1(x))  # -> N C' H/s W/s
        residual = self.drop_path(self.gain(self.se(residual)))
        return self.activation(shortcut + residual)

    @staticmethod
    def contradictions(config: ResNetConfig) -> Iterator[str]:
        """Yield what the block cannot be."""
        yield from _contradictions(config, (config.stem_channels, *config.widths))

    @staticmethod
    def count_weights(in_channels: int, width: int, config: ResNetConfig) -> int:
        """Return about how many weights the convolutions have."""
        paths = 9 * PATHS * in_channels // config.splits * width
        return paths + 9 * width**2 + 3 * width**2 // 8


@register_block("sk_bottleneck", order="post")
class SKBottleneck(ResidualBlock):
    """Apply 1x1, a selective 3x3 convolution, and 1x1 to four times the width (Li 2019)."""

    expansion = 4
    uses = ResidualBlock.uses | {"groups", "group_width", "splits"}

    def __init__(self, block: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        inner = inner_width(block, config)
        # Differs from the paper: its least hidden width, 32, is 8 in timm's split networks.
        least = 32 if config.splits == 1 else 8
        self.conv1 = conv_norm(block.in_channels, inner, config, kernel=1)
        self.conv2 = SelectiveKernel(
            inner,
            inner,
            config,
            hidden=max(least, inner // 16),
            stride=block.stride,
            dilation=block.dilation_before,
            groups=config.groups,
        )
        self.conv3 = conv_norm(inner, block.out_channels, config, kernel=1, activated=False)
        self.add_end(block, config, shortcut)
        self.activation = activation(config)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)  # N C H W -> N C' H/s W/s
        residual = self.conv2(self.conv1(x))  # -> N inner H/s W/s
        residual = self.conv3(residual)  # -> N C' H/s W/s
        residual = self.drop_path(self.gain(self.se(residual)))
        return self.activation(shortcut + residual)

    @staticmethod
    def contradictions(config: ResNetConfig) -> Iterator[str]:
        """Yield what the block cannot be."""
        groups = [int(width * config.group_width / 64) for width in config.widths]
        yield from _contradictions(config, groups)

    @staticmethod
    def count_weights(in_channels: int, width: int, config: ResNetConfig) -> int:
        """Return about how many weights the convolutions have."""
        group = int(width * config.group_width / 64)
        inner = group * config.groups
        paths = 9 * PATHS * group // config.splits * inner
        return inner * (in_channels + 4 * width) + paths + 3 * inner**2 // 16


def conv_norm(
    in_channels: int,
    out_channels: int,
    config: ResNetConfig,
    *,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    activated: bool = True,
) -> nn.Sequential:
    """Return a convolution, its norm and mostly a ReLU, under the names that timm gives them."""
    layers: dict[str, nn.Module] = {
        "conv": convolution(
            in_channels,
            out_channels,
            kernel=kernel,
            config=config,
            stride=stride,
            dilation=dilation,
            groups=groups,
        ),
        "bn": normalisation(out_channels, config=config),
    }
    if activated:
        layers["act"] = activation(config)
    return nn.Sequential(OrderedDict(layers))


def _contradictions(config: ResNetConfig, channels: Iterable[int]) -> Iterator[str]:
    """Yield what the blocks cannot be; `channels` are those of a group before the splits."""
    if config.splits > PATHS:
        yield f"splits = {config.splits}: block = {config.block!r} has {PATHS} paths; use 1 or 2"
    for number in channels:
        if number % config.splits:
            yield f"splits = {config.splits} does not divide {number} channels; choose other widths"
    if config.residual_init == "fixup":
        yield f"residual_init = 'fixup' is not defined for block = {config.block!r}"
