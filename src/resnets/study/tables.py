"""Write and read the tables of a study: one long form for every part.

A row is one number: what was measured (`metric`), where (`family`, `depth`, `width`, `unit` for a
block, ...) and the result (`value`, `status`). Floats have all digits: equal bits, equal files.
"""

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnets.errors import UserError
from resnets.fileio import write_atomic

# `x` is whatever else a curve runs over (a path length, a direction, the cosine of two inputs),
# named by `metric`; `status` is empty, or says why `value` is.
COLUMNS = (
    *("study", "family", "depth", "width", "unit", "seed", "draw", "lr", "step", "x"),
    *("metric", "value", "status"),
)
TEXTS = frozenset({"study", "family", "metric", "status"})
WHOLE = frozenset({"depth", "width", "unit", "seed", "draw", "step"})
# A table of one probed network is probe_TABLE_NETWORK.csv; ACROSS is the table of two networks,
# with AGAINST between their names.
PROBE = "probe_"
ACROSS, AGAINST = "across", "-against-"

Row = dict[str, Any]


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
            except (TypeError, ValueError) as error:
                raise UserError(f"{path}: is not a table of a study ({error})") from None
        plan = folder / "data" / "plan.json"
        return cls(folder, tables, json.loads(plan.read_text("utf-8")) if plan.exists() else {})

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
    """Read a table: whole numbers as int, others as float, text as str, without empty columns."""
    with path.open(encoding="utf-8", newline="") as lines:
        return [
            {name: _value(name, cell) for name, cell in row.items() if cell != ""}
            for row in csv.DictReader(lines)
        ]


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
    return int(cell) if name in WHOLE else float(cell)
