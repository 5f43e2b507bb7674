"""Provide the layers that residual blocks and stems are made of.

The idea: every part that a network may go without is here in two forms, itself and
`nn.Identity()`, chosen once when the network is built; the units then read straight down.
Convolutions and norms are PyTorch's own, the rest is one small module for one paper's idea.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.errors import UserError
from resnets.models.config import ResNetConfig


def convolution(
    in_channels: int,
    out_channels: int,
    *,
    kernel: int,
    config: ResNetConfig,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Conv2d:
    """A convolution that keeps the size (up to its stride); a norm that follows owns the bias."""
    kind = ShiftedConv2d if config.norm == "bias" else nn.Conv2d
    return kind(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        padding=dilation * (kernel // 2),
        dilation=dilation,
        groups=groups,
        bias=config.norm == "none",
    )


def normalisation(channels: int, *, config: ResNetConfig) -> nn.Module:
    if config.norm == "batch":
        return nn.BatchNorm2d(channels)
    if config.norm == "group":
        # Wu & He 2018 use 32 groups; narrow layers get fewer, for a group of one channel and one
        # pixel would always be normalised to zero.
        # pairs are the smallest groups, and an odd number of channels is one.
        return nn.GroupNorm(1 if channels % 2 else math.gcd(32, channels // 2), channels)
    return ScalarBias() if config.norm == "bias" else nn.Identity()


class ShiftedConv2d(nn.Conv2d):
    """Fixup (Zhang 2019, arXiv 1901.09321): a scalar is added to what a convolution takes in."""

    def __init__(self, *sizes: Any, **more: Any) -> None:
        super().__init__(*sizes, **more)
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.shift)


class ScalarBias(nn.Module):
    """Fixup's stand-in for a norm: a scalar is added before each activation and each sum."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class BlurPool(nn.Module):
    """A binomial low-pass filter, then subsampling by two (Zhang 2019, arXiv 1904.11486)."""

    # Differs from the paper: filters of 3 or 5 after the ReLU, as timm trained its weights; the
    # paper's release uses 4 and blurs the projection shortcut too.

    filter: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        row = torch.tensor([math.comb(size - 1, k) for k in range(size)], dtype=torch.float32)
        self.register_buffer("filter", torch.outer(row, row) / row.sum() ** 2, persistent=False)
        self.margin = size // 2

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) <= self.margin:
            raise UserError(
                f"the images are too small for blur: a map of {x.shape[-2]} x {x.shape[-1]} cannot "
                f"be mirrored by {self.margin}; give larger images or use blur = 0"
            )
        x = F.pad(x, [self.margin] * 4, mode="reflect")
        weight = self.filter.expand(x.shape[1], 1, *self.filter.shape)
        return F.conv2d(x, weight, stride=2, groups=x.shape[1])  # N C H W -> N C H/2 W/2


def subsampling(config: ResNetConfig, *, stride: int) -> nn.Module:
    """What stands in for a strided convolution's own stride: nothing, or a blur."""
    return BlurPool(config.blur) if config.blur and stride == 2 else nn.Identity()


def conv_stride(config: ResNetConfig, *, stride: int) -> int:
    return 1 if config.blur or config.halving == "max_pool" else stride


def max_pooling(config: ResNetConfig, *, stride: int) -> nn.Module:
    """The 2x2 maximum that halves the map in place of a stride; sizes are rounded up."""
    pools = config.halving == "max_pool" and stride == 2
    return nn.MaxPool2d(2, ceil_mode=True) if pools else nn.Identity()


class Whitening(nn.Conv2d):
    """Patches of 2x2 pixels with covariance 1, and their negatives: N C H W -> N 8C H W.

    The filters are measured (`fit`) and not learned, so they are a buffer; the bias is learned.
    From D. Page, "How to train your ResNet" (2019), and K. Jordan, arXiv 2404.00498, section 3.2.
    """

    SIDE = 2
    SMALLEST = 5e-4  # added to the variances, so that directions without any are not blown up

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 8 * channels, self.SIDE)
        filters = self.weight.detach()
        del self.weight
        self.register_buffer("weight", filters)

    def forward(self, x: Tensor) -> Tensor:
        # Differs from both: padded below and to the right, so that the map keeps its size.
        return super().forward(F.pad(x, [0, 1, 0, 1]))

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Take the filters from the covariance of all patches of images N C H W, normalised."""
        rows = images.unfold(2, self.SIDE, 1).unfold(3, self.SIDE, 1)  # -> N C H-1 W-1 2 2
        patches = rows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)  # -> P 4C
        covariance = (patches.T @ patches / len(patches)).double()
        variances, directions = torch.linalg.eigh(covariance)
        filters = (directions / torch.sqrt(variances + self.SMALLEST)).T  # -> 4C 4C
        filters = filters.reshape(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([filters, -filters]))


class SqueezeExcite(nn.Module):
    """Each channel is scaled by a gate computed from all channels' means (Hu 2018, 1709.01507)."""

    def __init__(self, channels: int, *, share: float) -> None:
        super().__init__()
        # Differs from the paper: the middle is a multiple of 8, as in timm, whose weights fit.
        middle = max(8, int(channels * share + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(channels, middle, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(middle, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)  # N C 1 1
        gates: Tensor = self.gate(self.fc2(self.relu(self.fc1(means))))
        return x * gates


class ScalarGain(nn.Module):
    """One learned factor on the residual: 0 at first SkipInit (2002.10444), ReZero; 1 Fixup."""

    # Differs from ReZero (2003.04887): in post-activation order its ReLU stands before the
    # addition, ours after it; in pre-activation order this is SkipInit.
    # Differs from Fixup (1901.09321): the factor also multiplies the scalar added before it.

    def __init__(self, *, start: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(start))

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * x


class Scale(nn.Module):
    """A factor that is not learned."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class DropPath(nn.Module):
    """Stochastic depth (Huang 2016, arXiv 1603.09382): each image skips the residual at `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.keep = 1.0 - rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        # Differs from the paper: scaled by 1/keep in training instead of by keep in testing, and
        # drawn for each image instead of for the batch: same expectation, nothing to do at the end.
        kept = torch.rand(x.shape[0], 1, 1, 1, device=x.device) < self.keep
        return x * kept.to(x.dtype) / self.keep


def squeeze_excite(channels: int, config: ResNetConfig) -> nn.Module:
    return SqueezeExcite(channels, share=config.se) if config.se else nn.Identity()


def gain(config: ResNetConfig) -> nn.Module:
    """What multiplies a residual."""
    if config.residual_init in ("scalar", "fixup"):
        return ScalarGain(start=0.0 if config.residual_init == "scalar" else 1.0)
    return Scale(config.residual_scale) if config.residual_scale != 1 else nn.Identity()


def drop_path(rate: float) -> nn.Module:
    return DropPath(rate) if rate else nn.Identity()
