"""Provide the tables of parts that a network is made of, and the decorators that add to them.

Our own parts are registered by the same functions. A `ResNetConfig` names its parts, so a part of
one's own is used like ours once the module that registers it is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from resnets.errors import UserError, shown, unknown

if TYPE_CHECKING:
    from torch import nn

    from resnets.models.blocks import BlockConfig
    from resnets.models.config import ResNetConfig

    MakeNorm = Callable[[int, ResNetConfig], nn.Module]
    MakeAttention = Callable[[int, ResNetConfig], nn.Module]
    MakeActivation = Callable[[], nn.Module]
    MakeShortcut = Callable[[BlockConfig, ResNetConfig], nn.Module]
    MakeStem = Callable[[ResNetConfig], tuple[nn.Module, nn.Module]]

T = TypeVar("T")
Decorator = Callable[[T], T]

ORDERS = ("post", "pre")
# Fields of `ResNetConfig` that a block must know of: one with another value than the default is
# refused for blocks that do not name it in `uses`.
BLOCK_FIELDS = (
    *("stride_on", "halving", "groups", "group_width", "group_size", "splits"),
    *("se", "attention", "blur"),
    *("residual_init", "residual_scale", "drop_path", "output_stride"),
)
# The modules that register our own parts; they are imported when a part is first asked for.
_BUILT_IN = (
    *("resnets.models.layers", "resnets.models.attention", "resnets.models.stems"),
    *("resnets.models.blocks", "resnets.models.nf_resnet"),
    *("resnets.models.res2net", "resnets.models.resnest"),
    *("resnets.models.sknet", "resnets.models.senet", "resnets.models.activated_norms"),
)


class PartTable(Mapping[str, T]):
    """Hold the parts of one kind by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts: dict[str, T] = {}

    def add(self, name: str, part: T) -> None:
        """Register a part under a name; raise UserError if another one has it.

        The same part may come again: a cell of a notebook is run twice.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise UserError(
                f"{shown(name)} is no name for a {self.kind}: use letters, digits and _, such as "
                "'my_part'"
            )
        self.check_free(name, part)
        self._parts[name] = part

    def check_free(self, name: str, part: T) -> None:
        """Raise UserError if another part has the name."""
        before = self._parts.get(name)
        if before is not None and _origin(before) != _origin(part):
            raise UserError(f"the {self.kind} {name!r} is registered already; choose another name")

    def __contains__(self, name: object) -> bool:
        _import_built_in()
        return isinstance(name, str) and name in self._parts

    def __getitem__(self, name: str) -> T:
        if name not in self:
            raise unknown(self.kind, name, tuple(self._parts))
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        _import_built_in()
        return iter(self._parts)

    def __len__(self) -> int:
        _import_built_in()
        return len(self._parts)


@dataclass(frozen=True)
class StemPart:
    """Hold the function that makes a stem, and the input pixels per pixel of its output."""

    make: MakeStem
    stride: int


# Classes of blocks, by the order of norm and convolution.
BLOCKS = {order: PartTable["type[nn.Module]"]("block") for order in ORDERS}
STEMS = PartTable[StemPart]("stem")
SHORTCUTS = PartTable["MakeShortcut"]("shortcut")
NORMS = PartTable["MakeNorm"]("norm")
ACTIVATIONS = PartTable["MakeActivation"]("activation")
ATTENTIONS = PartTable["MakeAttention"]("attention")


def register_block(name: str, *, order: str | None = None) -> Decorator[type[nn.Module]]:
    """Register a residual block: a class made by `Class(block, config, *, shortcut)`.

    The class may have these attributes: `expansion`, its output channels in multiples of its width
    (1); `uses`, the names of those fields of `BLOCK_FIELDS` that it knows of (none);
    `contradictions(config)`, which yields a message for each value that it cannot have; and
    `count_weights(in_channels, width, config)`, about how many weights its convolutions have.

    Args:
        name: Value of `ResNetConfig.block`.
        order: "post" or "pre", where a block is written for one order of norm and convolution.
    """
    if order not in (None, *ORDERS):
        raise unknown("order", order, ORDERS)

    def add(block: type[nn.Module]) -> type[nn.Module]:
        tables = [BLOCKS[each] for each in (ORDERS if order is None else (order,))]
        for table in tables:
            table.check_free(name, block)
        for table in tables:
            table.add(name, block)
        return block

    return add


def register_stem(name: str, *, stride: int = 4) -> Decorator[MakeStem]:
    """Register a stem: a function of the config that returns two modules.

    The first maps the images to `config.stem_channels` and is followed by a norm and an activation;
    the second, a pool or `nn.Identity()`, comes after them.

    Args:
        name: Value of `ResNetConfig.stem`.
        stride: Input pixels per pixel of the stem's output.
    """

    def add(make: MakeStem) -> MakeStem:
        STEMS.add(name, StemPart(make, stride))
        return make

    return add


def register_shortcut(name: str) -> Decorator[MakeShortcut]:
    """Register a shortcut: a function of (block, config) that returns its module."""
    return _adder(SHORTCUTS, name)


def register_norm(name: str) -> Decorator[MakeNorm]:
    """Register a norm: a function of (channels, config) that returns its module."""
    return _adder(NORMS, name)


def register_activation(name: str) -> Decorator[MakeActivation]:
    """Register an activation: a function without arguments that returns its module."""
    return _adder(ACTIVATIONS, name)


def register_attention(name: str) -> Decorator[MakeAttention]:
    """Register an attention on a residual: a function of (channels, config)."""
    return _adder(ATTENTIONS, name)


def _adder(table: PartTable[T], name: str) -> Decorator[T]:
    def add(part: T) -> T:
        table.add(name, part)
        return part

    return add


@cache
def _import_built_in() -> None:
    for module in _BUILT_IN:
        import_module(module)


def _origin(part: object) -> object:
    """Return where a part is written: the same place means the same part."""
    part = part.make if isinstance(part, StemPart) else part
    name = getattr(part, "__qualname__", "<lambda>")
    # All lambdas of a place have one name.
    return part if "<lambda>" in name else (getattr(part, "__module__", None), name)
