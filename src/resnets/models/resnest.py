"""Provide the block of ResNeSt: a bottleneck whose 3x3 convolution attends to its splits.

Zhang et al. 2020 (arXiv 2004.08955). Parameters are named as in the authors' release and timm.

Shapes: N images, C channels, H height, W width, R splits; a block of stride s maps
N C H W to N C' ceil(H/s) ceil(W/s).
"""

from collections.abc import Iterator

from torch import Tensor, nn

from resnets.models.blocks import BlockConfig, ResidualBlock, inner_width
from resnets.models.config import ResNetConfig
from resnets.models.layers import activation, convolution, mean_pooling, normalisation
from resnets.models.parts import register_block

# The hidden layer of the attention has 1 / REDUCTION of all splits' channels, at least LEAST.
REDUCTION = 4
LEAST = 32


class SplitAttention(nn.Module):
    """Apply R 3x3 convolutions in groups and return their sum, weighted channel by channel.

    The weights come from the mean of their sum: a softmax over the R splits, or with R = 1 a
    sigmoid (Zhang 2020, section 3.1).
    """

    def __init__(self, channels: int, config: ResNetConfig, *, dilation: int) -> None:
        super().__init__()
        self.splits, self.groups = config.splits, config.groups
        hidden = max(LEAST, channels * self.splits // REDUCTION)
        hidden = -(-hidden // self.groups) * self.groups
        self.conv = convolution(
            channels,
            channels * self.splits,
            kernel=3,
            config=config,
            dilation=dilation,
            groups=self.groups * self.splits,
        )
        self.bn0 = normalisation(channels * self.splits, config=config)
        self.act0 = activation(config)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, hidden, 1, groups=self.groups)
        self.bn1 = normalisation(hidden, config=config)
        self.act1 = activation(config)
        self.fc2 = nn.Conv2d(hidden, channels * self.splits, 1, groups=self.groups)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act0(self.bn0(self.conv(x)))  # N C H W -> N RC H W
        x = x.unflatten(1, (self.splits, -1))  # -> N R C H W
        mean = self.avgpool(x.sum(1))  # -> N C 1 1
        scores: Tensor = self.fc2(self.act1(self.bn1(self.fc1(mean))))  # -> N RC 1 1
        # Group by group, the scores of its splits follow each other.
        scores = scores.unflatten(1, (self.groups, self.splits, -1)).transpose(1, 2).flatten(2, 3)
        weights = scores.softmax(1) if self.splits > 1 else scores.sigmoid()  # N R C 1 1
        return (weights * x).sum(1)  # -> N C H W


@register_block("resnest", order="post")
class ResNeStBottleneck(ResidualBlock):
    """Apply 1x1, split attention in 3x3, and 1x1 to four times the width (Zhang 2020, figure 2).

    A 3x3 mean after the attention has the stride.
    """

    expansion = 4
    uses = ResidualBlock.uses | {"groups", "group_width", "splits"}
    pools_first = False

    def __init__(self, block: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        inner = inner_width(block, config)
        pool: nn.Module = nn.Identity()
        if block.stride > 1 or block.dilation != block.dilation_before:
            pool = mean_pooling(stride=block.stride, dilation=block.dilation_before)
        self.conv1 = convolution(block.in_channels, inner, kernel=1, config=config)
        self.bn1 = normalisation(inner, config=config)
        self.relu1 = activation(config)
        self.pool_first = pool if self.pools_first else nn.Identity()
        dilation = block.dilation if self.pools_first else block.dilation_before
        self.conv2 = SplitAttention(inner, config, dilation=dilation)
        self.pool_last = nn.Identity() if self.pools_first else pool
        self.conv3 = convolution(inner, block.out_channels, kernel=1, config=config)
        self.bn3 = normalisation(block.out_channels, config=config)
        self.add_end(block, config, shortcut)
        self.activation = activation(config)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)  # N C H W -> N C' H/s W/s
        residual = self.pool_first(self.relu1(self.bn1(self.conv1(x))))  # -> N inner H/s W/s
        residual = self.pool_last(self.conv2(residual))  # -> N inner H/s W/s
        residual = self.bn3(self.conv3(residual))  # -> N C' H/s W/s
        residual = self.drop_path(self.gain(self.se(residual)))
        return self.activation(shortcut + residual)

    @staticmethod
    def contradictions(config: ResNetConfig) -> Iterator[str]:
        """Yield what the block cannot be."""
        for width in config.widths:
            group = int(width * config.group_width / 64)
            if group % config.splits:
                yield (
                    f"splits = {config.splits} does not divide a group of {group} channels (width "
                    f"{width}, group_width {config.group_width}); choose numbers that fit"
                )
        if config.residual_init == "fixup":
            yield f"residual_init = 'fixup' is not defined for block = {config.block!r}"

    @staticmethod
    def count_weights(in_channels: int, width: int, config: ResNetConfig) -> int:
        """Return about how many weights the convolutions have."""
        group = int(width * config.group_width / 64)
        inner = group * config.groups
        attention = inner * config.splits * group * (config.splits + 1) // REDUCTION
        return inner * (in_channels + 4 * width + 9 * group) + attention


@register_block("resnest_fast", order="post")
class FastResNeStBottleneck(ResNeStBottleneck):
    """Apply the bottleneck of ResNeSt with the mean before the attention, which then costs less."""

    pools_first = True
