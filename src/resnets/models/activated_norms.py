"""Provide norms that contain their activation: EvoNorm and filter response normalisation.

Neither looks at other images, so the size of a batch does not matter. Parameters are named as in
timm.

Shapes: N images, C channels, H height, W width, G groups.
"""

import torch
from torch import Tensor, nn

from resnets.models.config import ResNetConfig
from resnets.models.layers import count_groups
from resnets.models.parts import register_norm

# Added to a variance before its root, as in timm; the paper of the second norm has 1e-6.
EPSILON = 1e-5


class EvoNorm(nn.Module):
    """Divide x sigmoid(v x) by the deviation of x in its group (EvoNorm-S0, Liu 2020)."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.v = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, v = (p.view(1, -1, 1, 1) for p in (self.weight, self.bias, self.v))
        grouped = (x * (x * v).sigmoid()).unflatten(1, (self.groups, -1))  # N C H W -> N G C/G H W
        variance = x.unflatten(1, (self.groups, -1)).var((2, 3, 4), correction=0, keepdim=True)
        divided: Tensor = (grouped / (variance + EPSILON).sqrt()).flatten(1, 2)  # -> N C H W
        return divided * weight + bias


class FilterResponseNorm(nn.Module):
    """Divide each channel of an image by its root mean square, then max(x, tau) (Singh 2019)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.tau = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, tau = (p.view(1, -1, 1, 1) for p in (self.weight, self.bias, self.tau))
        x = x * (x.square().mean((2, 3), keepdim=True) + EPSILON).rsqrt()
        return torch.maximum(x * weight + bias, tau)


@register_norm("evo")
def evo_norm(channels: int, config: ResNetConfig) -> nn.Module:
    """Return EvoNorm-S0 (Liu 2020, arXiv 2004.02967)."""
    return EvoNorm(channels, groups=count_groups(channels, config))


@register_norm("filter_response")
def filter_response_norm(channels: int, config: ResNetConfig) -> nn.Module:
    """Return a filter response norm with its threshold (Singh 2019, arXiv 1911.09737)."""
    return FilterResponseNorm(channels)
