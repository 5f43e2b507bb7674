"""Provide the layers that blocks and stems are made of, most of them one idea of one paper.

A layer that is off in a network is `nn.Identity()`, chosen when the network is built.

Shapes: N images, C channels, H height, W width.
"""

import math
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.errors import UserError
from resnets.models.config import ACTIVATED_NORMS, ACTIVATION_GAINS, ResNetConfig
from resnets.models.parts import (
    ACTIVATIONS,
    ATTENTIONS,
    NORMS,
    register_activation,
    register_attention,
    register_norm,
)

register_activation("relu")(nn.ReLU)
register_activation("gelu")(nn.GELU)
register_activation("silu")(nn.SiLU)
register_activation("mish")(nn.Mish)


def activation(config: ResNetConfig) -> nn.Module:
    """Return the activation of a network; each use has a module of its own."""
    if config.norm in ACTIVATED_NORMS:
        return nn.Identity()
    return ACTIVATIONS[config.activation]()


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
    """Return a convolution that keeps the size up to its stride; only `norm="none"` has a bias."""
    kind = CONVOLUTIONS[config.conv]
    if config.norm == "bias":
        kind = ShiftedConv2d
    padding, bias = dilation * (kernel // 2), config.norm == "none"
    conv = kind(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias)
    if isinstance(conv, ScaledStandardisedConv2d):
        conv.factor *= ACTIVATION_GAINS[config.activation]
    return conv


def normalisation(channels: int, *, config: ResNetConfig) -> nn.Module:
    """Return the norm of a feature map, or what stands in its place."""
    return NORMS[config.norm](channels, config)


@register_norm("batch")
def batch_norm(channels: int, config: ResNetConfig) -> nn.Module:
    """Return a batch norm (Ioffe 2015, arXiv 1502.03167)."""
    return nn.BatchNorm2d(channels)


@register_norm("group")
def group_norm(channels: int, config: ResNetConfig) -> nn.Module:
    """Return a group norm (Wu 2018, arXiv 1803.08494)."""
    return nn.GroupNorm(count_groups(channels, config), channels)


def count_groups(channels: int, config: ResNetConfig) -> int:
    """Return the number of groups of a norm."""
    # The paper has 32 groups. Narrow layers get fewer: a group of one channel and one pixel would
    # always be normalised to zero. An odd number of channels is one group.
    usual = 1 if channels % 2 else math.gcd(32, channels // 2)
    groups = config.norm_groups or usual
    if channels % groups:
        raise UserError(
            f"norm_groups = {groups} does not divide a layer of {channels} channels; take a "
            "divisor of all widths, or None"
        )
    return groups


@register_norm("bias")
def scalar_bias(channels: int, config: ResNetConfig) -> nn.Module:
    """Return Fixup's replacement of a norm."""
    return ScalarBias()


@register_norm("none")
def no_norm(channels: int, config: ResNetConfig) -> nn.Module:
    """Return the identity: convolutions then have biases."""
    return nn.Identity()


class ShiftedConv2d(nn.Conv2d):
    """Add a learned scalar to the input of a convolution (Fixup, Zhang 2019, arXiv 1901.09321)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        shifted: Tensor = self._conv_forward(x + self.shift, self.weight, self.bias)
        return shifted


def standardised(weight: Tensor, *, epsilon: float) -> Tensor:
    """Return filters O I K K with mean 0 and variance 1 each (Qiao 2019, arXiv 1903.10520)."""
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    variance = weight.var((1, 2, 3), unbiased=False, keepdim=True)
    return centred * torch.rsqrt(variance + epsilon)


class StandardisedConv2d(nn.Conv2d):
    """Apply filters that are standardised, as in BiT (arXiv 1912.11370)."""

    def forward(self, x: Tensor) -> Tensor:
        filters = standardised(self.weight, epsilon=1e-8)
        output: Tensor = self._conv_forward(x, filters, self.bias)
        return output


class ScaledStandardisedConv2d(nn.Conv2d):
    """Standardise filters so that a normal input keeps its variance (Brock 2021, 2101.08692).

    Each output channel has a learned gain. The factor of the activation before the convolution is
    in `factor`, as in timm; the authors multiply the activation by it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.factor = self.weight[0].numel() ** -0.5  # one over the root of the fan-in
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        filters = standardised(self.weight, epsilon=1e-5) * (self.gain * self.factor)
        output: Tensor = self._conv_forward(x, filters, self.bias)
        return output


CONVOLUTIONS: dict[str, type[nn.Conv2d]] = {
    "plain": nn.Conv2d,
    "standardised": StandardisedConv2d,
    "scaled": ScaledStandardisedConv2d,
}


class ScalarBias(nn.Module):
    """Add a learned scalar before each activation and each sum: Fixup's replacement of a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class BlurPool(nn.Module):
    """Apply a binomial low-pass filter, then subsample by two (Zhang 2019, arXiv 1904.11486)."""

    # Differs from the paper: filters of 3 or 5 after the ReLU, as timm trained its weights; the
    # paper's release uses 4 and blurs the projection shortcut too.

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return _blur(x, self.size)  # N C H W -> N C H/2 W/2


@torch.fx.wrap  # its loop and its check depend on the size: a traced graph has it as one node
def _blur(x: Tensor, size: int) -> Tensor:
    margin = size // 2
    if min(x.shape[2], x.shape[3]) <= margin:
        raise UserError(
            f"the images are too small for blur: a map of {x.shape[2]} x {x.shape[3]} cannot "
            f"be mirrored by {margin}; give larger images or use blur = 0"
        )
    # Computed at each call and not a buffer, which `to_empty` would leave without values.
    weight = x.new_ones((1, 1, 1, 1))
    for _ in range(size - 1):  # a binomial filter is so many averages of 2x2
        weight = F.avg_pool2d(F.pad(weight, [1, 1, 1, 1]), 2, 1)
    x = F.pad(x, [margin, margin, margin, margin], mode="reflect")
    return F.conv2d(x, weight.expand(x.shape[1], 1, size, size), stride=2, groups=x.shape[1])


def subsampling(config: ResNetConfig, *, stride: int) -> nn.Module:
    """Return the blur that replaces the stride of a convolution, or the identity."""
    return blur_pool(config.blur) if config.blur and stride == 2 else nn.Identity()


def blur_pool(size: int) -> nn.Module:
    """Return a binomial filter of this size that subsamples by two; that of 2 is the average."""
    # Rounded up, as strides are, and averaged over what exists: maps of odd sizes fit.
    return nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False) if size == 2 else BlurPool(size)


def conv_stride(config: ResNetConfig, *, stride: int) -> int:
    """Return the stride of a block's convolution: 1 where a blur or a maximum subsamples."""
    return 1 if config.blur or config.halving == "max_pool" else stride


def max_pooling(config: ResNetConfig, *, stride: int) -> nn.Module:
    """Return the 2x2 maximum that replaces a stride, or the identity; sizes are rounded up."""
    pools = config.halving == "max_pool" and stride == 2
    return nn.MaxPool2d(2, ceil_mode=True) if pools else nn.Identity()


class DilatedMean(nn.Module):
    """Average nine pixels d apart, zeros beyond the border: a 3x3 mean in a dilated network."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        d = self.dilation
        x = F.pad(x, [d, d, d, d])
        rows = x[:, :, : -2 * d] + x[:, :, d:-d] + x[:, :, 2 * d :]
        return (rows[..., : -2 * d] + rows[..., d:-d] + rows[..., 2 * d :]) / 9


def mean_pooling(*, stride: int, dilation: int) -> nn.Module:
    """Return a 3x3 mean that counts zeros beyond the border, as Res2Net and ResNeSt have it."""
    return DilatedMean(dilation) if dilation > 1 else nn.AvgPool2d(3, stride, padding=1)


class Whitening(nn.Conv2d):
    """Map patches of 2x2 pixels to uncorrelated values of variance 1, and their negatives.

    The filters are measured by `fit`, not learned, so they are a buffer; the bias is learned.
    From D. Page, "How to train your ResNet" (2019), and K. Jordan, arXiv 2404.00498, section 3.2.
    """

    SIDE = 2
    # Added to the variances, so that directions of almost no variance are not amplified.
    SMALLEST = 5e-4

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 8 * channels, self.SIDE)
        filters = self.weight.detach()
        del self.weight
        self.register_buffer("weight", filters)

    def forward(self, x: Tensor) -> Tensor:
        # Differs from both: padded below and to the right, so that the map keeps its size.
        x = F.pad(x, [0, 1, 0, 1])
        white: Tensor = self._conv_forward(x, self.weight, self.bias)  # N C H W -> N 8C H W
        return white

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Compute the filters from the covariance of all patches of normalised images N C H W."""
        rows = images.unfold(2, self.SIDE, 1).unfold(3, self.SIDE, 1)  # -> N C H-1 W-1 2 2
        patches = rows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)  # -> P 4C
        covariance = (patches.T @ patches / len(patches)).double()
        variances, directions = torch.linalg.eigh(covariance)
        filters = (directions / torch.sqrt(variances + self.SMALLEST)).T  # -> 4C 4C
        filters = filters.reshape(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([filters, -filters]))


class ScalarGain(nn.Module):
    """Multiply the residual by a learned factor that starts at 0 (SkipInit) or 1 (Fixup)."""

    # SkipInit: arXiv 2002.10444, in pre-activation order.
    # Differs from ReZero (2003.04887): in post-activation order its ReLU is before the addition,
    # ours after it.
    # Differs from Fixup (1901.09321): the factor also multiplies the scalar added before it.

    def __init__(self, *, start: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(start))

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * x


class Scale(nn.Module):
    """Multiply by a fixed factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


# torchvision takes a second to import, so only the networks that need it do.


def attention(channels: int, config: ResNetConfig) -> nn.Module:
    """Return the attention on a residual, or the identity."""
    if config.se:
        return squeeze_excite(channels, config)
    return ATTENTIONS[config.attention](channels, config)


@register_attention("none")
def no_attention(channels: int, config: ResNetConfig) -> nn.Module:
    """Return the identity."""
    return nn.Identity()


def squeeze_excite(channels: int, config: ResNetConfig) -> nn.Module:
    """Return squeeze-and-excitation (Hu 2018, arXiv 1709.01507)."""
    from torchvision.ops import SqueezeExcitation

    # Differs from the paper: the middle is a multiple of 8, as in timm, whose weights fit.
    middle = max(8, int(channels * config.se + 4) // 8 * 8)
    layer: nn.Module = SqueezeExcitation(channels, middle)
    return layer


def drop_path(rate: float) -> nn.Module:
    """Return stochastic depth (Huang 2016, arXiv 1603.09382) of this rate, or the identity."""
    if not rate:
        return nn.Identity()
    from torchvision.ops import StochasticDepth

    # Differs from the paper: scaled by 1/(1 - rate) in training instead of by 1 - rate in testing,
    # and drawn for each image instead of for the batch: the expectation is the same.
    layer: nn.Module = StochasticDepth(rate, "row")
    return layer


def gain(config: ResNetConfig) -> nn.Module:
    """Return the factor on a residual, or the identity."""
    if config.residual_init in ("scalar", "fixup"):
        return ScalarGain(start=0.0 if config.residual_init == "scalar" else 1.0)
    return Scale(config.residual_scale) if config.residual_scale != 1 else nn.Identity()
