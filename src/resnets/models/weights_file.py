"""Read safetensors files within limits, and verify every byte of the model files of this package.

A safetensors file is the length of its header, the header (JSON: name, type, shape and place of
each tensor), and the bytes of the tensors. The header is checked against the size of the file
before a tensor is read. Our model files have one metadata key, `resnets`: canonical JSON, which
holds the SHA-256 of the whole file with 64 zeros in the place of the digest.
"""

import hashlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import safetensors
import safetensors.torch
from torch import Tensor

from resnets.errors import UserError
from resnets.fileio import open_file
from resnets.models.config import ResNetConfig
from resnets.parsing import convert, parse_json

KEY = "resnets"
FORMAT = 1
NO_DIGEST = "0" * 64
# What a user can do with a damaged file.
DAMAGED = "copy or download it again"
LENGTH_BYTES = 8
# The header of a network of 1,202 layers has 0.8 MB, the confusion matrix of 1,000 classes 2 MB.
MAX_HEADER = 2**26
MAX_TENSORS = 50_000
MAX_DIMENSIONS = 8
# Bits of an element, by the type's name in a header.
TYPE_BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64},
    **{"I64": 64, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64},
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8},
}


class TensorEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor in the header of a safetensors file."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]

    def problem(self) -> str:
        """Return what contradicts itself, or nothing."""
        if self.dtype not in TYPE_BITS:
            return f"has the unknown type {self.dtype[:20]!r}"
        if len(self.shape) > MAX_DIMENSIONS or min(self.shape, default=0) < 0:
            return "has a shape that no tensor has"
        begin, end = self.data_offsets
        if prod(self.shape) * TYPE_BITS[self.dtype] != 8 * (end - begin) or begin < 0:
            return "has another number of bytes than its shape needs"
        return ""


class ModelRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The record of a model file: all but its tensors.

    `config` is the content of a `ResNetConfig`, `preprocess` that of a `Preprocess`.
    """

    classes: list[str]
    config: dict[str, Any]
    data: dict[str, Any]
    digest: str
    format: int
    preprocess: dict[str, Any]
    recipe: dict[str, Any]
    scores: dict[str, Any] | None


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """The tensors of a safetensors file; record and network if it is a model file of ours."""

    tensors: dict[str, Tensor]
    record: ModelRecord | None = None
    config: ResNetConfig | None = None


@dataclass(frozen=True, eq=False)
class Header:
    """The header of a safetensors file: its bytes from the first of the file, and what it says."""

    content: bytes
    metadata: dict[str, str]
    tensors: dict[str, TensorEntry]


def read_weights_file(path: Path) -> WeightsFile:
    """Read a safetensors file; where it is a model file, verify its digest.

    Raises:
        UserError: The file is no safetensors file, truncated, damaged or beyond the limits, or a
            model file that does not match its digest. The message starts with a verb: the caller
            puts the name of the file before it.
    """
    try:
        with open_file(path) as file:
            header = read_header(file)
            table = _record_table(header.metadata)
            file.seek(0)
            blob = file.read()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}") from None
    record = config = None
    if table is not None:
        digest = str(table["digest"])
        if digest != _file_digest(blob, header, digest):
            raise UserError(f"is damaged: its contents do not match its digest; {DAMAGED}")
        try:
            record = convert(table, ModelRecord, name="its record")
            config = convert(record.config, ResNetConfig, name="its network")
        except UserError as error:
            raise UserError(f"holds what this version cannot take: {error}") from None
    try:
        return WeightsFile(safetensors.torch.load(blob), record, config)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"is damaged: {error}; {DAMAGED}") from None


def read_header(file: BinaryIO) -> Header:
    """Read the header of an open safetensors file, and compare it with the size of the file.

    Raises:
        UserError: See `read_weights_file`.
    """
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(LENGTH_BYTES + 1)
    if not start:
        raise UserError(f"is empty: {DAMAGED}")
    if start[LENGTH_BYTES:] != b"{":
        raise UserError(f"is not a safetensors file, or its start is damaged; {DAMAGED}")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    end = LENGTH_BYTES + length
    if end > size:
        found = f"{size} bytes where the header alone ends at {end}"
        raise UserError(f"is truncated or damaged: {found}; {DAMAGED}")
    if length > MAX_HEADER:
        raise UserError(f"has a header of {length:,} bytes; at most {MAX_HEADER:,} are read")
    content = start + file.read(length - 1)
    try:
        table = parse_json(content[LENGTH_BYTES:], dict[str, Any], name="header")
        metadata = convert(table.pop("__metadata__", {}), dict[str, str], name="metadata")
        if len(table) > MAX_TENSORS:
            raise UserError(f"header names {len(table):,} tensors, more than {MAX_TENSORS:,}")
        tensors = convert(table, dict[str, TensorEntry], name="table of tensors")
        places = _check_places(tensors)
    except UserError as error:
        raise UserError(f"is damaged: its {error}; {DAMAGED}") from None
    if size < end + places:
        raise UserError(f"is truncated: {size} of {end + places} bytes are there; {DAMAGED}")
    if size > end + places:
        raise UserError(f"has {size - end - places} bytes after its end: {DAMAGED}")
    return Header(content, metadata, tensors)


def _check_places(tensors: dict[str, TensorEntry]) -> int:
    """Return the bytes of all tensors, which must lie one after the other."""
    reached = 0
    for name, entry in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        problem = entry.problem()
        if not problem and entry.data_offsets[0] != reached:
            problem = "overlaps another, or leaves a gap"
        if problem:
            raise UserError(f"tensor {name[:80]!r} {problem}")
        reached = entry.data_offsets[1]
    return reached


def _record_table(metadata: dict[str, str]) -> dict[str, Any] | None:
    """Return the JSON of a model file's record; None if the file is of another program."""
    if KEY not in metadata:
        if any('"digest":"' in text for text in metadata.values()):
            raise UserError(f"is damaged: the name of its record is not {KEY!r}; {DAMAGED}")
        return None
    if len(metadata) != 1:
        raise UserError(f"is damaged: its {KEY!r} entry is not one JSON record; {DAMAGED}")
    try:
        table = parse_json(metadata[KEY], dict[str, Any], name=f"{KEY!r} entry")
    except UserError as error:
        raise UserError(f"is damaged: its {error}; {DAMAGED}") from None
    version = table.get("format")
    if type(version) is int and version > FORMAT:
        readable = f"this version reads up to {FORMAT}"
        raise UserError(f"has format {version}, {readable}: upgrade resnets")
    missing = [name for name in ModelRecord.__struct_fields__ if name not in table]
    if missing or type(version) is not int or version != FORMAT:
        what = f"lacks {', '.join(missing)}" if missing else f"has the unknown format {version!r}"
        raise UserError(f"{what}: it is damaged or was not written by resnets")
    return table


def _file_digest(blob: bytes, header: Header, digest: str) -> str:
    """Return the SHA-256 of a model file with zeros in the place of `digest`."""
    result = hashlib.sha256(replace_digest(header.content, digest, NO_DIGEST))
    result.update(memoryview(blob)[len(header.content) :])
    return result.hexdigest()


def replace_digest(content: bytes, old: str, new: str) -> bytes:
    """Return a header with another digest in its record."""
    # Backslashes, because the record is a JSON text inside the header's JSON.
    field = rf"\"digest\":\"{old}\"".encode(errors="replace")
    if content.count(field) != 1:
        raise UserError(f"must hold its digest exactly once: {DAMAGED}")
    return content.replace(field, rf"\"digest\":\"{new}\"".encode())
