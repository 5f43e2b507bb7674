"""Provide `ResNetConfig`, the validated description of a residual network.

Each field is one idea of one paper. The values are plain, so that a configuration can be written
into a model file, read back and compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from resnets.errors import UserError, unknown

CHOICES = {
    "block": ("basic", "bottleneck"),
    "stem": ("imagenet", "small", "whitened", "deep", "deep_tiered", "deep_conv"),
    "shortcut": ("conv", "pad", "conv_all", "avg_conv", "gate", "dropout", "none"),
    "order": ("post", "pre"),
    "stride_on": ("3x3", "1x1"),
    "halving": ("stride", "max_pool"),
    "norm": ("batch", "group", "bias", "none"),
    "residual_init": ("default", "zero", "scalar", "fixup"),
    "init": ("fan_out", "fan_in", "dirac", "orthogonal"),
}
POSITIVE = ("num_classes", "in_channels", "groups", "group_width")
EXPANSION = {"basic": 1, "bottleneck": 4}  # a unit's output channels, in multiples of its width


@dataclass(frozen=True)
class ResNetConfig:
    """One network. Lists are accepted for tuples, so `ResNetConfig(**json.loads(...))` works.

    A value outside its range, or two fields that contradict each other, raise `UserError`.
    """

    depths: tuple[int, ...]  # residual units in each stage
    block: str  # basic: two 3x3 | bottleneck: 1x1, 3x3, 1x1 with four times the channels out
    widths: tuple[int, ...] = (64, 128, 256, 512)  # channels of the 3x3 convolutions, per stage
    num_classes: int = 1000
    in_channels: int = 3
    # 7x7/2 + pool | small: 3x3 | whitened: 2x2, measured | three 3x3 + pool | tiered | + conv/2
    stem: str = "imagenet"
    stem_width: int | None = None  # channels that leave the stem; None is widths[0]
    # He 2015: conv B, pad A, conv_all C; He 2019: avg_conv D; He 2016: pad and a gate | and dropout
    shortcut: str = "conv"  # none is plain
    shortcut_strength: float = 1.0  # factor on every shortcut (He 2016, equation 6); 0 is plain
    order: str = "post"  # conv-norm-ReLU (He 2015) | norm-ReLU-conv (He 2016)
    stride_on: str = "3x3"  # of a bottleneck: "v1.5" | the first 1x1, as the paper has it ("v1")
    halving: str = "stride"  # of a basic unit: its first 3x3's stride | a 2x2 maximum after it
    groups: int = 1  # of a bottleneck's 3x3 (Xie 2017)
    group_width: int = 64  # inner width = int(width * group_width / 64) * groups
    se: float = 0.0  # squeeze-and-excitation: share of channels in the middle (Hu 2018); 0 is off
    norm: str = "batch"  # bias: scalars around each convolution instead (Fixup, Zhang 2019)
    # zero: the branch starts at 0 (Goyal 2017) | scalar: SkipInit | fixup: shrunk with depth
    residual_init: str = "default"
    residual_scale: float = 1.0  # fixed factor on every residual, as 1/sqrt(units) (Bordelon 2023)
    init: str = "fan_out"  # law of the units' convolutions at first; see `initial.py`
    drop_path: float = 0.0  # stochastic depth (Huang 2016): rate of the last unit, linear from 0
    dropout: float = 0.0  # inside pre-activation basic units (wide nets), else before `fc`
    blur: int = 0  # side of the binomial filter before each subsampling (Zhang 2019); 0 is off
    output_stride: int | None = None  # 8 | 16 | 32: later strides become dilation; None is as built

    def __post_init__(self) -> None:
        for name in ("depths", "widths"):
            object.__setattr__(self, name, _counts(name, getattr(self, name)))
        for name, allowed in CHOICES.items():
            _choice(name, getattr(self, name), allowed)
        for name in POSITIVE:
            _count(name, getattr(self, name))
        for name in ("se", "drop_path", "dropout"):
            object.__setattr__(self, name, _share(name, getattr(self, name)))
        for name in ("shortcut_strength", "residual_scale"):
            object.__setattr__(self, name, _factor(name, getattr(self, name)))
        if self.stem_width is not None:
            _count("stem_width", self.stem_width)
        _number("blur", self.blur, (0, 3, 5))
        _number("output_stride", self.output_stride, (None, 8, 16, 32))
        for message in _contradictions(self):
            raise UserError(message)

    @property
    def plain(self) -> bool:
        """Nothing is added to a residual: the control of every experiment on depth."""
        return self.shortcut == "none" or self.shortcut_strength == 0

    @property
    def expansion(self) -> int:
        return EXPANSION[self.block]

    @property
    def stem_channels(self) -> int:
        if self.stem == "whitened":  # a filter and its negative for each number in a 2x2 patch
            return 8 * self.in_channels
        return self.stem_width or self.widths[0]

    @property
    def stem_stride(self) -> int:
        return 1 if self.stem in ("small", "whitened") else 4

    @property
    def first_stride(self) -> int:
        """Of the first stage; every later one halves the map."""
        return 2 if self.stem == "whitened" else 1

    @property
    def natural_stride(self) -> int:
        """Input pixels per pixel of the last map, before `output_stride` holds it back."""
        return self.stem_stride * self.first_stride << (len(self.depths) - 1)


FIELDS = tuple(field.name for field in fields(ResNetConfig))


def _contradictions(config: ResNetConfig) -> Iterable[str]:
    """One sentence for each pair of fields that cannot both be meant."""
    if len(config.depths) != len(config.widths):
        yield (
            f"depths = {config.depths} has {len(config.depths)} stages but widths = "
            f"{config.widths} has {len(config.widths)}; give one number for each stage in both"
        )
    yield from _needs_bottleneck(config)
    if config.plain:
        yield from _needs_shortcut(config)
    yield from _needs_fixup(config)
    pads = config.shortcut in ("pad", "gate", "dropout")
    if pads and list(_flow(config)) != sorted(_flow(config)):
        yield (
            f"shortcut = {config.shortcut!r} can only add channels, but the stages carry "
            f"{_flow(config)}; use shortcut = 'conv' or widths that do not fall"
        )
    if config.stem == "deep_tiered" and config.stem_channels % 8:
        yield f"stem = 'deep_tiered' needs a stem_width divisible by 8, not {config.stem_channels}"
    if config.stem in ("deep", "deep_conv") and config.stem_channels % 2:
        yield f"stem = {config.stem!r} needs an even stem_width, not {config.stem_channels}"
    if config.blur or config.halving == "max_pool":
        yield from _refuses_pooling(config)
    if config.stem == "whitened" and (config.order == "pre" or config.stem_width is not None):
        yield (
            "stem = 'whitened' has 8 channels for each of the image and ends in a ReLU: "
            "it needs order = 'post' and stem_width = None"
        )
    if config.output_stride is not None and config.output_stride > config.natural_stride:
        yield (
            f"output_stride = {config.output_stride}: this network's own stride is only "
            f"{config.natural_stride}; leave output_stride at None"
        )


def _needs_bottleneck(config: ResNetConfig) -> Iterable[str]:
    given = {"stride_on": "3x3", "groups": 1, "group_width": 64}
    for name, usual in given.items():
        value = getattr(config, name)
        if config.block == "basic" and value != usual:
            yield f"{name} = {value!r} needs block = 'bottleneck'; with 'basic' it is {usual!r}"
    if int(min(config.widths) * config.group_width / 64) < 1:
        yield f"group_width = {config.group_width} leaves no channel at width {min(config.widths)}"


def _needs_shortcut(config: ResNetConfig) -> Iterable[str]:
    """Without a shortcut, a residual branch of zero is a network that computes nothing."""
    none = "shortcut = 'none'" if config.shortcut == "none" else "shortcut_strength = 0"
    if config.residual_init != "default":
        yield (
            f"residual_init = {config.residual_init!r} needs a shortcut: with {none} the "
            "network would start at zero and stay there; use residual_init = 'default'"
        )
    if config.drop_path:
        yield (
            f"drop_path = {config.drop_path} needs a shortcut: with {none} a dropped "
            "branch leaves nothing; use drop_path = 0"
        )
    if config.shortcut == "none" and config.shortcut_strength != 1:
        yield (
            f"shortcut_strength = {config.shortcut_strength} needs a shortcut: with shortcut = "
            "'none' there is nothing to weaken; use shortcut_strength = 1"
        )


def _needs_fixup(config: ResNetConfig) -> Iterable[str]:
    """What learned factors and laws of their own leave no room for."""
    learned = config.residual_init in ("scalar", "fixup")
    if learned and config.residual_scale != 1:
        yield (
            f"residual_scale = {config.residual_scale} together with residual_init = "
            f"{config.residual_init!r}, which learns a factor of its own; use residual_scale = 1"
        )
    if config.residual_init == "fixup" and config.norm != "bias":
        yield f"residual_init = 'fixup' stands for norm = 'bias', not {config.norm!r}"
    if config.residual_init == "fixup" and config.init != "fan_out":
        yield f"residual_init = 'fixup' has a law of its own; not init = {config.init!r}"


def _refuses_pooling(config: ResNetConfig) -> Iterable[str]:
    """What cannot go with a blur or a maximum in place of a stride."""
    what = f"blur = {config.blur}" if config.blur else f"halving = {config.halving!r}"
    clashes = {
        "order": (config.order == "pre", "post"),
        "stride_on": (config.stride_on == "1x1", "3x3"),
        "stem": (config.stem in ("deep_conv", "whitened") and config.blur, "imagenet"),
        "block": (config.block == "bottleneck" and config.halving == "max_pool", "basic"),
        "halving": (config.halving == "max_pool" and config.blur, "stride"),
        "output_stride": (config.output_stride not in (None, config.natural_stride), None),
    }
    for name, (clash, instead) in clashes.items():
        if clash:
            yield f"{what} is not defined for {name} = {getattr(config, name)!r}; use {instead!r}"
    if config.natural_stride == 1:
        yield f"{what} has nothing to do: the network never subsamples; leave it out"


def _flow(config: ResNetConfig) -> tuple[int, ...]:
    """Channels that leave the stem and each stage."""
    return (config.stem_channels, *(width * config.expansion for width in config.widths))


def _choice(name: str, value: object, allowed: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise unknown(name, str(value), allowed)


def _number(name: str, value: object, allowed: tuple[int | None, ...]) -> None:
    if isinstance(value, bool) or value not in allowed:
        raise UserError(f"{name} = {value!r}: allowed are {', '.join(map(str, allowed))}")


def _count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name} = {value!r}: must be a whole number of at least 1")


def _counts(name: str, values: object) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or not values:
        raise UserError(f"{name} = {values!r}: must be whole numbers, one a stage, as (2, 2, 2, 2)")
    for value in values:
        _count(name, value)
    return tuple(values)


def _share(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise UserError(f"{name} = {value!r}: must be a number from 0 up to, but not, 1")
    return float(value)


def _factor(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(f"{name} = {value!r}: must be a number from 0 to 1")
    return float(value)
