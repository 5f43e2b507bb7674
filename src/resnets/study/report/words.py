"""Numbers enter, words leave: the small change of the sentences under figures and claims.

The idea: a sentence says more than its numbers only through these words, and they follow the
interval: without one that is clear of zero nothing rises or falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resnets.study.report.evidence import Row, one

LITTLE_LEFT = 0.5
"""an error of the whole network beyond which its lesions say little"""
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Effect:
    """A number with the ends of its 95 % interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None

    is_range = False

    @property
    def ends(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)

    @classmethod
    def of(cls, rows: Sequence[Row], metric: str, **wanted: object) -> Effect | None:
        """From a table that keeps the ends as METRIC_low and METRIC_high."""
        value = one(rows, metric=metric, **wanted)
        if value is None:
            return None
        ends = (one(rows, metric=f"{metric}_{end}", **wanted) for end in ("low", "high"))
        return cls(value, *ends)

    from_rows = of

    def chosen(self, *, above: str, below: str, unclear: str) -> str:
        """The word for where the interval lies."""
        if self.low is None or self.high is None:
            return unclear
        return above if self.low > 0 else below if self.high < 0 else unclear
