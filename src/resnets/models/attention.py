"""Provide attention on channels and over pixels: ECA, global context, and CLIP's pool.

Squeeze-and-excitation, which is set by the field `se`, is in `layers`.

Shapes: N images, C channels, H height, W width, T = H W + 1 tokens.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.models.config import ResNetConfig
from resnets.models.parts import register_attention


class EfficientChannelAttention(nn.Module):
    """Multiply each channel by a gate that sees its neighbours' means (ECA, arXiv 1910.03151)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Equation 12: the odd number next to (log2 C + 1) / 2, but at least 3, as timm has it.
        reach = int((math.log2(channels) + 1) / 2)
        kernel = max(reach + 1 - reach % 2, 3)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3))[:, None]  # N C H W -> N 1 C
        return x * torch.sigmoid(self.conv(means)).transpose(1, 2)[..., None]


@register_attention("eca")
def efficient_channel_attention(channels: int, config: ResNetConfig) -> nn.Module:
    """Return the attention of ECA-Net."""
    return EfficientChannelAttention(channels)


class GlobalContext(nn.Module):
    """Add to each channel what an MLP makes of a weighted mean of the map (arXiv 1904.11492)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = max(1, int(channels / 8 + 0.5))
        self.conv_attn = nn.Conv2d(channels, 1, 1)
        self.mlp_add = nn.Sequential()
        self.mlp_add.add_module("fc1", nn.Conv2d(channels, middle, 1))
        self.mlp_add.add_module("norm", ChannelNorm(middle, eps=1e-6))
        self.mlp_add.add_module("act", nn.ReLU())
        self.mlp_add.add_module("fc2", nn.Conv2d(middle, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.conv_attn(x).flatten(2), 2)  # N C H W -> N 1 HW
        context = (x.flatten(2) * weights).sum(2)[..., None, None]  # -> N C 1 1
        added: Tensor = self.mlp_add(context)
        return x + added


@register_attention("global_context")
def global_context(channels: int, config: ResNetConfig) -> nn.Module:
    """Return the attention of GCNet."""
    return GlobalContext(channels)


class ChannelNorm(nn.LayerNorm):
    """Apply layer norm over the channels of each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class AttentionPool2d(nn.Module):
    """Pool a map by attention whose query is its mean: the head of CLIP (arXiv 2103.00020).

    Args:
        channels: Channels of the map; a head of the attention has 64.
        side: Height and width of the map whose positions are learned. Other maps get positions
            that are interpolated.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.q = nn.Linear(channels, channels)
        self.k = nn.Linear(channels, channels)
        self.v = nn.Linear(channels, channels)
        self.pos_embed = nn.Parameter(torch.empty(side**2 + 1, channels))
        for weight in (self.q.weight, self.k.weight, self.v.weight, self.pos_embed):
            nn.init.normal_(weight, std=channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2], x.shape[3]
        pixels = x.contiguous().flatten(2)  # N C H W -> N C HW
        tokens = torch.cat([pixels.mean(2, keepdim=True), pixels], 2).transpose(1, 2)  # -> N T C
        tokens = tokens + self.positions(height, width)
        q, k, v = self.q(tokens[:, :1]), self.k(tokens), self.v(tokens)
        # Heads of 64 channels: N T C -> N C/64 T 64, a query of one token -> N C/64 1 64
        q, k, v = [x.unflatten(2, (-1, 64)).transpose(1, 2) for x in (q, k, v)]
        pooled = F.scaled_dot_product_attention(q, k, v)
        return pooled.transpose(1, 2).flatten(2).transpose(1, 2)[..., None]  # -> N C 1 1

    def positions(self, height: int, width: int) -> Tensor:
        """Return what is added to the tokens of a map: T C."""
        mean, grid = self.pos_embed[:1], self.pos_embed[1:]
        # In float32, as in timm: half precision has no such interpolation.
        grid = grid.float().T.reshape(1, -1, self.side, self.side)
        size = (height, width)
        grid = F.interpolate(grid, size, mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([mean, grid[0].flatten(1).T.to(mean.dtype)])
