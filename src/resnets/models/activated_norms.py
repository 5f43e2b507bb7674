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


class EvoNorm(nn.Module):
    """Divide x sigmoid(v x) by the deviation of x in its group (EvoNorm-S0, Liu 2020)."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.groups, self.eps = groups, 1e-5
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.v = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.unflatten(1, (self.groups, -1))  # N C H W -> N G C/G H W
        variance = grouped.var((2, 3, 4), correction=0, keepdim=True) + self.eps
        gate = torch.sigmoid(x * self.v.view(-1, 1, 1)) * self.weight.view(-1, 1, 1)
        normed: Tensor = (grouped * variance.rsqrt()).flatten(1, 2)  # -> N C H W
        return normed * gate + self.bias.view(-1, 1, 1)


class FilterResponseNorm(nn.Module):
    """Divide each channel of an image by its root mean square, then max(x, tau) (Singh 2019)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.eps = 1e-5  # Differs from the paper: 1e-6.
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.tau = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.square().mean((2, 3), keepdim=True) + self.eps)
        x = x * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)
        return torch.maximum(x, self.tau.view(-1, 1, 1))


@register_norm("evo")
def evo_norm(channels: int, config: ResNetConfig) -> nn.Module:
    """Return EvoNorm-S0 (Liu 2020, arXiv 2004.02967)."""
    return EvoNorm(channels, groups=count_groups(channels, config))


@register_norm("filter_response")
def filter_response_norm(channels: int, config: ResNetConfig) -> nn.Module:
    """Return a filter response norm with its threshold (Singh 2019, arXiv 1911.09737)."""
    return FilterResponseNorm(channels)
