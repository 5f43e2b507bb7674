"""Estimates, intervals, exact tests and verdicts for a few seeds.

Runs of equal seeds share initial values and data order, so families are compared seed by seed. A
run that diverged is in no mean and no interval; in the test it is the worst there is, so losing
runs can favour nobody. Shares (of diverged runs) have Wilson's interval,
`evaluation.metrics.wilson`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from resnets.errors import UserError
from resnets.study.tables import Row, one

try:
    from scipy import special, stats
except ImportError:
    raise UserError("resnets study needs scipy: pip install scipy") from None

# Values that show their range; more have an interval, fewer nothing.
FEWEST = 3
ROUNDING = 1e-12
SIGNIFICANT = 0.05
RANGE = "range of 3"
Verdict = Literal["supported", "contradicted", "inconclusive"]
# A number for each seed, None where its run diverged.
Seeds = Mapping[int, float | None]


@dataclass(frozen=True)
class Estimate:
    """A mean, and the ends of its 95 % interval, or of its range where there are three values."""

    value: float
    low: float | None = None
    high: float | None = None
    is_range: bool = False

    @property
    def spread(self) -> tuple[float, float] | None:
        """The two ends, of the interval or of the range."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def ends(self) -> tuple[float, float] | None:
        """The ends of the 95 % interval, None where there is none."""
        return None if self.is_range else self.spread

    def rows(self, about: Row, metric: str) -> list[Row]:
        """Return the rows METRIC, METRIC_low and METRIC_high of a table."""
        status = {"status": RANGE} if self.is_range else {}
        rows = [about | {"metric": metric, "value": self.value}]
        if self.spread is not None:
            for end, value in zip(("low", "high"), self.spread, strict=True):
                rows.append(about | status | {"metric": f"{metric}_{end}", "value": value})
        return rows

    @classmethod
    def from_rows(cls, rows: Sequence[Row], metric: str, **wanted: object) -> "Estimate | None":
        """Read an estimate from a table that holds METRIC, METRIC_low and METRIC_high."""
        value = one(rows, metric=metric, **wanted)
        if value is None:
            return None
        low, high = (one(rows, metric=f"{metric}_{end}", **wanted) for end in ("low", "high"))
        is_range = one(rows, **{"metric": f"{metric}_low", "status": RANGE, **wanted}) is not None
        return cls(value, low, high, is_range)


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return the mean with Student's 95 % interval; None of nothing.

    Three values have their range instead, two neither; equal values an interval of no width.
    """
    count = len(values)
    if count == 0:
        return None
    numbers = np.asarray(values, np.float64)
    mean = float(numbers.mean())
    if count < FEWEST:
        return Estimate(mean)
    if (numbers == numbers[0]).all():
        return Estimate(float(numbers[0]), float(numbers[0]), float(numbers[0]))
    if count == FEWEST:
        return Estimate(mean, float(numbers.min()), float(numbers.max()), is_range=True)
    error = float(numbers.std(ddof=1)) / math.sqrt(count)
    half = float(special.stdtrit(count - 1, 0.975)) * error
    return Estimate(mean, mean - half, mean + half)


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; None where one side has a single value."""
    if len(set(xs)) < 2 or len(set(ys)) < 2:
        return None
    return float(stats.spearmanr(xs, ys).statistic)


def sign_flip(differences: Sequence[float]) -> float | None:
    """Return the one-sided p of the exact sign-flip test (Fisher 1935); None of nothing.

    The share of all 2^n sign patterns of n paired differences whose mean is at least the observed
    one. An infinite difference, of a run that diverged, outweighs all finite ones together.
    """
    if not differences:
        return None
    numbers = np.asarray(differences, np.float64)
    most = 1 + 2 * float(np.abs(numbers[np.isfinite(numbers)]).sum())
    numbers = np.clip(numbers, -most, most)
    patterns = np.array(list(product((1.0, -1.0), repeat=len(numbers))))  # 2^n n
    sums = patterns @ numbers
    scale = ROUNDING * float(np.abs(numbers).sum())
    return float((sums >= sums[0] - scale).mean())


def pairs(one: Seeds, other: Seeds) -> list[tuple[float, float]]:
    """Return the numbers of the seeds whose two runs did not diverge."""
    both = [(one[seed], other[seed]) for seed in sorted(one.keys() & other.keys())]
    return [(mine, theirs) for mine, theirs in both if mine is not None and theirs is not None]


def differences(one: Seeds, other: Seeds) -> list[float]:
    """Return one minus the other, for the seeds whose two runs did not diverge."""
    both = pairs(one, other)
    return [0.0 if mine == theirs else mine - theirs for mine, theirs in both]  # inf may meet inf


def ranked(seeds: Seeds) -> Seeds:
    """Return the numbers of all seeds, for the test: those of runs that diverged are the worst."""
    return {seed: math.inf if value is None else value for seed, value in seeds.items()}


def censored(name: str, seeds: Seeds) -> str:
    """Return `1 of 6 runs of residual-56 diverged`; empty where none did."""
    lost = sum(value is None for value in seeds.values())
    return f"{lost} of {len(seeds)} runs of {name} diverged" if lost else ""


def verdict(
    ends: tuple[float, float] | None,
    *,
    above: float | None,
    below: float | None,
    seeds: Sequence[float] | None,
) -> Verdict:
    """Judge whether a number is `above` and `below`: supported, contradicted or inconclusive.

    Its whole interval must be there, or elsewhere. Over `seeds`, a number each, the exact test must
    agree; it decides alone where too few runs are left for an interval.
    """
    if ends is None and seeds is None:
        return "inconclusive"

    def agrees(distances: list[float]) -> bool:
        """Whether the exact test finds these above zero; without seeds it is not made."""
        p = sign_flip(distances)
        return seeds is None or (p is not None and p <= SIGNIFICANT)

    inside, outside = [], []
    for edge, side in ((above, 1), (below, -1)):
        if edge is not None:
            distances = [side * (end - edge) for end in ends or ()]
            by_seed = [side * (seed - edge) for seed in seeds or ()]
            inside.append(all(d > 0 for d in distances) and agrees(by_seed))
            outside.append(all(d <= 0 for d in distances) and agrees([-d for d in by_seed]))
    return "supported" if all(inside) else "contradicted" if any(outside) else "inconclusive"
