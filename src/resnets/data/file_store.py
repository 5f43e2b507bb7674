"""Provide image stores: `PackedStrings` for many names, and `FileStore` for files below a folder.

`ImageFiles` asks a store for image `i` (a path, or the content of a file) and for its stamp, which
differs when the file has changed. `parquet.RowGroupStore` is the other store.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class PackedStrings:
    """Hold N names in one buffer; bytes that are not UTF-8 are shown replaced and kept in `raw`.

    1.28 million `str` objects take 130 MB, and reference counts copy their pages into each worker.
    This takes a third of it and stays shared.
    """

    buffer: bytes
    starts: Array  # N int64
    ends: Array  # N int64

    @classmethod
    def of(cls, names: Iterable[str]) -> "PackedStrings":
        """Pack names in their order."""
        encoded = [os.fsencode(name) for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return cls(b"".join(encoded), np.concatenate([[0], ends])[: len(encoded)], ends)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> str:
        return self.raw(index).decode("utf-8", "replace")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("utf-8", "replace") for name in self.raws())

    def raw(self, index: int) -> bytes:
        """Return a name as the file system has it."""
        return self.buffer[self.starts[index] : self.ends[index]]

    def raws(self) -> Iterator[bytes]:
        """Yield all names as the file system has them."""
        for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
            yield self.buffer[start:end]

    def subset(self, indices: Array | Sequence[int] | slice) -> "PackedStrings":
        """Return the names at these indices; the buffer is shared."""
        return PackedStrings(self.buffer, self.starts[indices], self.ends[indices])


class ImageStore(Protocol):
    """Give N images by index: a path, or the content of a file."""

    @property
    def names(self) -> PackedStrings: ...  # ids of the images
    @property
    def num_readers(self) -> int: ...  # threads that speed up reading
    def __getitem__(self, index: int) -> str | bytes: ...
    def subset(self, indices: Array | Sequence[int]) -> "ImageStore": ...
    def stamps(self) -> Array: ...  # N 3 int64: size, modification and change time (ns) of files


@dataclass(frozen=True, eq=False)
class FileStore:
    """Give files by their path relative to `root`, which is also their id."""

    root: str
    names: PackedStrings
    num_readers: ClassVar[int] = 8  # headers wait for the disk, not for the processor

    def __getitem__(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.names.raw(index)))

    def subset(self, indices: Array | Sequence[int]) -> "FileStore":
        return FileStore(self.root, self.names.subset(indices))

    def stamps(self) -> Array:
        """Return the stamps from one `stat` a file: 4 microseconds where the disk is cached."""
        root = os.fsencode(self.root)

        def read(start: int) -> Array:
            names = self.names.subset(slice(start, start + _CHUNK)).raws()
            return np.array([stamp(os.path.join(root, name)) for name in names], np.int64)

        with ThreadPoolExecutor(self.num_readers) as pool:
            found = pool.map(read, range(0, len(self.names), _CHUNK))
            return np.concatenate([np.zeros((0, 3), np.int64), *found])


def stamp(path: bytes | Path) -> tuple[int, int, int]:
    """Return what changes with a file: size, modification and change time (ns)."""
    try:
        state = os.stat(path)
    except OSError:  # deleted since it was listed, or not permitted
        return -1, -1, -1
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns
