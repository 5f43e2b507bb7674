"""The rows of a study of training enter, its findings leave: estimates, tests, verdicts.

The idea: what counts as supported was fixed with the plan. One primary test; all else is secondary
and says so. A run that diverged is a censored outcome: it is counted, with Wilson's interval, and
never averaged; it leaves the pairs of its seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from resnets.study.plan import SIGNIFICANT, Cell, Plan
from resnets.study.single import Row
from resnets.study.statistics import Estimate, estimate, sign_flip
from resnets.study.tuning import Choice, choose, tried_rates

Verdict = Literal["supported", "contradicted", "inconclusive"]
Seeds = dict[int, float]
"""a number for each seed whose run did not diverge"""


@dataclass(frozen=True)
class CellFinding:
    """One family at one depth."""

    family: str
    depth: int
    choice: Choice
    train_error: Estimate | None
    test_error: Estimate | None
    last_loss: Estimate | None
    degradation: Estimate | None  # above the best shallower depth of the family, paired
    runs: int
    diverged: int


@dataclass(frozen=True)
class Comparison:
    """Training error of plain minus residual at one depth, seed by seed."""

    depth: int
    difference: Estimate | None
    p: float | None  # one-sided sign-flip
    role: Literal["primary", "secondary"]


@dataclass(frozen=True)
class Claim:
    """A sentence that was fixed beforehand, and what the rows say to it."""

    name: str
    sentence: str
    effect: Estimate | None
    p: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Summary:
    """Everything that a report needs beside the rows themselves."""

    plan: Plan
    cells: tuple[CellFinding, ...]
    comparisons: tuple[Comparison, ...]
    claims: tuple[Claim, ...]

    def cell(self, family: str, depth: int) -> CellFinding:
        """The finding of one cell."""
        return next(c for c in self.cells if (c.family, c.depth) == (family, depth))


def summarise(plan: Plan, rows: Iterable[Row]) -> Summary:
    """The findings of a finished study."""
    rows = list(rows)
    counted = [row for row in rows if row["purpose"] == "count"]
    cells = sorted(dict(plan.cells()), key=lambda cell: (cell[0], cell[1]))
    errors = {cell: by_seed(counted, cell, "train_error") for cell in cells}
    findings = tuple(_finding(plan, rows, counted, cell, errors) for cell in cells)
    comparisons = tuple(
        _comparison(depth, errors, deepest=plan.deepest) for depth in sorted(plan.twins.depths)
    )
    return Summary(plan, findings, comparisons, _claims(plan, comparisons[-1], errors))


def by_seed(rows: Iterable[Row], cell: Cell, metric: str) -> Seeds:
    """A metric of the runs of a cell that did not diverge."""
    return {
        row["seed"]: row[metric]
        for row in sorted(rows, key=lambda row: row["seed"])
        if (row["family"], row["depth"]) == cell and not row["status"]
    }


def paired(one: Seeds, other: Seeds) -> list[float]:
    """One minus the other, for the seeds that both have."""
    return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]


def _finding(
    plan: Plan, rows: list[Row], counted: list[Row], cell: Cell, errors: dict[Cell, Seeds]
) -> CellFinding:
    family, depth = cell
    own = [row for row in counted if (row["family"], row["depth"]) == cell]
    choice = choose(plan, tried_rates(rows, cell))
    assert choice is not None, "the study is not finished"
    return CellFinding(
        family=family,
        depth=depth,
        choice=choice,
        train_error=estimate([*errors[cell].values()]),
        test_error=estimate([*by_seed(own, cell, "test_error").values()]),
        last_loss=estimate([*by_seed(own, cell, "last_loss").values()]),
        degradation=_degradation(cell, errors),
        runs=len(own),
        diverged=sum(bool(row["status"]) for row in own),
    )


def _degradation(cell: Cell, errors: dict[Cell, Seeds]) -> Estimate | None:
    """D(L) = error(L) - the least mean error of a shallower depth; positive is worse with depth."""
    family, depth = cell
    shallower = [
        seeds for (name, other), seeds in errors.items() if name == family and other < depth
    ]
    known = [seeds for seeds in shallower if seeds]
    if not known:
        return None
    best = min(known, key=lambda seeds: sum(seeds.values()) / len(seeds))
    return estimate(paired(errors[cell], best))


def _comparison(depth: int, errors: dict[Cell, Seeds], *, deepest: int) -> Comparison:
    differences = paired(errors["plain", depth], errors["residual", depth])
    role: Literal["primary", "secondary"] = "primary" if depth == deepest else "secondary"
    return Comparison(depth, estimate(differences), sign_flip(differences), role)


def _claims(plan: Plan, primary: Comparison, errors: dict[Cell, Seeds]) -> tuple[Claim, ...]:
    """The claims of every study of training, in fixed words."""
    deep, shallow = plan.deepest, min(plan.twins.depths)
    plain, residual = (
        estimate(paired(errors[family, deep], errors[family, shallow]))
        for family in ("plain", "residual")
    )
    difference = primary.difference
    significant = primary.p is not None and primary.p <= SIGNIFICANT
    decided = judge(difference, wants=1)
    if decided == "supported" and not significant:
        decided = "inconclusive"
    return (
        Claim(
            "shortcuts",
            f"at {deep} layers the training error of plain is higher than that of residual",
            difference, primary.p, decided,
        ),
        Claim(
            "plain_degrades",
            f"plain has a higher training error at {deep} layers than at {shallow}",
            plain, None, judge(plain, wants=1),
        ),
        Claim(
            "residual_gains",
            f"residual has a lower training error at {deep} layers than at {shallow}",
            residual, None, judge(residual, wants=-1),
        ),
    )  # fmt: skip


def judge(effect: Estimate | None, *, wants: Literal[1, -1]) -> Verdict:
    """Supported or contradicted only by an interval that is clear of zero."""
    if effect is None or effect.low is None or effect.high is None:
        return "inconclusive"
    if effect.low > 0:
        return "supported" if wants > 0 else "contradicted"
    if effect.high < 0:
        return "supported" if wants < 0 else "contradicted"
    return "inconclusive"
