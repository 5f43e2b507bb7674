"""Rows so far enter, the jobs that they call for leave: what a study does next.

The idea: the order of a study is a pure function of its plan and its rows, so a killed study goes
on by reading its rows. Every cell chooses its own learning rate among the plan's, on a seed that is
not counted, at half length, by the mean loss on images that were held out. A best rate at the
edge of those tried asks for one more beyond it, as long as the plan's reserve lasts; if it is still
at the edge then, the cell is flagged. Nothing but the shallowest plain network is begun before that
one has clearly learned: where it does not, a study would show nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from resnets.errors import UserError
from resnets.evaluation.metrics import wilson
from resnets.study.plan import Cell, Job, Plan
from resnets.study.single import Row, chance_of

LEARNED = 0.8
"""share of chance's error that a network which has learned is clearly below"""

Losses = Mapping[float, float]
"""validation loss of each learning rate that was tried; infinite where it diverged"""


@dataclass(frozen=True)
class Choice:
    """The learning rate of a cell."""

    rate: float
    flag: str  # empty | edge: a rate beyond those tried might be better | diverged: all did


def rates_to_try(plan: Plan, tried: Losses) -> tuple[float, ...]:
    """Rates that a cell still owes, none when it can choose."""
    missing = tuple(rate for rate in plan.rates if rate not in tried)
    if missing or len(plan.rates) == 1:
        return () if len(plan.rates) == 1 else missing
    edge = _edge(tried)
    spare = len(plan.rates) + plan.reserve - len(tried)
    if edge == 0 or spare < 1:
        return ()
    beyond = min(tried) / plan.factor if edge < 0 else max(tried) * plan.factor
    return (float(f"{beyond:.4g}"),)


def choose(plan: Plan, tried: Losses) -> Choice | None:
    """The choice of a cell, or None while it owes a trial."""
    if rates_to_try(plan, tried):
        return None
    if len(plan.rates) == 1:
        return Choice(plan.rates[0], "")
    if all(math.isinf(loss) for loss in tried.values()):
        return Choice(min(tried), "diverged")
    return Choice(_best(tried), "edge" if _edge(tried) else "")


def _best(tried: Losses) -> float:
    """The smaller one of equals."""
    return min(sorted(tried), key=lambda rate: tried[rate])


def _edge(tried: Losses) -> int:
    """-1 where the best rate is the smallest tried, 1 the largest, 0 between them."""
    best = _best(tried)
    return (best == max(tried)) - (best == min(tried))


def tried_rates(rows: Iterable[Row], cell: Cell) -> dict[float, float]:
    """What the tuning of a cell has found so far."""
    return {
        row["lr"]: row.get("val_loss", math.inf)
        for row in rows
        if row["purpose"] == "tune" and (row["family"], row["depth"]) == cell
    }


def wanted(plan: Plan, rows: Iterable[Row]) -> list[Job]:
    """Every job that can be begun now, done or not, the longest first.

    Raises UserError when the shallowest plain network did not clearly learn.
    """
    rows = list(rows)
    cells = dict(plan.cells())
    first = plan.shallowest
    if not has_learned(plan, rows):
        jobs = list(_jobs(plan, rows, first, cells[first]))
        return jobs if jobs[0].purpose == "tune" else jobs[:1]
    found = [job for cell, seeds in cells.items() for job in _jobs(plan, rows, cell, seeds)]
    return sorted(found, key=lambda job: -job.cost)


def _jobs(plan: Plan, rows: list[Row], cell: Cell, seeds: tuple[int, ...]) -> Iterator[Job]:
    """A cell's next trials, or, when it has chosen, its counted runs."""
    tried = tried_rates(rows, cell)
    choice = choose(plan, tried)
    if choice is None:
        yield from (plan.tuning(cell, rate) for rate in rates_to_try(plan, tried))
    else:
        yield from (plan.counted(cell, choice.rate, seed) for seed in seeds)


def has_learned(plan: Plan, rows: list[Row]) -> bool:
    """Whether the gate is passed; False while the shallowest plain network is not judged yet.

    Raises UserError where its error, at the upper end of Wilson's interval, is not below LEARNED.
    """
    row = _judged(plan, rows)
    if row is None:
        return False
    part = "val" if row["purpose"] == "tune" else "train"
    error, images = row.get(f"{part}_error", 1.0), row.get(f"{part}_images", 0)
    chance = chance_of(plan.setup)
    if wilson(round(error * images), images)[1] < LEARNED * chance:
        return True
    raise UserError(
        f"the plain network of {row['depth']} layers is wrong on {error:.0%} of the images after "
        f"{row['steps']} steps (chance: {chance:.0%}): the budget is too small for this data to "
        "show anything about depth; take a longer preset or easier data"
    )


def _judged(plan: Plan, rows: list[Row]) -> Row | None:
    """The row by which the shallowest plain network is judged: of the rate that it chose."""
    choice = choose(plan, tried_rates(rows, plan.shallowest))
    purpose = "count" if len(plan.rates) == 1 else "tune"
    found = [
        row
        for row in rows
        if (row["family"], row["depth"]) == plan.shallowest
        and row["purpose"] == purpose
        and choice is not None
        and row["lr"] == choice.rate
    ]
    return found[0] if found else None
