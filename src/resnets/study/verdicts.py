"""Judge claims by the tables of a study.

The interval is the table's own (METRIC_low and METRIC_high) or Student's t over the rows (draws,
blocks); a single row of measurements is exact. Over the seeds of `train` the sign-flip test must
agree, and runs that diverged are counted.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from resnets.study.claims import SEEDED, Claim, Quantity
from resnets.study.statistics import (
    Estimate,
    Seeds,
    Verdict,
    censored,
    estimate,
    pairs,
    ranked,
    sign_flip,
    verdict,
)
from resnets.study.tables import Row, Tables, one, select

PAIRED_BY = ("unit", "seed", "draw", "step", "x")
# The error of a whole network before its ablations, beyond which they say little.
INTACT, LITTLE_LEFT = "intact_error", 0.5


@dataclass(frozen=True)
class ClaimResult:
    """A claim with its effect and verdict."""

    claim: Claim
    effect: Estimate | None
    p: float | None  # over seeds: one-sided sign-flip
    verdict: Verdict | Literal["not measured"]
    notes: tuple[str, ...] = ()  # what a reader must know beside the numbers

    @property
    def holds(self) -> bool:
        """Whether the verdict is the expected one."""
        return self.verdict == self.claim.expected


def judge_all(claims: Sequence[Claim], tables: Tables) -> list[ClaimResult]:
    """Judge each claim by these tables."""
    return [judge(claim, tables) for claim in claims]


def judge(claim: Claim, tables: Tables) -> ClaimResult:
    """Judge a claim: only a whole interval decides, and over seeds the exact test must agree."""
    claim = _resolved(claim, tables)
    if claim.quantity.table == SEEDED:
        return _over_seeds(claim, tables)
    effect = _effect(claim, tables)
    if effect is None:
        return ClaimResult(claim, None, None, "not measured")
    if (whole := _whole_error(claim, tables)) > LITTLE_LEFT:
        note = f"the whole network has {100 * whole:.1f}% error, so its ablations show little"
        return ClaimResult(claim, effect, None, "inconclusive", (note,))
    found = verdict(effect.ends, above=claim.low, below=claim.high, seeds=None)
    return ClaimResult(claim, effect, None, found)


def _resolved(claim: Claim, tables: Tables) -> Claim:
    """Fix "max" and "min"; the second number takes them from the first where both have the same."""
    first, second = claim.quantity.resolved(tables), claim.second
    if second is not None:
        asked = second.where
        same = {name for name, want in claim.quantity.where.items() if asked.get(name) == want}
        second = replace(second, where=asked | {name: first.where[name] for name in same})
        second = second.resolved(tables)
    return replace(claim, quantity=first, second=second)


def _whole_error(claim: Claim, tables: Tables) -> float:
    """The error of the network whose ablations a claim is about; 0 for other claims."""
    if claim.second is None or not claim.second.metric.startswith(INTACT):
        return 0.0
    rows = claim.second.rows(tables)
    return max((row["value"] for row in rows if "value" in row), default=0.0)


def _over_seeds(claim: Claim, tables: Tables) -> ClaimResult:
    """Means and intervals are of runs that did not diverge; the test has all runs."""
    quantities = [q for q in (claim.quantity, claim.second) if q is not None]
    found = [_seeds(quantity, tables) for quantity in quantities]
    first, others = [*found, {}][:2]
    effect = estimate(_numbers(claim, first, others))
    cells = [[q.where[name] for name in ("family", "depth") if name in q.where] for q in quantities]
    names = ["-".join(map(str, cell)) or "the study" for cell in cells]
    notes = tuple(filter(None, map(censored, names, found)))
    tested = _numbers(claim, ranked(first), ranked(others))
    if not tested:
        return ClaimResult(claim, None, None, "not measured", notes)
    ends = None if effect is None else effect.ends
    decided = verdict(ends, above=claim.low, below=claim.high, seeds=tested)
    return ClaimResult(claim, effect, _p(claim, tested), decided, notes)


def _numbers(claim: Claim, first: Seeds, others: Seeds) -> list[float]:
    """The claim's number for each seed that has it."""
    if claim.second is None:
        return [value for value in first.values() if value is not None]
    return _combined(claim, pairs(first, others))


def _combined(claim: Claim, both: list[tuple[float, float]]) -> list[float]:
    """Ratios or differences; those of equal numbers are exact, for infinity may meet infinity."""
    if claim.ratio:
        return [1.0 if mine == other else mine / other for mine, other in both if other]
    return [0.0 if mine == other else mine - other for mine, other in both]


def _seeds(quantity: Quantity, tables: Tables) -> Seeds:
    """The mean of each seed's rows, None where one of its runs diverged."""
    rows = quantity.rows(tables)
    values: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if "value" in row:
            values[row["seed"]].append(row["value"])
    runs = {name: want for name, want in quantity.where.items() if name != "step"}
    studies = {row["study"] for row in rows}  # counted runs, trials of learning rates, or both
    lost = {
        row["seed"]: None
        for row in select(tables.table(SEEDED), **runs)
        if "value" not in row and row["study"] in studies
    }
    means = {seed: statistics.fmean(found) for seed, found in values.items()}
    return dict(sorted({**means, **lost}.items()))


def _p(claim: Claim, seeds: list[float]) -> float | None:
    """The p of the number being where the claim has it; of two ends the larger one."""
    above = None if claim.low is None else sign_flip([seed - claim.low for seed in seeds])
    below = None if claim.high is None else sign_flip([claim.high - seed for seed in seeds])
    return max((p for p in (above, below) if p is not None), default=None)


def _effect(claim: Claim, tables: Tables) -> Estimate | None:
    first = claim.quantity.rows(tables)
    if claim.second is None:
        quantity = claim.quantity
        own = Estimate.from_rows(quantity.source(tables), quantity.metric, **quantity.where)
        if own is None or own.low is not None:
            return own
        return _of([row["value"] for row in first if "value" in row])
    others = claim.second.rows(tables)
    found = [(row["value"], _partner(row, others)) for row in first if "value" in row]
    both = [(mine, other) for mine, other in found if other is not None]
    return _of(_combined(claim, both))


def _partner(row: Row, others: list[Row]) -> float | None:
    """The value at the same block, seed, draw; closed forms have no draws."""
    shared = {name for other in others for name in PAIRED_BY if name in other and name in row}
    return one(others, **{name: row[name] for name in sorted(shared)})


def _of(values: list[float]) -> Estimate | None:
    """An estimate; a single measurement is exact."""
    return Estimate(values[0], values[0], values[0]) if len(values) == 1 else estimate(values)


def effect_text(found: ClaimResult) -> str:
    """Return `12.3 [11.0, 13.5] points, p = 0.016; 1 of 6 runs of plain-56 diverged`."""
    if found.verdict == "not measured":
        return "not measured"
    p = "" if found.p is None else f", p = {found.p:.3g}"
    return "; ".join([_size(found) + p, *found.notes])


def _size(found: ClaimResult) -> str:
    effect, unit = found.effect, found.claim.unit
    if effect is None:
        return "no two runs to compare"
    share = unit == "%"
    label = " points" if share else f" {unit}" if unit else ""
    value, *ends = (
        f"{100 * number:.1f}" if share else f"{number:.3g}"
        for number in (effect.value, *(effect.spread or ()))
    )
    if not ends:
        return f"{value}{label}, no interval"
    if effect.is_range:
        return f"{value}{label}, 3 values from {ends[0]} to {ends[1]}"
    return f"{value}{label}" if ends[0] == ends[1] else f"{value} [{ends[0]}, {ends[1]}]{label}"
