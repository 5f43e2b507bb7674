"""Numbers of a few seeds enter, estimates with their doubt and verdicts leave.

The idea: runs of equal seeds share initial values and data order, so families are compared seed by
seed. With six seeds the exact sign-flip test can reach p = 1/64; intervals are percentiles of
paired bootstrap means, which for so few cover less than their name says (six normal numbers: 87 %,
three: 75 %), so no verdict over seeds is built on them alone. Shares (of diverged runs) have
Wilson's interval, `evaluation.wilson`. A run that diverged is in no mean and no interval; in the
test it counts as the worst there is, so losing runs can favour nobody.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from resnets.study.twins.study_config import SIGNIFICANT

RESAMPLES = 10_000
FEWEST = 3
"""seeds that an interval needs"""
ROUNDING = 1e-12
WORST = math.inf
"""what a run that diverged counts as in the test: worse than every other"""
Verdict = Literal["supported", "contradicted", "inconclusive"]
Seeds = Mapping[int, float | None]
"""a number for each seed, None where its run diverged"""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % interval, which fewer than three seeds do not have."""

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def ends(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean with the bootstrap's 2.5 and 97.5 percentiles; None of nothing.

    Efron 1979. The draws are the same for every call, so equal values give equal intervals.
    """
    count = len(values)
    if count == 0:
        return None
    numbers = np.asarray(values, np.float64)
    mean = float(numbers.mean())
    if count < FEWEST:
        return Estimate(mean, None, None, count)
    draws = np.random.Generator(np.random.PCG64(0)).integers(0, count, (RESAMPLES, count))
    low, high = np.percentile(numbers[draws].mean(axis=1), (2.5, 97.5))
    return Estimate(mean, float(low), float(high), count)


def sign_flip(differences: Sequence[float]) -> float | None:
    """One-sided p: the share of sign patterns whose mean is at least the observed one.

    Fisher 1935, exact: all 2^n patterns of n paired differences, so the smallest p is 2^-n. It
    tests that the differences are symmetric about 0 against that they are larger. An infinite one,
    of a run that diverged, outweighs all finite ones together. None of nothing.
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
    """The numbers of the seeds whose two runs did not diverge."""
    both = [(one[seed], other[seed]) for seed in sorted(one.keys() & other.keys())]
    return [(mine, theirs) for mine, theirs in both if mine is not None and theirs is not None]


def differences(one: Seeds, other: Seeds) -> list[float]:
    """One minus the other, for the seeds whose two runs did not diverge."""
    both = pairs(one, other)
    return [0.0 if mine == theirs else mine - theirs for mine, theirs in both]  # inf may meet inf


def ranked(seeds: Seeds) -> Seeds:
    """The numbers of all seeds, for the test: those of runs that diverged are the worst."""
    return {seed: WORST if value is None else value for seed, value in seeds.items()}


def censored(name: str, seeds: Seeds) -> str:
    """1 of 6 runs of residual-56 diverged; empty where none did."""
    lost = sum(value is None for value in seeds.values())
    return f"{lost} of {len(seeds)} runs of {name} diverged" if lost else ""


def verdict(
    ends: tuple[float, float] | None,
    *,
    above: float | None,
    below: float | None,
    seeds: Sequence[float] | None,
) -> Verdict:
    """Whether a number is `above` and `below`: supported, contradicted, or nobody knows.

    Its whole interval must lie there, or elsewhere. Over `seeds`, a number each, the exact test
    must agree; it decides alone where too few runs are left for an interval.
    """
    if ends is None and seeds is None:
        return "inconclusive"
    inside, outside = [], []
    for edge, side in ((above, 1), (below, -1)):
        if edge is not None:
            distances = [side * (end - edge) for end in ends or ()]
            by_seed = None if seeds is None else [side * (seed - edge) for seed in seeds]
            inside.append(all(d > 0 for d in distances) and _agrees(by_seed, 1))
            outside.append(all(d <= 0 for d in distances) and _agrees(by_seed, -1))
    return "supported" if all(inside) else "contradicted" if any(outside) else "inconclusive"


def _agrees(distances: list[float] | None, side: int) -> bool:
    """Whether the exact test finds distances on this side of zero; without seeds nobody asks it."""
    if distances is None:
        return True
    p = sign_flip([side * distance for distance in distances])
    return p is not None and p <= SIGNIFICANT
