"""Provide the rows of CSV and JSONL tables, whatever encoding and separator wrote them.

A table is read line by line, twice: for its encoding, then for its rows. Lines, cells and the
number of columns are limited before they cost memory.
"""

import codecs
import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from resnets.data.sources.columns import Columns, choose_columns
from resnets.errors import UserError
from resnets.fileio import open_file
from resnets.parsing import parse_json

JSON_SUFFIXES = frozenset((".jsonl", ".ndjson"))
SUFFIXES = frozenset((".csv", ".tsv")) | JSON_SUFFIXES
# Characters of a line, columns of a table, and characters of a label.
MAX_LINE, MAX_COLUMNS, MAX_LABEL = 2**20, 2000, 500
# Rows of JSONL in which the names of the columns are looked for: a row may leave some out.
NUM_SURVEYED = 1000
SEPARATORS = {",": "a comma", ";": "';'", "\t": "a tab", "|": "'|'"}
# Longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE | re.DOTALL)
_CLOSED_LATE = re.compile(r'(?<!")"[ \t]+(?=[,;|\r\n]|$)')


class Row(NamedTuple):
    """One row: its line in the file, and its cells, of which `label` and `split` may be empty."""

    line: int
    path: str
    label: str
    split: str


class Table(NamedTuple):
    """The rows of a table, read one after the other, and what the user should know about it."""

    rows: Iterator[Row]
    notices: tuple[str, ...]


@contextmanager
def open_table(path: Path, columns: str | None = None) -> Iterator[Table]:
    """Open a table and choose its columns; `columns` is the text of `--columns`.

    Raises:
        UserError: The file is no such table; the message names the line that is wrong. The rows
            raise it too.
        MissingColumnsError: It has no column for the paths or the labels.
    """
    encoding, notices = _encoding(path)
    with TextIOWrapper(open_file(path), encoding=encoding, newline="") as file:
        lines = _lines(file, path)
        if path.suffix.lower() in JSON_SUFFIXES:
            chosen, rows = _read_jsonl(lines, path, columns)
        else:
            chosen, rows, more = _read_csv(lines, path, columns)
            notices += more
        yield Table(rows, (*notices, *chosen.notices))


def _encoding(path: Path) -> tuple[str, list[str]]:
    """Return the encoding of a text, and a notice if it is a guess."""
    with open_file(path) as file:
        head = file.read(4)
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if _decodes(path, marked or "utf-8"):
        return marked or "utf-8", []
    if marked is None and _decodes(path, "cp1252"):
        return "cp1252", [
            f"{path.name} is not UTF-8: read as Windows-1252; check names with special letters"
        ]
    kind = marked.removesuffix("-sig").upper() if marked else "neither UTF-8 nor Windows-1252"
    raise UserError(f"cannot read {path}: damaged, or not text ({kind}); save it as UTF-8")


def _decodes(path: Path, encoding: str) -> bool:
    """Return whether a file is text in this encoding; NUL characters are in no text."""
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with open_file(path) as file:
            while chunk := file.read(1 << 20):
                if "\0" in decoder.decode(chunk):
                    raise UserError(
                        f"cannot read {path}: it holds NUL characters, so it is no text, or "
                        "UTF-16 without its mark; save it as UTF-8"
                    )
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), ""), start=1):
        if len(line) > MAX_LINE:
            raise UserError(f"line {number} of {path} has more than {MAX_LINE:,} characters")
        yield line


def _read_csv(
    lines: Iterator[str], path: Path, columns: str | None
) -> tuple[Columns, Iterator[Row], list[str]]:
    """Find the separator and the columns in the first line."""
    before, first = 0, next(lines, "")
    while first and not first.strip():
        before, first = before + 1, next(lines, "")
    if not first:
        raise UserError(f"{path} is empty; its first line must name the columns: path,label")
    if given := _SEPARATOR_LINE.fullmatch(first):
        separator, before, first = given[1], before + 1, next(lines, "")
    else:
        separator = max(SEPARATORS, key=lambda one: first.count(one))
        separator = "," if _names_two(first, ",", columns, path) else separator
    if first.count(separator) >= MAX_COLUMNS:
        raise UserError(f"{path} has more than {MAX_COLUMNS:,} columns")
    reader = csv.reader(
        _closing_quotes_freed(chain([first], lines)),
        delimiter=separator,
        skipinitialspace=True,
        strict=True,
    )
    records = _records(reader, before, path)
    _, header = next(records)
    chosen = choose_columns(header, columns, str(path))
    notices = [] if separator == "," else [f"columns are separated by {_shown(separator)}"]
    return chosen, _csv_rows(records, chosen, len(header), path), notices


def _names_two(first: str, separator: str, columns: str | None, path: Path) -> bool:
    """Return whether a line names the columns of paths and labels with this separator."""
    try:
        choose_columns(first.split(separator), columns, str(path))
    except UserError:
        return False
    return True


def _shown(separator: str) -> str:
    return SEPARATORS.get(separator, repr(separator))


def _closing_quotes_freed(lines: Iterator[str]) -> Iterator[str]:
    """Drop the spaces between a closing quote and the separator, which csv takes for an error."""
    for line in lines:
        yield _CLOSED_LATE.sub('"', line) if '" ' in line or '"\t' in line else line


def _records(reader: Any, before: int, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and cells of each record; `before` lines were read already."""
    while True:
        line = before + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(f"line {line} of {path}: {_csv_reason(str(error))}") from None
        if cells is None:
            return
        yield before + reader.line_num, cells


def _csv_reason(reason: str) -> str:
    if "unexpected end" in reason:
        return "a quote opens here and is never closed"
    if "field limit" in reason:
        return f"a cell has more than {csv.field_size_limit():,} characters; is a quote not closed?"
    if "expected after" in reason:
        return 'a cell goes on after its closing quote; write a quote inside a cell twice: ""'
    return reason


def _csv_rows(
    records: Iterator[tuple[int, list[str]]], columns: Columns, width: int, path: Path
) -> Iterator[Row]:
    needed = max(columns.path, columns.label, columns.split or 0)
    for line, cells in records:
        if len(cells) != width:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) <= needed or any(cell.strip() for cell in cells[width:]):
                raise UserError(
                    f"line {line} of {path} has {len(cells)} cells, the first line {width}; quote "
                    'a cell that holds the separator: "a, b"'
                )
        image, label = cells[columns.path].strip(), cells[columns.label].strip()
        split = "" if columns.split is None else cells[columns.split].strip()
        if image or label or split or any(cell.strip() for cell in cells):
            yield Row(line, image, label, split)


def _read_jsonl(
    lines: Iterator[str], path: Path, columns: str | None
) -> tuple[Columns, Iterator[Row]]:
    """Find the columns among the keys of the first rows."""
    records = _objects(lines, path)
    first = list(islice(records, NUM_SURVEYED))
    if not first:
        raise UserError(f"{path} lists no images")
    names = list(dict.fromkeys(name for _, record in first for name in record))
    if len(names) > MAX_COLUMNS:
        raise UserError(f"{path} has more than {MAX_COLUMNS:,} columns")
    chosen = choose_columns(names, columns, str(path))
    return chosen, _jsonl_rows(chain(first, records), names, chosen, path)


def _objects(lines: Iterator[str], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(lines, start=1):
        if text.strip():
            record = parse_json(text, name=f"line {line} of {path}")
            if not isinstance(record, dict):
                raise UserError(
                    f'line {line} of {path} is not an object such as {{"path": "1.png", '
                    '"label": "cat"}'
                )
            yield line, record


def _jsonl_rows(
    records: Iterator[tuple[int, dict[str, Any]]], names: list[str], columns: Columns, path: Path
) -> Iterator[Row]:
    used = [names[columns.path], names[columns.label]]
    used += [] if columns.split is None else [names[columns.split]]
    for line, record in records:
        cells = [record.get(name, "") for name in used]
        for place, cell in enumerate(cells):
            if type(cell) is not str:
                cells[place] = _text(cell, used[place], line, path)
        image, label, *split = cells
        yield Row(line, image.strip(), label.strip(), split[0].strip() if split else "")


def _text(value: object, name: str, line: int, path: Path) -> str:
    """Return a number as text; refuse what is neither."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    kinds = {type(None): "null", bool: "a boolean", list: "a list", dict: "an object"}
    raise UserError(
        f"line {line} of {path}: {name} is {kinds[type(value)]}; expected text or a number"
    )
