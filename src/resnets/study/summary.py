"""The rows of a study of training enter, its findings leave: estimates, tests, verdicts.

The idea: what counts as supported was fixed with the plan. One primary test; all else is secondary
and says so. A run that diverged is a censored outcome: it is counted, with Wilson's interval, and
never averaged; it leaves the pairs of its seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from resnets.study.plan import Cell, Plan
from resnets.study.single import Row
from resnets.study.statistics import Estimate, Verdict, estimate, sign_flip, verdict
from resnets.study.tuning import Choice, choose, tried_rates

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
    return Summary(plan, findings, comparisons, _claims(plan, errors))


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


def _claims(plan: Plan, errors: dict[Cell, Seeds]) -> tuple[Claim, ...]:
    """The claims of every study of training, in fixed words; the first is the primary one."""
    deep, shallow = plan.deepest, min(plan.twins.depths)
    return (
        _claim(
            "shortcuts",
            f"at {deep} layers the training error of plain is higher than that of residual",
            errors["plain", deep], errors["residual", deep],
        ),
        _claim(
            "plain_degrades",
            f"plain has a higher training error at {deep} layers than at {shallow}",
            errors["plain", deep], errors["plain", shallow],
        ),
        _claim(
            "residual_gains",
            f"residual has a lower training error at {deep} layers than at {shallow}",
            errors["residual", deep], errors["residual", shallow], lower=True,
        ),
    )  # fmt: skip


def _claim(name: str, sentence: str, one: Seeds, other: Seeds, *, lower: bool = False) -> Claim:
    """Of the first number minus the second: is it above zero (or below)?"""
    differences = paired(one, other)
    found = estimate(differences)
    ends = None if found is None else found.ends
    above, below = (None, 0.0) if lower else (0.0, None)
    p = sign_flip([-d for d in differences] if lower else differences)
    decided = verdict(ends, above=above, below=below, seeds=differences)
    return Claim(name, sentence, found, p, decided)
