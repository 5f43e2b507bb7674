"""Provide the colours and axes of the figures, and select and condense the rows that they draw."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from resnets.parsing import read_toml
from resnets.report.charts import BLUE, GREY, INK, ORANGE, Axis, Mark, Series, axis
from resnets.study.statistics import Estimate
from resnets.study.tables import Row, Tables, one, select

CAPTIONS = Path(__file__).with_name("captions.toml")
# The networks of a figure: the deepest of those that were probed.
MOST_NETWORKS = 4
Networks = dict[str, list[Row]]


def words_of(name: str) -> dict[str, Any]:
    """Return a table of captions.toml."""
    found: dict[str, Any] = read_toml(CAPTIONS, name="captions.toml")[name]
    return found


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


MARKS = {
    "plain": Mark(ORANGE, (7, 3), "circle"),
    "residual": Mark(BLUE, (1, 0), "square"),
    "plain-bn": Mark("#E69F00", (3, 2), "up"),
    "residual-bn": Mark("#56B4E9", (1, 0), "diamond"),
    "preact": Mark("#009E73", (1, 0), "down"),
    "skipinit": Mark("#CC79A7", (8, 3, 2, 3), "plus"),
    "fixup": Mark("#8A63C7", (2, 3), "right"),
    "scaled": Mark(INK, (1, 0), "left"),
    "dirac": Mark(GREY, (5, 3), "star"),
    "orthogonal": Mark("#A86F2D", (2, 2), "ring"),
}
# Names at initialisation, and of trained families; a family that is not here keeps its own.
AT_INIT: dict[str, str] = words_of("at_init")
TRAINED: dict[str, str] = words_of("trained")


def series_of(names: Sequence[str], *, like: Sequence[str] = (), field: str = "series") -> Series:
    """Return the series of families, or of networks each of which looks `like` its family.

    A family without a mark of its own takes the next that is free.
    """
    like = like if len(set(like)) == len(names) else names
    own = [MARKS[name] for name in like if name in MARKS]
    free = cycle(mark for mark in MARKS.values() if mark not in own)
    marks = (MARKS[name] if name in MARKS else next(free) for name in like)
    return Series(tuple(names), tuple(marks), field)


def at_init(rows: Iterable[Row]) -> Series:
    """Return the series of the families at initialisation that these rows are of, plain first."""
    found = {row["family"] for row in rows}
    families = [name for name in AT_INIT if name in found]
    return series_of([AT_INIT[name] for name in families], like=families)


def block_axis(name: str = "unit", title: str = "block") -> Axis:
    """Return the axis of blocks or layers, counted from the first to the last."""
    return axis(name, title, grid=False, tickMinStep=1, tickCount=9, zero=False, padding=8)
