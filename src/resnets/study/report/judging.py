"""Claims and the tables of a study enter, verdicts leave.

The idea: after the run only arithmetic decides. The interval is the table's own (METRIC_low and
METRIC_high) or a bootstrap over the rows (draws, units); a single row of a table of measurements
has none and counts as exact. Over the seeds of `train` the sign-flip test must agree, and runs that
diverged are counted (`statistics.py`).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from resnets.report.html import percent
from resnets.study.report.claims import SEEDED, Claim, Quantity
from resnets.study.report.evidence import Evidence, Row, one, select
from resnets.study.report.words import LITTLE_LEFT, Effect
from resnets.study.statistics import (
    Seeds,
    Verdict,
    censored,
    differences,
    estimate,
    pairs,
    ranked,
    sign_flip,
    verdict,
)

PAIRED_BY = ("unit", "seed", "draw", "step", "x")
INTACT = "intact_error"
"""of a network before its lesions"""


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
    claim = _alike(claim, evidence)
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


def _alike(claim: Claim, evidence: Evidence) -> Claim:
    """The second number where "max" and "min" came to be in the first, if it says the same."""
    asked = claim.quantity.where
    found = _resolved(claim.quantity.rows(evidence), claim.quantity)

    def settled(second: Quantity | None) -> Quantity | None:
        if second is None:
            return None
        where = {
            name: found[name] if asked.get(name) == want else want
            for name, want in second.where.items()
        }
        return replace(second, where=where)

    return replace(claim, minus=settled(claim.minus), over=settled(claim.over))


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
