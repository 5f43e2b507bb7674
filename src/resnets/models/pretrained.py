"""Provide `load_weights`, which fills a network with weights of ours, torchvision, timm or others.

Wrappers and prefixes of training programs are removed, foreign names are renamed to torchvision's,
and every tensor must fit before any is loaded.

Files cannot tell v1 from v1.5 bottlenecks (`stride_on` "1x1" and "3x3"): names and shapes are the
same. Our model files carry their ResNetConfig and torchvision's weights are v1.5, so both are
compared with the network. Of other files only the author knows: weights of Caffe, Keras and MSRA
are v1, those of timm and fb.resnet.torch v1.5. The same holds for option-A against plain networks
and for blurred against unblurred ones.
"""

import json
import re
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from resnets.errors import UserError
from resnets.models.config import FIELDS, ResNetConfig
from resnets.models.download import TORCHVISION_NETWORKS, local_file
from resnets.models.resnet import ResNet

Tensors = dict[str, Tensor]

# Keys of a training program's checkpoint; plain weights before averaged ones.
WRAPPERS = ("state_dict", "model", "net", "state_dict_ema", "model_ema")
PREFIXES = ("module.", "_orig_mod.", "model.")  # data parallel, torch.compile, Lightning
RENAMES = (
    (r"^linear\.", "fc."),  # kuangliu/pytorch-cifar, akamaster/pytorch_resnet_cifar10
    (r"\.shortcut\.", ".downsample."),
    (r"^stages\.(\d+)\.blocks\.", lambda found: f"layer{int(found[1]) + 1}."),  # timm's resnetv2
    (r"^(layer\d+\.\d+)\.norm", r"\1.bn"),
    (r"^stem\.conv\.", "conv1."),
    (r"^stem\.conv(\d)\.", lambda found: f"conv1.{3 * int(found[1]) - 3}."),
    (r"^stem\.norm(\d)\.", lambda found: f"conv1.{3 * int(found[1]) - 2}."),
    (r"^head\.fc\.", "fc."),
)
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
        raise UserError(f"weights = {source!r}: must be a text such as 'torchvision:IMAGENET1K_V1'")
    source = str(source)
    factory = name.removesuffix("_v1")
    if source.startswith("torchvision:") and factory in TORCHVISION_NETWORKS:
        _compare(model.config, TORCHVISION, whose=f"torchvision's {factory}")
    file = local_file(source, name=name, check=lambda part: read_tensors(part, source=source))
    tensors, config = read_tensors(file, source=source)
    if config is not None:
        known = {field: getattr(config, field) for field in FIELDS if field not in FREE}
        _compare(model.config, known, whose=f"the network in {source}")
    own = model.state_dict()
    tensors = _rename(tensors, own)
    if adapt_channels:
        _adapt_stem(tensors, own)
    if fresh_head:
        weight, given = own[HEAD[0]], tensors.get(HEAD[0])
        if given is None or (given.shape != weight.shape and _same_but(0, given, weight)):
            tensors |= {key: own[key] for key in HEAD}
    if problem := _misfit(tensors, own):
        raise UserError(f"{source} does not fit {name}: {problem}")
    model.load_state_dict(tensors)


# Reading -----------------------------------------------------------------------------------------


def read_tensors(file: Path, *, source: str) -> tuple[Tensors, ResNetConfig | None]:
    """Return the tensors of a file, and the ResNetConfig if it is a model file of ours.

    The format is detected from the first bytes; `source` names the file in messages.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(64)
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror}") from None
    if start[8:9] == b"{":  # after the eight bytes of its length, a JSON header
        return _read_safetensors(file, source=source)
    if start.startswith((b"PK\x03\x04", b"\x80")):  # a zip, or a bare pickle before torch 1.6
        return _unwrap(_read_torch(file, source=source), source=source), None
    text = start.decode("ascii", errors="replace").split("\n")[0].strip()
    what = f"starts with {text[:40]!r}" if start else "is empty"
    what = "is a web page" if text.startswith("<") else what
    raise UserError(f"{source} is neither a safetensors nor a torch file: it {what}")


def _read_safetensors(file: Path, *, source: str) -> tuple[Tensors, ResNetConfig | None]:
    try:
        with safe_open(str(file), framework="pt") as content:
            record = (content.metadata() or {}).get("resnets")
            tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
        config = ResNetConfig(**json.loads(record)["config"]) if record is not None else None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{source} is a damaged safetensors file: {error}") from None
    except (UserError, TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"the description of the network in {source} is unreadable: {error}"
        ) from None
    return (tensors if config is not None else _unwrap(tensors, source=source)), config


def _read_torch(file: Path, *, source: str) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        needed = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = (
            f"needs {needed[1]} to be unpickled" if needed else "is damaged, or unsafe to unpickle"
        )
        raise UserError(
            f"{source} contains more than tensors: it {what}, which could run foreign code; if you "
            "trust it, save only its state_dict and load that"
        ) from None
    # A damaged file can make the unpickler raise anything.
    except Exception as error:
        reason = (str(error) or type(error).__name__).split("\n")[0]
        raise UserError(f"{source} is damaged or not written by torch.save: {reason}") from None


def _unwrap(content: object, *, source: str) -> Tensors:
    """Return the state dict inside the wrappers and prefixes of training programs."""
    while isinstance(content, dict):
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), dict)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, dict) or not content:
        raise UserError(f"{source} contains no state_dict (names and tensors)")
    table = {str(key): value for key, value in content.items() if key != "n_averaged"}
    others = [key for key, value in table.items() if not isinstance(value, Tensor)]
    if others:
        raise UserError(
            f"{source} is not a state_dict and has none under {', '.join(WRAPPERS)}: "
            f"these are not tensors: {_few(others)}"
        )
    while prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in table)), None):
        table = {key.removeprefix(prefix): value for key, value in table.items()}
    return table


# Fitting -----------------------------------------------------------------------------------------


def _rename(tensors: Tensors, own: Tensors) -> Tensors:
    """Return the tensors under our names; a name that the network has is never changed."""
    renamed = {}
    for key, tensor in tensors.items():
        if key not in own:
            for pattern, ours in RENAMES:
                key = re.sub(pattern, ours, key)
            # In timm's resnetv2 it is `conv` with and without an average before it (option D).
            places = (key.replace(".downsample.conv.", f".downsample.{i}.") for i in (0, 1))
            key = next((place for place in places if place in own), key)
        if key == "fc.weight" and tensor.shape[2:] == (1, 1):
            tensor = tensor.flatten(1)  # a head that is a 1x1 convolution
        renamed[key] = tensor
    return renamed


def _adapt_stem(tensors: Tensors, own: Tensors) -> None:
    """Adapt the first convolution to another number of channels; grey images keep their output.

    To one by the sum, to more by repeating and rescaling them (Wightman's rule in timm).
    """
    key = next(key for key in STEM if key in own)
    if key not in tensors or not _same_but(1, tensors[key], own[key]):
        return
    weight = tensors[key]  # out in kernel kernel
    before, channels = weight.shape[1], own[key].shape[1]
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


def _misfit(tensors: Tensors, own: Tensors) -> str:
    """Return why tensors do not fit the network and what to pass instead, or nothing."""
    # Files from before torch 0.4.1 do not count batches; PyTorch starts the count at zero.
    absent = [k for k in own if k not in tensors and not k.endswith(".num_batches_tracked")]
    foreign = [key for key in tensors if key not in own]
    if absent or foreign:
        problems = [f"it lacks {_few(absent)}"] if absent else []
        problems += [f"the network has no {_few(foreign)}"] if foreign else []
        return "; ".join(problems)
    wrong = [key for key in tensors if tensors[key].shape != own[key].shape]
    if not wrong:
        return ""
    shapes = [
        f"{k} is {_size(tensors[k])} in the file, {_size(own[k])} in the network" for k in wrong
    ]
    problem = _few(shapes, separator="; ")
    if not set(wrong) <= {*HEAD, *STEM}:
        return f"{problem}; choose the network that the weights were trained with"
    for key in wrong:
        theirs, ours = tensors[key].shape, own[key].shape
        if key == HEAD[0] and _same_but(0, tensors[key], own[key]):
            problem += (
                f"; pass num_classes={theirs[0]} for the classifier of the file, or "
                f"num_classes={ours[0]} for a new one"
            )
        elif key in STEM and _same_but(1, tensors[key], own[key]):
            problem += (
                f"; pass in_channels={theirs[1]} for the weights as they are, or "
                f"in_channels={ours[1]} to adapt them"
            )
    return problem


def _same_but(axis: int, one: Tensor, other: Tensor) -> bool:
    """Return whether all sizes but that of `axis` agree."""
    pairs = enumerate(zip(one.shape, other.shape, strict=False))
    return one.ndim == other.ndim and all(a == b for i, (a, b) in pairs if i != axis)


def _few(texts: list[str], separator: str = ", ") -> str:
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return separator.join(texts[:3]) + more


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
