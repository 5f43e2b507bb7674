"""A summary enters; the table and the lines that say what it holds leave."""

from __future__ import annotations

from collections.abc import Iterator

from resnets.evaluation.metrics import wilson
from resnets.study.cells import DOSES
from resnets.study.published import PUBLISHED
from resnets.study.single import Row
from resnets.study.statistics import Estimate
from resnets.study.summary import CellFinding, Comparison, Summary

PAIR = "plain-residual"
"""the family column of differences"""


def summary_rows(summary: Summary) -> Iterator[Row]:
    """`summary.csv` in long form. An estimate is three rows: the mean, `_low` and `_high`."""
    for cell in summary.cells:
        yield from _cell_rows(cell)
    for comparison in summary.comparisons:
        about = {"study": "train", "family": PAIR, "depth": comparison.depth}
        about["status"] = comparison.role
        yield from _estimate_rows(about, "train_error_difference", comparison.difference)
        if comparison.p is not None:
            yield about | {"metric": "p", "value": comparison.p}
    setup = summary.plan.setup
    if summary.plan.name == "cifar" and setup.data == "cifar10":  # comparable with nothing else
        for row in PUBLISHED:
            source = f"more than this: {row.source}" if row.exceeds else row.source
            about = {"family": row.family, "depth": row.depth, "status": source}
            yield about | {"metric": "published_test_error", "value": row.error / 100}
    for claim in summary.claims:
        about = {"study": "train", "depth": summary.plan.deepest}
        yield from _estimate_rows(about, f"claim_{claim.name}", claim.effect)
        if claim.p is not None:
            yield about | {"metric": f"p_{claim.name}", "value": claim.p}
        yield about | {"metric": f"verdict_{claim.name}", "status": claim.verdict}


def _cell_rows(cell: CellFinding) -> Iterator[Row]:
    about: Row = {"study": "train", "family": cell.family, "depth": cell.depth}
    about["lr"] = cell.choice.rate
    yield about | {"metric": "lr", "value": cell.choice.rate, "status": cell.choice.flag}
    if cell.family in DOSES:
        about["x"] = DOSES[cell.family]
    for name in ("train_error", "test_error", "last_loss"):
        yield from _estimate_rows(about, name, getattr(cell, name))
    low, high = wilson(cell.diverged, cell.runs)
    yield about | {"metric": "runs", "value": cell.runs}
    yield about | {"metric": "diverged", "value": cell.diverged}
    yield about | {"metric": "diverged_share_low", "value": low}
    yield about | {"metric": "diverged_share_high", "value": high}


def _estimate_rows(about: Row, name: str, found: Estimate | None) -> Iterator[Row]:
    if found is None:
        return
    for suffix, value in (("", found.value), ("_low", found.low), ("_high", found.high)):
        if value is not None:
            yield about | {"metric": name + suffix, "value": value}


def summary_lines(summary: Summary) -> Iterator[str]:
    """What a person reads at the end."""
    yield "training error in %, mean over seeds [95 % interval]; differences are paired by seed"
    yield f"{'layers':>6}  {'plain':22} {'residual':22} {'plain - residual':22} p"
    for comparison in summary.comparisons:
        yield _comparison_line(summary, comparison)
    others = [cell for cell in summary.cells if cell.family not in ("plain", "residual")]
    for cell in others:
        yield f"{cell.depth:6}  {cell.family:22} {percent(cell.train_error)}{_censored(cell)}"
    for cell in summary.cells:
        if cell.choice.flag:
            yield (
                f"note: {cell.family} at {cell.depth} layers, learning rate {cell.choice.rate:g}: "
                + ("the best is at the edge of those tried" if cell.choice.flag == "edge" else
                   "all that were tried diverged")
            )  # fmt: skip
    for claim in summary.claims:
        p = "" if claim.p is None else f", p = {claim.p:.4f}"
        lost = "".join(f"; {words}" for words in claim.lost)
        yield f"{claim.verdict}: {claim.sentence} ({percent(claim.effect)} points{p}{lost})"


def _comparison_line(summary: Summary, comparison: Comparison) -> str:
    pair = [summary.cell(family, comparison.depth) for family in ("plain", "residual")]
    errors = (percent(cell.train_error) + _censored(cell) for cell in pair)
    p = "-" if comparison.p is None else f"{comparison.p:.4f} {comparison.role}"
    columns = [*errors, percent(comparison.difference)]
    return f"{comparison.depth:6}  " + " ".join(f"{text:22}" for text in columns) + f" {p}"


def percent(found: Estimate | None) -> str:
    """12.3 [11.0, 13.5], or less where less is known."""
    if found is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{100 * found.value:.1f} [no interval]"
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _censored(cell: CellFinding) -> str:
    return f" ({cell.diverged} of {cell.runs} diverged)" if cell.diverged else ""
