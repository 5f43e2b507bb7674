"""Select and condense the rows that figures draw."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from resnets.report.html import finite
from resnets.study.report.evidence import PROBE, Row, one, select
from resnets.study.report.evidence import Evidence as Tables
from resnets.study.report.words import Effect as Estimate

TWINS = ("plain", "residual")
# The networks of a figure: the deepest of those that were probed.
MOST_NETWORKS = 4
Networks = dict[str, list[Row]]


def names_of(tables: Tables, table: str) -> list[str]:
    """Return the tables in the folder that a name stands for; one that is missing is left out."""
    if table in tables.tables:
        return [table]
    return [f"{table}_{network}" for network in networks(tables, table.removeprefix(PROBE))]


def networks(tables: Tables, table: str, *metrics: str) -> Networks:
    """Return the rows of each probed network, of these metrics where there are any, with values.

    A network without such a row is left out; the shallowest is first, plain before others.
    """
    found = dict(list(tables.probes(table).items())[-MOST_NETWORKS:])
    if metrics:
        found = {
            name: [row for row in rows if row["metric"] in metrics and "value" in row]
            for name, rows in found.items()
        }
    return {name: rows for name, rows in found.items() if rows}


def by_network(found: Networks, **numbers: Callable[[list[Row]], float | None]) -> dict[str, Any]:
    """Return facts of networks: numbers of each, and of the twins if there is one of each kind.

    `rows` has every network for which all numbers are there; `plain` and `residual` are the first
    of their kind (residual: of any family with a shortcut); `both` says whether both are there.
    """
    rows = []
    for name, own in found.items():
        facts = {key: number(own) for key, number in numbers.items()}
        if all(value is not None for value in facts.values()):
            rows.append({"name": name, "family": own[0]["family"], **facts})
    plain = next((row for row in rows if row["family"] == "plain"), None)
    residual = next((row for row in rows if row["family"] != "plain"), None)
    both = plain is not None and residual is not None
    return {"rows": rows, "plain": plain, "residual": residual, "both": both}


def depths_of(rows: Iterable[Row], **wanted: Any) -> list[int]:
    """Return the depths of these rows, the shallowest first."""
    return sorted({row["depth"] for row in select(rows, **wanted)})


def drawn(rows: Iterable[Row], **columns: str) -> list[Row]:
    """Return the rows with these columns, each named after what it becomes in a chart."""
    return [
        {
            new: finite(row.get("value")) if old == "value" else row.get(old)
            for new, old in columns.items()
        }
        for row in rows
    ]


def lines_of(found: Networks, metric: str, place: str = "unit") -> list[Row]:
    """Return the points of a line for each network."""
    return [
        {"series": name, "place": row[place], "value": finite(row["value"])}
        for name, rows in found.items()
        for row in select(rows, metric=metric)
        if "value" in row
    ]


def mean_row(summary: Sequence[Row], metric: str, **cell: Any) -> Row | None:
    """Return the mean of a cell and the ends of its interval, rounded for a chart."""
    found = Estimate.from_rows(summary, metric, **cell)
    if found is None:
        return None
    return {"value": finite(found.value), "low": finite(found.low), "high": finite(found.high)}


def band_of(rows: Sequence[Row], x: str) -> list[Row]:
    """Return the median and the middle 80 % of the values at each place."""
    band = []
    for place in sorted({row[x] for row in rows}):
        values = [row["value"] for row in select(rows, **{x: place})]
        ends = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else values
        middle = statistics.median(values)
        band.append(
            {x: place}
            | {k: finite(v) for k, v in (("middle", middle), ("low", ends[0]), ("high", ends[-1]))}
        )
    return band


def rates_of(train: Sequence[Row]) -> dict[str, Any]:
    """Return facts of the learning rates: whether each cell has its own, and which there are."""
    counted = select(train, study="train")
    return {
        "tuned": bool(select(train, study="tune")),
        "rates": sorted({f"{row['lr']:g}" for row in counted if "lr" in row}),
    }


def chance(tables: Tables) -> float | None:
    """Return the error of guessing, where the study measured it."""
    return one(tables.table("initial_gradients"), metric="chance_error")
