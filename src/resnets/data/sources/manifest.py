"""Provide manifests: CSV or JSONL with the columns path, label and, optionally, split.

Paths are relative to the manifest. Every row has a split (train, val, test) or none has.
"""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

from resnets.data.file_store import FileStore, PackedStrings
from resnets.data.sources.listing import (
    SPLIT_NAMES,
    SPLIT_ORDER,
    SourceListing,
    SplitListing,
    class_name,
    numbered,
    printable,
)
from resnets.errors import UserError, unknown


def read_manifest(path: Path) -> SourceListing:
    """List the images of a manifest; raise UserError naming the line that is wrong."""
    base = str(path.absolute().parent)
    labels: dict[str, dict[str, str]] = {}  # split -> path -> label
    seen: dict[str, int] = {}
    try:
        for line, row in _rows(path):
            where = f"line {line} of {path}"
            image, label, split = _checked(row, where)
            name = Path(image).as_posix()
            if name in seen:
                raise UserError(f"{where} names {printable(name)} again, after line {seen[name]}")
            seen[name] = line
            labels.setdefault(split, {})[name] = class_name(label)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not labels:
        raise UserError(f"{path} lists no images")
    if "all" in labels and len(labels) > 1:
        first = printable(next(iter(labels["all"])))
        raise UserError(f"{path} gives a split for some rows but none for {first}")
    classes = tuple(sorted({label for rows in labels.values() for label in rows.values()}))
    splits = {
        split: SplitListing(
            FileStore(base, PackedStrings.of(labels[split])),
            numbered(list(labels[split].values()), classes),
        )
        for split in SPLIT_ORDER
        if split in labels
    }
    return SourceListing(path.stem, classes, splits, source=str(path.absolute()))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the row of each image."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() == ".csv":
            yield from _csv_rows(file, path)
            return
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise UserError(f"line {line} of {path} is not JSON: {error.msg}") from error
            if not isinstance(row, dict):
                raise UserError(f"line {line} of {path} is not an object with path and label")
            yield line, {key: str(value) for key, value in row.items() if value is not None}


def _csv_rows(file: Iterator[str], path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(file)
    header = [name.strip().lower() for name in next(reader, [])]
    if not {"path", "label"} <= set(header):
        raise UserError(
            f"the first line of {path} is {','.join(header)!r}; it must name the columns: "
            "path,label[,split]"
        )
    for values in reader:
        if any(value.strip() for value in values):
            yield reader.line_num, dict(zip(header, values, strict=False))


def _checked(row: dict[str, str], where: str) -> tuple[str, str, str]:
    """Return the image path, label and split of a row."""
    image, label, split = (row.get(key, "").strip() for key in ("path", "label", "split"))
    if not image or not label:
        raise UserError(f"{where} has no {'label' if image else 'path'}")
    try:
        possible = b"\0" not in os.fsencode(image)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise UserError(f"{where} has a path that no file can have: {image!r}")
    if split and split.lower() not in SPLIT_NAMES:
        raise unknown(f"split on {where}:", split, SPLIT_NAMES)
    return image, label, SPLIT_NAMES[split.lower()] if split else "all"
