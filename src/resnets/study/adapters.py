"""A residual network of ours, torchvision's or timm's enters, its chain leaves.

The chain's parts share the network's own weights, and it answers with the network's own bits.
Neither library is imported: what a network is made of is read from its attributes. A branch is the
unit's own `forward` without shortcut and last activation; only torchvision's are written out, for
its blocks use one ReLU module both inside and after the addition.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.errors import UserError
from resnets.models.blocks import NoShortcut
from resnets.models.resnet import ResNet
from resnets.study.units import Chain, Map, Unit

STAGES = ("layer1", "layer2", "layer3", "layer4")


def take_apart(network: nn.Module) -> Chain:
    """The chain of a network of ours, torchvision's or timm's, in evaluation mode.

    Raises UserError for any other.
    """
    network.eval()
    if isinstance(network, ResNet):
        return _our_chain(network)
    library = type(network).__module__.split(".")[0]
    chain = {"torchvision": torchvision_chain, "timm": timm_chain}.get(library, _none)(network)
    if chain is None:
        raise UserError(
            f"{type(network).__name__} is no residual network that is known here: give a ResNet of "
            "resnets or torchvision, or a ResNet or ResNetV2 of timm"
        )
    return chain


def in_float64(chain: Chain) -> Chain:
    """A copy with twice the digits that never asks for gradients of weights."""
    return take_apart(copy.deepcopy(chain.network).double().requires_grad_(False))


def branch(unit: nn.Module, **replaced: nn.Module) -> nn.Module:
    """The unit's own `forward` with other modules in some places; the weights are shared."""
    twin = copy.copy(unit)
    twin._modules = dict(unit._modules)
    for name, module in replaced.items():
        setattr(twin, name, module)
    return twin


def _none(network: nn.Module) -> None:
    return None


def _our_chain(network: ResNet) -> Chain:
    def stem(images: Tensor) -> Tensor:
        x: Tensor = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        return x

    def head(x: Tensor) -> Tensor:
        return network.forward_head(network.norm_relu(network.norm(x)))

    units = [
        _our_unit(f"{name}.{place}", stage, unit)
        for stage, name in enumerate(network.stage_names, 1)
        for place, unit in enumerate(network.get_submodule(name).children())
    ]
    return Chain(network, stem, tuple(units), head)


def _our_unit(name: str, stage: int, unit: nn.Module) -> Unit:
    after = {"activation": nn.Identity()} if hasattr(unit, "activation") else {}
    residual = branch(unit, downsample=NoShortcut(), **after)
    shortcut: Map | None = unit.get_submodule("downsample")
    if isinstance(shortcut, NoShortcut):
        shortcut = None
    elif getattr(unit, "projects", False):
        shortcut = nn.Sequential(*(unit.get_submodule(n) for n in ("bn1", "relu1", "downsample")))
    return Unit(name, stage, shortcut, residual, F.relu if after else nn.Identity())


class _Branch(nn.Module):
    """conv-norm-ReLU-...-conv-norm of a torchvision block, without the addition."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.count = 3 if hasattr(block, "conv3") else 2
        for number in range(1, self.count + 1):
            for kind in ("conv", "bn"):
                self.add_module(f"{kind}{number}", block.get_submodule(f"{kind}{number}"))

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, self.count + 1):
            x = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(x))
            if number < self.count:
                x = F.relu(x)
        return x


def torchvision_chain(network: nn.Module) -> Chain | None:
    """torchvision.models.resnet.ResNet: basic and bottleneck, with groups and widths."""
    if type(network).__name__ != "ResNet":
        return None
    conv1, bn1, maxpool, pool, fc = map(
        network.get_submodule, ("conv1", "bn1", "maxpool", "avgpool", "fc")
    )

    def stem(images: Tensor) -> Tensor:
        x: Tensor = maxpool(F.relu(bn1(conv1(images))))
        return x

    def head(x: Tensor) -> Tensor:
        logits: Tensor = fc(torch.flatten(pool(x), 1))
        return logits

    units = [
        Unit(f"{name}.{place}", stage, _shortcut(block), _Branch(block), F.relu)
        for stage, name in enumerate(STAGES, 1)
        for place, block in enumerate(network.get_submodule(name).children())
    ]
    return Chain(network, stem, tuple(units), head)


def timm_chain(network: nn.Module) -> Chain | None:
    """The ResNet and ResNetV2 of timm (post- and pre-activation)."""
    kind = type(network).__name__
    if kind not in ("ResNet", "ResNetV2"):
        return None
    old = kind == "ResNet"
    count = len(STAGES) if old else len(list(_module(network, "stages").children()))
    names = STAGES if old else [f"stages.{number}.blocks" for number in range(count)]
    units = [
        _timm_unit(f"{name}.{place}", stage, block)
        for stage, name in enumerate(names, 1)
        for place, block in enumerate(network.get_submodule(name).children())
    ]
    first = ("conv1", "bn1", "act1", "maxpool") if old else ("stem",)
    last = ("global_pool", "fc") if old else ("norm", "head")
    stem, head = (nn.Sequential(*(_module(network, n) for n in part)) for part in (first, last))
    return Chain(network, stem, tuple(units), head)


def _timm_unit(name: str, stage: int, block: nn.Module) -> Unit:
    last = next((act for act in ("act3", "act2") if hasattr(block, act)), None)
    after = {last: nn.Identity()} if last else {}
    shortcut = _shortcut(block)
    if not last and not isinstance(shortcut, nn.Identity):  # it shares the first norm and ReLU
        shortcut = nn.Sequential(_module(block, "norm1"), _module(block, "downsample"))
    residual = branch(block, downsample=NoShortcut(), **after)
    act = _module(block, last) if last else nn.Identity()
    return Unit(name, stage, shortcut, residual, F.relu if isinstance(act, nn.ReLU) else act)


def _shortcut(block: nn.Module) -> Map:
    found = getattr(block, "downsample", None)
    return nn.Identity() if found is None else _module(block, "downsample")


def _module(network: nn.Module, name: str) -> nn.Module:
    return network.get_submodule(name)
