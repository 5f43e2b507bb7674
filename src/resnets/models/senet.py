"""Provide what the networks of SENet's authors have beyond squeeze-and-excitation.

Hu et al. 2018 (arXiv 1709.01507): SENet-154, the winner of ILSVRC 2017, and the networks whose
Caffe weights R. Cadene and R. Wightman ported to PyTorch ("legacy" in timm).

Shapes: N images, C channels, H height, W width; a block of stride s maps
N C H W to N C' ceil(H/s) ceil(W/s).
"""

from collections.abc import Iterator

from torch import Tensor, nn

from resnets.models.blocks import (
    BlockConfig,
    ResidualBlock,
    inner_width,
    projected,
    shortcut_norm,
    two_convolutions,
)
from resnets.models.config import ResNetConfig
from resnets.models.layers import activation, convolution, drop_path, gain, normalisation
from resnets.models.parts import register_block, register_shortcut, register_stem
from resnets.models.stems import Stem, deep_stem, imagenet_stem


@register_block("senet", order="post")
class SENetBottleneck(ResidualBlock):
    """Apply the bottleneck of SENet-154, whose first 1x1 has half the channels of its 3x3."""

    expansion = 4
    uses = ResidualBlock.uses | {"groups", "group_width"}

    def __init__(self, block: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        inner = inner_width(block, config)
        self.conv1 = convolution(block.in_channels, inner // 2, kernel=1, config=config)
        self.bn1 = normalisation(inner // 2, config=config)
        self.relu1 = activation(config)
        self.conv2 = convolution(
            inner // 2,
            inner,
            kernel=3,
            config=config,
            stride=block.stride,
            dilation=block.dilation_before,
            groups=config.groups,
        )
        self.bn2 = normalisation(inner, config=config)
        self.relu2 = activation(config)
        self.conv3 = convolution(inner, block.out_channels, kernel=1, config=config)
        self.bn3 = normalisation(block.out_channels, config=config)
        self.add_end(block, config, shortcut)
        self.activation = activation(config)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)  # N C H W -> N C' H/s W/s
        residual = self.relu1(self.bn1(self.conv1(x)))  # -> N inner/2 H W
        residual = self.relu2(self.bn2(self.conv2(residual)))  # -> N inner H/s W/s
        residual = self.bn3(self.conv3(residual))  # -> N C' H/s W/s
        residual = self.drop_path(self.gain(self.se(residual)))
        return self.activation(shortcut + residual)

    @staticmethod
    def contradictions(config: ResNetConfig) -> Iterator[str]:
        """Yield what the block cannot be."""
        for width in config.widths:
            inner = int(width * config.group_width / 64) * config.groups
            if inner // 2 % config.groups:
                yield (
                    f"groups = {config.groups} does not divide the {inner // 2} channels before "
                    "the 3x3 of block = 'senet'; use an even group_width"
                )

    @staticmethod
    def count_weights(in_channels: int, width: int, config: ResNetConfig) -> int:
        """Return about how many weights the convolutions have."""
        group = int(width * config.group_width / 64)
        inner = group * config.groups
        return inner * (in_channels + 9 * group) // 2 + 4 * inner * width


@register_block("legacy_se_basic", order="post")
class LegacySEBasicBlock(ResidualBlock):
    """Apply the basic block of timm's legacy SE-ResNets, with a ReLU before the excitation."""

    # Differs from the paper: its residual can be negative. The hidden layer of the excitation is
    # not rounded to a multiple of 8.

    uses = ResidualBlock.uses - {"attention"}

    def __init__(self, block: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        from torchvision.ops import SqueezeExcitation

        super().__init__()
        self.conv1, self.conv2 = two_convolutions(block, config)
        self.bn1 = normalisation(block.width, config=config)
        self.relu1 = activation(config)
        self.bn2 = normalisation(block.out_channels, config=config)
        self.relu2 = activation(config)
        hidden = max(1, int(block.out_channels * config.se))
        self.se = SqueezeExcitation(block.out_channels, hidden) if config.se else nn.Identity()
        self.gain = gain(config)
        self.drop_path = drop_path(block.drop_path)
        self.downsample = shortcut
        self.activation = activation(config)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)  # N C H W -> N C' H/s W/s
        residual = self.relu1(self.bn1(self.conv1(x)))  # -> N C' H/s W/s
        residual = self.se(self.relu2(self.bn2(self.conv2(residual))))
        residual = self.drop_path(self.gain(residual))
        return self.activation(shortcut + residual)


@register_shortcut("conv_3x3")
def projected_by_3x3(block: BlockConfig, config: ResNetConfig) -> nn.Module:
    """Return a 3x3 convolution where the block has a stride, else option B."""
    if block.keeps_shape:
        return nn.Identity()
    if block.stride == 1 and block.dilation == block.dilation_before:
        return projected(block, config)
    return nn.Sequential(
        convolution(
            block.in_channels,
            block.out_channels,
            kernel=3,
            config=config,
            stride=block.stride,
            dilation=block.dilation_before,
        ),
        *shortcut_norm(block, config),
    )


@register_stem("caffe", stride=4)
def caffe_stem(config: ResNetConfig) -> Stem:
    """Return the 7x7, then Caffe's pool: padded at its end alone, by as much as a window needs."""
    return imagenet_stem(config)[0], nn.MaxPool2d(3, stride=2, ceil_mode=True)


@register_stem("deep_caffe", stride=4)
def deep_caffe_stem(config: ResNetConfig) -> Stem:
    """Return three 3x3, then Caffe's pool."""
    return deep_stem(config)[0], nn.MaxPool2d(3, stride=2, ceil_mode=True)
