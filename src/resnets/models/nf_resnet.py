"""Provide the block of normaliser-free residual networks (Brock 2021, arXiv 2101.08692).

Shapes: N images, C channels, H height, W width.
"""

import math
from collections.abc import Iterator

from torch import Tensor, nn

from resnets.models.blocks import BlockConfig, ResidualBlock, projects, three_convolutions
from resnets.models.config import ResNetConfig
from resnets.models.layers import activation
from resnets.models.parts import register_block


@register_block("bottleneck_norm_free", order="pre")
class NormFreeBottleneck(ResidualBlock):
    """Apply a pre-activation bottleneck to an input of known variance (Brock 2021, 2101.08692).

    Each block divides its input by the standard deviation that the sums before it have at the
    start. `residual_scale` is the paper's alpha.
    """

    expansion = 4
    uses = ResidualBlock.uses | {"stride_on", "groups", "group_width", "group_size"}

    def __init__(self, block: BlockConfig, config: ResNetConfig, *, shortcut: nn.Module) -> None:
        super().__init__()
        # A transition resets the variance to 1; each later sum has added alpha squared to it.
        blocks_before = block.position or (config.depths[block.stage - 1] if block.stage else 0)
        self.deviation = math.sqrt(1 + blocks_before * config.residual_scale**2)
        self.relu1 = activation(config)
        self.conv1, conv2, conv3 = three_convolutions(block, config)
        self.relu2 = activation(config)
        self.conv2 = conv2
        self.relu3 = activation(config)
        self.conv3 = conv3
        self.add_end(block, config, shortcut)
        # Twice what a gate near one half lets through.
        self.attention_gain = 1.0 if isinstance(self.se, nn.Identity) else 2.0
        self.projects = projects(shortcut)

    @staticmethod
    def contradictions(config: ResNetConfig) -> Iterator[str]:
        """Yield a message for each value that the block cannot have."""
        for name, needed in (("norm", "none"), ("conv", "scaled")):
            if (value := getattr(config, name)) != needed:
                yield f"block = 'bottleneck_norm_free' needs {name} = {needed!r}, not {value!r}"

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(x) / self.deviation
        shortcut = self.downsample(activated if self.projects else x)  # N C H W -> N C' H/s W/s
        residual: Tensor = self.conv2(self.relu2(self.conv1(activated)))  # -> N inner H/s W/s
        residual = self.se(self.conv3(self.relu3(residual)))  # -> N C' H/s W/s
        residual = self.drop_path(self.gain(self.attention_gain * residual))
        return shortcut + residual
