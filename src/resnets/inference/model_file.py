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

import safetensors
import safetensors.torch
import torch

from resnets.arguments import checked
from resnets.data.transforms import Preprocess
from resnets.errors import UserError
from resnets.fileio import sha256, write_atomic
from resnets.models.config import ResNetConfig
from resnets.models.resnet import ResNet

FORMAT = 1
KEY = "resnets"
FIELDS = ("classes", "config", "data", "digest", "format", "preprocess", "recipe", "scores")
# The name of the model file in a run folder.
FILE_NAME = "model.safetensors"
# A safetensors file is: length of the header, header (JSON), bytes of the tensors.
LENGTH_BYTES = 8
NO_DIGEST = "0" * 64
DAMAGED = "copy or download it again"
TAKE_WEIGHTS = "to take weights from it, use create_model(name, weights=path)"


class ModelFileError(UserError):
    """A file that is no valid model file, or contents that cannot become one."""


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
        self._check_weights()

    def _check_weights(self) -> None:
        with torch.device("meta"):  # names and shapes only: no computation, no random numbers
            network = ResNet(self.config).state_dict()
        needed, found = (
            {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            for tensors in (network, self.weights)
        )
        if wrong := sorted({name for name, _ in needed.items() ^ found.items()}):
            theirs, ours = (shapes.get(wrong[0], "none (absent)") for shapes in (found, needed))
            first = f"{wrong[0]}: shape {theirs} where the network has {ours}"
            raise ModelFileError(f"{len(wrong)} tensors do not fit the network, first {first}")

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
        raise ModelFileError(f"there is no model file {path}")
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read model file {path}: {error.strerror}") from None
    with _named(f"model file {path}"):
        return _parse(blob)


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
    return digest, _replace_digest(blob, NO_DIGEST, digest)


def _replace_digest(blob: bytes, old: str, new: str) -> bytes:
    # Backslashes, because the record is a JSON text inside the header's JSON.
    field = rf"\"digest\":\"{old}\"".encode(errors="replace")
    if blob.count(field) != 1:
        raise ModelFileError(f"must hold its digest exactly once: {DAMAGED}")
    return blob.replace(field, rf"\"digest\":\"{new}\"".encode())


def _parse(blob: bytes) -> ModelFile:
    end, header = _parse_header(blob)
    record = _parse_record(header.pop("__metadata__", None))
    try:
        size = end + max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        raise ModelFileError(f"is damaged: its table of tensors is; {DAMAGED}") from None
    if len(blob) < size:
        raise ModelFileError(f"is truncated: {len(blob)} of {size} bytes are there; {DAMAGED}")
    if len(blob) > size:
        raise ModelFileError(f"has {len(blob) - size} bytes after its end: {DAMAGED}")
    if record["digest"] != sha256(_replace_digest(blob, str(record["digest"]), NO_DIGEST)):
        raise ModelFileError(f"is damaged: its contents do not match its digest; {DAMAGED}")
    try:
        return ModelFile(
            config=ResNetConfig(**record["config"]),
            preprocess=Preprocess(**record["preprocess"]),
            classes=tuple(record["classes"]),
            scores=record["scores"],
            recipe=record["recipe"],
            data=record["data"],
            weights=safetensors.torch.load(blob),
        )
    except (TypeError, UserError, safetensors.SafetensorError) as error:
        raise ModelFileError(f"holds what this version cannot take: {error}") from None


def _parse_header(blob: bytes) -> tuple[int, dict[str, Any]]:
    """Return where the tensors start, and the header."""
    if not blob:
        raise ModelFileError(f"is empty: {DAMAGED}")
    if blob[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        if blob.startswith((b"PK\x03\x04", b"\x80")):
            raise ModelFileError(f"is a torch file, not a model file: {TAKE_WEIGHTS}")
        raise ModelFileError(f"is not a safetensors file, or its start is damaged; {DAMAGED}")
    end = LENGTH_BYTES + int.from_bytes(blob[:LENGTH_BYTES], "little")
    if end > len(blob):
        found = f"{len(blob)} bytes where the header alone ends at {end}"
        raise ModelFileError(f"is truncated or damaged: {found}; {DAMAGED}")
    header = _parse_json(blob[LENGTH_BYTES:end])
    if not isinstance(header, dict):
        raise ModelFileError(f"is damaged: its header is not a JSON table; {DAMAGED}")
    return end, header


def _parse_record(metadata: Any) -> dict[str, Any]:
    if not isinstance(metadata, dict) or KEY not in metadata:
        kind = "it is a plain safetensors file (or damaged)"
        raise ModelFileError(f"has no {KEY!r} entry: {kind}; {TAKE_WEIGHTS}")
    record = _parse_json(metadata[KEY])
    if not isinstance(record, dict) or len(metadata) != 1:
        raise ModelFileError(f"is damaged: its {KEY!r} entry is not one JSON record; {DAMAGED}")
    version = record.get("format")
    if isinstance(version, int) and version > FORMAT:
        readable = f"this version reads up to {FORMAT}"
        raise ModelFileError(f"has format {version}, {readable}: upgrade resnets")
    missing = [name for name in FIELDS if name not in record]
    if missing or version != FORMAT:
        what = f"lacks {', '.join(missing)}" if missing else f"has the unknown format {version!r}"
        raise ModelFileError(f"{what}: it is damaged or was not written by resnets")
    return record


def _parse_json(text: Any) -> Any:
    """Return the value of a JSON text, or None."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
