"""Provide `ResNetConfig`, the validated description of a residual network.

Each field is one idea of one paper, as a plain value that can be stored and compared.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any

from resnets.errors import UserError, shown, unknown
from resnets.models.parts import (
    ACTIVATIONS,
    ATTENTIONS,
    BLOCK_FIELDS,
    BLOCKS,
    NORMS,
    ORDERS,
    SHORTCUTS,
    STEMS,
    PartTable,
)

CHOICES = {
    "order": ORDERS,
    "conv": ("plain", "standardised", "scaled"),
    "stride_on": ("3x3", "1x1"),
    "halving": ("stride", "max_pool"),
    "residual_init": ("default", "zero", "scalar", "fixup"),
    "init": ("fan_out", "fan_in", "dirac", "orthogonal"),
}
# Stems that blur where they subsample after their first convolution, or do not do so.
BLURRED_STEMS = ("imagenet", "small", "deep", "deep_tiered")
# Fields that name a part: ours, or one that a user has registered.
PARTS: dict[str, PartTable[Any]] = {
    "stem": STEMS,
    "shortcut": SHORTCUTS,
    "norm": NORMS,
    "activation": ACTIVATIONS,
    "attention": ATTENTIONS,
}
# Factors that give the activation of a normal variable the variance 1, as sampled for the release
# of Brock 2021 (arXiv 2101.08692).
ACTIVATION_GAINS = {
    "relu": 1.7139588594436646,
    "gelu": 1.7015043497085571,
    "silu": 1.7881293296813965,
}
# Norms that contain the activation after them.
ACTIVATED_NORMS = ("evo", "filter_response")
# What a network may cost. The largest of the table have 16 times fewer blocks and half as many
# parameters. A value beyond them is a mistake, or an attack by a file, and is refused before memory
# is spent on it.
MAX_STAGES = 16
MAX_BLOCKS = 10_000
MAX_CHANNELS = 2**20
MAX_PARAMETERS = 2**31
# Numbers in the largest map of one image, and its multiply-accumulates: those of a network ten
# times as wide as ResNet-28 (wrn28_10) at 1,024 pixels fit.
MAX_ACTIVATIONS = 2**28
MAX_MACS = 2**44


@dataclass(frozen=True)
class ResNetConfig:
    """Describe a residual network; every value is checked when the object is made.

    Lists are accepted for tuples, so `ResNetConfig(**json.loads(text))` restores what
    `dataclasses.asdict` wrote.

    Args:
        depths: Residual blocks in each stage.
        block: "basic" (two 3x3 convolutions), "bottleneck" (1x1, 3x3, and 1x1 to four times as
            many channels), "bottleneck_inner_attention" (the attention is before the last 1x1),
            "bottleneck_norm_free" (the variance of its input is known, Brock 2021), "res2net",
            "resnest", "resnest_fast", "sk_basic", "sk_bottleneck", "senet" or "legacy_se_basic"
            (see the modules of these names).
        widths: Channels of the 3x3 convolutions, one number a stage.
        num_classes: Number of logits; 0 is a network without a classifier.
        in_channels: Channels of the images.
        stem: "imagenet" (7x7 of stride 2, then a pool), "small" (3x3), "whitened" (2x2, measured
            filters), "deep" (three 3x3, then a pool), "deep_tiered" (the same in timm's widths),
            "deep_tiered_strided" (two strides, no pool), "deep_conv" (four 3x3 with two strides, no
            pool), "imagenet_zero_pad" (7x7, then a pool over zeros at the border), or "caffe" and
            "deep_caffe" (Caffe's pool, without padding).
        stem_width: Channels of the stem's output; None is `widths[0]`.
        shortcut: "pad", "conv" or "conv_all" (options A, B, C of He 2015), "avg_conv" (option D of
            He 2019), "conv_3x3" (SENet-154), "gate" or "dropout" (weakened option A, He 2016), or
            "none" (plain network).
        shortcut_strength: Factor in 0..1 on every shortcut (He 2016, equation 6); 0 is a plain
            network.
        order: "post" (conv-norm-ReLU, He 2015) or "pre" (norm-ReLU-conv, He 2016).
        conv: "plain", "standardised" (each filter has mean 0 and variance 1, Qiao 2019) or "scaled"
            (the same times a learned gain, so that norms can be left out, Brock 2021).
        stride_on: Convolution of a bottleneck that has the stride: "3x3" ("v1.5") or "1x1", as in
            the paper ("v1").
        halving: How a basic block halves the map: "stride" of its first 3x3 or "max_pool" after it.
        groups: Groups of a bottleneck's 3x3 convolution (Xie 2017).
        group_width: The inner width is `int(width * group_width / 64) * groups`.
        group_size: Channels of a group of this convolution, in place of `groups`.
        splits: Parts of the channels at the 3x3 convolutions: the scale of Res2Net (Gao 2019), the
            radix of ResNeSt (Zhang 2020), or 2 where each path of SKNet sees half of them.
        se: Share of channels inside squeeze-and-excitation (Hu 2018); 0 is off.
        attention: "none", "eca" (Wang 2019), "global_context" (Cao 2019) or a registered attention
            on the residual, in place of `se`.
        attention_pool: Side of the map whose positions CLIP's attention pool learns (Radford 2021);
            0 is the mean.
        head_width: Channels of a 1x1 convolution, norm and activation before the pool, as in timm's
            33ts; None leaves them out.
        norm: "batch", "group", "none", "bias" (scalars around each convolution, Zhang 2019), or for
            order "pre" one that contains the activation: "evo" (Liu 2020) or "filter_response"
            (Singh 2019).
        norm_groups: Groups of a group norm; None is at most 32, and fewer in narrow layers.
        activation: "relu", "gelu", "silu" or "mish".
        residual_init: "default", "zero" (the residual starts at 0, Goyal 2017), "scalar" (SkipInit)
            or "fixup" (shrunk with depth, Zhang 2019).
        residual_scale: Fixed factor in 0..1 on every residual, as 1/sqrt(blocks) (Bordelon 2023).
        init: Initialisation of the blocks' convolutions, see `init.initialise_convolution`.
        drop_path: Stochastic depth (Huang 2016): the rate of the last block, linear from 0.
        dropout: Rate inside pre-activation basic blocks (wide networks), else before `fc`.
        blur: Side of the binomial filter before each subsampling (Zhang 2019): 0 (off), 2, 3 or 5.
        output_stride: 8, 16 or 32: later strides become dilation; None leaves them as they are. The
            dilated network computes the strided one at more places; timm's does not where the
            shortcut is "avg_conv".

    Raises:
        UserError: A value is outside its range, two fields contradict each other, or the network
            is too large to be meant.
    """

    depths: tuple[int, ...]
    block: str
    widths: tuple[int, ...] = (64, 128, 256, 512)
    num_classes: int = 1000
    in_channels: int = 3
    stem: str = "imagenet"
    stem_width: int | None = None
    shortcut: str = "conv"
    shortcut_strength: float = 1.0
    order: str = "post"
    conv: str = "plain"
    stride_on: str = "3x3"
    halving: str = "stride"
    groups: int = 1
    group_width: int = 64
    group_size: int | None = None
    splits: int = 1
    se: float = 0.0
    attention: str = "none"
    attention_pool: int = 0
    head_width: int | None = None
    norm: str = "batch"
    norm_groups: int | None = None
    activation: str = "relu"
    residual_init: str = "default"
    residual_scale: float = 1.0
    init: str = "fan_out"
    drop_path: float = 0.0
    dropout: float = 0.0
    blur: int = 0
    output_stride: int | None = None

    def __post_init__(self) -> None:
        for name in ("depths", "widths"):
            object.__setattr__(self, name, _counts(name, getattr(self, name)))
        for name, choices in (CHOICES | PARTS).items():
            _check_choice(name, getattr(self, name), choices)
        _check_choice("block", self.block, {**BLOCKS["post"], **BLOCKS["pre"]})
        if self.block not in BLOCKS[self.order]:
            raise UserError(f"block = {self.block!r} is not defined for order = {self.order!r}")
        for name in ("in_channels", "groups", "group_width", "splits"):
            object.__setattr__(self, name, _count(name, getattr(self, name)))
        # 0: a network without a classifier, or with a mean.
        for name in ("num_classes", "attention_pool"):
            object.__setattr__(self, name, _count(name, getattr(self, name), least=0))
        for name in ("se", "drop_path", "dropout"):
            object.__setattr__(self, name, _real(name, getattr(self, name), "1)"))
        for name in ("shortcut_strength", "residual_scale"):
            object.__setattr__(self, name, _real(name, getattr(self, name), "1]"))
        for name in ("stem_width", "head_width", "norm_groups", "group_size"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _count(name, value))
        for name, numbers in (("blur", (0, 2, 3, 5)), ("output_stride", (None, 8, 16, 32))):
            value = getattr(self, name)
            whole = isinstance(value, int | None) and not isinstance(value, bool)
            if not whole or value not in numbers:
                raise UserError(
                    f"{name} = {shown(value)}: allowed are {', '.join(map(str, numbers))}"
                )
        for message in (*_too_large(self), *_contradictions(self)):
            raise UserError(message)

    @property
    def plain(self) -> bool:
        """Whether nothing is added to a residual: the control of every experiment on depth."""
        return self.shortcut == "none" or self.shortcut_strength == 0

    @property
    def expansion(self) -> int:
        """Output channels of a block, in multiples of its width."""
        return int(getattr(BLOCKS[self.order][self.block], "expansion", 1))

    @property
    def pooled_channels(self) -> int:
        """Channels of the map that is pooled for the classifier."""
        return self.head_width or self.widths[-1] * self.expansion

    @property
    def stem_channels(self) -> int:
        """Channels of the stem's output."""
        if self.stem == "whitened":  # a filter and its negative for each number in a 2x2 patch
            return 8 * self.in_channels
        return self.stem_width or self.widths[0]

    @property
    def stem_stride(self) -> int:
        """Input pixels per pixel of the stem's output."""
        return STEMS[self.stem].stride

    @property
    def first_stride(self) -> int:
        """Stride of the first stage; every later one halves the map."""
        return 2 if self.stem == "whitened" else 1

    @property
    def natural_stride(self) -> int:
        """Input pixels per pixel of the last map without `output_stride`."""
        return self.stem_stride * self.first_stride << (len(self.depths) - 1)

    def check_input_size(self, size: int) -> None:
        """Check by arithmetic that an image costs no more than can be meant.

        Args:
            size: Height and width of the image in pixels.

        Raises:
            UserError: Its maps or its multiply-accumulates are beyond the limits.
        """
        if size < 1:
            return
        largest = max(
            self.in_channels * size**2,
            self.stem_channels * (size // min(self.stem_stride, 2)) ** 2,
        )
        macs, stride, limit = 0, self.stem_stride, self.output_stride or self.natural_stride
        for stage, parameters in enumerate(_stage_parameters(self)):
            step = self.first_stride if stage == 0 else 2
            stride *= step if stride * step <= limit else 1
            pixels = (-(-size // stride)) ** 2
            largest = max(largest, pixels * self.widths[stage] * self.expansion)
            macs += pixels * parameters
        for what, number, most in (
            ("numbers in a map", largest, MAX_ACTIVATIONS),
            ("multiply-accumulates", macs, MAX_MACS),
        ):
            if number > most:
                raise UserError(
                    f"an input of {size} x {size} pixels costs this network {number:.3g} {what} an "
                    f"image; at most {most:.3g} are allowed; take a smaller size"
                )


FIELDS = tuple(field.name for field in fields(ResNetConfig))
DEFAULTS = {field.name: field.default for field in fields(ResNetConfig)}


def _too_large(c: ResNetConfig) -> Iterator[str]:
    """Yield a message for each limit on the cost of a network that is passed."""
    if sum(c.depths) > MAX_BLOCKS:
        yield f"depths = {c.depths}: at most {MAX_BLOCKS:,} blocks are allowed"
    if len(c.depths) != len(c.widths):
        return  # a contradiction
    last, pooled = c.widths[-1] * c.expansion, c.pooled_channels
    head = pooled * c.num_classes + (last * pooled if c.head_width else 0)
    head += pooled * (3 * pooled + c.attention_pool**2) if c.attention_pool else 0
    stem = 49 * c.in_channels * c.stem_channels + 18 * c.stem_channels**2
    number = sum(_stage_parameters(c)) + head + stem
    if number > MAX_PARAMETERS:
        yield (
            f"the network has about {number:.3g} parameters: at most {MAX_PARAMETERS:.3g} are "
            "allowed; take smaller widths or fewer blocks"
        )


def _stage_parameters(c: ResNetConfig) -> Iterator[int]:
    """Yield about how many weights the convolutions of each stage have, by arithmetic alone."""
    before = c.stem_channels
    for depth, width in zip(c.depths, c.widths, strict=True):
        out = width * c.expansion
        block = BLOCKS[c.order][c.block]
        if hasattr(block, "count_weights"):
            first, later = (block.count_weights(inputs, width, c) for inputs in (before, out))
        elif c.expansion == 1:
            first, later = 9 * width * (before + width), 18 * width**2
        else:
            inner = int(width * c.group_width / 64) * c.groups
            middle = 9 * inner * (c.group_size or max(inner // c.groups, 1))
            first, later = middle + inner * (before + out), middle + 2 * inner * out
        shortcut = 0 if c.shortcut in ("none", "pad", "gate", "dropout") else before * out
        shortcut *= 9 if c.shortcut == "conv_3x3" else 1
        every = (out**2 if c.shortcut == "conv_all" else 0) + int(2 * c.se * out**2)
        yield first + shortcut + (depth - 1) * later + depth * every
        before = out


def _contradictions(c: ResNetConfig) -> Iterator[str]:
    """Yield a message for each pair of fields that contradict each other."""
    if len(c.depths) != len(c.widths):
        yield (
            f"depths = {c.depths} has {len(c.depths)} stages but widths = "
            f"{c.widths} has {len(c.widths)}; give one number for each stage in both"
        )
    if int(min(c.widths) * c.group_width / 64) < 1:
        yield f"group_width = {c.group_width} leaves no channel at width {min(c.widths)}"
    if c.plain:
        # Where no shortcut is beside them, residuals can neither start at zero nor be dropped.
        none = "shortcut = 'none'" if c.shortcut == "none" else "shortcut_strength = 0"
        needs = "needs a shortcut: with"
        if c.residual_init != "default":
            yield f"residual_init = {c.residual_init!r} {needs} {none} the network stays at zero"
        if c.drop_path:
            yield f"drop_path = {c.drop_path} {needs} {none} a dropped block returns zero"
    if c.shortcut == "none" and (strength := c.shortcut_strength) != 1:
        yield f"shortcut_strength = {strength} needs a shortcut: there is nothing to weaken"
    if c.group_size is not None:
        inner = [int(width * c.group_width / 64) for width in c.widths]
        if c.groups != 1:
            yield f"group_size = {c.group_size} and groups = {c.groups}: choose one of them"
        elif any(width % c.group_size for width in inner):
            yield f"group_size = {c.group_size} does not divide all inner widths {tuple(inner)}"
    if c.attention_pool and c.pooled_channels % 64:
        yield (
            f"attention_pool = {c.attention_pool} needs a multiple of 64 channels, not "
            f"{c.pooled_channels}"
        )
    if c.head_width is not None and c.order == "pre":
        yield f"head_width = {c.head_width} is not defined for order = 'pre'; use 'post'"
    yield from _convolution_contradictions(c)
    if c.se and c.attention != "none":
        yield f"se = {c.se} and attention = {c.attention!r}: choose one of them"
    if c.norm_groups is not None and c.norm not in ("group", "evo"):
        yield f"norm_groups = {c.norm_groups} needs norm = 'group', not {c.norm!r}"
    for name in ("order", "activation") if c.norm in ACTIVATED_NORMS else ():
        value, usual = getattr(c, name), {"order": "pre", "activation": "relu"}[name]
        if value != usual:
            yield (
                f"norm = {c.norm!r} contains an activation: it needs {name} = {usual!r}, not "
                f"{value!r}"
            )
    if c.residual_init in ("scalar", "fixup") and c.residual_scale != 1:
        yield (
            f"residual_scale = {c.residual_scale} together with residual_init = "
            f"{c.residual_init!r}, which learns a factor of its own; use residual_scale = 1"
        )
    for name, usual in (("norm", "bias"), ("init", "fan_out")):
        value = getattr(c, name)
        if c.residual_init == "fixup" and value != usual:
            yield f"residual_init = 'fixup' needs {name} = {usual!r}, not {value!r}"
    flow = (c.stem_channels, *(width * c.expansion for width in c.widths))
    if c.shortcut in ("pad", "gate", "dropout") and list(flow) != sorted(flow):
        yield (
            f"shortcut = {c.shortcut!r} can only add channels, but the stages carry "
            f"{flow}; use shortcut = 'conv' or widths that do not fall"
        )
    if c.stem.startswith("deep_tiered") and c.stem_channels % 8:
        yield f"stem = {c.stem!r} needs a stem_width divisible by 8, not {c.stem_channels}"
    if c.stem in ("deep", "deep_conv", "deep_caffe") and c.stem_channels % 2:
        yield f"stem = {c.stem!r} needs an even stem_width, not {c.stem_channels}"
    if c.blur or c.halving == "max_pool":
        yield from _pooling_contradictions(c)
    yield from _block_contradictions(c)
    if c.stem == "whitened" and (c.order == "pre" or c.stem_width is not None):
        yield (
            "stem = 'whitened' has 8 channels for each image channel and ends in a ReLU: "
            "it needs order = 'post' and stem_width = None"
        )
    if c.output_stride is not None and c.output_stride > c.natural_stride:
        yield (
            f"output_stride = {c.output_stride}: this network's own stride is only "
            f"{c.natural_stride}; leave output_stride at None"
        )


def _convolution_contradictions(c: ResNetConfig) -> Iterator[str]:
    """Yield what contradicts filters that are standardised."""
    if c.conv == "plain":
        return
    if c.norm == "bias":
        yield f"conv = {c.conv!r} is not defined for norm = 'bias'; use 'batch', 'group' or 'none'"
    if c.residual_init == "zero":
        yield (
            f"residual_init = 'zero' together with conv = {c.conv!r}: a filter of zeros cannot be "
            "standardised; use 'default' or 'scalar'"
        )
    if c.conv == "scaled" and c.activation not in ACTIVATION_GAINS:
        yield (
            f"conv = 'scaled' has no factor for activation = {c.activation!r}; use "
            f"{', '.join(map(repr, ACTIVATION_GAINS))}"
        )


def _block_contradictions(c: ResNetConfig) -> Iterator[str]:
    """Yield what the block of the network does not know of, or cannot do without."""
    table = BLOCKS[c.order]
    for name in BLOCK_FIELDS:
        value, usual = getattr(c, name), DEFAULTS[name]
        uses = [block for block in table if name in getattr(table[block], "uses", ())]
        if value != usual and c.block not in uses:
            yield (
                f"{name} = {value!r} needs block = {' or '.join(map(repr, uses)) or 'another'}; "
                f"with {c.block!r} it is {usual!r}"
            )
    yield from getattr(table[c.block], "contradictions", lambda _: ())(c)


def _pooling_contradictions(c: ResNetConfig) -> Iterator[str]:
    """Yield what contradicts a blur or a maximum in place of a stride."""
    what = f"blur = {c.blur}" if c.blur else f"halving = {c.halving!r}"
    clashes = {
        "order": (c.order == "pre", "post"),
        "stride_on": (c.stride_on == "1x1", "3x3"),
        "stem": (c.stem not in BLURRED_STEMS and c.blur, "imagenet"),
        "halving": (c.halving == "max_pool" and c.blur, "stride"),
        "output_stride": (c.output_stride not in (None, c.natural_stride), None),
    }
    for name, (clash, instead) in clashes.items():
        if clash:
            yield f"{what} is not defined for {name} = {getattr(c, name)!r}; use {instead!r}"
    if c.natural_stride == 1:
        yield f"{what} has no effect: the network never subsamples; leave it out"


def _check_choice(name: str, value: object, choices: Collection[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise unknown(name, value, choices)


def _count(name: str, value: object, *, least: int = 1) -> int:
    """Return a whole number, of NumPy too, as Python's own."""
    number = -1 if isinstance(value, bool) or not isinstance(value, Integral) else int(value)
    if number < least:
        raise UserError(f"{name} = {shown(value)}: must be a whole number of at least {least}")
    if number > MAX_CHANNELS:
        raise UserError(f"{name} = {shown(value)}: at most {MAX_CHANNELS:,} is allowed")
    return number


def _counts(name: str, values: object) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or not values:
        raise UserError(
            f"{name} = {shown(values)}: must be whole numbers, one a stage, such as (2, 2, 2, 2)"
        )
    if len(values) > MAX_STAGES:
        raise UserError(f"{name} has {len(values):,} stages: at most {MAX_STAGES} are allowed")
    return tuple(_count(name, value) for value in values)


def _real(name: str, value: Any, upper: str) -> float:
    """Return a number in [0, `upper`, which is "1)" without the end or "1]" with it."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and (0 <= value < 1 or (value == 1 and upper == "1]"))):
        raise UserError(f"{name} = {shown(value)}: must be a number in [0, {upper}")
    return float(value)
