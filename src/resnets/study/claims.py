"""Read claims: sentences about a study with the number that decides each, fixed before its runs."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from resnets.errors import UserError, unknown
from resnets.parsing import convert, read_toml
from resnets.study.tables import COLUMNS, Row, Tables, select
from resnets.study.tables import TEXTS as TEXT_COLUMNS

STORED = Path(__file__).with_name("claims.toml")
VERDICTS = ("supported", "contradicted", "inconclusive")
# The table whose rows are those of seeds, and that of its intervals, which decide nothing alone.
SEEDED, ESTIMATES = "train", "summary"
# Words for a value among the rows that the other columns leave.
EXTREMES: dict[Any, Callable[[list[Any]], Any]] = {"max": max, "min": min}


@dataclass(frozen=True)
class Quantity:
    """The rows of a table that make one number."""

    table: str
    metric: str
    where: dict[str, Any] = field(default_factory=dict)

    def source(self, tables: Tables) -> list[Row]:
        """Return the table; in its name {deepest} is the depth of the plan's primary test."""
        return tables.table(self.table.replace("{deepest}", str(tables.deepest)))

    def rows(self, tables: Tables) -> list[Row]:
        """Return the rows, once it is resolved."""
        return select(self.source(tables), metric=self.metric, **self.where)

    def resolved(self, tables: Tables) -> "Quantity":
        """Fix "max" and "min" in `where`: they are among the rows that the other columns leave."""
        fixed = {name: want for name, want in self.where.items() if want not in EXTREMES}
        for name, want in [item for item in self.where.items() if item[0] not in fixed]:
            rows = select(self.source(tables), metric=self.metric, **fixed)
            values = [row[name] for row in rows if name in row]
            fixed[name] = EXTREMES[want](values) if values else want
        return replace(self, where=fixed)


@dataclass(frozen=True)
class Claim:
    """One sentence, the number that decides it, and the verdict that is expected."""

    name: str
    sentence: str
    test: str
    quantity: Quantity
    expected: str
    low: float | None  # the claim is that the number lies between these
    high: float | None
    second: Quantity | None = None  # taken from the first number, or (`ratio`) its divisor
    ratio: bool = False
    unit: str = ""
    published: str = ""
    comparable: str = ""


def read_claims(path: Path = STORED) -> list[Claim]:
    """Read the claims of a file; raises UserError for whatever is wrong with it, in one line."""
    content = read_toml(path, name=str(path))
    entries = content.get("claim")
    if not isinstance(entries, list) or not entries or set(content) != {"claim"}:
        raise UserError(f"{path}: must hold [[claim]] entries and nothing else; see docs/depth.md")
    claims = []
    for number, entry in enumerate(entries, 1):
        name = entry.get("name", f"number {number}") if isinstance(entry, dict) else number
        try:
            claims.append(_claim(entry))
        except (TypeError, ValueError, KeyError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise UserError(f"{path}: claim {name}: {reason}") from None
    return claims


TEXTS = ("name", "sentence", "test", "unit", "published", "comparable")
ENDS = ("above", "below", "between")
KEYS = (*TEXTS, "table", "metric", "where", *ENDS, "minus", "over", "expected")


Cell = str | int | float


class QuantityRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The types of the second number of a claim, whose columns may be those of the first."""

    table: str = ""
    metric: str = ""
    where: dict[str, Cell] = {}


class ClaimRecord(msgspec.Struct, frozen=True):
    """The types of an entry of a file of claims."""

    name: str = ""
    sentence: str = ""
    test: str = ""
    unit: str = ""
    published: str = ""
    comparable: str = ""
    table: str = ""
    metric: str = ""
    where: dict[str, Cell] = {}
    above: float | None = None
    below: float | None = None
    between: tuple[float, float] | None = None
    minus: QuantityRecord | None = None
    over: QuantityRecord | None = None
    expected: str = ""


def _claim(entry: dict[str, Any]) -> Claim:
    for key in entry:
        if key not in KEYS:
            raise unknown("key", key, KEYS)
    convert(entry, ClaimRecord, name="it")
    if entry["expected"] not in VERDICTS:
        raise unknown("expected verdict", str(entry["expected"]), VERDICTS)
    if len([key for key in ENDS if key in entry]) != 1:
        raise ValueError("it needs one of above, below, between")
    if "minus" in entry and "over" in entry:
        raise ValueError("it has both minus and over; one is allowed")
    between = entry.get("between", [entry.get("above"), entry.get("below")])
    if not isinstance(between, list) or len(between) != 2:
        raise ValueError("between needs two numbers, [low, high]")
    low, high = (None if end is None else float(end) for end in between)
    if not all(math.isfinite(end) for end in (low, high) if end is not None):
        raise ValueError(f"its ends must be finite, not {low} and {high}")
    quantity = _quantity(entry)
    return Claim(
        **{key: str(entry.get(key, "")) for key in TEXTS} | {"name": str(entry["name"])},
        quantity=quantity,
        expected=entry["expected"],
        low=low,
        high=high,
        second=_second(entry, quantity),
        ratio="over" in entry,
    )


def _quantity(entry: dict[str, Any]) -> Quantity:
    where = dict(entry.get("where", {}))
    for column, wanted in where.items():
        if column not in COLUMNS:
            raise unknown("column", column, COLUMNS)
        if isinstance(wanted, str) != (column in TEXT_COLUMNS) and wanted not in EXTREMES:
            kind = "a text" if column in TEXT_COLUMNS else "a number, 'max' or 'min'"
            raise ValueError(f"column {column} is {kind}, not {wanted!r}")
        if column in TEXT_COLUMNS and wanted in EXTREMES:
            raise ValueError(f"column {column} is a text: it has no {wanted}")
    if entry["table"] == ESTIMATES:
        raise ValueError(
            f"table {ESTIMATES} has intervals over seeds, which alone decide nothing; use table "
            f"{SEEDED}, whose rows are those of seeds"
        )
    return Quantity(str(entry["table"]), str(entry["metric"]), where)


def _second(entry: dict[str, Any], first: Quantity) -> Quantity | None:
    """Read the second number: columns that it leaves out are as in the first."""
    if not {"minus", "over"} & entry.keys():
        return None
    second = dict(entry["minus"] if "minus" in entry else entry["over"])
    same = {"table": first.table, "metric": first.metric}
    return _quantity(same | second | {"where": first.where | dict(second.get("where", {}))})
