"""Images enter, logits leave: a stem, stages of residual units, a mean, a linear map.

The idea (He et al. 2015, arXiv 1512.03385, section 3.3): one plan for every depth. The stem
shrinks the image, each later stage halves the map and doubles the channels, and nothing but
depth, width and the kind of unit tells the networks of the family apart; `ResNetConfig` names them.
Parameters are named as in torchvision, so weights are exchanged without renaming.

Shapes: N images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resnets.errors import UserError
from resnets.models.blocks import make_block
from resnets.models.config import ResNetConfig
from resnets.models.init import initialise
from resnets.models.layers import BlurPool, Whitening, convolution, normalisation
from resnets.models.shortcuts import BlockConfig

__all__ = ["ResNet", "ResNetConfig"]


class ResNet(nn.Module):
    """The network that a `ResNetConfig` describes, with the initial weights of `initial.py`.

    The output is logits: there is no softmax inside. With `dropout`, units of pre-activation
    basic networks drop between their convolutions; every other network drops before `fc`.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        post = config.order == "post"
        stem_channels = config.stem_channels
        out_channels = config.widths[-1] * config.expansion
        self.conv1 = stem_convolutions(config)
        # A pre-activation network has no norm here (its first unit begins with one) but one at
        # the end, where the last sum would else reach the classifier without norm and ReLU.
        # Patches that are whitened need none either.
        has_norm = post and config.stem != "whitened"
        self.bn1 = normalisation(stem_channels, config=config) if has_norm else nn.Identity()
        self.relu = nn.ReLU() if post else nn.Identity()
        self.maxpool = stem_pool(config)
        self.stage_names = tuple(f"layer{number + 1}" for number in range(len(config.depths)))
        for name, plans in zip(self.stage_names, plan_stages(config), strict=True):
            self.add_module(name, nn.Sequential(*(make_block(plan, config) for plan in plans)))
        self.norm = nn.Identity() if post else normalisation(out_channels, config=config)
        self.norm_relu = nn.Identity() if post else nn.ReLU()
        inside = config.block == "basic" and not post
        self.dropout = nn.Dropout(0.0 if inside else config.dropout)
        self.fc = nn.Linear(out_channels, config.num_classes)
        self.grad_checkpointing = False
        initialise(self, config)

    def forward(self, images: Tensor) -> Tensor:
        """N C H W (any H and W of at least 1, from 17 with blur 3, 33 with 5) -> logits N K."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """N C H W -> the map N C' H' W' that the classifier averages."""
        x = self._stem(images)  # N C H W -> N C1 H/4 W/4, a small stem keeps H W
        for name in self.stage_names:
            x = self._stage(name, x)  # all but the first: -> N 2C H/2 W/2
        features: Tensor = self.norm_relu(self.norm(x))
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        """N C' H' W' -> logits N K."""
        # The mean fits any size, where a fixed 4x4 window would drop borders or fail. In
        # channels_last, pixels are added in row order: the same bits in every memory format.
        features = features.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.fc(self.dropout(features.mean((2, 3))))  # -> N C' -> N K
        return logits

    def features(self, images: Tensor, stages: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """The outputs of the stages asked for, in the order asked for, or of all: a pyramid.

        They are the stages' own sums: a pre-activation network's final norm is not applied.
        """
        last = len(self.stage_names)
        stages = tuple(range(1, last + 1)) if stages is None else tuple(stages)
        wrong = [stage for stage in stages if stage not in range(1, last + 1)]
        if wrong or not stages:
            raise UserError(f"stages = {stages}: choose from 1 to {last}, at least one")
        x = self._stem(images)
        outputs = {}
        for stage, name in enumerate(self.stage_names[: max(stages)], start=1):
            x = outputs[stage] = self._stage(name, x)
        return tuple(outputs[stage] for stage in stages)

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh `fc` for another number of classes; all other weights stay."""
        self.config = dataclasses.replace(self.config, num_classes=num_classes)
        old = self.fc.weight
        self.fc = nn.Linear(self.fc.in_features, num_classes, device=old.device, dtype=old.dtype)
        self.fc.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the units' inputs for the backward pass and compute the rest again."""
        self.grad_checkpointing = enable

    def _stem(self, images: Tensor) -> Tensor:
        stem: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return stem

    def _stage(self, name: str, x: Tensor) -> Tensor:
        for unit in self.get_submodule(name).children():
            if self.grad_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(unit, x, use_reentrant=False, context_fn=_contexts(unit))
            else:
                x = unit(x)
        return x


def stem_convolutions(config: ResNetConfig) -> nn.Module:
    """What stands before the first norm: N C H W -> N C1 H/2 W/2; small and whitened: H W."""
    width = config.stem_channels
    if config.stem == "imagenet":
        return convolution(config.in_channels, width, kernel=7, config=config, stride=2)
    if config.stem == "small":
        return convolution(config.in_channels, width, kernel=3, config=config)
    if config.stem == "whitened":
        return Whitening(config.in_channels)
    # He 2019 (arXiv 1812.01187), ResNet-C: three 3x3 for the 7x7. The tiered widths are timm's.
    first = width // 8 * 3 if config.stem == "deep_tiered" else width // 2
    return nn.Sequential(
        convolution(config.in_channels, first, kernel=3, config=config, stride=2),
        normalisation(first, config=config),
        nn.ReLU(),
        convolution(first, width // 2, kernel=3, config=config),
        normalisation(width // 2, config=config),
        nn.ReLU(),
        convolution(width // 2, width, kernel=3, config=config),
    )


def stem_pool(config: ResNetConfig) -> nn.Module:
    """The stem's second halving: N C H W -> N C H/2 W/2."""
    width = config.stem_channels
    if config.stem in ("small", "whitened"):
        return nn.Identity()
    if config.stem == "deep_conv":  # ResNet-RS (arXiv 2103.07579)
        return nn.Sequential(
            convolution(width, width, kernel=3, config=config, stride=2),
            normalisation(width, config=config),
            nn.ReLU(),
        )
    if config.blur:
        return nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), BlurPool(config.blur))
    return nn.MaxPool2d(3, stride=2, padding=1)


def plan_stages(config: ResNetConfig) -> Iterator[list[BlockConfig]]:
    """Every unit of every stage. Past `output_stride`, a stage dilates instead of striding.

    The convolution that would have had the stride keeps the previous dilation (torchvision's
    rule for the bottleneck's 3x3), so the dilated network is the strided one, sampled densely.
    """
    limit = config.output_stride or config.natural_stride
    reached, dilation, before = config.stem_stride, 1, 0
    in_channels, last = config.stem_channels, max(sum(config.depths) - 1, 1)
    for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
        step = config.first_stride if stage == 0 else 2
        stride = step if reached * step <= limit else 1
        previous, dilation = dilation, dilation * step // stride
        reached *= stride
        plans = []
        for position in range(depth):
            first = position == 0
            plans.append(
                BlockConfig(
                    in_channels=in_channels,
                    width=width,
                    out_channels=width * config.expansion,
                    stride=stride if first else 1,
                    dilation_before=previous if first else dilation,
                    dilation=dilation,
                    drop_path=config.drop_path * (before + position) / last,
                )
            )
            in_channels = width * config.expansion
        before += depth
        yield plans


Contexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]


def _contexts(unit: nn.Module) -> Callable[[], Contexts]:
    return lambda: (nullcontext(), _frozen_statistics(unit))


@contextmanager
def _frozen_statistics(unit: nn.Module) -> Iterator[None]:
    """Recomputing must not count the same batch twice in the running means of batch norms."""
    norms = [module for module in unit.modules() if isinstance(module, nn.BatchNorm2d)]
    counts = [norm.get_buffer("num_batches_tracked") for norm in norms]
    before = [(norm.momentum, count.clone()) for norm, count in zip(norms, counts, strict=True)]
    for norm in norms:
        norm.momentum = 0.0  # how much of this batch goes into the running means
    try:
        yield
    finally:
        for norm, count, (momentum, old) in zip(norms, counts, before, strict=True):
            norm.momentum = momentum
            count.copy_(old)
