"""The folder of a study enters, its tables leave: all that a report and a check may know.

The idea: nothing but `DIR/data` is read, so a page says what the tables say, whoever made them. A
table that is not there is empty, and what would be drawn of it is left out.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnets.errors import UserError
from resnets.study.tables import read_table

Row = dict[str, Any]
PROBE = "probe_"


@dataclass(frozen=True, eq=False)
class Evidence:
    """Every table of a study by its name, and its plan of training where there is one."""

    folder: Path
    tables: dict[str, list[Row]]
    plan: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Evidence:
        """Raises UserError for a folder without tables, and for a table that cannot be read."""
        paths = sorted((folder / "data").glob("*.csv"))
        if not paths:
            raise UserError(
                f"{folder}: holds no tables of a study (data/*.csv); run `resnets study train`, "
                "`init` or `probe` with this --out first"
            )
        plan = folder / "data" / "plan.json"
        tables = {path.stem: _read(path) for path in paths}
        return cls(folder, tables, json.loads(plan.read_text("utf-8")) if plan.exists() else {})

    @property
    def deepest(self) -> int | None:
        """The depth of the plan's primary test; None without a plan."""
        groups = self.plan.get("groups")
        return max(groups[0]["depths"]) if groups else None

    def table(self, name: str) -> list[Row]:
        """The rows of a table; `probe_lesions` is that of all networks together."""
        if name in self.tables:
            return self.tables[name]
        return [row for rows in self.probes(name.removeprefix(PROBE)).values() for row in rows]

    def probes(self, name: str) -> dict[str, list[Row]]:
        """The table of each probed network, by network; the shallowest first, plain before others.

        A network is a file `probe_TABLE_NETWORK.csv`.
        """
        start = f"{PROBE}{name}_"
        found = {
            stem[len(start) :]: rows
            for stem, rows in self.tables.items()
            if stem.startswith(start) and rows
        }
        return dict(sorted(found.items(), key=lambda item: _place(*item)))


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """Rows whose columns have these values; None is a column that says nothing."""
    return [row for row in rows if all(row.get(name) == want for name, want in wanted.items())]


def one(rows: Iterable[Row], **wanted: Any) -> float | None:
    """The value of the first such row that has one."""
    return next((row["value"] for row in select(rows, **wanted) if "value" in row), None)


def median_by(rows: Iterable[Row], *columns: str) -> dict[tuple[Any, ...], float]:
    """The median value over rows that agree in these columns."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        if "value" in row:
            groups.setdefault(tuple(row.get(name) for name in columns), []).append(row["value"])
    return {key: statistics.median(values) for key, values in groups.items()}


def _read(path: Path) -> list[Row]:
    try:
        return read_table(path)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: is not a table of a study ({error})") from None


def _place(network: str, rows: list[Row]) -> tuple[int, bool, str]:
    return rows[0].get("depth", 0), rows[0].get("family") != "plain", network
