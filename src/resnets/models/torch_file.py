"""Provide `open_torch_file`, which reads the files of `torch.save` and runs nothing of them.

A pickle is a program: it names functions and calls them. Here an interpreter of the few
instructions that `torch.save` writes makes dictionaries, lists, numbers, texts and descriptions of
tensors. It imports and calls nothing, whatever a file names, and its cost is limited. The argparse
arguments of a training program become a dictionary, other objects beside the tensors nothing.

`torch.load(weights_only=True)` runs no foreign code either, but a small file can cost it hours and
all memory (keys whose hash takes for ever, `bytearray(10**12)`, a zip of zeros), and it does not
compare the checksums of the zip.
"""

import gc
import io
import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from resnets.errors import UserError, one_line
from resnets.fileio import open_file

# Limits on a pickle. A checkpoint of the largest network, resnet1202, with averaged weights and
# the state of an optimizer has 3 MB and 760,000 instructions.
MAX_PICKLE_BYTES = 2**24
MAX_INSTRUCTIONS = 1_000_000
MAX_OPEN = 1000  # lists and the like that are not complete
MAX_ARGUMENTS = 16  # of a call
# Entries of a zip: one for each tensor, and a few more.
MAX_ENTRIES = 100_000
MAX_DIMENSIONS = 16
# Elements of a tensor that repeats the elements of its storage, as `expand` makes them.
MAX_EXPANDED = 2**20

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

# Tensors that are no table of numbers, by the function of torch._utils that makes them.
UNUSABLE = {
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_qtensor": "quantised",
    "_rebuild_meta_tensor_no_storage": "meta",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_wrapper_subclass": "wrapped",
    "_rebuild_device_tensor_from_numpy": "foreign",
    "_rebuild_device_tensor_from_cpu_tensor": "foreign",
}
TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
PLAIN_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
# What a file of tensors names. Other names are foreign code; of these, too, none is called.
HARMLESS_MODULES = {
    *("torch", "torch.cuda", "torch.sparse", "torch.cuda.sparse", "torch.storage"),
    *("torch.nn.parameter", "collections"),
}
BUILTINS = ("set", "frozenset", "bytearray", "complex", "dict", "list", "int", "float", "str")
# Objects that are a table of names and values; only these keep their values.
RECORDS = {
    *("argparse.Namespace", "types.SimpleNamespace"),
    *("pytorch_lightning.utilities.parsing.AttributeDict",),
    *("lightning.pytorch.utilities.parsing.AttributeDict",),
    *("lightning.fabric.utilities.data.AttributeDict",),
    *("lightning_fabric.utilities.data.AttributeDict",),
}
PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
OMEGACONF_NODES = ("Any", "Boolean", "Enum", "Float", "Integer", "Path", "String")
HARMLESS_NAMES = {
    *("_codecs.encode", "torch.serialization._get_layout", "torch._tensor._rebuild_from_type_v2"),
    *(f"torch._utils.{name}" for name in (*TENSORS, *PARAMETERS, *UNUSABLE)),
    # Protocol 2 has the names of Python 2.
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in BUILTINS),
    # What training programs keep beside the tensors: arguments, paths, times, NumPy's numbers.
    *RECORDS,
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in PATHS),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *("numpy.dtype", "numpy.ndarray", "numpy._core.numeric._frombuffer"),
    *(f"{module}.{name}" for module in NUMPY_MODULES for name in ("scalar", "_reconstruct")),
    *("typing.Any", "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"),
    *(f"omegaconf.base.{name}" for name in ("ContainerMetadata", "Metadata", "SCMode")),
    *(f"omegaconf.nodes.{name}Node" for name in OMEGACONF_NODES),
}
STORAGE_TYPES = {
    **{"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16},
    **{"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32},
    **{"ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8},
    **{"QInt8Storage": torch.qint8, "QUInt8Storage": torch.quint8, "QInt32Storage": torch.qint32},
    **{"BoolStorage": torch.bool, "ComplexDoubleStorage": torch.complex128},
    **{"ComplexFloatStorage": torch.complex64, "UntypedStorage": torch.uint8},
}


class DamagedError(ValueError):
    """A file that `torch.save` would not write; the text says what is wrong with it."""


class ForeignCodeError(ValueError):
    """A pickle that names a function or class beyond those of tensors; the text is its name."""


@dataclass(frozen=True)
class Storage:
    """Say which numbers of a file, and of what type, a tensor is a view of."""

    key: str
    dtype: torch.dtype


@dataclass(frozen=True)
class StoredTensor:
    """Describe a tensor of a file, whose numbers are not read yet."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class UnusableTensor:
    """Stand for a tensor that is no table of numbers: sparse, quantised, nested, ..."""

    kind: str


@dataclass
class TorchFile:
    """Hold what was saved, and read its tensors.

    Args:
        content: Dictionaries, lists, tuples, numbers and texts, with a StoredTensor or an
            UnusableTensor in the place of each tensor. A dictionary may hold itself.
        storage: Returns the bytes of a storage.
    """

    content: object
    storage: Callable[[Storage], Tensor]

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Return the tensor that is described; tensors may share memory, as when saved."""
        itemsize, numel = stored.dtype.itemsize, math.prod(stored.size)
        data = self.storage(stored.storage)
        available = len(data) // itemsize
        last = sum((n - 1) * step for n, step in zip(stored.size, stored.stride, strict=True))
        if numel and stored.offset + last >= available:
            raise DamagedError("it lacks numbers of a tensor")
        if numel > max(available, MAX_EXPANDED):
            raise DamagedError("a tensor repeats its numbers too often")
        if not numel:
            return torch.empty(stored.size, dtype=stored.dtype)
        whole = data[: available * itemsize].view(stored.dtype)
        return whole.as_strided(stored.size, stored.stride, stored.offset)


@contextmanager
def open_torch_file(path: Path, *, source: str) -> Iterator[TorchFile]:
    """Open a file of `torch.save`, which messages call `source`.

    Raises:
        UserError: The file is damaged, of another kind, or contains more than tensors; also where
            that is found in the block.
    """
    try:
        with open_file(path) as file:
            legacy = file.read(2) != b"PK"
            yield _open_legacy(file) if legacy else _open_zip(file)
    except UserError:
        raise
    except ForeignCodeError as error:
        raise UserError(
            f"{source} contains more than tensors: it needs {one_line(error, length=80)} to be "
            "unpickled, which could run foreign code; if you trust it, save only its state_dict "
            "and load that"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror or error}") from None
    # A damaged file can make the readers of zips and pickles raise anything.
    except Exception as error:
        reason = one_line(error)
        raise UserError(f"{source} is damaged or not written by torch.save: {reason}") from None


# Two formats -------------------------------------------------------------------------------------


def _open_zip(file: BinaryIO) -> TorchFile:
    """Open the format since torch 1.6: a zip with a pickle, and an entry for each storage."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise DamagedError("it is truncated, or no whole zip") from None
    entries = _checked_entries(archive, size=file.seek(0, io.SEEK_END))
    if any(name.endswith("/constants.pkl") for name in entries):
        raise DamagedError("it is a TorchScript archive; save the state_dict of its module")
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise DamagedError("it is a zip without a data.pkl")
    if entries[pickles[0]].file_size > MAX_PICKLE_BYTES:
        raise DamagedError(f"its pickle has more than {MAX_PICKLE_BYTES:,} bytes")
    root = pickles[0].removesuffix("data.pkl")

    def read(name: str) -> bytearray:
        if name not in entries:
            raise DamagedError(f"it lacks {one_line(name, length=80)}")
        content = bytearray(entries[name].file_size)
        with archive.open(entries[name]) as entry:  # compares the checksum at its end
            entry.readinto(content)  # type: ignore[attr-defined]
        return content

    big_endian = f"{root}byteorder" in entries and read(f"{root}byteorder") == b"big"

    @cache  # tensors share memory
    def storage(wanted: Storage) -> Tensor:
        content = read(f"{root}data/{wanted.key}")
        return _as_bytes(content, wanted.dtype, swap=big_endian)

    return TorchFile(Unpickler(bytes(read(pickles[0]))).load(), storage)


def _checked_entries(archive: zipfile.ZipFile, *, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the entries of a zip by name, if they are stored as `torch.save` stores them."""
    infos = archive.infolist()
    entries = {info.filename: info for info in infos}
    if len(infos) > MAX_ENTRIES:
        raise DamagedError(f"it has more than {MAX_ENTRIES:,} entries")
    if len(entries) < len(infos):
        raise DamagedError("an entry occurs twice")
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in infos):
        raise DamagedError("its entries are compressed or encrypted")
    if sum(info.file_size for info in infos) > size:
        raise DamagedError("its entries are larger than the file")
    return entries


def _open_legacy(file: BinaryIO) -> TorchFile:
    """Open the format before torch 1.6: five pickles, then the storages, without checksums."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    unpickler = Unpickler(file.read(MAX_PICKLE_BYTES))
    if unpickler.load() != LEGACY_MAGIC:
        raise DamagedError("it is another pickle")
    unpickler.load()  # the version of the format, 1001 ever since
    system, content, keys = unpickler.load(), unpickler.load(), unpickler.load()
    big_endian = isinstance(system, dict) and system.get("little_endian") is False
    places: dict[str, tuple[int, int]] = {}  # where the bytes of a storage start and end
    end = unpickler.position
    for key in keys:
        if not isinstance(key, str):
            raise DamagedError("its list of storages is odd")
        file.seek(end)
        (numel,) = struct.unpack("<q", file.read(8))
        start = end + 8
        end = start + numel * unpickler.storages[key].dtype.itemsize
        if numel < 0 or end > size:
            raise DamagedError("it is truncated")
        places[key] = start, end

    @cache  # tensors share memory
    def storage(wanted: Storage) -> Tensor:
        start, end = places[wanted.key]
        file.seek(start)
        return _as_bytes(bytearray(file.read(end - start)), wanted.dtype, swap=big_endian)

    return TorchFile(content, storage)


def _as_bytes(content: bytearray, dtype: torch.dtype, *, swap: bool) -> Tensor:
    if not content:
        return torch.empty(0, dtype=torch.uint8)
    data = torch.frombuffer(content, dtype=torch.uint8)
    return data.view(-1, dtype.itemsize).flip(1).reshape(-1) if swap else data


# Pickles -----------------------------------------------------------------------------------------


class Name(str):
    """Hold the full name of a function or class."""

    __slots__ = ()


class Other:
    """Stand for a value that no weights need, such as a set or a device."""


OTHER = Other()


class Record(dict[str, Any]):
    """Hold the names and values of an object such as argparse.Namespace."""


class Unpickler:
    """Interpret pickles that lie one after the other in a text.

    Every instruction takes a constant time, but for copies of its own part of the text: keys that
    are not plain are left out, since to hash them can take for ever.
    """

    def __init__(self, text: bytes) -> None:
        self.text, self.position, self.left = text, 0, MAX_INSTRUCTIONS
        self.storages: dict[str, Storage] = {}

    def load(self) -> Any:
        """Return the value of the next pickle."""
        # The collector of cycles would look at every new value again and again: half of the time.
        collects = gc.isenabled()
        gc.disable()
        try:
            return self._load()
        finally:
            if collects:
                gc.enable()

    def _load(self) -> Any:
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        text, instructions = self.text, INSTRUCTIONS
        while (code := text[self.position]) != STOP:
            self.position += 1
            self.left -= 1
            if self.left < 0:
                raise DamagedError(f"its pickle has more than {MAX_INSTRUCTIONS:,} instructions")
            if code not in instructions:
                raise DamagedError(f"its pickle has an instruction {bytes([code])!r}")
            instructions[code](self)
        self.position += 1
        return self.stack.pop()

    # Constants

    def _number(self, code: str, length: int) -> Any:
        (value,) = struct.unpack_from(code, self.text, self.position)
        self.position += length
        return value

    def _bytes(self, length: int) -> bytes:
        start, self.position = self.position, self.position + length
        if self.position > len(self.text):
            raise DamagedError("its pickle is truncated")
        return self.text[start : self.position]

    def _line(self) -> str:
        start, self.position = self.position, self.text.index(b"\n", self.position) + 1
        return self.text[start : self.position - 1].decode()

    def _global(self) -> None:
        self._name(self._line(), self._line())

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise DamagedError("its pickle names something by what is no text")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        self.left -= 1  # dearer than the others, and rare
        full = f"{module}.{name}"
        if module not in HARMLESS_MODULES and full not in HARMLESS_NAMES:
            raise ForeignCodeError(full)
        self.stack.append(Name(full))

    # Containers

    def _mark(self) -> None:
        if len(self.marked) >= MAX_OPEN:
            raise DamagedError(f"its pickle is nested more than {MAX_OPEN:,} levels deep")
        self.marked.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def _tuple_since_mark(self) -> None:
        items = tuple(self._since_mark())
        self.stack.append(items)

    def _tuple(self, length: int) -> None:
        items = tuple(self.stack[-length:])
        del self.stack[-length:]
        self.stack.append(items)

    def _frozenset(self) -> None:
        self._since_mark()
        self.stack.append(OTHER)

    def _append(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            keys, values = items[::2], items[1::2]
            pairs = zip(keys, values, strict=True)
            self.stack[-1].update((key, value) for key, value in pairs if _is_plain(key))

    # Objects

    def _persistent(self) -> None:
        """Describe a storage: ("storage", type, key, device, number of elements)."""
        kind, storage_type, key = _arguments(self.stack.pop())[:3]
        known = isinstance(storage_type, Name) and isinstance(key, str) and kind == "storage"
        dtype = STORAGE_TYPES.get(storage_type.rpartition(".")[2]) if known else None
        if dtype is None:
            raise DamagedError("its pickle refers to an unknown storage")
        self.stack.append(self.storages.setdefault(key, Storage(key, dtype)))

    def _call(self) -> None:
        arguments = _arguments(self.stack.pop())
        function = self.stack.pop()
        if not isinstance(function, Name):
            raise DamagedError("its pickle calls what is no function")
        if function == "collections.OrderedDict" and arguments:
            (pairs,) = arguments
            self.left -= len(pairs)  # shared pairs can be copied often
            result: Any = {key: value for key, value in pairs if _is_plain(key)}
        elif function == "collections.OrderedDict":
            result = {}
        elif function in RECORDS:
            result = Record()
        elif function == "torch._tensor._rebuild_from_type_v2":  # a tensor with attributes
            function, kind, inner = arguments[:3]
            plain = isinstance(kind, str) and kind in PLAIN_CLASSES
            result = _tensor(function, _arguments(inner)) if plain else UnusableTensor("foreign")
        else:
            result = _tensor(function, arguments)
        self.stack.append(result)

    def _build(self) -> None:
        """Set the state of a record; leave out that of others: metadata of a state_dict, hooks."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], StoredTensor):
            raise DamagedError("its pickle changes a tensor")
        if isinstance(self.stack[-1], Record) and isinstance(state, dict):
            self.left -= len(state)
            self.stack[-1].update(state)


def _arguments(values: Any) -> tuple[Any, ...]:
    """Return the arguments of a call, if they are as few as those of torch's functions."""
    if not isinstance(values, tuple) or len(values) > MAX_ARGUMENTS:
        raise DamagedError("its pickle calls a function with odd arguments")
    return values


def _is_plain(key: object) -> bool:
    return isinstance(key, str) or (isinstance(key, int) and key.bit_length() < 64)


def _tensor(function: Any, arguments: tuple[Any, ...]) -> Any:
    """Return what stands for the result of a function: a tensor, or a value of no use."""
    name = str.rpartition(function, ".")[2]
    if function == "torch.nn.parameter.Parameter" or name in PARAMETERS:
        return arguments[0]
    if name in UNUSABLE:
        return UnusableTensor(UNUSABLE[name])
    if name not in TENSORS:
        return OTHER
    storage, offset, size, stride = arguments[:4]
    if not isinstance(storage, Storage):
        raise DamagedError("its pickle has a tensor without a storage")
    dtype: object = storage.dtype
    if name == "_rebuild_tensor_v3":  # for types that no storage has
        dtype = getattr(torch, str.removeprefix(arguments[6], "torch."), None)
    if not (
        isinstance(dtype, torch.dtype)
        and len(size) == len(stride) <= MAX_DIMENSIONS
        and all(type(number) is int and 0 <= number < 2**63 for number in (offset, *size, *stride))
    ):
        raise DamagedError("its pickle has an impossible tensor")
    return StoredTensor(storage, dtype, offset, tuple(size), tuple(stride))


def _remember(u: Unpickler, place: int) -> None:
    u.memo[place] = u.stack[-1]


STOP = ord(b".")
# The instructions that `torch.save` writes, by their codes: pickle protocol 2 and, below, those of
# protocols 4 and 5 (`torch.save(..., pickle_protocol=4)`).
INSTRUCTIONS: dict[int, Callable[[Unpickler], object]] = {
    ord(code): action
    for code, action in {
        b"\x80": lambda u: u._bytes(1),  # the protocol
        b"c": Unpickler._global,
        b"q": lambda u: _remember(u, u._number("<B", 1)),
        b"r": lambda u: _remember(u, u._number("<I", 4)),
        b"h": lambda u: u.stack.append(u.memo[u._number("<B", 1)]),
        b"j": lambda u: u.stack.append(u.memo[u._number("<I", 4)]),
        b"X": lambda u: u.stack.append(u._bytes(u._number("<I", 4)).decode(errors="surrogatepass")),
        b"U": lambda u: u.stack.append(u._bytes(u._number("<B", 1)).decode(errors="replace")),
        b"K": lambda u: u.stack.append(u._number("<B", 1)),
        b"M": lambda u: u.stack.append(u._number("<H", 2)),
        b"J": lambda u: u.stack.append(u._number("<i", 4)),
        b"G": lambda u: u.stack.append(u._number(">d", 8)),
        b"\x8a": lambda u: u.stack.append(
            int.from_bytes(u._bytes(u._number("<B", 1)), "little", signed=True)
        ),
        b"N": lambda u: u.stack.append(None),
        b"\x88": lambda u: u.stack.append(True),
        b"\x89": lambda u: u.stack.append(False),
        b"(": Unpickler._mark,
        b")": lambda u: u.stack.append(()),
        b"]": lambda u: u.stack.append([]),
        b"}": lambda u: u.stack.append({}),
        b"\x8f": lambda u: u.stack.append(OTHER),  # an empty set
        b"t": Unpickler._tuple_since_mark,
        b"\x85": lambda u: u._tuple(1),
        b"\x86": lambda u: u._tuple(2),
        b"\x87": lambda u: u._tuple(3),
        b"a": lambda u: u._append([u.stack.pop()]),
        b"e": lambda u: u._append(u._since_mark()),
        b"s": lambda u: u._set([u.stack.pop(-2), u.stack.pop()]),
        b"u": lambda u: u._set(u._since_mark()),
        b"Q": Unpickler._persistent,
        b"R": Unpickler._call,
        b"\x81": Unpickler._call,  # a new object of a class
        b"b": Unpickler._build,
        b"\x95": lambda u: u._bytes(8),  # the length of a frame
        b"\x93": Unpickler._stack_global,
        b"\x94": lambda u: _remember(u, len(u.memo)),
        b"\x8c": lambda u: u.stack.append(
            u._bytes(u._number("<B", 1)).decode(errors="surrogatepass")
        ),
        b"B": lambda u: u.stack.append(u._bytes(u._number("<I", 4))),
        b"C": lambda u: u.stack.append(u._bytes(u._number("<B", 1))),
        b"\x96": lambda u: u.stack.append(u._bytes(u._number("<Q", 8))),  # a bytearray
        b"\x90": Unpickler._since_mark,  # adds to a set
        b"\x91": Unpickler._frozenset,
    }.items()
}
