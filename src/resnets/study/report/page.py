"""Put the effect of a claim into words."""

from __future__ import annotations

from resnets.report.html import percent
from resnets.study.report.judging import Judged
from resnets.study.report.words import Effect


def effect_text(found: Judged) -> str:
    """12.3 [11.0, 13.5] points, p = 0.016; 1 of 6 runs of plain-56 diverged."""
    if found.verdict == "not measured":
        return "not measured"
    p = "" if found.p is None else f", p = {found.p:.3g}"
    return "; ".join([_size(found) + p, *found.notes])


def _size(found: Judged) -> str:
    if found.effect is None:
        return "no two runs to compare"
    share = found.claim.unit == "%"
    value = _number(found.effect, "value", share)
    unit = " points" if share else f" {found.claim.unit}" if found.claim.unit else ""
    if found.effect.low is None:
        return f"{value}{unit}, no interval"
    low, high = (_number(found.effect, end, share) for end in ("low", "high"))
    return f"{value}{unit}" if low == high else f"{value} [{low}, {high}]{unit}"


def _number(effect: Effect, end: str, share: bool) -> str:
    value = getattr(effect, end)
    return percent(value).removesuffix("%") if share else f"{value:.3g}"
