"""Provide the block of Res2Net: 3x3 convolutions in a cascade over parts of the channels.

Gao et al. 2019 (arXiv 1904.01169, equation 1). Parameters are named as in the authors' release and
timm.

Shapes: N images, C channels, H height, W width; a block of stride s maps
N C H W to N C' ceil(H/s) ceil(W/s).
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from resnets.models.blocks import BlockConfig, ResidualBlock, inner_width
from resnets.models.config import ResNetConfig
from resnets.models.layers import activation, convolution, mean_pooling, normalisation
from resnets.models.parts import register_block


@register_block("res2net", order="post")
class Res2NetBottleneck(ResidualBlock):
    """Apply 1x1, a cascade of 3x3 convolutions on parts of the channels, and 1x1 (Gao 2019).

    Part i of `config.splits` (the paper's scale) is y_i = K_i(x_i + y_(i-1)), so that each sees
    more of the image than the one before. The last part has no convolution.
    """

    # Differs from the paper: equation 1 leaves out the convolution of the first part, the release
    # that of the last. Where the shape changes, the release adds no y_(i-1).

    expansion = 4
    uses = ResidualBlock.uses | {"groups", "group_width", "splits"}

    def __init__(self, block: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        part, self.splits = inner_width(block, config), config.splits
        self.conv1 = convolution(block.in_channels, part * self.splits, kernel=1, config=config)
        self.bn1 = normalisation(part * self.splits, config=config)
        self.relu1 = activation(config)
        cascade = range(self.splits - 1)
        self.convs = nn.ModuleList(
            convolution(
                part,
                part,
                kernel=3,
                config=config,
                stride=block.stride,
                dilation=block.dilation_before,
                groups=config.groups,
            )
            for _ in cascade
        )
        self.bns = nn.ModuleList(normalisation(part, config=config) for _ in cascade)
        self.relus = nn.ModuleList(activation(config) for _ in cascade)
        self.adds = block.keeps_shape
        self.pool = (
            nn.Identity()
            if block.keeps_shape
            else mean_pooling(stride=block.stride, dilation=block.dilation_before)
        )
        self.conv3 = convolution(part * self.splits, block.out_channels, kernel=1, config=config)
        self.bn3 = normalisation(block.out_channels, config=config)
        self.add_end(block, config, shortcut)
        self.activation = activation(config)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)  # N C H W -> N C' H/s W/s
        parts = self.relu1(self.bn1(self.conv1(x))).chunk(self.splits, 1)  # -> splits of N P H W
        y = parts[0]
        outputs: list[Tensor] = []
        # TorchScript knows no `strict`.
        for i, (conv, bn, relu) in enumerate(zip(self.convs, self.bns, self.relus)):  # noqa: B905
            y = parts[i] if i == 0 or not self.adds else parts[i] + y
            y = relu(bn(conv(y)))  # -> N P H/s W/s
            outputs.append(y)
        outputs.append(self.pool(parts[-1]))
        residual = self.bn3(self.conv3(torch.cat(outputs, 1)))  # -> N C' H/s W/s
        residual = self.drop_path(self.gain(self.se(residual)))
        return self.activation(shortcut + residual)

    @staticmethod
    def contradictions(config: ResNetConfig) -> Iterator[str]:
        """Yield what the block cannot be."""
        if config.splits < 2:
            yield (
                f"block = 'res2net' needs splits of at least 2, not {config.splits}; with one, it "
                "is a 'bottleneck'"
            )
        if config.residual_init == "fixup":
            yield "residual_init = 'fixup' is not defined for block = 'res2net'"

    @staticmethod
    def count_weights(in_channels: int, width: int, config: ResNetConfig) -> int:
        """Return about how many weights the convolutions have."""
        group, splits = int(width * config.group_width / 64), config.splits
        part = group * config.groups
        return part * splits * (in_channels + 4 * width) + (splits - 1) * 9 * part * group
