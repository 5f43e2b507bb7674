"""Provide data sets in the Hugging Face image layout: parquet files, one image a row.

An image is a struct of `bytes` (the content of an image file) and `path`. The schema's
`huggingface` metadata tells the columns and the classes; the split is in the name of the file
(train-00000-of-00002.parquet) or of its folder. Needs pyarrow.

The sizes that a file declares are checked before it is read, and a row group is unpacked in steps:
a column of equal values may be packed a million times.
"""

import math
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import msgspec
import numpy as np

from resnets.data.decode import DecodeError
from resnets.data.file_store import Array, PackedStrings, stamp
from resnets.data.sources.columns import UNUSED, parse_columns
from resnets.data.sources.listing import (
    MISSING,
    SPLIT_NAMES,
    SPLIT_ORDER,
    SourceListing,
    SplitListing,
    numbered,
)
from resnets.data.sources.memory_limits import SMALL, check_size, reason_of
from resnets.data.sources.source_config import SourceConfig
from resnets.data.sources.table_rows import MAX_LABEL
from resnets.errors import UserError, shortened, unknown
from resnets.fileio import open_file
from resnets.parsing import convert, parse_json

# Row groups that one process keeps in memory, in bytes.
KEPT = 2**28
# Bytes that one step of unpacking a row group may take, and rows of a step.
STEP, MAX_ROWS = 2**29, 1024
# Columns of a file, and from how many rows on each must take how many bytes of it.
MAX_COLUMNS, MANY, LEAST_BYTES = 2000, 100_000, 8
# Bytes of the Hugging Face metadata: the names of 100,000 classes.
MAX_METADATA = 2**23
_SPLIT = re.compile(rf"({'|'.join(SPLIT_NAMES)})(?=[-_.]|$)", re.IGNORECASE)


class _Info(msgspec.Struct):
    features: dict[str, Any] = {}


class _Metadata(msgspec.Struct):
    info: _Info = msgspec.field(default_factory=_Info)


class _Feature(msgspec.Struct):
    """One column: an Image, or a ClassLabel with the names of its classes."""

    kind: str | None = msgspec.field(default=None, name="_type")
    names: list[str] | None = None


@dataclass(frozen=True)
class _Columns:
    """The columns of the images and the labels, and the names of the classes, if there are any."""

    image: str
    label: str
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Labelled:
    """Hold the labels of one file, for the rows that have one."""

    table: "ParquetTable"
    labels: dict[int, str]  # row -> class
    names: tuple[str, ...]  # of the classes; empty if the schema has none
    num_rows: int  # with and without a label


def read_parquet(
    root: Path, files: Sequence[Path], config: SourceConfig | None = None
) -> SourceListing:
    """List the images of `files`, all below `root`; raise UserError for another layout."""
    config = config or SourceConfig()
    splits = {path: _split(path, root) for path in sorted(files)}
    named = {path: split for path, split in splits.items() if split} or dict.fromkeys(splits, "all")
    left_out = [path.name for path in splits if path not in named]
    content: dict[str, list[_Labelled]] = {}
    for path, split in named.items():
        content.setdefault(split, []).append(_read_labels(path, config))
    everything = [labelled for split in content.values() for labelled in split]
    found = {label for labelled in everything for label in labelled.labels.values()}
    if not found:
        raise UserError(f"no labelled images in {root if len(files) > 1 else files[0]}")
    numeric = all(re.fullmatch(r"\d+", label) for label in found)
    declared = dict.fromkeys(name for labelled in everything for name in labelled.names)
    if declared and (strange := sorted(found - declared.keys())):
        raise UserError(
            f"labels in {root} that the classes of the other files do not name: "
            f"{shortened(strange)}"
        )
    classes = tuple(declared or sorted(found, key=int if numeric else None))
    unlabelled = sum(labelled.num_rows - len(labelled.labels) for labelled in everything)
    notices = [f"rows without a label, ignored: {unlabelled}"] if unlabelled else []
    if left_out:
        notices.append(
            f"parquet files without a split in their name, ignored: {shortened(left_out)}"
        )
    listings = {
        split: _listing(content[split], classes, root, config)
        for split in SPLIT_ORDER
        if any(labelled.labels for labelled in content.get(split, ()))
    }
    return SourceListing(
        name=root.resolve().name if len(files) > 1 else files[0].stem,
        classes=classes,
        splits=listings,
        notices=tuple(notices),
        source=f"{(root if len(files) > 1 else files[0]).absolute()}{_permission(config)}",
    )


def _permission(config: SourceConfig) -> str:
    """Return a mark, so that headers that were cached with permission are not used without it."""
    return " outside" if config.allow_outside else ""


def _listing(
    content: list[_Labelled], classes: tuple[str, ...], root: Path, config: SourceConfig
) -> SplitListing:
    """Return the labelled rows of the files of one split."""
    tables = tuple(labelled.table for labelled in content)
    names = [table.path.relative_to(root).as_posix() for table in tables]
    places = [(which, row) for which, labelled in enumerate(content) for row in labelled.labels]
    ids = PackedStrings.of(f"{names[which]}#{row}" for which, row in places)
    labels = [label for labelled in content for label in labelled.labels.values()]
    inside = None if config.allow_outside else os.path.realpath(root)
    store = RowGroupStore(ids, tables, np.array(places), inside)
    return SplitListing(store, numbered(labels, classes))


def _read_labels(path: Path, config: SourceConfig) -> _Labelled:
    """Read the labels of one file; images are read on demand."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("reading parquet needs pyarrow: pip install 'resnets[parquet]'") from error
    try:
        open_file(path).close()
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_sizes(file.metadata, path)
            columns = _columns(file.schema_arrow, path, config.columns)
            _check_label_type(file.schema_arrow, columns, path)
            ends = _row_groups(file.metadata, columns.image, path)
        # Labels as a dictionary: equal strings are unpacked once.
        with pyarrow.parquet.ParquetFile(path, read_dictionary=[columns.label]) as file:
            values = file.read(columns=[columns.label]).column(0)
            labels = _labels(values, columns, path)
    except UserError:
        raise
    # Damage reaches the caller in many ways: ArrowException, OSError, ValueError, MemoryError.
    except Exception as error:
        raise UserError(f"cannot read {path} as parquet: {reason_of(error)}") from error
    return _Labelled(
        table=ParquetTable(path, columns.image, ends),
        labels=labels,
        names=columns.names,
        num_rows=len(values),
    )


def _check_sizes(metadata: Any, path: Path) -> None:
    """Refuse a file that promises more columns or rows than it can have."""
    if metadata.num_columns > MAX_COLUMNS:
        raise UserError(f"{path} has {metadata.num_columns:,} columns; at most {MAX_COLUMNS:,}")
    size = path.stat().st_size
    if metadata.num_rows > MANY and metadata.num_rows * LEAST_BYTES > size:
        raise UserError(f"{path} promises {metadata.num_rows:,} rows in {size:,} bytes")


def _row_groups(metadata: Any, image: str, path: Path) -> tuple[int, ...]:
    """Return where the row groups end, after the size of each was checked."""
    counts = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if group.num_rows < 0:
            raise UserError(f"cannot read {path}: damaged (a row group of {group.num_rows} rows)")
        # Of the group, not of its columns: pyarrow ends the process where one of these is damaged.
        check_size(group.total_byte_size, path.stat().st_size, f"row group {number} of {path}")
        counts.append(group.num_rows)
    return tuple(accumulate(counts))


def _check_label_type(schema: Any, columns: _Columns, path: Path) -> None:
    """Refuse labels that are neither numbers nor strings, before any is read."""
    from pyarrow import types

    kind = schema.field(columns.label).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_null(kind)
    if not number and (columns.names or not _is_text(kind)):
        expected = "numbers of its classes" if columns.names else "whole numbers or strings"
        raise UserError(
            f"the column {columns.label} of {path} is {str(kind)[:80]}; expected {expected}"
        )


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _labels(values: Any, columns: _Columns, path: Path) -> dict[int, str]:
    """Return the label of each row that has one: not null, not empty and not -1."""
    import pyarrow.compute as pc

    for chunk in values.chunks if hasattr(values.type, "value_type") else ():
        # Before each row of text is a Python string of its own.
        if _is_text(chunk.dictionary.type) and len(chunk.dictionary):
            longest = pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0
            if longest > 4 * MAX_LABEL:  # UTF-8
                raise UserError(f"{path} has a label of {longest:,} bytes in {columns.label}")
    found = enumerate(values.to_pylist())
    labels = {row: label for row, label in found if label not in (None, "", -1)}
    return {
        row: _text(label, row, path)
        if isinstance(label, str)
        else _named(label, row, columns.names, path)
        for row, label in labels.items()
    }


def _text(label: str, row: int, path: Path) -> str:
    if MISSING.fullmatch(label.strip()):
        raise UserError(f"row {row} of {path} has the label {label!r}, a missing value")
    return label


def _named(label: float, row: int, names: tuple[str, ...], path: Path) -> str:
    """Return the class of a number."""
    if not math.isfinite(label) or label < 0 or label != int(label):
        raise UserError(
            f"row {row} of {path} has the label {label}; expected whole numbers from 0, and null "
            "or -1 for a row without one"
        )
    if not names:
        return str(int(label))
    if label >= len(names):
        raise UserError(f"{path} has the label {int(label)}, but {len(names)} classes")
    return names[int(label)]


def _split(path: Path, root: Path) -> str | None:
    """Return the split in the name of the file, or of a folder between it and `root`."""
    for name in reversed(path.relative_to(root).parts):
        if match := _SPLIT.match(name):
            return SPLIT_NAMES[match.group(1).lower()]
    return None


def _columns(schema: Any, path: Path, columns: str | None) -> _Columns:
    """Choose the columns: those given, those that the metadata declares, or usual names."""
    content = (schema.metadata or {}).get(b"huggingface", b"{}")
    name = f"the huggingface metadata of {path}"
    metadata = parse_json(content, _Metadata, name=name, max_bytes=MAX_METADATA)
    features = {
        column: convert(feature, _Feature, name=f"{name}: {column[:40]!r}")
        for column, feature in metadata.info.features.items()
        if isinstance(feature, dict) and feature.get("_type") in ("Image", "ClassLabel")
    }
    declared = {
        kind: [one for one in schema.names if one in features and features[one].kind == kind]
        for kind in ("Image", "ClassLabel")
    }
    given = parse_columns(columns)
    if given.get("split", UNUSED) != UNUSED:
        raise UserError(f"--columns split: the split is in the name of a parquet file ({path})")
    for other in (given[role] for role in ("path", "label") if role in given):
        if other not in schema.names:
            raise unknown(f"column of {path}:", other, schema.names)
    images = declared["Image"] or [one for one in schema.names if _is_image(schema, one)]
    image = given.get("path") or _one(images, ("image", "img"), [])
    label = given.get("label") or _one(declared["ClassLabel"], ("label", "labels"), schema.names)
    if image is None or label is None or not _is_image(schema, image):
        listed = ", ".join(f"{one[:40]} ({_shown(schema, one)})" for one in schema.names[:12])
        raise UserError(
            f"{path} has the columns {listed or 'none'}; expected one image column (a struct of "
            "bytes and path) and one label column: --columns path=COLUMN,label=COLUMN"
        )
    if twice := [one for one in (image, label) if schema.names.count(one) > 1]:
        raise UserError(f"{path} has the column {twice[0]!r} twice; give each another name")
    names = features[label].names if label in features else None
    if len(set(names or ())) < len(names or ()):
        raise UserError(f"{name} names a class of {label!r} twice")
    return _Columns(image, label, tuple(names or ()))


def _shown(schema: Any, column: str) -> str:
    places = schema.get_all_field_indices(column)
    return str(schema.field(places[0]).type)[:40]


def _is_image(schema: Any, column: str) -> bool:
    """Return whether a column can hold the content of image files, or paths in a struct."""
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    kind = schema.field(schema.get_all_field_indices(column)[0]).type
    if not types.is_struct(kind):
        return is_bytes(kind)
    inside = {kind.field(place).name: kind.field(place).type for place in range(kind.num_fields)}
    holds = "bytes" in inside or "path" in inside
    bytes_fit = "bytes" not in inside or is_bytes(inside["bytes"]) or types.is_null(inside["bytes"])
    return (
        holds
        and bytes_fit
        and ("path" not in inside or _is_text(inside["path"]) or types.is_null(inside["path"]))
    )


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
        """Return a row group as `_read_group` does, from memory if used recently."""
        key = table.path, number
        with self.lock:
            if key not in self.groups:
                self.groups[key] = _read_group(table, number)
            self.groups.move_to_end(key)
            while len(self.groups) > 1 and self.num_bytes() > KEPT:
                self.groups.popitem(last=False)
            return self.groups[key]

    def num_bytes(self) -> int:
        """Return the size of the groups in memory."""
        return sum(int(getattr(group, "nbytes", 0)) for group in self.groups.values())


def _read_group(table: ParquetTable, number: int) -> Any:
    """Return the images of a row group, an Arrow array, or a DecodeError for all of them."""
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(table.path) as file:
            size = max(1, file.metadata.row_group(number).total_byte_size)
            steps, total = [], 0
            for step in file.iter_batches(
                batch_size=min(MAX_ROWS, max(1, STEP // size)),
                row_groups=[number],
                columns=[table.column],
            ):
                steps.append(step.column(0))
                total += step.nbytes
                if total > max(SMALL, 2 * size):  # equal values, packed as one
                    return DecodeError(f"row group {number} unpacks to more than it declares")
            return pyarrow.chunked_array(steps)
    # Damage reaches the caller in many ways: ArrowException, OSError, ValueError, MemoryError.
    except Exception as error:
        return DecodeError(f"row group {number}: {reason_of(error)}")


@dataclass(frozen=True, eq=False)
class RowGroupStore:
    """Give N images, each a row of one of several parquet files.

    Only the row groups used last stay in memory. A file cannot give a single row, so random access
    to a set beyond `KEPT` bytes reads a row group for each image.
    """

    names: PackedStrings
    tables: tuple[ParquetTable, ...]
    places: Array  # N 2 int64: which table, which row of it
    inside: str | None  # folder that images named by their path must be in; None: anywhere
    recent: RowGroupCache = field(default_factory=RowGroupCache)
    num_readers: ClassVar[int] = 1  # more would compete for the row groups in memory

    def __getitem__(self, index: int) -> str | bytes:
        which, row = self.places[index].tolist()
        table = self.tables[which]
        number = int(np.searchsorted(table.ends, row, side="right"))
        first = table.ends[number - 1] if number else 0
        group = self.recent.group(table, number)
        if isinstance(group, DecodeError):
            raise DecodeError(group.reason)
        image = group[row - first].as_py() or {}
        if isinstance(image, bytes):
            return image
        if image.get("bytes") is None and image.get("path"):
            return self._path(table, image["path"])
        return image.get("bytes") or b""  # an empty file is reported as one

    def _path(self, table: ParquetTable, path: str) -> str:
        """Return the file that a row names in place of its content."""
        file = os.path.join(table.path.parent, path)
        try:
            real = os.path.realpath(file)
        except ValueError as error:
            raise DecodeError(f"not a path ({error})") from None
        if self.inside is not None and os.path.commonpath((real, self.inside)) != self.inside:
            raise UserError(  # not a damaged image, of which a few are left out
                f"{table.path}: a row names {path[:200]!r}, outside of {self.inside}; pass "
                "--allow-outside (allow_outside=True in Python) if images may be read from there"
            )
        return file

    def subset(self, indices: Array | Sequence[int]) -> "RowGroupStore":
        names, places = self.names.subset(indices), self.places[indices]
        return RowGroupStore(names, self.tables, places, self.inside, self.recent)

    def stamps(self) -> Array:
        """Return the stamps of the files that the rows are in."""
        each = np.array([stamp(table.path) for table in self.tables], np.int64)
        return np.take(each, self.places[:, 0], axis=0)
