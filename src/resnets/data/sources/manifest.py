"""A manifest, CSV or JSONL, of path, label[, split] -> `Found`.

One image a row; paths are relative to the manifest. The split is train, val (valid, validation)
or test, for every row or for none. Rows are named in errors as an editor numbers lines.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

from resnets.data.dataset import Images
from resnets.data.file_store import Paths
from resnets.data.packed_strings import Names
from resnets.data.sources.image_folder import PART_ORDER, PARTS, class_name, printable
from resnets.data.sources.indexing import Found, Listing, numbered
from resnets.errors import UserError, unknown

Row = dict[str, str]


def read_manifest(path: Path) -> Found:
    """Raises UserError naming the line that is wrong."""
    base = path.absolute().parent
    rows: dict[str, list[tuple[str, str]]] = {}  # part -> (path, label) of each image
    seen: dict[str, int] = {}
    try:
        for line, row in _rows(path):
            where = f"line {line} of {path}"
            image, label, part = _checked(row, where)
            name = Path(image).as_posix()
            if name in seen:
                raise UserError(f"{where} names {printable(name)} again, after line {seen[name]}")
            seen[name] = line
            rows.setdefault(part, []).append((name, class_name(label)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not rows:
        raise UserError(f"{path} lists no images")
    if "all" in rows and len(rows) > 1:
        first = printable(rows["all"][0][0])
        raise UserError(f"{path} gives a split for some rows but none for {first}")
    classes = tuple(sorted({label for content in rows.values() for _, label in content}))
    parts: dict[str, Images | Listing] = {}
    for part in (part for part in PART_ORDER if part in rows):
        names, labels = zip(*rows[part], strict=True)
        parts[part] = Listing(Paths(str(base), Names.of(names)), numbered(labels, classes))
    return Found(name=path.stem, classes=classes, splits=parts, source=str(path.absolute()))


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    """(line number, row) of each image."""
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


def _csv_rows(file: Iterator[str], path: Path) -> Iterator[tuple[int, Row]]:
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


def _checked(row: Row, where: str) -> tuple[str, str, str]:
    """Image path, label and part of a row."""
    image, label, split = (row.get(key, "").strip() for key in ("path", "label", "split"))
    for key, value in (("path", image), ("label", label)):
        if not value:
            raise UserError(f"{where} has no {key}")
    try:
        possible = b"\0" not in os.fsencode(image)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise UserError(f"{where} has a path that no file can have: {image!r}")
    if split and split.lower() not in PARTS:
        raise unknown(f"split on {where}:", split, PARTS)
    return image, label, PARTS[split.lower()] if split else "all"
