"""Images that are rows of parquet files, read by row group when asked for: `Rows`.

The store beside `files.Paths`. Only the row groups used last stay in memory, up to a fixed size,
so a set of any size takes as much. A parquet file cannot give one row: images far apart cost a row
group each, which makes shuffled reading of sets beyond that size slow. Needs pyarrow.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np

from resnets.data.file_store import stamp
from resnets.data.packed_strings import Array, Names

KEPT = 2**28  # bytes of row groups in one process: 256 MiB


@dataclass(frozen=True)
class Table:
    """One parquet file: its image column, and where its row groups end."""

    path: Path
    column: str
    ends: tuple[int, ...]

    def group(self, number: int) -> Any:
        """The image column of one row group, an Arrow array."""
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(self.path) as file:
            return file.read_row_group(number, columns=[self.column]).column(0)


class Recent:
    """The row groups used last. Each process has its own: a copy sent to a worker is empty."""

    def __init__(self) -> None:
        self.groups: OrderedDict[tuple[Path, int], Any] = OrderedDict()
        self.lock = Lock()

    def __reduce__(self) -> tuple[type[Recent], tuple[()]]:
        return Recent, ()

    def group(self, table: Table, number: int) -> Any:
        """Row group `number` of `table`, from memory if it was used lately."""
        key = table.path, number
        with self.lock:
            if key not in self.groups:
                self.groups[key] = table.group(number)
            self.groups.move_to_end(key)
            while len(self.groups) > 1 and self.num_bytes() > KEPT:
                self.groups.popitem(last=False)
            return self.groups[key]

    def num_bytes(self) -> int:
        """What the groups take in memory."""
        return sum(int(group.nbytes) for group in self.groups.values())


@dataclass(frozen=True, eq=False)
class Rows:
    """N images, each a row of one of some tables."""

    names: Names
    tables: tuple[Table, ...]
    places: Array  # N 2 int64: which table, which row of it
    recent: Recent = field(default_factory=Recent)
    num_readers: ClassVar[int] = 1  # a second one would only compete for the row groups in memory

    def __getitem__(self, index: int) -> str | bytes:
        which, row = self.places[index].tolist()
        table = self.tables[which]
        number = int(np.searchsorted(table.ends, row, side="right"))
        first = table.ends[number - 1] if number else 0
        return content(self.recent.group(table, number)[row - first].as_py(), table.path)

    def subset(self, indices: Array | Sequence[int]) -> Rows:
        """The rows at `indices`, in that order."""
        return Rows(self.names.subset(indices), self.tables, self.places[indices], self.recent)

    def stamps(self) -> Array:
        """Those of the tables: a row has none of its own."""
        each = np.array([stamp(table.path) for table in self.tables], np.int64).reshape(-1, 3)
        stamps: Array = each[self.places[:, 0]]
        return stamps


def content(image: Any, table: Path) -> str | bytes:
    """A cell: the content of a file, or where it lies; an absent one is an empty file."""
    if isinstance(image, bytes):
        return image
    inside = image or {}
    if inside.get("bytes") is None and inside.get("path"):
        return str(table.parent / inside["path"])
    return inside.get("bytes") or b""
