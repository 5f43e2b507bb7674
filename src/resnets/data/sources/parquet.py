"""Provide data sets in the Hugging Face image layout: parquet files, one image a row.

An image is a struct of `bytes` (the content of an image file) and `path`. The schema's
`huggingface` metadata tells the columns and the classes; the split is in the name of the file
(train-00000-of-00002.parquet) or of its folder. Needs pyarrow.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np

from resnets.data.file_store import Array, PackedStrings, stamp
from resnets.data.sources.listing import (
    SPLIT_NAMES,
    SPLIT_ORDER,
    SourceListing,
    SplitListing,
    numbered,
    shortened,
)
from resnets.errors import UserError

# Row groups that one process keeps in memory, in bytes.
KEPT = 2**28
_SPLIT = re.compile(rf"({'|'.join(SPLIT_NAMES)})(?=[-_.]|$)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class _Labelled:
    """Hold the labels of one file, for the rows that have one."""

    table: "ParquetTable"
    labels: dict[int, str]  # row -> class
    names: tuple[str, ...]  # of the classes; empty if the schema has none
    num_rows: int  # with and without a label


def read_parquet(root: Path, files: Sequence[Path]) -> SourceListing:
    """List the images of `files`, all below `root`; raise UserError for another layout."""
    splits = {path: _split(path, root) for path in sorted(files)}
    named = {path: split for path, split in splits.items() if split} or dict.fromkeys(splits, "all")
    left_out = [path.name for path in splits if path not in named]
    content: dict[str, list[_Labelled]] = {}
    for path, split in named.items():
        content.setdefault(split, []).append(_read_labels(path))
    everything = [labelled for split in content.values() for labelled in split]
    found = {label for labelled in everything for label in labelled.labels.values()}
    if not found:
        raise UserError(f"no labelled images in {root}")
    numeric = all(re.fullmatch(r"\d+", label) for label in found)
    declared = dict.fromkeys(name for labelled in everything for name in labelled.names)
    classes = tuple(declared or sorted(found, key=int if numeric else None))
    unlabelled = sum(labelled.num_rows - len(labelled.labels) for labelled in everything)
    notices = [f"rows without a label, ignored: {unlabelled}"] if unlabelled else []
    if left_out:
        notices.append(
            f"parquet files without a split in their name, ignored: {shortened(left_out)}"
        )
    listings = {
        split: _listing(content[split], classes, root)
        for split in SPLIT_ORDER
        if any(labelled.labels for labelled in content.get(split, ()))
    }
    return SourceListing(
        name=root.resolve().name if len(files) > 1 else files[0].stem,
        classes=classes,
        splits=listings,
        notices=tuple(notices),
        source=str((root if len(files) > 1 else files[0]).absolute()),
    )


def _listing(content: list[_Labelled], classes: tuple[str, ...], root: Path) -> SplitListing:
    """Return the labelled rows of the files of one split."""
    tables = tuple(labelled.table for labelled in content)
    names = [table.path.relative_to(root).as_posix() for table in tables]
    places = [(which, row) for which, labelled in enumerate(content) for row in labelled.labels]
    ids = PackedStrings.of(f"{names[which]}#{row}" for which, row in places)
    labels = [label for labelled in content for label in labelled.labels.values()]
    store = RowGroupStore(ids, tables, np.array(places))
    return SplitListing(store, numbered(labels, classes))


def _read_labels(path: Path) -> _Labelled:
    """Read the labels of one file; images are read on demand."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("reading parquet needs pyarrow: pip install 'resnets[parquet]'") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            image, label, names = _columns(file.schema_arrow, path)
            values = file.read(columns=[label]).column(0).to_pylist()
            groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    except UserError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    labels = {row: value for row, value in enumerate(values) if value not in (None, -1)}
    if names:
        for value in labels.values():
            if value not in range(len(names)):
                raise UserError(f"{path} has the label {value}, but {len(names)} classes")
    return _Labelled(
        table=ParquetTable(path, image, tuple(accumulate(groups))),
        labels={row: names[value] if names else str(value) for row, value in labels.items()},
        names=names,
        num_rows=len(values),
    )


def _split(path: Path, root: Path) -> str | None:
    """Return the split in the name of the file, or of a folder between it and `root`."""
    for name in reversed(path.relative_to(root).parts):
        if match := _SPLIT.match(name):
            return SPLIT_NAMES[match.group(1).lower()]
    return None


def _columns(schema: Any, path: Path) -> tuple[str, str, tuple[str, ...]]:
    """Return the columns of images and labels, and the classes if the schema names them."""
    metadata = (schema.metadata or {}).get(b"huggingface", b"{}")
    features = json.loads(metadata).get("info", {}).get("features", {})
    kinds = {name: kind.get("_type") for name, kind in features.items() if isinstance(kind, dict)}
    images = [name for name in schema.names if kinds.get(name) == "Image"]
    labels = [name for name in schema.names if kinds.get(name) == "ClassLabel"]
    holders = ("struct<bytes: ", "binary", "large_binary")  # can hold the content of image files
    images = images or [n for n in schema.names if str(schema.field(n).type).startswith(holders)]
    image = _one(images, ("image", "img"), [])
    label = _one(labels, ("label", "labels"), schema.names)
    if image is None or label is None:
        raise UserError(
            f"{path} has the columns {', '.join(schema.names)}; expected one image column "
            "(a struct of bytes and path) and one label column"
        )
    return image, label, tuple(features[label].get("names", ())) if label in labels else ()


def _one(declared: list[str], usual: tuple[str, ...], present: list[str]) -> str | None:
    """Choose the usual name among the declared columns, the only declared one, or a usual one."""
    candidates = [name for name in usual if name in (declared or present)]
    if not candidates and len(declared) == 1:
        candidates = declared
    return candidates[0] if candidates else None


@dataclass(frozen=True)
class ParquetTable:
    """Describe a parquet file: its image column, and where its row groups end."""

    path: Path
    column: str
    ends: tuple[int, ...]


class RowGroupCache:
    """Keep the row groups used last; a copy sent to a worker process is empty."""

    def __init__(self) -> None:
        self.groups: OrderedDict[tuple[Path, int], Any] = OrderedDict()
        self.lock = Lock()

    def __reduce__(self) -> "tuple[type[RowGroupCache], tuple[()]]":
        return RowGroupCache, ()

    def group(self, table: ParquetTable, number: int) -> Any:
        """Return the images of a row group, an Arrow array, from memory if used recently."""
        import pyarrow.parquet

        key = table.path, number
        with self.lock:
            if key not in self.groups:
                with pyarrow.parquet.ParquetFile(table.path) as file:
                    group = file.read_row_group(number, columns=[table.column])
                self.groups[key] = group.column(0)
            self.groups.move_to_end(key)
            while len(self.groups) > 1 and self.num_bytes() > KEPT:
                self.groups.popitem(last=False)
            return self.groups[key]

    def num_bytes(self) -> int:
        """Return the size of the groups in memory."""
        return sum(int(group.nbytes) for group in self.groups.values())


@dataclass(frozen=True, eq=False)
class RowGroupStore:
    """Give N images, each a row of one of several parquet files.

    Only the row groups used last stay in memory. A file cannot give a single row, so random access
    to a set beyond `KEPT` bytes reads a row group for each image.
    """

    names: PackedStrings
    tables: tuple[ParquetTable, ...]
    places: Array  # N 2 int64: which table, which row of it
    recent: RowGroupCache = field(default_factory=RowGroupCache)
    num_readers: ClassVar[int] = 1  # more would compete for the row groups in memory

    def __getitem__(self, index: int) -> str | bytes:
        which, row = self.places[index].tolist()
        table = self.tables[which]
        number = int(np.searchsorted(table.ends, row, side="right"))
        first = table.ends[number - 1] if number else 0
        image = self.recent.group(table, number)[row - first].as_py() or {}
        if isinstance(image, bytes):
            return image
        if image.get("bytes") is None and image.get("path"):
            return str(table.path.parent / image["path"])
        return image.get("bytes") or b""  # an empty file is reported as one

    def subset(self, indices: Array | Sequence[int]) -> "RowGroupStore":
        names, places = self.names.subset(indices), self.places[indices]
        return RowGroupStore(names, self.tables, places, self.recent)

    def stamps(self) -> Array:
        """Return the stamps of the files that the rows are in."""
        each = np.array([stamp(table.path) for table in self.tables], np.int64)
        return np.take(each, self.places[:, 0], axis=0)
