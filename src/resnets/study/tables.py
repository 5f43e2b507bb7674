"""Write and read the tables of a study: one long form for every part.

A row is one number: what was measured (`metric`), where (`family`, `depth`, `width`, `unit` for a
block, ...) and the result (`value`, `status`). Floats have all digits: equal bits, equal files.
"""

import csv
import io
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from resnets.errors import UserError, shown, unknown
from resnets.fileio import open_file, write_atomic
from resnets.parsing import MAX_BYTES, MAX_DIGITS, convert, read_json

# `x` is whatever else a curve runs over (a path length, a direction, the cosine of two inputs),
# named by `metric`; `status` is empty, or says why `value` is.
COLUMNS = (
    *("study", "family", "depth", "width", "unit", "seed", "draw", "lr", "step", "x"),
    *("metric", "value", "status"),
)
TEXTS = frozenset({"study", "family", "metric", "status"})
WHOLE = frozenset({"depth", "width", "unit", "seed", "draw", "step"})
# What every row of a table says, by the table's name; of the others, ALWAYS.
ALWAYS: tuple[str, ...] = ("metric",)
NEEDED = {"train": ("metric", "study", "seed")}
# A table of one probed network is probe_TABLE_NETWORK.csv; ACROSS is the table of two networks,
# with AGAINST between their names.
PROBE = "probe_"
ACROSS, AGAINST = "across", "-against-"

Row = dict[str, Any]


class PlanGroup(msgspec.Struct, frozen=True):
    """Networks of a plan that are trained alike."""

    depths: Annotated[list[int], msgspec.Meta(min_length=1)]


class PlanSetup(msgspec.Struct, frozen=True):
    """The images of a plan, and the recipe: its fields, flat or in groups."""

    data: str
    side: int
    recipe: dict[str, Any]


class PlanRecord(msgspec.Struct, frozen=True):
    """What a report reads of plan.json."""

    name: str
    setup: PlanSetup
    groups: Annotated[list[PlanGroup], msgspec.Meta(min_length=1)]
    rates: list[float]


@dataclass(frozen=True, eq=False)
class Tables:
    """Every table in DIR/data by its name, and the plan of training; a missing one is empty."""

    folder: Path
    tables: dict[str, list[Row]]
    plan: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Tables":
        """Read all tables of a folder; raises UserError without any, or for one that is damaged."""
        paths = sorted((folder / "data").glob("*.csv"))
        if not paths:
            raise UserError(
                f"{folder}: holds no tables of a study (data/*.csv); run `resnets study train`, "
                "`init` or `probe` with this --out first"
            )
        tables = {}
        for path in paths:
            try:
                tables[path.stem] = read_table(path)
            except (ValueError, csv.Error) as error:
                raise UserError(f"{path}: is not a table of a study ({error})") from None
        return cls(folder, tables, read_plan(folder / "data" / "plan.json"))

    @property
    def deepest(self) -> int | None:
        """The depth of the plan's primary test; None without a plan."""
        groups = self.plan.get("groups")
        return max(groups[0]["depths"]) if groups else None

    def table(self, name: str) -> list[Row]:
        """Return the rows of a table; `probe_lesions` is that of all networks together."""
        if name in self.tables:
            return self.tables[name]
        return [row for rows in self.probes(name.removeprefix(PROBE)).values() for row in rows]

    def probes(self, name: str) -> dict[str, list[Row]]:
        """Return the table of each probed network; the shallowest first, plain before others."""
        start = f"{PROBE}{name}_"
        found = [
            (rows[0].get("depth", 0), rows[0].get("family") != "plain", name[len(start) :], rows)
            for name, rows in self.tables.items()
            if name.startswith(start) and rows
        ]
        return {name: rows for *_, name, rows in sorted(found, key=lambda item: item[:3])}


def read_plan(path: Path) -> dict[str, Any]:
    """Return the content of plan.json, which is empty where there is none."""
    if not path.exists():
        return {}
    content = read_json(path, dict[str, Any], name=str(path))
    convert(content, PlanRecord, name=str(path))
    return content


def probe_path(out: Path, table: str, network: str) -> Path:
    """Return the path of a table of a probed network in a study."""
    return out / "data" / f"{PROBE}{table}_{network}.csv"


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV, whole or not at all.

    Raises ValueError for a column that is not one of COLUMNS, and a value that is not finite.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        value = row.get("value")
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{dict(row)}: a value that is not finite belongs in `status`")
        writer.writerow(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue())


def read_table(path: Path) -> list[Row]:
    """Read a table: whole numbers as int, others as float, text as str, without empty columns.

    Raises:
        ValueError: It is no table of a study: another column, a row of another length, a cell that
            is no number, a row that does not say what it measures.
    """
    with open_file(path) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than the {MAX_BYTES:,} bytes that are read")
    text = content.decode("utf-8-sig")  # a spreadsheet puts a mark before it
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns = next(lines, [])
    for name in columns:
        if name not in COLUMNS:
            raise unknown("column", name, COLUMNS)
    needed = NEEDED.get(path.stem, ALWAYS)
    if not {*needed} <= {*columns} or len(set(columns)) < len(columns):
        raise ValueError(f"its first line must name columns, each once: {', '.join(COLUMNS)}")
    rows = []
    for cells in filter(None, lines):  # the reader returns nothing for an empty line
        if len(cells) != len(columns):
            raise ValueError(f"line {lines.line_num} has {len(cells)} cells, not {len(columns)}")
        try:
            pairs = zip(columns, cells, strict=True)
            row = {name: _value(name, cell) for name, cell in pairs if cell != ""}
        except ValueError as error:
            raise ValueError(f"line {lines.line_num}: {error}") from None
        if missing := [name for name in needed if name not in row]:
            raise ValueError(f"line {lines.line_num} names no {missing[0]}")
        rows.append(row)
    return rows


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """Return the rows whose columns have these values; None is an empty column."""
    return [row for row in rows if all(row.get(name) == want for name, want in wanted.items())]


def one(rows: Iterable[Row], **wanted: Any) -> float | None:
    """Return the value of the first such row that has one."""
    return next((row["value"] for row in select(rows, **wanted) if "value" in row), None)


def median_by(rows: Iterable[Row], *columns: str) -> dict[tuple[Any, ...], float]:
    """Return the median value over rows that agree in these columns."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        if "value" in row:
            groups.setdefault(tuple(row.get(name) for name in columns), []).append(row["value"])
    return {key: statistics.median(values) for key, values in groups.items()}


def _value(name: str, cell: str) -> Any:
    if name in TEXTS:
        return cell
    if len(cell) > MAX_DIGITS + 10 or not cell.isascii():
        raise ValueError(f"{name} = {shown(cell)} is not a number")
    if name in WHOLE:
        return int(cell)
    if not math.isfinite(value := float(cell)):
        raise ValueError(f"{name} = {cell} is not finite")
    return value
