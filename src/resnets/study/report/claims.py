"""A file of claims and the tables of a study enter, verdicts leave.

The idea: a claim is written down before the run as a number that the tables will hold and where it
should lie; afterwards only arithmetic decides. The interval is the table's own (METRIC_low and
METRIC_high) or a bootstrap over the rows (seeds, draws, units); a single row of a table of
measurements has none and counts as exact. `claims.toml` beside this file says how claims are
written.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from resnets.errors import UserError, unknown
from resnets.report.figure import percent
from resnets.study.report.evidence import Evidence, Row, one, select
from resnets.study.report.inside import LITTLE_LEFT
from resnets.study.report.words import Effect
from resnets.study.statistics import (
    Seeds,
    Verdict,
    censored,
    estimate,
    pairs,
    ranked,
    sign_flip,
    verdict,
)
from resnets.study.summary import differences
from resnets.study.tables import COLUMNS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STORED = Path(__file__).with_name("claims.toml")
VERDICTS = ("supported", "contradicted", "inconclusive")
PAIRED_BY = ("unit", "seed", "draw", "step", "x")
INTACT = "intact_error"
"""of a network before its lesions"""
SEEDED = "train"
"""the table whose rows are those of seeds"""
ESTIMATES = "summary"
"""the table made of it, whose intervals over seeds alone decide nothing"""


@dataclass(frozen=True)
class Quantity:
    """Which rows of which table a number is made of."""

    table: str
    metric: str
    where: dict[str, Any] = field(default_factory=dict)

    def source(self, evidence: Evidence) -> list[Row]:
        """The table; in its name {deepest} is the depth of the plan's primary test."""
        return evidence.table(self.table.replace("{deepest}", str(evidence.deepest)))

    def rows(self, evidence: Evidence) -> list[Row]:
        """The rows; "max" and "min" are resolved among those that the other columns leave."""
        found = select(self.source(evidence), metric=self.metric)
        fixed = {name: want for name, want in self.where.items() if want not in ("max", "min")}
        found = select(found, **fixed)
        for name in self.where.keys() - fixed.keys():
            values = [row[name] for row in found if name in row]
            extreme = max if self.where[name] == "max" else min
            found = select(found, **{name: extreme(values)}) if values else []
        return found


@dataclass(frozen=True)
class Claim:
    """One sentence, the number that decides it, and what is expected."""

    name: str
    sentence: str
    test: str
    quantity: Quantity
    expected: str
    low: float | None  # the claim is that the number lies between these
    high: float | None
    minus: Quantity | None = None
    over: Quantity | None = None
    unit: str = ""
    published: str = ""
    comparable: str = ""


@dataclass(frozen=True)
class Judged:
    """A claim with its effect and verdict."""

    claim: Claim
    effect: Effect | None
    p: float | None  # over seeds: one-sided sign-flip
    verdict: Verdict | Literal["not measured"]
    notes: tuple[str, ...] = ()  # what a reader must know beside the numbers

    @property
    def holds(self) -> bool:
        return self.verdict == self.claim.expected


def judge_all(claims: Sequence[Claim], evidence: Evidence) -> list[Judged]:
    """The verdict on each claim by these tables."""
    return [judge(claim, evidence) for claim in claims]


def judge(claim: Claim, evidence: Evidence) -> Judged:
    """Supported or contradicted only by a whole interval, and over seeds by the exact test too."""
    if claim.quantity.table == SEEDED:
        return _over_seeds(claim, evidence)
    effect = _effect(claim, evidence)
    if effect is None:
        return Judged(claim, None, None, "not measured")
    if (whole := _whole_error(claim, evidence)) > LITTLE_LEFT:
        note = f"the whole network errs on {percent(whole)} of the images and has little to lose"
        return Judged(claim, effect, None, "inconclusive", (note,))
    found = verdict(effect.ends, above=claim.low, below=claim.high, seeds=None)
    return Judged(claim, effect, None, found)


def _whole_error(claim: Claim, evidence: Evidence) -> float:
    """Of the network whose lesions a claim is about; 0 for other claims."""
    second = claim.minus or claim.over
    if second is None or not second.metric.startswith(INTACT):
        return 0.0
    return max((row["value"] for row in second.rows(evidence) if "value" in row), default=0.0)


def _over_seeds(claim: Claim, evidence: Evidence) -> Judged:
    """Means and intervals are of what did not diverge; the test has all runs."""
    first = _seeds(claim.quantity, evidence)
    second = claim.minus or claim.over
    others = {} if second is None else _seeds(second, evidence)
    found = estimate(_numbers(claim, first, others))
    effect = None if found is None else Effect(found.value, found.low, found.high)
    notes = tuple(
        words
        for quantity, seeds in ((claim.quantity, first), (second, others))
        if quantity is not None and (words := censored(_name(quantity, evidence), seeds))
    )
    tested = _numbers(claim, ranked(first), ranked(others))
    if not tested:
        return Judged(claim, None, None, "not measured", notes)
    ends = None if effect is None else effect.ends
    decided = verdict(ends, above=claim.low, below=claim.high, seeds=tested)
    return Judged(claim, effect, _p(claim, tested), decided, notes)


def _numbers(claim: Claim, first: Seeds, others: Seeds) -> list[float]:
    """The claim's number for each seed that has it."""
    if claim.minus is not None:
        return differences(first, others)
    if claim.over is not None:
        both = [(mine, other) for mine, other in pairs(first, others) if other]
        return [1.0 if mine == other else mine / other for mine, other in both]
    return [value for value in first.values() if value is not None]


def _seeds(quantity: Quantity, evidence: Evidence) -> Seeds:
    """The mean of each seed's rows, None where one of its runs diverged."""
    rows = quantity.rows(evidence)
    values: dict[int, list[float]] = {}
    for row in rows:
        if "value" in row:
            values.setdefault(row["seed"], []).append(row["value"])
    runs = {name: want for name, want in _resolved(rows, quantity).items() if name != "step"}
    studies = {row["study"] for row in rows}  # counted runs, trials of learning rates, or both
    lost = {
        row["seed"]: None
        for row in select(evidence.table(SEEDED), **runs)
        if "value" not in row and row["study"] in studies
    }
    means = {seed: statistics.fmean(found) for seed, found in values.items()}
    return dict(sorted({**means, **lost}.items()))


def _name(quantity: Quantity, evidence: Evidence) -> str:
    """residual-56, or as much of it as the claim asks for."""
    where = _resolved(quantity.rows(evidence), quantity)
    words = [str(where[column]) for column in ("family", "depth") if column in where]
    return "-".join(words) or "the study"


def _p(claim: Claim, seeds: list[float]) -> float | None:
    """That the number is where the claim has it; of two ends the larger one."""
    above = None if claim.low is None else sign_flip([seed - claim.low for seed in seeds])
    below = None if claim.high is None else sign_flip([claim.high - seed for seed in seeds])
    return max((p for p in (above, below) if p is not None), default=None)


def _effect(claim: Claim, evidence: Evidence) -> Effect | None:
    first = claim.quantity.rows(evidence)
    second = claim.minus or claim.over
    if second is None:
        own = Effect.of(claim.quantity.source(evidence), claim.quantity.metric,
                        **_resolved(first, claim.quantity))  # fmt: skip
        if own is None or own.low is not None:
            return own
        return _of([row["value"] for row in first if "value" in row])
    others = second.rows(evidence)
    pairs = [
        (row["value"], other)
        for row in first
        if "value" in row and (other := _partner(row, others)) is not None
    ]
    if claim.minus is not None:
        return _of([mine - other for mine, other in pairs])
    return _of([mine / other for mine, other in pairs if other])


def _resolved(rows: list[Row], quantity: Quantity) -> dict[str, Any]:
    """The columns of `where`, with what "max" and "min" came to be."""
    return {name: rows[0].get(name) for name in quantity.where} if rows else dict(quantity.where)


def _partner(row: Row, others: list[Row]) -> float | None:
    """The value at the same unit, seed, draw; closed forms have no draws."""
    shared = {name for other in others for name in PAIRED_BY if name in other and name in row}
    return one(others, **{name: row[name] for name in sorted(shared)})


def _of(values: list[float]) -> Effect | None:
    found = estimate(values)
    if found is None:
        return None
    if found.count == 1:
        return Effect(found.value, found.value, found.value)
    return Effect(found.value, found.low, found.high)


def read_claims(path: Path) -> list[Claim]:
    """The claims of a file. Raises UserError, in one line, for whatever is wrong with it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no TOML: {error}") from None
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
SELECTORS = ("table", "metric", "where")
ENDS = ("above", "below", "between")


def _claim(entry: dict[str, Any]) -> Claim:
    for key in entry:
        if key not in (*TEXTS, *SELECTORS, *ENDS, "minus", "over", "expected"):
            raise unknown("key", key, (*TEXTS, *SELECTORS, *ENDS, "minus", "over", "expected"))
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
    quantity = _quantity(entry)
    texts = {key: str(entry.get(key, "")) for key in TEXTS} | {"name": str(entry["name"])}
    return Claim(
        **texts, quantity=quantity, expected=entry["expected"], low=low, high=high,
        minus=_other(entry, "minus", quantity), over=_other(entry, "over", quantity),
    )  # fmt: skip


def _quantity(entry: dict[str, Any]) -> Quantity:
    where = dict(entry.get("where", {}))
    for column in where:
        if column not in COLUMNS:
            raise unknown("column", column, COLUMNS)
    if entry["table"] == ESTIMATES:
        raise ValueError(
            f"table {ESTIMATES} has intervals over seeds, which alone decide nothing; ask table "
            f"{SEEDED}, whose rows are those of seeds"
        )
    return Quantity(str(entry["table"]), str(entry["metric"]), where)


def _other(entry: dict[str, Any], key: str, first: Quantity) -> Quantity | None:
    """The second number: what it leaves out is as in the first."""
    if key not in entry:
        return None
    second = dict(entry[key])
    same = {"table": first.table, "metric": first.metric}
    return _quantity(same | second | {"where": first.where | dict(second.get("where", {}))})
