"""Numbers of a few seeds enter, estimates with their doubt leave.

The idea: runs of equal seeds share initial values and data order, so families are compared seed by
seed. With six seeds the exact sign-flip test can reach p = 1/64; intervals are percentiles of
paired bootstrap means. Shares (of diverged runs) have Wilson's interval, `evaluation.wilson`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

RESAMPLES = 10_000
FEWEST = 3
"""seeds that an interval needs"""
ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % interval, which fewer than three seeds do not have."""

    value: float
    low: float | None
    high: float | None
    count: int


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
    tests that the differences are symmetric about 0 against that they are larger. None of nothing.
    """
    if not differences:
        return None
    numbers = np.asarray(differences, np.float64)
    patterns = np.array(list(product((1.0, -1.0), repeat=len(numbers))))  # 2^n n
    sums = patterns @ numbers
    scale = ROUNDING * float(np.abs(numbers).sum())
    return float((sums >= sums[0] - scale).mean())
