"""A data set in the Hugging Face image layout, parquet files -> `Found`.

One image a row: a struct of `bytes` (the content of an image file) and `path`, and a label.
Which column is which, and the names of the classes, stand in the schema's `huggingface` metadata;
the split is in the file's name (train-00000-of-00002.parquet) or its folder's. Needs pyarrow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from resnets.data.packed_strings import Names
from resnets.data.sources.image_folder import PART_ORDER, PARTS, shortened
from resnets.data.sources.indexing import Found, Listing, numbered
from resnets.data.sources.row_group_store import Rows, Table
from resnets.errors import UserError

_SPLIT = re.compile(rf"({'|'.join(PARTS)})(?=[-_.]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class _Columns:
    image: str
    label: str
    names: tuple[str, ...]  # of the classes; empty if the schema has none


@dataclass(frozen=True, eq=False)
class _Labelled:
    """The rows of one file that have a label."""

    table: Table
    rows: list[int]
    labels: list[str]
    names: tuple[str, ...]  # of the classes; empty if the schema has none
    num_rows: int  # with those that have none


def read_parquet(root: Path, files: Sequence[Path]) -> Found:
    """What `files`, all below `root`, hold. Raises UserError if they are not of this layout."""
    splits = {path: _split(path, root) for path in sorted(files)}
    named = {path: split for path, split in splits.items() if split} or dict.fromkeys(splits, "all")
    left_out = [path.name for path in splits if path not in named]
    content: dict[str, list[_Labelled]] = {}
    unlabelled = 0
    names: dict[str, None] = {}  # an ordered set
    for path, split in named.items():
        labelled = _read_labels(path)
        unlabelled += labelled.num_rows - len(labelled.rows)
        names.update(dict.fromkeys(labelled.names))
        if labelled.rows:
            content.setdefault(split, []).append(labelled)
    if not content:
        raise UserError(f"no labelled images in {root}")
    notices = [f"rows without a label, ignored: {unlabelled}"] if unlabelled else []
    if left_out:
        notices.append(f"parquet files of no known part, ignored: {shortened(left_out)}")
    classes = tuple(names) or _sorted_labels(content)
    ordered = [part for part in PART_ORDER if part in content]
    return Found(
        name=root.resolve().name if len(files) > 1 else files[0].stem,
        classes=classes,
        splits={part: _listing(content[part], classes, root) for part in ordered},
        notices=tuple(notices),
        source=str((root if len(files) > 1 else files[0]).absolute()),
    )


def _listing(content: list[_Labelled], classes: tuple[str, ...], root: Path) -> Listing:
    """The labelled rows of the files of one part."""
    ids = (
        f"{labelled.table.path.relative_to(root).as_posix()}#{row}"
        for labelled in content
        for row in labelled.rows
    )
    places = [(which, row) for which, labelled in enumerate(content) for row in labelled.rows]
    tables = tuple(labelled.table for labelled in content)
    labels = [label for labelled in content for label in labelled.labels]
    return Listing(Rows(Names.of(ids), tables, np.array(places)), numbered(labels, classes))


def _read_labels(path: Path) -> _Labelled:
    """One file without its images, which are read when they are asked for."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("reading parquet needs pyarrow: pip install 'resnets[parquet]'") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = _columns(file.schema_arrow, path)
            labels = file.read(columns=[columns.label]).column(0).to_pylist()
            groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    except UserError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    rows = [row for row, label in enumerate(labels) if label not in (None, -1)]
    return _Labelled(
        table=Table(path, columns.image, tuple(accumulate(groups))),
        rows=rows,
        labels=[_label(labels[row], columns, path) for row in rows],
        names=columns.names,
        num_rows=len(labels),
    )


def _label(label: Any, columns: _Columns, path: Path) -> str:
    """The name of a row's class."""
    if not columns.names:
        return str(label)
    if label not in range(len(columns.names)):
        raise UserError(f"{path} holds the label {label}; it has {len(columns.names)} classes")
    name: str = columns.names[label]
    return name


def _split(path: Path, root: Path) -> str | None:
    """The part that the file's name, or else a folder's between it and `root`, says."""
    for name in (path.name, *reversed(path.relative_to(root).parts[:-1])):
        if match := _SPLIT.match(name):
            return PARTS[match.group(1).lower()]
    return None


def _columns(schema: Any, path: Path) -> _Columns:
    """Which columns hold images and labels."""
    metadata = (schema.metadata or {}).get(b"huggingface", b"{}")
    features = json.loads(metadata).get("info", {}).get("features", {})
    kinds = {name: kind.get("_type") for name, kind in features.items() if isinstance(kind, dict)}
    images = [name for name in schema.names if kinds.get(name) == "Image"]
    labels = [name for name in schema.names if kinds.get(name) == "ClassLabel"]
    images = images or [name for name in schema.names if _holds_bytes(schema.field(name).type)]
    image = _one(images, ("image", "img"), [])
    label = _one(labels, ("label", "labels"), schema.names)
    if image is None or label is None:
        raise UserError(
            f"{path} has the columns {', '.join(schema.names)}; expected one image column "
            "(a struct of bytes and path) and one label column"
        )
    names = tuple(features.get(label, {}).get("names", ())) if label in labels else ()
    return _Columns(image=image, label=label, names=names)


def _holds_bytes(kind: Any) -> bool:
    """Whether a column of this type can hold the contents of image files."""
    return str(kind).startswith(("struct<bytes: ", "binary", "large_binary"))


def _one(declared: list[str], usual: tuple[str, ...], present: list[str]) -> str | None:
    """The usual name among the declared columns, the only declared one, or a usual one."""
    candidates = [name for name in usual if name in (declared or present)]
    if candidates:
        return candidates[0]
    return declared[0] if len(declared) == 1 else None


def _sorted_labels(content: dict[str, list[_Labelled]]) -> tuple[str, ...]:
    labels = {label for part in content.values() for labelled in part for label in labelled.labels}
    if all(re.fullmatch(r"\d+", label) for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))
