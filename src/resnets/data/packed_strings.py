"""Many names in one piece of memory.

Enters: strings. Leaves: `Names`, which gives them back one by one. The idea: 1.28 million `str`
objects take 130 MB, and each worker that touches one copies its page for the sake of a reference
count; one buffer and two arrays take a third of it and stay shared, however often they are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Names:
    """A sequence of N names; bytes that are not UTF-8 are shown replaced, and kept in `raw`."""

    buffer: bytes
    starts: Array  # N int64
    ends: Array  # N int64

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """`names`, in their order."""
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
        """The name as the file system has it."""
        return self.buffer[self.starts[index] : self.ends[index]]

    def raws(self) -> Iterator[bytes]:
        """All names as the file system has them."""
        for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
            yield self.buffer[start:end]

    def subset(self, indices: Array | Sequence[int] | slice) -> Names:
        """The names at `indices`; the buffer is shared."""
        return Names(self.buffer, self.starts[indices], self.ends[indices])
