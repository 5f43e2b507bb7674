"""Select and condense the rows that figures draw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from resnets.study.statistics import Estimate
from resnets.study.tables import Row, Tables, one, select

TWINS = ("plain", "residual")
# The networks of a figure: the deepest of those that were probed.
MOST_NETWORKS = 4
Networks = dict[str, list[Row]]


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


def by_network(found: Networks, **numbers: Callable[[list[Row]], Any]) -> dict[str, Any]:
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
    return {"rows": rows, "plain": plain, "residual": residual, "both": bool(plain and residual)}


def depths_of(rows: Iterable[Row]) -> list[int]:
    """Return the depths of these rows, the shallowest first."""
    return sorted({row["depth"] for row in rows if "depth" in row})


def measured(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that have a value."""
    return [row for row in rows if "value" in row]


def mean_row(summary: Sequence[Row], metric: str, **cell: Any) -> Row | None:
    """Return a cell with the mean of a metric and the ends of its interval or range."""
    found = Estimate.from_rows(summary, metric, **cell)
    if found is None:
        return None
    return cell | {"value": found.value, "low": found.low, "high": found.high}


def rates_of(train: Sequence[Row]) -> dict[str, Any]:
    """Return facts of the learning rates: whether each cell has its own, and which there are."""
    rates = {f"{row['lr']:g}" for row in select(train, study="train") if "lr" in row}
    return {"tuned": bool(select(train, study="tune")), "rates": sorted(rates)}


def chance(tables: Tables) -> float | None:
    """Return the error of guessing, where the study measured it."""
    return one(tables.table("initial_gradients"), metric="chance_error")


def setting(plan: Mapping[str, Any], name: str) -> Any:
    """Return a field of the plan's recipe, in whichever group it is; None without a plan."""
    recipe = plan.get("setup", {}).get("recipe", {})
    groups = [recipe, *(value for value in recipe.values() if isinstance(value, dict))]
    return next((group[name] for group in groups if name in group), None)
