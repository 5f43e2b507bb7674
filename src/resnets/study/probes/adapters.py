"""Make chains of residual networks of ours, torchvision's and timm's, from their attributes.

The parts share the network's own weights and give its own bits. A branch is the block's own
`forward` without shortcut and last activation; torchvision's are written out, for its blocks use
one ReLU module both inside and after the addition.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from resnets.errors import UserError
from resnets.models.blocks import NoShortcut
from resnets.models.resnet import ResNet
from resnets.study.probes.residual_chain import Block, Chain, Map

STAGES = ["layer1", "layer2", "layer3", "layer4"]


def take_apart(network: nn.Module) -> Chain:
    """Return the chain of a network, in evaluation mode; raises UserError for others."""
    network.eval()
    kind = type(network).__module__.split(".")[0], type(network).__name__
    if isinstance(network, ResNet):
        return _our_chain(network)
    if kind == ("torchvision", "ResNet"):
        return _torchvision_chain(network)
    if kind in (("timm", "ResNet"), ("timm", "ResNetV2")):
        return _timm_chain(network)
    raise UserError(
        f"{kind[1]} is not a residual network that can be taken apart: pass a "
        "ResNet of resnets or torchvision, or a ResNet or ResNetV2 of timm"
    )


def in_float64(chain: Chain) -> Chain:
    """Return a float64 copy whose weights need no gradients."""
    return take_apart(copy.deepcopy(chain.network).double().requires_grad_(False))


def branch(block: nn.Module, **replaced: nn.Module) -> nn.Module:
    """Return the block with other modules in some places; the weights are shared."""
    twin = copy.copy(block)
    twin._modules = dict(block._modules)
    for name, module in replaced.items():
        setattr(twin, name, module)
    return twin


def _our_chain(network: ResNet) -> Chain:
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)

    def head(x: Tensor) -> Tensor:
        return network.forward_head(network.norm_relu(network.norm(x)))

    blocks = map(_our_block, _children(network, network.stage_names))
    return Chain(network, stem, tuple(blocks), head)


def _our_block(block: nn.Module) -> Block:
    after = {"activation": nn.Identity()} if hasattr(block, "activation") else {}
    residual = branch(block, downsample=NoShortcut(), **after)
    shortcut: Map | None = block.get_submodule("downsample")
    if isinstance(shortcut, NoShortcut):
        shortcut = None
    elif getattr(block, "projects", False):
        shortcut = nn.Sequential(*(block.get_submodule(n) for n in ("bn1", "relu1", "downsample")))
    return Block(shortcut, residual, F.relu if after else nn.Identity())


def _torchvision_chain(network: nn.Module) -> Chain:
    """Take apart a ResNet: basic and bottleneck, with groups and widths."""
    part = network.get_submodule
    stem = nn.Sequential(part("conv1"), part("bn1"), nn.ReLU(), part("maxpool"))
    head = nn.Sequential(part("avgpool"), nn.Flatten(), part("fc"))
    blocks = [Block(_shortcut(b), _torchvision_branch(b), F.relu) for b in _children(network)]
    return Chain(network, stem, tuple(blocks), head)


def _torchvision_branch(block: nn.Module) -> nn.Module:
    """The conv-norm-ReLU-...-conv-norm of a block, without the addition."""
    parts: dict[str, nn.Module] = {}
    for number in range(1, 4 if hasattr(block, "conv3") else 3):
        names = (f"conv{number}", f"bn{number}")
        parts |= {name: block.get_submodule(name) for name in names} | {f"relu{number}": nn.ReLU()}
    parts.popitem()  # the last ReLU is after the addition
    return nn.Sequential(OrderedDict(parts))


def _timm_chain(network: nn.Module) -> Chain:
    """Take apart a ResNet or ResNetV2 (post- and pre-activation)."""
    if hasattr(network, "stages"):
        count = len(list(network.get_submodule("stages").children()))
        names = [f"stages.{number}.blocks" for number in range(count)]
        first, last = ["stem"], ["norm", "head"]
    else:
        names, first, last = STAGES, ["conv1", "bn1", "act1", "maxpool"], ["global_pool", "fc"]
    blocks = map(_timm_block, _children(network, names))
    stem = nn.Sequential(*(network.get_submodule(name) for name in first))
    head = nn.Sequential(*(network.get_submodule(name) for name in last))
    return Chain(network, stem, tuple(blocks), head)


def _timm_block(block: nn.Module) -> Block:
    last = next((act for act in ("act3", "act2") if hasattr(block, act)), None)
    after = {last: nn.Identity()} if last else {}
    shortcut = _shortcut(block)
    if not last and not isinstance(shortcut, nn.Identity):  # it shares the first norm and ReLU
        shortcut = nn.Sequential(block.get_submodule("norm1"), block.get_submodule("downsample"))
    residual = branch(block, downsample=NoShortcut(), **after)
    act = block.get_submodule(last) if last else nn.Identity()
    return Block(shortcut, residual, F.relu if isinstance(act, nn.ReLU) else act)


def _children(network: nn.Module, stages: Iterable[str] = STAGES) -> Iterator[nn.Module]:
    return (block for stage in stages for block in network.get_submodule(stage).children())


def _shortcut(block: nn.Module) -> Map:
    found = getattr(block, "downsample", None)
    return nn.Identity() if found is None else block.get_submodule("downsample")
