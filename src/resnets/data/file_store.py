"""Where the bytes of many images lie: `Paths`, files below a folder.

`ImageFiles` and the index ask two questions of a store: what is image `i` (a path, or the content
of a file), and what would be different if it had changed (its stamp). `parquet.Rows` is the other
store that answers them.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from resnets.data.packed_strings import Array, Names

_CHUNK = 4096


class Files(Protocol):
    """N images, by index."""

    @property
    def names(self) -> Names:
        """Their ids."""

    @property
    def num_readers(self) -> int:
        """How many threads may read with profit."""

    def __getitem__(self, index: int) -> str | bytes:
        """A path, or the content of a file."""

    def subset(self, indices: Array | Sequence[int]) -> Files:
        """The images at `indices`, in that order."""

    def stamps(self) -> Array:
        """N 3 int64: bytes, time of content and time of entry (ns) of the file each lies in."""


@dataclass(frozen=True, eq=False)
class Paths:
    """Files named relative to `root`; their names are their ids."""

    root: str
    names: Names
    num_readers: ClassVar[int] = 8  # headers wait for the disk, not for the processor

    def __getitem__(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.names.raw(index)))

    def subset(self, indices: Array | Sequence[int]) -> Paths:
        """The files at `indices`, in that order."""
        return Paths(self.root, self.names.subset(indices))

    def stamps(self) -> Array:
        """One look at each file, without opening it: 4 microseconds where the disk is cached."""
        starts = range(0, len(self.names), _CHUNK)
        chunks = [self.names.subset(slice(start, start + _CHUNK)) for start in starts]
        with ThreadPoolExecutor(self.num_readers) as pool:
            found = pool.map(self._stamps, chunks)
            return np.concatenate([np.zeros((0, 3), np.int64), *found])

    def _stamps(self, names: Names) -> Array:
        root, numbers = os.fsencode(self.root), array("q")
        for name in names.raws():
            numbers.extend(stamp(os.path.join(root, name)))
        return np.array(numbers, np.int64).reshape(-1, 3)


def stamp(path: bytes | Path) -> tuple[int, int, int]:
    """What changes with a file: bytes, and the times (ns) of its content and of its entry."""
    try:
        state = os.stat(path)
    except OSError:  # it vanished since it was listed, or its folder is closed to us
        return -1, -1, -1
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns
