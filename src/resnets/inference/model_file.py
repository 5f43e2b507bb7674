"""The model file: a trained network and all that is needed to use it, in one `.safetensors` file.

It holds weights, ResNetConfig, Preprocess, class names, scores, recipe and the fingerprint of the
data, and is verified when it is read. Any safetensors reader opens it: the tensors carry the names
of the network's state_dict, and one metadata key, `resnets`, holds the rest as canonical JSON
(sorted keys, no spaces, ASCII), so the same contents give the same bytes.

The digest is the SHA-256 of the whole file as it stands while the digest's own 64 characters are
zeros. It covers every byte: lengths, names, types, shapes, padding, JSON and weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from resnets.data.transforms import Preprocess
from resnets.errors import UserError
from resnets.models.config import ResNetConfig
from resnets.models.resnet import ResNet

FORMAT = 1
KEY = "resnets"
FIELDS = ("classes", "config", "data", "digest", "format", "preprocess", "recipe", "scores")
FILE_NAME = "model.safetensors"  # what a run folder calls its model file
LENGTH_BYTES = 8  # a safetensors file is: length of the header, header (JSON), tensor bytes
NO_DIGEST = "0" * 64
DAMAGED = "copy or download it again"


class ModelFileError(UserError):
    """A file that cannot be taken for a model file, or contents that cannot become one."""


@dataclass(frozen=True, eq=False)
class ModelFile:
    """The contents of a model file; what fits together in memory can be saved and read back."""

    config: ResNetConfig
    preprocess: Preprocess
    classes: tuple[str, ...]
    scores: dict[str, Any] | None  # of the network on held-out images, as Scores.to_dict gives them
    recipe: dict[str, Any]  # every resolved value of the training run
    data: dict[str, Any]  # name, fingerprint and sizes of the training data
    weights: dict[str, torch.Tensor]  # the state_dict; types are kept as they are

    def __post_init__(self) -> None:
        names = self.classes
        if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise ModelFileError(f"class names must be different strings, not {list(names)}")
        if len(names) != self.config.num_classes:
            raise ModelFileError(
                f"{len(names)} class names do not fit a network of "
                f"{self.config.num_classes} classes"
            )
        if self.preprocess.channels != self.config.in_channels:
            raise ModelFileError(
                f"a preprocessing to {self.preprocess.channels} channels does not fit a network "
                f"that takes {self.config.in_channels}"
            )
        for name in ("scores", "recipe", "data"):
            value = getattr(self, name)
            if not isinstance(value, dict) and not (name == "scores" and value is None):
                raise ModelFileError(f"{name} must be a dictionary, not {type(value).__name__}")
        self._check_weights()

    def _check_weights(self) -> None:
        with torch.device("meta"):  # names and shapes only: nothing is computed, nothing drawn
            expected = {name: t.shape for name, t in ResNet(self.config).state_dict().items()}
        given = {name: tensor.shape for name, tensor in self.weights.items()}
        wrong = sorted(
            name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name)
        )
        if wrong:
            first = wrong[0]
            raise ModelFileError(
                f"{len(wrong)} tensors do not fit the network of the ResNetConfig, first "
                f"{first}: shape {_shape(given.get(first))} where the network "
                f"has {_shape(expected.get(first))}"
            )

    def build(self) -> ResNet:
        """The network with these weights, in evaluation mode, float32, on the CPU."""
        with torch.random.fork_rng(devices=[]):  # the initial values, soon overwritten, are drawn
            network = ResNet(self.config)
        network.load_state_dict(self.weights)
        return network.eval()


def _shape(size: torch.Size | None) -> str:
    return "none (absent)" if size is None else str(tuple(size))


def save_model(path: Path | str, contents: ModelFile) -> str:
    """Write `contents` to `path` in one step and give the digest back.

    A reader sees the old file or the new one, never a part. Raises ModelFileError if the contents
    cannot be written as JSON and tensors, OSError if the disk refuses.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ModelFileError(f"the folder {path.parent} for the model file does not exist")
    with _named(f"cannot write model file {path}:"):
        digest, blob = _serialise(contents)
    _write_atomically(path, blob)
    return digest


def read_model(path: Path | str) -> ModelFile:
    """Read and verify a model file, or the one in a run folder.

    Raises ModelFileError with one line for whatever is wrong with it: absent, another kind of file,
    truncated, damaged anywhere, incomplete, or written by a newer version.
    """
    path = _locate(Path(path))
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read model file {path}: {error.strerror}") from None
    with _named(f"model file {path}"):
        return _parse(blob)


@contextmanager
def _named(opening: str) -> Iterator[None]:
    """Put the file's name before whatever the user did wrong, and let faults of ours through."""
    try:
        yield
    except UserError as error:
        raise ModelFileError(f"{opening} {error}") from None


def _locate(path: Path) -> Path:
    if path.is_dir():
        if (path / FILE_NAME).is_file():
            return path / FILE_NAME
        raise ModelFileError(
            f"{path} is a folder without {FILE_NAME}: give a model file or a finished run folder"
        )
    if not path.exists():
        raise ModelFileError(f"there is no model file {path}")
    return path


def _serialise(contents: ModelFile) -> tuple[str, bytes]:
    record = {
        "classes": contents.classes,
        "data": contents.data,
        "digest": NO_DIGEST,
        "format": FORMAT,
        "preprocess": asdict(contents.preprocess),
        "recipe": contents.recipe,
        "scores": contents.scores,
        "config": asdict(contents.config),
    }
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
    digest = hashlib.sha256(blob).hexdigest()
    return digest, _exchange(blob, NO_DIGEST, digest)


def _exchange(blob: bytes, old: str, new: str) -> bytes:
    """The same bytes with another digest in its place."""
    # Backslashes, because the record is a JSON text inside the header's JSON.
    place = rf"\"digest\":\"{old}\"".encode(errors="replace")
    if blob.count(place) != 1:
        raise ModelFileError(f"must hold its digest exactly once: {DAMAGED}")
    return blob.replace(place, rf"\"digest\":\"{new}\"".encode())


def _write_atomically(path: Path, blob: bytes) -> None:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # the name, too, must survive a power cut; not on Windows
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _parse(blob: bytes) -> ModelFile:
    header = _parse_header(blob)
    record = _parse_record(header)
    _check_size(blob, header)
    digest = record["digest"]
    if digest != hashlib.sha256(_exchange(blob, str(digest), NO_DIGEST)).hexdigest():
        raise ModelFileError(f"is damaged: its contents do not match its digest; {DAMAGED}")
    try:
        weights = safetensors.torch.load(blob)
        return ModelFile(
            config=ResNetConfig(**record["config"]),
            preprocess=Preprocess(**record["preprocess"]),
            classes=tuple(record["classes"]),
            scores=record["scores"],
            recipe=record["recipe"],
            data=record["data"],
            weights=weights,
        )
    except (TypeError, UserError, safetensors.SafetensorError) as error:
        raise ModelFileError(f"holds what this version cannot take: {error}") from None


def _parse_header(blob: bytes) -> dict[str, Any]:
    if not blob:
        raise ModelFileError(f"is empty: {DAMAGED}")
    start, end = LENGTH_BYTES, LENGTH_BYTES + int.from_bytes(blob[:LENGTH_BYTES], "little")
    if blob[start : start + 1] != b"{":
        if blob.startswith((b"PK\x03\x04", b"\x80")):
            raise ModelFileError(
                "is a torch file, not a model file: to take weights from it, use "
                "create_model(name, weights=path)"
            )
        raise ModelFileError(f"is not a safetensors file, or its beginning is damaged; {DAMAGED}")
    if end > len(blob):
        raise ModelFileError(
            f"is truncated or damaged: {len(blob)} bytes where the header alone ends at {end}; "
            f"{DAMAGED}"
        )
    try:
        header = json.loads(blob[start:end].decode())
    except (ValueError, RecursionError):
        raise ModelFileError(f"is damaged: its header is not JSON; {DAMAGED}") from None
    if not isinstance(header, dict):
        raise ModelFileError(f"is damaged: its header is not a table; {DAMAGED}")
    return header


def _parse_record(header: dict[str, Any]) -> dict[str, Any]:
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or KEY not in metadata:
        raise ModelFileError(
            f"has no {KEY!r} entry: it is a plain safetensors file (or damaged); to take weights "
            "from it, use create_model(name, weights=path)"
        )
    try:
        record = json.loads(metadata[KEY])
    except (ValueError, TypeError, RecursionError):
        record = None
    if not isinstance(record, dict) or len(metadata) != 1:
        raise ModelFileError(f"is damaged: its {KEY!r} entry is not one JSON record; {DAMAGED}")
    version = record.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise ModelFileError(
            f"has format {version}, this version reads up to {FORMAT}: upgrade resnets"
        )
    missing = [name for name in FIELDS if name not in record]
    if missing or version != FORMAT:
        what = f"lacks {', '.join(missing)}" if missing else f"has the unknown format {version!r}"
        raise ModelFileError(f"{what}: it is damaged or was not written by resnets")
    return record


def _check_size(blob: bytes, header: dict[str, Any]) -> None:
    start = LENGTH_BYTES + int.from_bytes(blob[:LENGTH_BYTES], "little")
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    try:
        size = start + max((int(entry["data_offsets"][1]) for entry in tensors), default=0)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        raise ModelFileError(f"is damaged: its table of tensors is; {DAMAGED}") from None
    if len(blob) < size:
        raise ModelFileError(f"is truncated: {len(blob)} of {size} bytes are there; {DAMAGED}")
    if len(blob) > size:
        raise ModelFileError(f"has {len(blob) - size} bytes after its end: {DAMAGED}")
