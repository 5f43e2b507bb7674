"""Provide `ResNet`: a stem, stages of residual blocks, a mean and a linear layer.

He et al. 2015 (arXiv 1512.03385, section 3.3) build every depth by one rule: the stem shrinks the
image, and each later stage halves the map. Parameters are named as in torchvision.

Shapes: N images, C channels, H height, W width, K classes.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resnets.arguments import checked
from resnets.errors import UserError
from resnets.models.attention import AttentionPool2d
from resnets.models.blocks import BlockConfig, make_block
from resnets.models.config import ResNetConfig
from resnets.models.in_place import evaluate, rectify
from resnets.models.init import initialise
from resnets.models.layers import activation, convolution, normalisation
from resnets.models.stems import make_stem

__all__ = ["ResNet", "ResNetConfig"]


class ResNet(nn.Module):
    """Map images to logits with the network that a `ResNetConfig` describes.

    Initial weights are drawn from torch's global generator, as `init.initialise` describes.

    Args:
        config: The network.

    Shape:
        - Images: N C H W, float, normalised; any H and W of at least 1 (3 with a Caffe stem,
          17 with `blur=3`, 33 with `blur=5`).
        - Logits: N K, without a softmax.
    """

    if TYPE_CHECKING:  # torch.jit.script would read these
        layer1: "Stage"
        layer2: "Stage"
        layer3: "Stage"
        layer4: "Stage"
        fc: nn.Linear

        def __call__(self, images: Tensor) -> Tensor: ...

    @checked()
    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        post = config.order == "post"
        out_channels = config.widths[-1] * config.expansion
        self.conv1, pool = make_stem(config)
        # A pre-activation network has no norm here, since its first block begins with one, but one
        # at the end: the last sum needs a norm and a ReLU before the classifier. Whitened patches
        # need no norm either.
        has_norm = post and config.stem != "whitened"
        self.bn1 = normalisation(config.stem_channels, config=config) if has_norm else nn.Identity()
        self.relu = activation(config) if post else nn.Identity()
        self.maxpool = pool
        self.stage_names = tuple(f"layer{number + 1}" for number in range(len(config.depths)))
        for name, blocks in zip(self.stage_names, plan_stages(config), strict=True):
            self.add_module(name, Stage(*(make_block(block, config) for block in blocks)))
        # The channels of the last stage and of the map that is pooled, as torchvision and timm name
        # them.
        self.inplanes, self.num_features = out_channels, config.pooled_channels
        self.norm, self.norm_relu = last_layers(config)
        side = config.attention_pool
        self.avgpool = AttentionPool2d(self.num_features, side) if side else GlobalAvgPool2d()
        inside = config.block == "basic" and not post
        self.dropout = nn.Dropout(0.0 if inside else config.dropout)
        self.add_module("fc", classifier(self.num_features, config.num_classes))
        initialise(self, config)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images.

        Args:
            images: Normalised images N C H W.

        Returns:
            Logits N K.
        """
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the map that the classifier averages.

        Args:
            images: Normalised images N C H W.

        Returns:
            The map N C' H' W' after the last stage.
        """
        x = self._stem(images)  # N C H W -> N C1 H/4 W/4, a small stem keeps H W
        for name, stage in self.named_children():  # torch.jit.script unrolls this loop
            if name.startswith("layer"):
                x = stage(x)  # all but the first: -> N 2C H/2 W/2
        features: Tensor = self.norm_relu(self.norm(x))
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of a map.

        Args:
            features: A map N C' H' W' from `forward_features`.
            pre_logits: Return what the classifier takes instead, N C'.

        Returns:
            Logits N K.
        """
        pooled: Tensor = self.dropout(torch.flatten(self.avgpool(features), 1))  # -> N C'
        return pooled if pre_logits else self.fc(pooled)  # -> N K

    def features(self, images: Tensor, stages: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """Return the outputs of stages, as a feature pyramid.

        Args:
            images: Images N C H W.
            stages: Numbers of stages, from 1; None is all of them.

        Returns:
            One map N C' H' W' a stage, in the order of `stages`, without the final norm of a
            pre-activation network. Stages after the last one asked for are not computed.

        Raises:
            UserError: `stages` is empty or names a stage that the network lacks.
        """
        last = len(self.stage_names)
        stages = tuple(range(1, last + 1)) if stages is None else tuple(stages)
        wrong = [stage for stage in stages if stage not in range(1, last + 1)]
        if wrong or not stages:
            raise UserError(f"stages = {stages}: choose from 1 to {last}, at least one")
        outputs = dict(zip(range(max(stages) + 1), self._levels(images), strict=False))
        return tuple(outputs[stage] for stage in stages)

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the outputs of levels by the interface of timm; `features` is ours.

        Args:
            images: Images N C H W.
            indices: Levels of `feature_info`, from 0, the stem; a number n is the last n; None is
                all.
            norm: Apply the final norm of a pre-activation network to the last level too.
            stop_early: Do not compute what is after the last level asked for.
            output_fmt: "NCHW".
            intermediates_only: Return the levels alone.

        Returns:
            The map of `forward_features`, or of the last level computed, and one map a level in
            the order of their depth.

        Raises:
            UserError: A level does not exist, or the format is another one.
        """
        count = len(self.stage_names) + 1
        if isinstance(indices, int):
            indices = range(count - indices, count)
        given = range(count) if indices is None else indices
        levels = {index % count for index in given if -count <= index < count}
        if not levels or len(levels) != len(given):
            raise UserError(f"indices = {given}: choose from 0 to {count - 1}, at least one")
        if output_fmt != "NCHW":
            raise UserError(f"output_fmt = {output_fmt!r}: only 'NCHW' is allowed")
        last = max(levels) if stop_early else count - 1
        maps = [x for _, x in zip(range(last + 1), self._levels(images), strict=False)]
        final = maps[-1]
        if last == count - 1:
            final = self.norm_relu(self.norm(final))
            maps[-1] = final if norm else maps[-1]
        intermediates = [maps[level] for level in sorted(levels)]
        return intermediates if intermediates_only else (final, intermediates)

    @property
    @torch.jit.unused
    def feature_info(self) -> list[dict[str, Any]]:
        """Return channels, stride and module of the stem and of each stage, as timm does."""
        convolutions = [module for module in self.conv1.modules() if isinstance(module, nn.Conv2d)]
        strides = [layer.stride[0] for layer in convolutions]
        channels, reduction = self.config.stem_channels, math.prod(strides)
        info: list[dict[str, Any]] = [
            {"num_chs": channels, "reduction": reduction, "module": "relu"}
        ]
        reduction = self.config.stem_stride
        for name, blocks in zip(self.stage_names, plan_stages(self.config), strict=True):
            reduction *= blocks[0].stride
            channels = blocks[-1].out_channels
            info.append({"num_chs": channels, "reduction": reduction, "module": name})
        return info

    @property
    @torch.jit.unused
    def num_classes(self) -> int:
        """Return the number of logits; 0 is a network without a classifier."""
        return self.config.num_classes

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return patterns of the parameters' names, for timm's learning rates by layer.

        Args:
            coarse: Make one group a stage instead of one a block.

        Returns:
            One pattern for the stem and one for the blocks; other parameters are the head's.
        """
        blocks = r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"
        return {"stem": r"^(?:conv1|bn1|maxpool)", "blocks": blocks}

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a new one; all other weights stay.

        Args:
            num_classes: Number of classes of the new classifier; 0 removes it, and the network
                then returns the pooled features N C'.

        Raises:
            UserError: `num_classes` is not a whole number of at least 0.
        """
        self.config = dataclasses.replace(self.config, num_classes=num_classes)
        like = next(self.parameters())
        new = classifier(self.num_features, self.config.num_classes)
        self.add_module("fc", new.to(like.device, like.dtype).train(self.training))

    def get_classifier(self) -> nn.Module:
        """Return the last layer, which maps pooled features N C' to logits N K."""
        return self.fc

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Save memory in training: keep only the blocks' inputs and recompute the rest.

        Args:
            enable: Whether to do so from now on.
        """
        for module in self.modules():
            if isinstance(module, Stage):
                module.grad_checkpointing = enable

    def _stem(self, images: Tensor) -> Tensor:
        stem: Tensor = self.maxpool(self._before_pool(images))
        return stem

    def _before_pool(self, images: Tensor) -> Tensor:
        x: Tensor = self.bn1(self.conv1(images))
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self.relu(x)  # type: ignore[no-any-return]
        return rectify(self.bn1, self.relu, x)

    def _levels(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the map of the stem before its pool, then that of each stage."""
        x = self._before_pool(images)
        yield x
        x = self.maxpool(x)
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
            yield x


class Stage(nn.Sequential):
    """Apply residual blocks one after the other.

    With `grad_checkpointing`, training keeps only the blocks' inputs and recomputes the rest.
    """

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            if torch.jit.is_scripting():  # type: ignore[attr-defined]
                x = block(x)
            elif self.grad_checkpointing:
                x = _checkpointed(block, x)
            else:
                x = evaluate(block, x)
        return x


class GlobalAvgPool2d(nn.Module):
    """Average each channel over a map of any size: N C H W -> N C 1 1."""

    def forward(self, x: Tensor) -> Tensor:
        # Contiguous: pixels are added in the same order, to the same bits, in every memory format.
        return F.adaptive_avg_pool2d(x.contiguous(), 1)


def last_layers(config: ResNetConfig) -> tuple[nn.Module, nn.Module]:
    """Return the norm and the activation after the last stage, or two identities."""
    channels, width = config.widths[-1] * config.expansion, config.head_width
    if width is not None:
        conv = convolution(channels, width, kernel=1, config=config)
        return nn.Sequential(conv, normalisation(width, config=config)), activation(config)
    if config.order == "pre":
        return normalisation(channels, config=config), activation(config)
    return nn.Identity(), nn.Identity()


def classifier(in_features: int, num_classes: int) -> nn.Module:
    """Return the linear layer to so many classes; for none, the identity."""
    return nn.Linear(in_features, num_classes) if num_classes else nn.Identity()


def meta_state(config: ResNetConfig) -> dict[str, Tensor]:
    """Return the state dict that a network of this config has, on the meta device.

    Learned tensors are `nn.Parameter`s. All blocks of a stage but the first have the same tensors,
    so one of them is built for all: the cost does not depend on the depth.
    """
    few = dataclasses.replace(config, depths=tuple(min(depth, 2) for depth in config.depths))
    with torch.device("meta"):  # names and shapes only: no computation, no random numbers
        built = ResNet(few).state_dict(keep_vars=True)
    state: dict[str, Tensor] = {}
    for name, tensor in built.items():
        stage, _, inner = name.partition(".1.")
        if stage.startswith("layer") and "." not in stage:
            depth = config.depths[int(stage.removeprefix("layer")) - 1]
            state |= {f"{stage}.{position}.{inner}": tensor for position in range(1, depth)}
        else:
            state[name] = tensor
    return state


def plan_stages(config: ResNetConfig) -> Iterator[list[BlockConfig]]:
    """Yield the blocks of each stage; past `output_stride`, dilation replaces the stride.

    The convolution that loses its stride keeps the previous dilation, as in torchvision, so the
    dilated network computes the strided one at more places.
    """
    limit = config.output_stride or config.natural_stride
    reached, dilation, before = config.stem_stride, 1, 0
    in_channels, last = config.stem_channels, max(sum(config.depths) - 1, 1)
    for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
        step = config.first_stride if stage == 0 else 2
        stride = step if reached * step <= limit else 1
        previous, dilation = dilation, dilation * step // stride
        reached *= stride
        out_channels = width * config.expansion
        yield [
            BlockConfig(
                in_channels=out_channels if position else in_channels,
                width=width,
                out_channels=out_channels,
                stride=1 if position else stride,
                dilation_before=dilation if position else previous,
                dilation=dilation,
                drop_path=config.drop_path * (before + position) / last,
                stage=stage,
                position=position,
            )
            for position in range(depth)
        ]
        in_channels, before = out_channels, before + depth


def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Apply a block; if gradients are needed, recompute its inside in the backward pass."""
    if not (block.training and torch.is_grad_enabled()):
        return evaluate(block, x)
    contexts: dict[str, Any] = {}
    if not torch.compiler.is_compiling():  # a compiled graph updates its statistics once
        contexts["context_fn"] = lambda: (nullcontext(), _frozen_statistics(block))
    output: Tensor = checkpoint(block, x, use_reentrant=False, **contexts)
    return output


@contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Keep a recomputation from counting its batch twice in the running means of batch norms."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.get_buffer("num_batches_tracked").clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # how much of this batch goes into the running means
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.get_buffer("num_batches_tracked").copy_(count)
