"""Small networks with the marks of training, for the tests of the study's probes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnets.models.resnet import ResNet, ResNetConfig
from resnets.study.adapters import take_apart
from resnets.study.units import Chain

K = 4
SMALL: dict[str, Any] = {
    "depths": (2, 2), "block": "basic", "widths": (4, 8), "num_classes": K, "stem": "small",
}  # fmt: skip
OURS: dict[str, dict[str, Any]] = {
    "residual": {"shortcut": "pad"},
    "projections": {"shortcut": "conv"},
    "plain": {"shortcut": "none"},
    "bottleneck": {"block": "bottleneck", "widths": (4, 8), "shortcut": "avg_conv"},
    "pre-activation": {"order": "pre"},
    "pre-activation bottleneck": {"order": "pre", "block": "bottleneck"},
    "squeeze": {"se": 0.25, "blur": 3, "stem": "deep", "stem_width": 8},
    "scalar without norm": {"residual_init": "scalar", "norm": "none"},
    "whitened": {"stem": "whitened", "halving": "max_pool"},
}


def trained(network: nn.Module, *, seed: int = 0) -> nn.Module:
    """As training leaves it: nothing is zero or one any more that only began so."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.running_mean, -0.2, 0.2, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.3, 1.0, generator=generator)
    for name, parameter in network.named_parameters():
        if name.endswith("alpha"):
            nn.init.constant_(parameter, 0.5)
    return network.eval()


def network(**values: Any) -> ResNet:
    torch.manual_seed(0)
    found = trained(ResNet(ResNetConfig(**SMALL | values)))
    assert isinstance(found, ResNet)
    return found


def chain(**values: Any) -> Chain:
    return take_apart(network(**values))


def sample(count: int = 16, *, side: int = 12, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, side, side, generator=generator), torch.arange(count) % K
