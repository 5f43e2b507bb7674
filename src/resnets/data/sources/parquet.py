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
from pathlib import Path
from typing import Any

from resnets.data.sources.folders import PART_ORDER, PARTS, shortened
from resnets.data.sources.index import Found, Listed
from resnets.errors import UserError

_SPLIT = re.compile(rf"({'|'.join(PARTS)})(?=[-_.]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class _Columns:
    image: str
    label: str
    names: tuple[str, ...]  # of the classes; empty if the schema has none


def read_parquet(root: Path, files: Sequence[Path]) -> Found:
    """What `files`, all below `root`, hold. Raises UserError if they are not of this layout."""
    splits = {path: _split(path, root) for path in sorted(files)}
    named = {path: split for path, split in splits.items() if split} or dict.fromkeys(splits, "all")
    left_out = [path.name for path in splits if path not in named]
    parts: dict[str, list[Listed]] = {}
    unlabelled = 0
    classes: dict[str, None] = {}  # an ordered set
    for path, split in named.items():
        names, rows, num_rows = _read_file(path, root)
        unlabelled += num_rows - len(rows)
        classes.update(dict.fromkeys(names))
        if rows:
            parts.setdefault(split, []).extend(rows)
    if not parts:
        raise UserError(f"no labelled images in {root}")
    notices = [f"rows without a label, ignored: {unlabelled}"] if unlabelled else []
    if left_out:
        notices.append(f"parquet files of no known part, ignored: {shortened(left_out)}")
    ordered = {part: parts[part] for part in PART_ORDER if part in parts}
    return Found(
        name=root.resolve().name if len(files) > 1 else files[0].stem,
        classes=tuple(classes) or _sorted_labels(ordered),
        parts=dict(ordered),
        notices=tuple(notices),
    )


def _read_file(path: Path, root: Path) -> tuple[tuple[str, ...], list[Listed], int]:
    """The names of its classes, its labelled images, and how many rows it has."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("reading parquet needs pyarrow: pip install 'resnets[parquet]'") from error
    try:
        columns = _columns(pyarrow.parquet.read_schema(path), path)
        table = pyarrow.parquet.read_table(path, columns=[columns.image, columns.label])
    except UserError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    return columns.names, _listed(table, columns, path, root), table.num_rows


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


def _listed(table: Any, columns: _Columns, path: Path, root: Path) -> list[Listed]:
    """One entry a row; rows without a label (None or -1) are left out."""
    name = path.relative_to(root).as_posix()
    listed: list[Listed] = []
    images, labels = table.column(columns.image), table.column(columns.label).to_pylist()
    for row, (scalar, label) in enumerate(zip(images, labels, strict=True)):
        if label is None or label == -1:
            continue
        image = scalar.as_py() or {}
        content = image if isinstance(image, bytes) else image.get("bytes")
        if content is None and image.get("path"):
            content = str(path.parent / image["path"])
        if columns.names and label not in range(len(columns.names)):
            raise UserError(f"{path} holds the label {label}; it has {len(columns.names)} classes")
        listed.append(
            Listed(
                id=f"{name}#{row}",
                file=content or b"",  # an empty file, which is skipped and named as such
                label=columns.names[label] if columns.names else str(label),
            )
        )
    return listed


def _sorted_labels(parts: dict[str, list[Listed]]) -> tuple[str, ...]:
    labels = {listed.label for content in parts.values() for listed in content}
    if all(re.fullmatch(r"\d+", label) for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))
