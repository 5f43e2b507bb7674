"""Provide `load_weights`, which fills a network with weights of ours, torchvision, timm or others.

Wrappers and prefixes of training programs are removed, foreign names are renamed to torchvision's,
and every tensor must fit, and be numbers that a network can have, before any is loaded. No file can
run code, and a small one costs little: see `torch_file` and `weights_file`.

Files cannot tell v1 from v1.5 bottlenecks (`stride_on` "1x1" and "3x3"): names and shapes are the
same. Our model files carry their ResNetConfig and torchvision's weights are v1.5, so both are
compared with the network. Of other files only the author knows: weights of Caffe, Keras and MSRA
are v1, those of timm and fb.resnet.torch v1.5. The same holds for option-A against plain networks,
for blurred against unblurred ones, and for ResNeSt with the mean before and after its attention.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnets.errors import UserError, one_line, public_name
from resnets.fileio import open_file
from resnets.models.config import FIELDS, ResNetConfig
from resnets.models.download import TORCHVISION_NETWORKS, local_file
from resnets.models.resnet import ResNet
from resnets.models.torch_file import StoredTensor, UnusableTensor, open_torch_file
from resnets.models.weights_file import read_weights_file

Tensors = dict[str, Tensor]

# Keys of a training program's checkpoint; plain weights before averaged ones.
WRAPPERS = ("state_dict", "model", "net", "state_dict_ema", "model_ema")
PREFIXES = ("module.", "_orig_mod.", "model.")  # data parallel, torch.compile, Lightning
RENAMES = (
    (r"^linear\.", "fc."),  # kuangliu/pytorch-cifar, akamaster/pytorch_resnet_cifar10
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
    (r"^head\.fc\.", "fc."),
    # The port of SENet's Caffe weights in pretrainedmodels and timm ("legacy").
    (r"^layer0\.conv(\d)\.", lambda found: f"conv1.{3 * int(found[1]) - 3}."),
    (r"^layer0\.bn(\d)\.", lambda found: f"conv1.{3 * int(found[1]) - 2}."),
    (r"\.se_module\.", ".se."),
    (r"^last_linear\.", "fc."),
)
# Wrappers, and prefixes, around each other.
MAX_WRAPPED = 8
MAX_NAME = 200  # characters of a tensor's name
# Tensors of a file, unless the network has more: resnet1202 has 7,208.
MAX_TENSORS = 20_000
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
HEAD = ("fc.weight", "fc.bias")
STEM = ("conv1.weight", "conv1.0.weight")  # the second where the stem has three convolutions
# Fields in which a network may differ from the one whose weights it loads: they change its head,
# its input, its training or its sampling, but not what a weight means. (A stem_width that matters
# shows in the shapes.)
FREE = {
    *("num_classes", "in_channels", "stem_width"),
    *("drop_path", "dropout", "init", "residual_init", "output_stride"),
}
TORCHVISION: dict[str, object] = {
    **{"stem": "imagenet", "shortcut": "conv", "order": "post", "stride_on": "3x3"},
    **{"norm": "batch", "blur": 0, "halving": "stride"},
    **{"shortcut_strength": 1.0, "residual_scale": 1.0},
}


def load_weights(
    model: ResNet, source: str | Path, *, name: str, fresh_head: bool, adapt_channels: bool
) -> None:
    """Load the weights of a source, as `create_model` names it, into a network of the table.

    With `fresh_head`, the classifier keeps its initial values where the file has none, or one for
    another number of classes. With `adapt_channels`, the first convolution is adapted to another
    number of channels. Where anything does not fit, UserError leaves the model unchanged.
    """
    if not isinstance(source, str | Path):
        kind = type(source).__name__
        raise UserError(f"weights must be a text such as 'torchvision:IMAGENET1K_V1', not a {kind}")
    shown, factory = public_name(str(source)), name.removesuffix("_v1")
    if shown.startswith("torchvision:") and factory in TORCHVISION_NETWORKS:
        _compare(model.config, TORCHVISION, whose=f"torchvision's {factory}")
    own = model.state_dict()
    most = max(MAX_TENSORS, len(own))

    def read(file: Path) -> tuple[Tensors, ResNetConfig | None]:
        return read_tensors(file, source=shown, most=most)

    tensors, config = read(local_file(str(source), name=name, check=read))
    if config is not None:
        known = {field: getattr(config, field) for field in FIELDS if field not in FREE}
        _compare(model.config, known, whose=f"the network in {shown}")
    if "layer0.conv1.weight" in tensors:
        stem = "deep_caffe" if "layer0.conv2.weight" in tensors else "caffe"
        _compare(model.config, {"stem": stem}, whose=f"the network in {shown}")
    try:
        tensors = _rename(tensors, own)
        _check_types(tensors, own)
        if adapt_channels:
            _adapt_stem(tensors, own)
        if fresh_head:
            weight, given = own[HEAD[0]], tensors.get(HEAD[0])
            if given is None or (given.shape != weight.shape and _same_but(0, given, weight)):
                tensors |= {key: own[key] for key in HEAD}
        _check_fit(tensors, own)
        tensors = _converted(tensors, own)
    except UserError as error:
        raise UserError(f"{shown} does not fit {name}: {error}") from None
    model.load_state_dict(tensors)


def local_weights(source: str) -> Path:
    """Return the file of a path, a URL or the hub, downloaded if need be and read as weights."""
    shown = public_name(source)

    def check(part: Path) -> None:
        read_tensors(part, source=shown)

    file = local_file(source, name="", check=check)
    check(file)
    return file


# Reading -----------------------------------------------------------------------------------------


def read_tensors(
    file: Path, *, source: str, most: int = MAX_TENSORS
) -> tuple[Tensors, ResNetConfig | None]:
    """Return the tensors of a file, and the ResNetConfig if it is a model file of ours.

    The format is detected from the first bytes; `source` names the file in messages. A file of more
    than `most` tensors is refused.
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
        ours = content.config is not None
        tensors = content.tensors if ours else _unwrap(content.tensors, source, most)
        return tensors, content.config
    if start.startswith((b"PK\x03\x04", b"\x80")):  # a zip, or a bare pickle before torch 1.6
        return _read_torch(file, source, most), None
    text = start.decode("ascii", errors="replace").split("\n")[0].strip()
    what = f"starts with {text[:40]!r}" if start else "is empty"
    what = "is a web page" if text.startswith("<") else what
    raise UserError(f"{source} is neither a safetensors nor a torch file: it {what}")


def _read_torch(file: Path, source: str, most: int) -> Tensors:
    with open_torch_file(file, source=source) as saved:
        tensors = {}
        for key, value in _unwrap(saved.content, source, most).items():
            if isinstance(value, UnusableTensor):
                raise UserError(f"{source}: {key} is a {value.kind} tensor; save plain tensors")
            tensors[key] = saved.tensor(value)
        return tensors


def _unwrap(content: object, source: str, most: int) -> dict[str, Any]:
    """Return the state dict inside the wrappers and prefixes of training programs."""
    for _ in range(MAX_WRAPPED):
        if not isinstance(content, dict):
            break
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), dict)]
        if not inner:
            break
        content = inner[0]
    table = dict(content) if isinstance(content, dict) else {}
    table.pop("n_averaged", None)
    if not table:
        raise UserError(f"{source} contains no state_dict (names and tensors)")
    if len(table) > most:
        raise UserError(f"{source} has {len(table):,} tensors, more than any network")
    kinds = (Tensor, StoredTensor, UnusableTensor)
    others = [key for key, value in table.items() if not isinstance(value, kinds)]
    if others or not all(isinstance(key, str) for key in table):
        others = others or [key for key in table if not isinstance(key, str)]
        raise UserError(
            f"{source} is not a state_dict and has none under {', '.join(WRAPPERS)}: "
            f"these are not tensors: {_few([str(key) for key in others])}"
        )
    if longest := next((key for key in table if len(key) > MAX_NAME), ""):
        raise UserError(f"{source} has a tensor whose name has {len(longest):,} characters")
    for _ in range(MAX_WRAPPED):
        prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in table)), "")
        if not prefix:
            break
        table = {key.removeprefix(prefix): value for key, value in table.items()}
    return table


# Fitting -----------------------------------------------------------------------------------------


def _rename(tensors: Tensors, own: Tensors) -> Tensors:
    """Return the tensors under our names; a name that the network has is never changed."""
    renamed: Tensors = {}
    origins: dict[str, str] = {}
    for name, tensor in tensors.items():
        key = name
        if key not in own:
            for pattern, ours in RENAMES:
                key = re.sub(pattern, ours, key)
            # In timm's resnetv2 it is `conv` with and without an average before it (option D).
            places = [key.replace(".downsample.conv.", f".downsample.{i}.") for i in (0, 1)]
            # The last convolution of a stem, and often its only one, is followed by bn1.
            places.append(re.sub(r"^conv1\.0\.", "conv1.", key))
            places.append(re.sub(r"^conv1\.[17]\.", "bn1.", key))
            key = next((place for place in places if place in own), key)
        if key == "fc.weight" and tensor.shape[2:] == (1, 1):
            tensor = tensor.flatten(1)  # a head that is a 1x1 convolution
        if key in renamed:
            raise UserError(f"it has {key} twice, as {_few([origins[key], name])}")
        renamed[key], origins[key] = tensor, name
    return renamed


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


def _compare(config: ResNetConfig, known: dict[str, object], *, whose: str) -> None:
    """Refuse weights of a network that is known to differ, even if all shapes fit."""
    for field, value in known.items():
        mine = getattr(config, field)
        if mine != value:
            version = {"3x3": " (v1.5)", "1x1": " (v1)"}
            theirs, ours = (f"{field} = {v!r}{version.get(str(v), '')}" for v in (value, mine))
            raise UserError(
                f"{whose} has {theirs}, this network has {ours}: the weights would compute "
                f"something else; choose a network with {field} = {value!r}"
            )


def _check_fit(tensors: Tensors, own: Tensors) -> None:
    """Raise UserError where names or shapes do not fit, with what to pass instead."""
    # Files from before torch 0.4.1 do not count batches; PyTorch starts the count at zero.
    absent = [k for k in own if k not in tensors and not k.endswith(".num_batches_tracked")]
    foreign = [key for key in tensors if key not in own]
    if absent or foreign:
        problems = [f"it lacks {_few(absent)}"] if absent else []
        problems += [f"the network has no {_few(foreign)}"] if foreign else []
        raise UserError("; ".join(problems))
    wrong = [key for key in tensors if tensors[key].shape != own[key].shape]
    if not wrong:
        return
    shapes = [
        f"{k} is {_size(tensors[k])} in the file, {_size(own[k])} in the network" for k in wrong
    ]
    problem = _few(shapes, separator="; ")
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


def _few(texts: list[str], separator: str = ", ") -> str:
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return separator.join(one_line(text, length=MAX_NAME) for text in texts[:3]) + more


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
