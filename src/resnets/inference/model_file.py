"""Save and read model files: a trained network and all that its use needs, in one file.

A model file is a `.safetensors` file that any safetensors reader opens. Its tensors have the names
of the network's state_dict. One metadata key, `resnets`, holds everything else as canonical JSON
(sorted keys, no spaces, ASCII), so the same contents give the same bytes. The digest is the SHA-256
of the whole file with 64 zeros in the place of the digest, so it covers every byte.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch

from resnets.arguments import checked
from resnets.data.transforms import Preprocess
from resnets.errors import UserError, public_name
from resnets.fileio import open_file, sha256, write_atomic
from resnets.models.config import ResNetConfig
from resnets.models.resnet import ResNet, meta_state
from resnets.models.weights_file import (
    FORMAT,
    KEY,
    LENGTH_BYTES,
    NO_DIGEST,
    read_weights_file,
    replace_digest,
)
from resnets.parsing import convert

# The name of the model file in a run folder.
FILE_NAME = "model.safetensors"
# Types that stand for the real numbers of a network.
REAL = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
TAKE_WEIGHTS = "to take weights from it, use create_model(name, weights=path)"


class ModelFileError(UserError):
    """A file that is no valid model file, or contents that cannot become one."""


class KnownScores(msgspec.Struct, frozen=True):
    """What in the scores of a model file is read again."""

    cautions: list[str] = []


class KnownRecipe(msgspec.Struct, frozen=True):
    """What in the recipe of a model file is read again."""

    model: str | None = None  # None: a network without a name, as a study trains


class KnownData(msgspec.Struct, frozen=True):
    """What in the data of a model file is read again."""

    name: str = "unknown"


@dataclass(frozen=True, eq=False)
class ModelFile:
    """The contents of a model file, checked to fit together.

    Args:
        config: Configuration of the network.
        preprocess: From decoded images to the tensors that the network takes.
        classes: Class names, in the order of the network's outputs.
        scores: Scores on held-out images as `Scores.to_dict` returns them, or None.
        recipe: Every resolved value of the training run.
        data: Name, fingerprint and sizes of the training data.
        weights: The state_dict of the network; types are kept.

    Raises:
        ModelFileError: Two of them contradict each other.
    """

    config: ResNetConfig
    preprocess: Preprocess
    classes: tuple[str, ...]
    scores: dict[str, Any] | None
    recipe: dict[str, Any]
    data: dict[str, Any]
    weights: dict[str, torch.Tensor]

    def __post_init__(self) -> None:
        names = self.classes
        if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise ModelFileError(f"class names must be different strings, not {list(names)}")
        if len(names) != self.config.num_classes:
            network = f"a network of {self.config.num_classes} classes"
            raise ModelFileError(f"{len(names)} class names do not fit {network}")
        if self.preprocess.channels != self.config.in_channels:
            network = f"a network that takes {self.config.in_channels}"
            given = f"a preprocessing to {self.preprocess.channels} channels"
            raise ModelFileError(f"{given} does not fit {network}")
        for name in ("scores", "recipe", "data"):
            value = getattr(self, name)
            if not isinstance(value, dict) and not (name == "scores" and value is None):
                raise ModelFileError(f"{name} must be a dictionary, not {type(value).__name__}")
        self.config.check_input_size(self.preprocess.size)
        self._check_weights()

    def _check_weights(self) -> None:
        needed = meta_state(self.config)

        def kind(tensors: dict[str, torch.Tensor], name: str) -> str:
            tensor = tensors.get(name)
            if tensor is None:
                return "shape none (absent)"
            number = "real" if tensor.dtype in REAL else str(tensor.dtype).removeprefix("torch.")
            return f"shape {tuple(tensor.shape)} of {number} numbers"

        pairs = {
            name: (kind(self.weights, name), kind(needed, name))
            for name in needed.keys() | self.weights.keys()
        }
        if wrong := sorted(name for name, (theirs, ours) in pairs.items() if theirs != ours):
            theirs, ours = pairs[wrong[0]]
            first = f"{wrong[0]}: {theirs} where the network has {ours}"
            message = f"{len(wrong)} tensors do not fit the network, first {first}"
            if all(name.startswith("fc.") for name in wrong):
                message += "; replace a classifier by model.reset_classifier(number of classes)"
            raise ModelFileError(message)

    def count_parameters(self) -> int:
        """Return the number of learned values, without building the network."""
        return sum(
            tensor.numel()
            for tensor in meta_state(self.config).values()
            if isinstance(tensor, torch.nn.Parameter)
        )

    def build(self) -> ResNet:
        """Return the network with these weights, in evaluation mode, float32, on the CPU."""
        with torch.random.fork_rng(devices=[]):  # for the initial values, which are overwritten
            network = ResNet(self.config)
        network.load_state_dict(self.weights)
        return network.eval()


@checked()
def save_model(path: Path | str, contents: ModelFile) -> str:
    """Write a model file, whole or not at all, and return its digest, 64 hexadecimal digits.

    Raises:
        ModelFileError: The folder does not exist, or JSON and tensors cannot hold the contents.
        OSError: The disk refuses to store the file.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ModelFileError(f"the folder {path.parent} for the model file does not exist")
    with _named(f"cannot write model file {path}:"):
        digest, blob = _serialise(contents)
    write_atomic(path, blob)
    return digest


@checked()
def read_model(path: Path | str) -> ModelFile:
    """Read a model file, or that of a run folder, and verify every byte of it.

    Raises:
        ModelFileError: The file is absent, of another kind, truncated, damaged anywhere,
            incomplete, or written by a newer version. The message says which, in one line.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / FILE_NAME).is_file():
            advice = "give a model file or a finished run folder"
            raise ModelFileError(f"{path} is a folder without {FILE_NAME}: {advice}")
        path = path / FILE_NAME
    if not path.exists():
        raise ModelFileError(f"there is no model file {public_name(str(path))}")
    with _named(f"model file {path}"):
        return _read(path)


def _read(path: Path) -> ModelFile:
    try:
        with open_file(path) as file:
            start = file.read(LENGTH_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}") from None
    # A safetensors file may start with any byte, since it starts with a length.
    if start[LENGTH_BYTES:] != b"{" and start.startswith((b"PK\x03\x04", b"\x80")):
        raise UserError(f"is a torch file, not a model file: {TAKE_WEIGHTS}")
    file_contents = read_weights_file(path)
    record, config = file_contents.record, file_contents.config
    if record is None or config is None:
        kind = "it is a plain safetensors file (or damaged)"
        raise UserError(f"has no {KEY!r} entry: {kind}; {TAKE_WEIGHTS}")
    try:
        convert(record.scores or {}, KnownScores, name="its scores")
        convert(record.recipe, KnownRecipe, name="its recipe")
        convert(record.data, KnownData, name="its data")
        contents = ModelFile(
            config=config,
            preprocess=convert(record.preprocess, Preprocess, name="its preprocessing"),
            classes=tuple(record.classes),
            scores=record.scores,
            recipe=record.recipe,
            data=record.data,
            weights=file_contents.tensors,
        )
    except UserError as error:
        raise UserError(f"holds what this version cannot take: {error}") from None
    for name, tensor in contents.weights.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"holds values of {name} that are not finite: train it again")
    return contents


@contextmanager
def _named(opening: str) -> Iterator[None]:
    """Put the file's name before the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise ModelFileError(f"{opening} {error}") from None


def _serialise(contents: ModelFile) -> tuple[str, bytes]:
    record = {name: getattr(contents, name) for name in ("classes", "data", "recipe", "scores")}
    record |= {"config": asdict(contents.config), "preprocess": asdict(contents.preprocess)}
    record |= {"digest": NO_DIGEST, "format": FORMAT}
    # Clones, since tensors that share memory or lie channels-last cannot be written as they are.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in contents.weights.items()
    }
    try:
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
        blob = safetensors.torch.save(tensors, {KEY: text})
    except (TypeError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise ModelFileError(f"its contents do not fit the format: {error}") from None
    digest = sha256(blob)
    return digest, replace_digest(blob, NO_DIGEST, digest)
