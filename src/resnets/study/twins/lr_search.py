"""Choose the learning rate of every cell, and return the runs that a study still needs.

Every cell chooses its rate on a seed that is not counted, at half length, by the loss on images
that were held out. A best rate at the edge asks for one more beyond it, as long as the reserve
lasts. Other runs start once the shallowest plain network has learned: else nothing would show.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from resnets.errors import UserError
from resnets.evaluation.metrics import wilson
from resnets.study.tables import Row
from resnets.study.twins.run_store import key_of
from resnets.study.twins.study_config import Cell, StudyConfig, TwinJob
from resnets.study.twins.trial import dataset_of

# A network has learned whose error is clearly below this share of chance's.
LEARNED = 0.8

# Validation loss of each learning rate that was tried; infinite where it diverged.
Losses = Mapping[float, float]


@dataclass(frozen=True)
class Choice:
    """The learning rate of a cell."""

    rate: float
    flag: str  # empty | edge: a rate beyond those tried might be better | diverged: all did


def rates_to_try(config: StudyConfig, tried: Losses) -> tuple[float, ...]:
    """Return the rates that a cell still has to try, none when it can choose."""
    if len(config.rates) == 1:
        return ()
    missing = tuple(rate for rate in config.rates if rate not in tried)
    if missing:
        return missing
    _, edge = _best(tried)
    if edge == 0 or len(tried) >= len(config.rates) + config.reserve:
        return ()
    beyond = min(tried) / config.factor if edge < 0 else max(tried) * config.factor
    return (float(f"{beyond:.4g}"),)


def choose(config: StudyConfig, tried: Losses) -> Choice | None:
    """Return the choice of a cell, or None while it has a rate to try."""
    if rates_to_try(config, tried):
        return None
    if len(config.rates) == 1:
        return Choice(config.rates[0], "")
    if all(math.isinf(loss) for loss in tried.values()):
        return Choice(min(tried), "diverged")
    best, edge = _best(tried)
    return Choice(best, "edge" if edge else "")


def _best(tried: Losses) -> tuple[float, int]:
    """The best rate, of equals the smaller one; and -1 if it is the smallest, 1 if the largest."""
    best = min(sorted(tried), key=tried.__getitem__)
    return best, (best == max(tried)) - (best == min(tried))


def tried_rates(rows: Iterable[Row], cell: Cell) -> dict[float, float]:
    """Return the validation losses of a cell so far."""
    return {
        row["lr"]: row.get("val_loss", math.inf)
        for row in rows
        if row["purpose"] == "tune" and (row["family"], row["depth"]) == cell
    }


def runnable(config: StudyConfig, rows: Collection[Row]) -> list[TwinJob]:
    """Return every job that can start now, done or not, the longest first."""
    first = config.shallowest
    if not _has_learned(config, rows):
        jobs = list(_jobs(config, rows, first))
        return jobs if jobs[0].purpose == "tune" else jobs[:1]
    found = [job for cell, _ in config.cells() for job in _jobs(config, rows, cell)]
    return sorted(found, key=lambda job: -job.cost)


def remaining(config: StudyConfig, rows: Mapping[tuple[object, ...], Row]) -> list[TwinJob]:
    """Return what the config still needs, as far as is known: rates beyond the edges may come."""
    jobs: list[TwinJob] = []
    for cell, _ in config.cells():
        found = list(_jobs(config, rows.values(), cell))
        if found[0].purpose == "tune":
            found += config.trials(cell, config.rates[0])
        jobs += found
    return [job for job in jobs if job.key not in rows]


def _jobs(config: StudyConfig, rows: Collection[Row], cell: Cell) -> Iterator[TwinJob]:
    """A cell's next trials of rates, or, when it has chosen, its counted runs."""
    tried = tried_rates(rows, cell)
    choice = choose(config, tried)
    if choice is None:
        yield from (config.tuning(cell, rate) for rate in rates_to_try(config, tried))
    else:
        yield from config.trials(cell, choice.rate)


def _has_learned(config: StudyConfig, rows: Collection[Row]) -> bool:
    """Whether the shallowest plain network has learned; False while it is not judged yet.

    It is judged at the rate that it chose. Raises UserError where its error, at the upper end of
    Wilson's interval, is not below LEARNED.
    """
    choice = choose(config, tried_rates(rows, config.shallowest))
    if choice is None:
        return False
    purpose, part = ("count", "train") if len(config.rates) == 1 else ("tune", "val")
    key = (purpose, *config.shallowest, choice.rate)
    row = next((row for row in rows if key_of(row)[:4] == key), None)
    if row is None:
        return False
    error, images = row.get(f"{part}_error", 1.0), row.get(f"{part}_images", 0)
    chance = dataset_of(config.setup).chance
    if wilson(round(error * images), images)[1] < LEARNED * chance:
        return True
    raise UserError(
        f"the plain network of {row['depth']} layers has {error:.0%} error after {row['steps']} "
        f"steps (chance: {chance:.0%}): the budget is too small for this data to show anything "
        "about depth; use a longer preset or easier data"
    )
