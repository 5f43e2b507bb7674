"""The rows of a study of training enter, its findings leave: estimates, tests, verdicts.

The idea: what counts as supported was fixed with the plan. One primary test; all else is secondary
and says so. A run that diverged is a censored outcome: it is counted, with Wilson's interval, and
never averaged; it leaves the pairs of its seed, and in the tests it is the worst there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from resnets.study.statistics import (
    Estimate,
    Seeds,
    Verdict,
    censored,
    differences,
    estimate,
    ranked,
    sign_flip,
    verdict,
)
from resnets.study.twins.lr_search import Choice, choose, tried_rates
from resnets.study.twins.study_config import Cell, Plan
from resnets.study.twins.trial import Row

Errors = Mapping[Cell, Seeds]


@dataclass(frozen=True)
class CellFinding:
    """One family at one depth."""

    family: str
    depth: int
    choice: Choice
    train_error: Estimate | None
    test_error: Estimate | None
    last_loss: Estimate | None
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
    lost: tuple[str, ...]  # what diverged, in words


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


def by_seed(rows: Iterable[Row], cell: Cell, metric: str) -> dict[int, float | None]:
    """A metric of the runs of a cell."""
    return {
        row["seed"]: None if row["status"] else row[metric]
        for row in sorted(rows, key=lambda row: row["seed"])
        if (row["family"], row["depth"]) == cell
    }


def _mean(seeds: Seeds) -> Estimate | None:
    """Of the runs that did not diverge."""
    return estimate([value for value in seeds.values() if value is not None])


def _finding(
    plan: Plan, rows: list[Row], counted: list[Row], cell: Cell, errors: Errors
) -> CellFinding:
    family, depth = cell
    own = [row for row in counted if (row["family"], row["depth"]) == cell]
    choice = choose(plan, tried_rates(rows, cell))
    assert choice is not None, "the study is not finished"
    return CellFinding(
        family=family,
        depth=depth,
        choice=choice,
        train_error=_mean(errors[cell]),
        test_error=_mean(by_seed(own, cell, "test_error")),
        last_loss=_mean(by_seed(own, cell, "last_loss")),
        runs=len(own),
        diverged=sum(bool(row["status"]) for row in own),
    )


def _comparison(depth: int, errors: Errors, *, deepest: int) -> Comparison:
    one, other = errors["plain", depth], errors["residual", depth]
    role: Literal["primary", "secondary"] = "primary" if depth == deepest else "secondary"
    p = sign_flip(differences(ranked(one), ranked(other)))
    return Comparison(depth, estimate(differences(one, other)), p, role)


def _claims(plan: Plan, errors: Errors) -> tuple[Claim, ...]:
    """The claims of every study of training, in fixed words; the first is the primary one."""
    deep, shallow = plan.deepest, min(plan.twins.depths)
    return (
        _claim(
            "shortcuts",
            f"at {deep} layers the training error of plain is higher than that of residual",
            ("plain", deep), ("residual", deep), errors,
        ),
        _claim(
            "plain_degrades",
            f"plain has a higher training error at {deep} layers than at {shallow}",
            ("plain", deep), ("plain", shallow), errors,
        ),
        _claim(
            "residual_gains",
            f"residual has a lower training error at {deep} layers than at {shallow}",
            ("residual", deep), ("residual", shallow), errors, lower=True,
        ),
    )  # fmt: skip


def _claim(
    name: str, sentence: str, one: Cell, other: Cell, errors: Errors,
    *, lower: bool = False,
) -> Claim:  # fmt: skip
    """Of the first cell's error minus the second's: is it above zero (or below)?"""
    found = estimate(differences(errors[one], errors[other]))
    tested = differences(ranked(errors[one]), ranked(errors[other]))
    ends = None if found is None else found.ends
    above, below = (None, 0.0) if lower else (0.0, None)
    p = sign_flip([-d for d in tested] if lower else tested)
    decided = verdict(ends, above=above, below=below, seeds=tested)
    lost = (censored(f"{cell[0]}-{cell[1]}", errors[cell]) for cell in (one, other))
    return Claim(name, sentence, found, p, decided, tuple(filter(None, lost)))
