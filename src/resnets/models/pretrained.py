"""Provide `load_weights`, which fills a network with weights of ours, torchvision, timm or others.

The network is found inside the wrappers and prefixes of training programs (`layouts`), foreign
names are renamed to torchvision's, and every tensor must fit, and be numbers that a network can
have, before any is loaded. No file can run code, and a small one costs little: see `torch_file` and
`weights_file`.

Tensors do not tell every network from its twins: v1 and v1.5 bottlenecks (`stride_on` "1x1" and
"3x3"), blurred and plain ones, option-A and plain ones, weight-standardised and usual convolutions,
ResNeSt with the mean before and after its attention have the same names and shapes. So what a
source says about its network is compared too: the ResNetConfig of our model files, torchvision's
and timm's name of the network (in the source, in `arch` of a checkpoint, in the name of a file such
as `resnetaa50_a1h-4cf422b3.pth`), config.json of a hub repository. Of other files only the author
knows: weights of Caffe, Keras and MSRA are v1.
"""

import re
import warnings
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnets.errors import UserError, one_line, public_name, shortened
from resnets.fileio import open_file
from resnets.models.config import DEFAULTS, FIELDS, ResNetConfig
from resnets.models.download import TORCHVISION_NETWORKS, LocalFile, canonical_source, local_file
from resnets.models.layouts import (
    COUNTER,
    HEAD,
    MAX_LISTED,
    STEM,
    Layout,
    few,
    find_network,
    tensor_tables,
)
from resnets.models.resnet import ResNet, meta_state
from resnets.models.torch_file import UnusableTensor, open_torch_file
from resnets.models.weights_file import read_weights_file

Tensors = dict[str, Tensor]
# The networks of other packages: the name there, and the name and config here.
ForeignNames = Mapping[str, tuple[str, ResNetConfig]]

RENAMES = (
    (r"^linear\.", "fc."),  # kuangliu/pytorch-cifar, akamaster/pytorch_resnet_cifar10
    # ResNetForImageClassification of transformers, below its `resnet.`.
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"^encoder\.stages\.(\d+)\.layers\.", lambda found: f"layer{int(found[1]) + 1}."),
    (r"\.layer\.(\d+)\.convolution\.", lambda found: f".conv{int(found[1]) + 1}."),
    (r"\.layer\.(\d+)\.normalization\.", lambda found: f".bn{int(found[1]) + 1}."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    # Sequential(*list(network.children())[:-2]), the body of fastai's learners.
    (r"^0\.", "conv1."),
    (r"^1\.", "bn1."),
    (r"^([4-7])\.(\d+)\.", lambda found: f"layer{int(found[1]) - 3}.{found[2]}."),
    (r"\.shortcut\.", ".downsample."),
    (r"^stages\.(\d+)\.blocks\.", lambda found: f"layer{int(found[1]) + 1}."),  # timm's resnetv2
    (r"^(layer\d+\.\d+)\.norm", r"\1.bn"),
    (r"^stages\.(\d+)\.(\d+)\.", lambda found: f"layer{int(found[1]) + 1}.{found[2]}."),  # byobnet
    (r"^stem\.conv3\.bn\.", "bn1."),
    (r"^stem\.conv(\d)\.bn\.", lambda found: f"conv1.{3 * int(found[1]) - 2}."),
    (r"^stem\.conv(\d)\.conv\.", r"stem.conv\1."),
    (r"^(layer\d+\.\d+)\.conv(\d)_...\.conv\.", r"\1.conv\2."),
    (r"^(layer\d+\.\d+)\.conv(\d)_...\.bn\.", r"\1.bn\2."),
    (r"\.downsample\.conv\.bn\.", ".downsample.2."),
    (r"\.downsample\.bn\.", ".downsample.1."),
    (r"\.downsample\.conv\.conv\.", ".downsample.conv."),
    (r"^(layer\d+\.\d+)\.attn(_last)?\.", r"\1.se."),
    (r"^head\.(q|k|v|pos_embed)(\.|$)", r"avgpool.\1\2"),
    (r"^head\.proj\.", "fc."),
    (r"^final_conv\.conv\.", "norm.0."),
    (r"^final_conv\.bn\.", "norm.1."),
    (r"^stem\.conv\.", "conv1."),
    (r"^stem\.conv(\d)\.", lambda found: f"conv1.{3 * int(found[1]) - 3}."),
    (r"^stem\.norm(\d)\.", lambda found: f"conv1.{3 * int(found[1]) - 2}."),
    (r"^stem\.7\.", "bn1."),  # ResNetV1c and V1d of mmpretrain
    (r"^stem\.(\d)\.", r"conv1.\1."),
    (r"^head\.fc\.", "fc."),
    # The port of SENet's Caffe weights in pretrainedmodels and timm ("legacy").
    (r"^layer0\.conv(\d)\.", lambda found: f"conv1.{3 * int(found[1]) - 3}."),
    (r"^layer0\.bn(\d)\.", lambda found: f"conv1.{3 * int(found[1]) - 2}."),
    (r"\.se_module\.", ".se."),
    (r"^last_linear\.", "fc."),
)
# Whether any of them has an effect; most names need none.
RENAMED = re.compile(
    "|".join(f"(?:{pattern})" for pattern, _ in RENAMES) + r"|\.downsample\.conv\."
)
# Tensors of a file, unless the network has more: resnet1202 has 7,208.
MAX_TENSORS = 20_000
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
# Fields in which a network may differ from the one whose weights it loads: they change its head,
# its input, its training or its sampling, but not what a weight means. (A stem_width that matters
# shows in the shapes.)
FREE = {
    *("num_classes", "in_channels", "stem_width"),
    *("drop_path", "dropout", "init", "residual_init", "output_stride"),
}
# Fields of the size of a network, in which torchvision's networks differ from each other.
SIZES = {"depths", "block", "widths", "groups", "group_width", "group_size", "se"}
# Names that timm may have; it is asked only for these.
FAMILY = re.compile(r"[a-z0-9_]*res(?:net|next|nest|2net|2next)")
# A name and eight digits of a checksum, as torchvision and timm name their files.
FILE_NAME = re.compile(r"([a-z]\w*)-[0-9a-f]{8}\.\w+$")


@dataclass(frozen=True)
class Weights:
    """The weights of a source, under the names of this package, and what the source says of them.

    Args:
        tensors: The tensors; also those that the network lacks.
        config: The network, if the source is a model file of ours.
        architecture: What the program that saved it calls the network; empty if it does not say.
        layout: Where the tensors were.
    """

    tensors: Tensors
    config: ResNetConfig | None = None
    architecture: str = ""
    layout: Layout = field(default_factory=lambda: Layout({}, {}))


def load_weights(
    model: ResNet,
    source: str | Path | Mapping[str, Any] | Enum,
    *,
    name: str,
    fresh_head: bool,
    adapt_channels: bool,
    foreign: ForeignNames | None = None,
) -> None:
    """Load the weights of a source, as `create_model` names it, into a network of the table.

    With `fresh_head`, the classifier keeps its initial values where the file has none, or one for
    another number of classes. With `adapt_channels`, the first convolution is adapted to another
    number of channels. What is left out, and a classifier that is missing, is named in a warning.
    Where anything does not fit, UserError leaves the model unchanged.

    `foreign` are the names by which torchvision and timm know networks; without them, what a source
    calls its network is not compared.
    """
    foreign, own = foreign or {}, model.state_dict()
    if isinstance(source, Mapping):
        shown, weights = "the given state_dict", _from_mapping(source, own)
    else:
        text = canonical_source(source, name=name)
        shown, weights = public_name(text), _from_source(text, model, name=name, foreign=foreign)
    if weights.config is not None:
        known = {key: getattr(weights.config, key) for key in FIELDS if key not in FREE}
        _compare(model.config, known, whose=f"the network in {shown}")
    origins = set(weights.layout.origins.values())
    if "layer0.conv1.weight" in origins:
        stem = "deep_caffe" if "layer0.conv2.weight" in origins else "caffe"
        _compare(model.config, {"stem": stem}, whose=f"the network in {shown}")
    tensors = dict(weights.tensors)
    if HEAD[0] in tensors and tensors[HEAD[0]].shape[2:] == (1, 1):
        tensors[HEAD[0]] = tensors[HEAD[0]].flatten(1)  # a head that is a 1x1 convolution
    if model.config.num_classes == 0:  # asked for without a classifier
        tensors = {key: tensor for key, tensor in tensors.items() if key not in HEAD}
    headless = HEAD[0] in own and HEAD[0] not in tensors
    try:
        _check_types(tensors, own)
        if adapt_channels:
            _adapt_stem(tensors, own)
        if fresh_head and HEAD[0] in own:
            weight, given = own[HEAD[0]], tensors.get(HEAD[0])
            if given is None or (given.shape != weight.shape and _same_but(0, given, weight)):
                tensors |= {key: own[key] for key in HEAD if key in own}
        _check_fit(tensors, own)
        tensors = _converted(tensors, own)
    except UserError as error:
        row, _ = foreign.get(weights.architecture, (name, None))
        hint = f"; it is of {weights.architecture}: create_model({row!r})" if row != name else ""
        raise UserError(f"{shown} does not fit {name}: {error}{hint}") from None
    if weights.config is None and weights.architecture and foreign:
        _compare_name(model.config, weights.architecture, shown, foreign)
    _warn_of_parts(shown, weights.layout, headless=headless)
    model.load_state_dict(tensors)


def _from_source(text: str, model: ResNet, *, name: str, foreign: ForeignNames) -> Weights:
    """Return the weights of a source; compare the network with what the source is called."""
    shown, own = public_name(text), model.state_dict()
    most = max(MAX_TENSORS, len(own))
    factory = name.removesuffix("_v1")
    if shown.startswith("torchvision:") and factory in TORCHVISION_NETWORKS:
        _compare(model.config, usual(), whose=f"torchvision's {factory}")
    if shown.startswith("timm:") and foreign:
        architecture = shown.removeprefix("timm:").partition(".")[0]
        _compare_name(model.config, architecture, shown, foreign, sure=True)

    def read(file: Path) -> Weights:
        return read_tensors(file, source=shown, most=most, own=own)

    local = local_file(text, name=name, check=read)
    weights = read(local.path)
    _compare_hub(model.config, local, shown, foreign)
    published = shown.startswith(("timm:", "torchvision:"))  # compared above
    if foreign and not weights.architecture and not published:
        return replace(weights, architecture=_name_in_file_name(local.name, foreign))
    return weights


def local_weights(source: str) -> Path:
    """Return the file of a path, a URL or the hub, downloaded if need be and read as weights."""
    shown = public_name(source)

    def check(part: Path) -> None:
        read_tensors(part, source=shown)

    file = local_file(source, name="", check=check).path
    check(file)
    return file


def _warn_of_parts(shown: str, layout: Layout, *, headless: bool) -> None:
    """Warn of what the source has beside the network, and of a classifier that it lacks."""
    texts = []
    if layout.left_out:
        texts.append(f"left out {shortened(layout.left_out, shown=MAX_LISTED)}")
        if layout.place:
            texts.insert(0, f"took {layout.place.rstrip('.')}")
    if headless:
        texts.append("it has no classifier, so fc keeps its initial values")
    if texts:
        message = one_line(f"{shown}: {'; '.join(texts)}", length=600)
        warnings.warn(message, stacklevel=5)  # the caller of create_model


# Reading -----------------------------------------------------------------------------------------


def read_tensors(
    file: Path, *, source: str, most: int = MAX_TENSORS, own: Tensors | None = None
) -> Weights:
    """Return the weights in a file.

    The format is detected from the first bytes; `source` names the file in messages. A file of more
    than `most` tensors is refused. `own` is the state_dict of the network that is looked for;
    without it, all tensors of the first state_dict are read.
    """
    try:
        with open_file(file) as stream:
            start = stream.read(64) or b""
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror or error}") from None
    if start[8:9] == b"{":  # after the eight bytes of its length, a JSON header
        try:
            content = read_weights_file(file)
        except UserError as error:
            raise UserError(f"{source} {error}") from None
        if content.config is not None:
            return Weights(content.tensors, content.config)
        layout = _layout(content.tensors, own, source=source, most=most)
        return Weights(layout.tensors, layout=layout)
    if start.startswith((b"PK\x03\x04", b"\x80")):  # a zip, or a bare pickle before torch 1.6
        with open_torch_file(file, source=source) as saved:
            layout = _layout(saved.content, own, source=source, most=most)
            tensors = {}
            for key, value in layout.tensors.items():
                if own is not None and key not in own:
                    tensors[key] = torch.empty(0)  # refused by its name, so it is not read
                elif isinstance(value, UnusableTensor):
                    raise UserError(f"{source}: {key} is a {value.kind} tensor; save plain tensors")
                else:
                    tensors[key] = saved.tensor(value)
            return Weights(tensors, None, _architecture(saved.content), layout)
    text = start.decode("ascii", errors="replace").split("\n")[0].strip()
    what = f"starts with {text[:40]!r}" if start else "is empty"
    what = "is a web page" if text.startswith("<") else what
    raise UserError(f"{source} is neither a safetensors nor a torch file: it {what}")


def _from_mapping(content: Mapping[str, Any], own: Tensors) -> Weights:
    layout = _layout(content, own, source="the given state_dict", most=max(MAX_TENSORS, len(own)))
    tensors = {key: tensor.detach() for key, tensor in layout.tensors.items()}
    return Weights(tensors, None, _architecture(content), layout)


def _layout(content: object, own: Tensors | None, *, source: str, most: int) -> Layout:
    tables = tensor_tables(content, source=source, most=most)
    if own is None:
        return Layout(tables[0][1], {})
    return find_network(tables, own, rename=lambda name: _our_name(name, own), source=source)


def _architecture(content: object) -> str:
    """Return the name of the network in a checkpoint: timm, torchvision and MoCo store it."""
    if not isinstance(content, Mapping):
        return ""
    arguments = content.get("args")
    if not isinstance(arguments, Mapping):
        arguments = vars(arguments) if isinstance(arguments, Namespace) else {}
    names = (content.get("arch"), arguments.get("arch"), arguments.get("model"))
    return next((name for name in names if isinstance(name, str)), "")


# Names of the whole ------------------------------------------------------------------------------


def usual(**known: object) -> dict[str, object]:
    """Return the fields of a network without any variant, such as torchvision's."""
    return {key: value for key, value in DEFAULTS.items() if key not in FREE | SIZES} | known


def _compare_name(
    config: ResNetConfig, name: str, shown: str, foreign: ForeignNames, *, sure: bool = False
) -> None:
    """Compare a network with the one that another program has under a name.

    Unless it is `sure` that the name is of timm or torchvision, a name that is not known says
    nothing, and of a known one only what the tensors do not show is compared: a resnet18 with the
    stem for small images is called resnet18, too.
    """
    if name not in foreign:
        if sure or (FAMILY.match(name) and _timm_has(name)):
            raise UserError(
                f"{shown} is of timm's {one_line(name, length=80)}, which has no network here: the "
                "weights would compute something else"
            )
        return
    row, theirs = foreign[name]
    known = {key: getattr(theirs, key) for key in FIELDS if key not in FREE}
    if not sure:
        known = {key: value for key, value in known.items() if _is_silent(config, key, value)}
    whose = f"{shown} is of {name}, which"
    _compare(config, known, whose=whose, advice=f"create_model({row!r})")


def _is_silent(config: ResNetConfig, name: str, value: object) -> bool:
    """Return whether a network with another value of a field has the same names and shapes."""
    if getattr(config, name) == value:
        return False
    try:
        other = meta_state(replace(config, **{name: value}))  # type: ignore[arg-type]
    except UserError:  # it contradicts another field
        return False
    own = meta_state(config)
    return own.keys() == other.keys() and all(own[k].shape == other[k].shape for k in own)


def _compare(
    config: ResNetConfig, known: Mapping[str, object], *, whose: str, advice: str = ""
) -> None:
    """Refuse weights of a network that is known to differ, even if all shapes fit."""
    for name, value in known.items():
        mine = getattr(config, name)
        if mine != value:
            version = {"3x3": " (v1.5)", "1x1": " (v1)"}
            theirs, ours = (f"{name} = {v!r}{version.get(str(v), '')}" for v in (value, mine))
            advice = advice or f"choose a network with {name} = {value!r}"
            raise UserError(
                f"{whose} has {theirs}, this network has {ours}: the weights would compute "
                f"something else; {advice}"
            )


def _compare_hub(config: ResNetConfig, local: LocalFile, shown: str, foreign: ForeignNames) -> None:
    """Compare a network with what config.json says, which timm and transformers write."""
    record = local.config
    name = record.get("architecture")
    if isinstance(name, str) and "pretrained_cfg" in record and foreign:
        _compare_name(config, name, shown, foreign, sure=True)
    if record.get("model_type") == "resnet":  # ResNetForImageClassification of transformers
        stride_on = "1x1" if record.get("downsample_in_bottleneck") else "3x3"
        if record.get("downsample_in_first_stage"):
            raise UserError(
                f"{shown} halves the map in its first stage, which no network here does"
            )
        stride_on = "3x3" if record.get("layer_type") == "basic" else stride_on
        known = usual(stride_on=stride_on, activation=record.get("hidden_act", "relu"))
        _compare(config, known, whose=f"{shown} by its config.json")


def _name_in_file_name(file_name: str, foreign: ForeignNames) -> str:
    """Return the network in a name such as resnet50_a1_0-14fe96d1.pth, or nothing."""
    found = FILE_NAME.match(file_name)
    if found is None or not FAMILY.match(found[1]):
        return ""
    parts = found[1].split("_")
    names = ["_".join(parts[:end]) for end in range(len(parts), 0, -1)]
    known = (name for name in names if name in foreign)
    return next(known, "") or next(filter(_timm_has, names), "")


def _timm_has(name: str) -> bool:
    """Return whether timm, if it is installed, has a network of this name."""
    try:
        import timm
    except ImportError:
        return False
    return bool(timm.list_models(name))  # without its deprecated names


# Fitting -----------------------------------------------------------------------------------------


def _our_name(name: str, own: Tensors) -> str:
    """Return our name of a tensor; a name that the network has is never changed."""
    key = name
    if key not in own and RENAMED.search(key):
        for pattern, ours in RENAMES:
            key = re.sub(pattern, ours, key)
        # In timm's resnetv2 it is `conv` with and without an average before it (option D).
        places = [key.replace(".downsample.conv.", f".downsample.{i}.") for i in (0, 1)]
        # The last convolution of a stem, and often its only one, is followed by bn1.
        places.append(re.sub(r"^conv1\.0\.", "conv1.", key))
        places.append(re.sub(r"^conv1\.[17]\.", "bn1.", key))
        key = next((place for place in places if place in own), key)
    return key


def _check_types(tensors: Tensors, own: Tensors) -> None:
    """Refuse tensors whose numbers mean something else: complex, whole, quantised to whole."""
    for key, tensor in tensors.items():
        if key not in own:
            continue
        allowed = FLOATS if own[key].is_floating_point() else FLOATS | INTEGERS
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in allowed:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{key} is of type {kind}, not float16, bfloat16, float32 or float64")


def _converted(tensors: Tensors, own: Tensors) -> Tensors:
    """Return tensors that fit in the network's types; refuse numbers that no network has."""
    result = {}
    for key, tensor in tensors.items():
        result[key] = converted = tensor.to(own[key].dtype)
        finite = bool(tensor.isfinite().all()) and bool(converted.isfinite().all())
        if not finite:
            raise UserError(f"{key} has values that are NaN or infinite")
        if key.endswith((".running_var", ".num_batches_tracked")) and bool((converted < 0).any()):
            raise UserError(f"{key} has negative values")
    return result


def _adapt_stem(tensors: Tensors, own: Tensors) -> None:
    """Adapt the first convolution to another number of channels; grey images keep their output.

    To one by the sum, to more by repeating and rescaling them (Wightman's rule in timm).
    """
    key = next(key for key in STEM if key in own)
    if key not in tensors or not _same_but(1, tensors[key], own[key]):
        return
    weight = tensors[key]  # out in kernel kernel
    before, channels = weight.shape[1], own[key].shape[1]
    if not before:
        return
    if channels == 1:
        tensors[key] = weight.sum(1, keepdim=True)
    elif channels != before:
        repeats = -(-channels // before)
        tensors[key] = weight.repeat(1, repeats, 1, 1)[:, :channels] * (before / channels)


def _check_fit(tensors: Tensors, own: Tensors) -> None:
    """Raise UserError where names or shapes do not fit, with what to pass instead."""
    # Files from before torch 0.4.1 do not count batches; PyTorch starts the count at zero.
    absent = [k for k in own if k not in tensors and not k.endswith(COUNTER)]
    foreign = [key for key in tensors if key not in own]
    if absent or foreign:
        problems = [f"it lacks {few(absent)}"] if absent else []
        problems += [f"the network has no {few(foreign)}"] if foreign else []
        if HEAD[0] in absent and set(absent) <= {*HEAD}:
            problems += [f"pass num_classes={len(own[HEAD[0]])} for a new classifier"]
        raise UserError("; ".join(problems))
    wrong = [key for key in tensors if tensors[key].shape != own[key].shape]
    if not wrong:
        return
    shapes = [
        f"{k} is {_size(tensors[k])} in the file, {_size(own[k])} in the network" for k in wrong
    ]
    problem = few(shapes, separator="; ")
    if not set(wrong) <= {*HEAD, *STEM}:
        raise UserError(f"{problem}; choose the network that the weights were trained with")
    for key in wrong:
        theirs, ours = tensors[key].shape, own[key].shape
        if key == HEAD[0] and theirs.numel() and _same_but(0, tensors[key], own[key]):
            problem += (
                f"; pass num_classes={theirs[0]} for the classifier of the file, or "
                f"num_classes={ours[0]} for a new one"
            )
        elif key in STEM and theirs.numel() and _same_but(1, tensors[key], own[key]):
            problem += (
                f"; pass in_channels={theirs[1]} for the weights as they are, or "
                f"in_channels={ours[1]} to adapt them"
            )
    raise UserError(problem)


def _same_but(axis: int, one: Tensor, other: Tensor) -> bool:
    """Return whether all sizes but that of `axis` agree."""
    pairs = enumerate(zip(one.shape, other.shape, strict=False))
    return one.ndim == other.ndim and all(a == b for i, (a, b) in pairs if i != axis)


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
