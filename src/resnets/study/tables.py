"""Measurements enter, tables leave: one long form for every part of a study.

A row is one number: what was measured (`metric`), where (`family`, `depth`, `width`, `unit`, ...)
and what came out (`value`, `status`). A column that says nothing about a row is empty. Floats are
written with all their digits, so equal bits make equal files.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

COLUMNS = (
    "study", "family", "depth", "width", "unit", "seed", "draw", "lr", "step", "x", "metric",
    "value", "status",
)  # fmt: skip
"""`x` is whatever else a curve runs over (a lag, a path length, a direction, a rank), named by
`metric`; `status` is empty, or says why `value` is."""

ACROSS, AGAINST = "across", "-against-"
"""the table of two networks that are compared, and what stands between their names"""

Row = dict[str, Any]


def probe_path(out: Path, table: str, network: str) -> Path:
    """Where a table of a probed network lies in a study."""
    return out / "data" / f"probe_{table}_{network}.csv"


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV in place of what stands there, whole or not at all.

    With pyarrow installed the same table is written beside it as parquet. Raises ValueError for a
    column that is none of COLUMNS, and for a value that is not finite: that belongs in `status`.
    """
    kept = [_checked(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text.getvalue(), encoding="utf-8")
    os.replace(partial, path)
    _write_parquet(path.with_suffix(".parquet"), kept)


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a table: whole numbers as int, others as float, text as str, without blanks."""
    with path.open(encoding="utf-8", newline="") as lines:
        return [
            {name: _value(name, cell) for name, cell in row.items() if cell != ""}
            for row in csv.DictReader(lines)
        ]


def _checked(row: Row) -> Row:
    strange = set(row) - set(COLUMNS)
    if strange:
        raise ValueError(f"{sorted(strange)}: the columns of a table are {', '.join(COLUMNS)}")
    value = row.get("value")
    if value is not None and not math.isfinite(value):
        raise ValueError(f"{dict(row)}: a value that is not finite belongs in `status`")
    return row


def _cell(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


TEXTS = frozenset({"study", "family", "metric", "status"})
WHOLE = frozenset({"depth", "width", "unit", "seed", "draw", "step"})


def _value(name: str, cell: str) -> Any:
    if name in TEXTS:
        return cell
    return int(cell) if name in WHOLE else float(cell)


def _write_parquet(path: Path, rows: list[Row]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return
    kinds = {name: pa.string() if name in TEXTS else pa.int64() for name in TEXTS | WHOLE}
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in COLUMNS])
    columns = {name: [row.get(name) for row in rows] for name in COLUMNS}
    pq.write_table(pa.table(columns, schema=schema), path)
