"""Provide `NpzFile`: the arrays of an .npz, whose sizes and types are checked before any is read.

Nothing is unpickled, and nothing is unpacked that the headers and the machine's memory do not
allow.
"""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from resnets.data.file_store import Array
from resnets.data.sources.memory_limits import check_size, reason_of
from resnets.errors import UserError
from resnets.fileio import open_file

# Arrays of one file.
MAX_ARRAYS = 1000
# Bytes of the list of members at the end of the zip: 1000 members with names of 200 characters.
MAX_DIRECTORY = 2**18
# Bytes of an array's header; numpy reads at most 10,000.
MAX_HEADER = 2**14
_END, _END_SIZE = b"PK\5\6", 22
_ENCRYPTED = 1


class ArrayHeader(NamedTuple):
    """What an array is, as its header tells."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class NpzFile:
    """Read arrays of an .npz by name.

    Args:
        path: The file.

    Raises:
        UserError: The file is damaged, or no .npz as numpy.savez writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _reported(path), open_file(path) as stream:
            self.size = _check_directory(stream)
            with zipfile.ZipFile(stream) as file:
                members = file.infolist()
                _check_members(members)
                self.headers = {info.filename[:-4]: _header(file, info) for info in members}

    def read(self, names: list[str]) -> dict[str, Array]:
        """Return these arrays, after their sizes were checked together."""
        total = sum(_num_bytes(self.headers[name]) for name in names)
        check_size(total, self.size, str(self.path))
        with _reported(self.path), open_file(self.path) as stream, zipfile.ZipFile(stream) as file:
            return {name: _array(file, f"{name}.npy") for name in names}


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn every failure in the block into one UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"cannot read {path} as .npz: {error}") from None
    # Parsers of damaged files fail with nearly anything: zlib.error, struct.error, MemoryError.
    except Exception as error:
        raise UserError(f"cannot read {path} as .npz: {reason_of(error)}") from error


def _check_directory(stream: BinaryIO) -> int:
    """Check the size of the zip's list of members; return that of the file."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - 2**16 - _END_SIZE))
    tail = stream.read()
    place = tail.rfind(_END)
    if place < 0:
        raise UserError("it was not written by numpy.savez, or its end is missing")
    if int.from_bytes(tail[place + 12 : place + 16], "little") > MAX_DIRECTORY:
        raise UserError(f"it has too many members; at most {MAX_ARRAYS} arrays are read")
    stream.seek(0)
    return size


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_ARRAYS:
        raise UserError(f"it has {len(members):,} members; at most {MAX_ARRAYS} arrays are read")
    names: set[str] = set()
    for info in members:
        name = info.filename
        if not name.endswith(".npy") or {"/", "\\", "\0"} & set(name):
            raise UserError(f"its member {name[:80]!r} is no array; save arrays by numpy.savez")
        if name in names:
            raise UserError(f"it has the array {name[:-4]!r} twice")
        if info.flag_bits & _ENCRYPTED:
            raise UserError(f"the array {name[:-4]!r} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                f"the array {name[:-4]!r} is packed in an unusual way; save it again by "
                "numpy.savez_compressed"
            )
        names.add(name)


def _header(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> ArrayHeader:
    """Read the header of an array, and compare it with the size of the member."""
    with file.open(info) as stream:
        content = stream.read(MAX_HEADER)
    buffer = BytesIO(content)
    try:
        version = np.lib.format.read_magic(buffer)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(buffer)
    # ValueError, SyntaxError, KeyError, RecursionError, tokenize.TokenError ...
    except Exception as error:
        raise UserError(f"the array {info.filename[:-4]!r} has no header as numpy writes it") from (
            error
        )
    begin = buffer.tell()
    header = ArrayHeader(dtype, shape)
    if dtype.hasobject:
        raise UserError(
            f"the array {info.filename[:-4]!r} holds Python objects, which are never read; save "
            "numbers or strings"
        )
    if min(shape, default=0) < 0 or begin + _num_bytes(header) != info.file_size:
        raise UserError(
            f"the array {info.filename[:-4]!r} has {info.file_size:,} bytes, which is not what "
            f"its shape {_shown(shape)} of {dtype} takes"
        )
    return header


def _num_bytes(header: ArrayHeader) -> int:
    return math.prod(header.shape) * header.dtype.itemsize


def _shown(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape[:6]))}{', ...' if len(shape) > 6 else ''})"


def _array(file: zipfile.ZipFile, name: str) -> Array:
    with file.open(name) as stream:  # whose end compares the CRC
        array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    return array
