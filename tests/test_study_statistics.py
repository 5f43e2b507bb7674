"""Tests and intervals of a few seeds against other ways to compute them; verdicts; censoring."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnets.evaluation.metrics import wilson
from resnets.study.account import percent, summary_lines, summary_rows
from resnets.study.plan import SIGNIFICANT, Group, Plan
from resnets.study.statistics import Estimate, estimate, sign_flip, verdict
from resnets.study.summary import Summary, summarise
from resnets.study.tables import read_table, write_table
from tiny_study import tiny_plan

SIX = (0, 1, 2, 3, 4, 5)
PLAN = tiny_plan(
    Path("none.npz"), rates=(0.1,), groups=(Group(("plain", "residual"), (8, 14), SIX),)
)
Row = dict[str, Any]


def test_six_seeds_that_agree_reach_one_in_sixty_four() -> None:
    assert sign_flip([0.2, 0.1, 0.3, 0.2, 0.25, 0.01]) == 1 / 64
    assert sign_flip([-0.2, -0.1, -0.3]) == 1.0
    assert sign_flip([0.0, 0.0]) == 1.0
    assert sign_flip([]) is None


def test_a_run_that_diverged_outweighs_all_others() -> None:
    wins = [0.2, 0.1, 0.3, 0.2, 0.25]
    assert sign_flip([*wins, math.inf]) == 1 / 64
    assert sign_flip([*wins, -math.inf]) == 33 / 64  # all patterns with this one turned, and itself
    assert sign_flip([*wins[:4], math.inf, -math.inf]) == (16 + 2) / 64


def test_sign_flip_counts_the_patterns() -> None:
    values = [0.5, -0.2, 0.4, 0.1, -0.3]
    sums = [
        sum(s * v for s, v in zip(signs, values, strict=True))
        for signs in itertools.product((1, -1), repeat=5)
    ]
    expected = sum(total >= sum(values) - 1e-9 for total in sums) / 32
    assert sign_flip(values) == expected and 1 / 32 < expected < 1


def test_the_bootstrap_is_near_the_normal_interval_of_many() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = estimate(values.tolist())
    assert found is not None and found.low is not None and found.high is not None
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05 * half)
    assert estimate(values.tolist()) == found


def test_few_seeds_have_no_interval() -> None:
    assert estimate([]) is None
    assert estimate([1.0, 2.0]) == Estimate(1.5, None, None, 2)
    assert percent(estimate([0.25])) == "25.0 [no interval]"


@pytest.mark.parametrize(
    ("ends", "above", "below", "found"),
    [
        ((0.1, 0.3), 0.0, None, "supported"), ((-0.3, -0.1), 0.0, None, "contradicted"),
        ((-0.3, -0.1), None, 0.0, "supported"), ((0.1, 0.3), None, 0.0, "contradicted"),
        ((-0.1, 0.1), 0.0, None, "inconclusive"), (None, 0.0, None, "inconclusive"),
        ((0.1, 0.3), 0.0, 0.5, "supported"), ((0.1, 0.3), 0.0, 0.2, "inconclusive"),
        ((0.6, 0.7), 0.0, 0.5, "contradicted"), ((0.0, 0.0), 0.0, None, "contradicted"),
    ],
)  # fmt: skip
def test_a_verdict_needs_an_interval_clear_of_the_edge(
    ends: Any, above: float | None, below: float | None, found: str
) -> None:
    assert verdict(ends, above=above, below=below, seeds=None) == found


@pytest.mark.parametrize(("count", "found"), [(3, False), (4, False), (5, True), (6, True)])
def test_over_seeds_the_exact_test_must_agree(count: int, found: bool) -> None:
    seeds = [0.1 + 0.01 * seed for seed in range(count)]
    judged = [
        verdict((0.1, 0.2), above=0.0, below=None, seeds=seeds),
        verdict((0.1, 0.2), above=None, below=0.0, seeds=seeds),
    ]
    assert judged == (["supported", "contradicted"] if found else ["inconclusive"] * 2)


@pytest.mark.parametrize(("count", "least", "most"), [(3, 0.71, 0.79), (6, 0.84, 0.90)])
def test_a_bootstrap_of_few_seeds_covers_less_than_its_name(
    count: int, least: float, most: float
) -> None:
    """What the page says under its claims, and why no verdict over seeds is built on it alone."""
    rng, covered = np.random.default_rng(1), 0
    for _ in range(400):
        found = estimate(rng.standard_normal(count).tolist())
        assert found is not None and found.ends is not None
        covered += found.ends[0] <= 0 <= found.ends[1]
    assert least < covered / 400 < most


def rows_of(errors: dict[tuple[str, int], list[float | None]]) -> list[Row]:
    """A finished study; None is a run that diverged."""
    rows = []
    for (family, depth), values in errors.items():
        for seed, error in enumerate(values):
            about = {"purpose": "count", "family": family, "depth": depth, "seed": seed, "lr": 0.1}
            numbers = {"train_error": error, "test_error": error, "last_loss": error}
            status = "diverged at step 9" if error is None else ""
            rows.append({**about, "status": status, **({} if error is None else numbers)})
    return rows


def study(plain: list[float | None], residual: list[float | None], plan: Plan = PLAN) -> Summary:
    """Errors at 14 layers; both families have 0.2 or so at 8."""
    shallow: list[float | None] = [0.20, 0.21, 0.19, 0.20, 0.22, 0.18]
    return summarise(plan, rows_of({
        ("plain", 8): shallow, ("residual", 8): shallow,
        ("plain", 14): plain, ("residual", 14): residual,
    }))  # fmt: skip


def verdicts(summary: Summary) -> dict[str, str]:
    return {claim.name: claim.verdict for claim in summary.claims}


HIGH: list[float | None] = [0.5, 0.6, 0.55, 0.5, 0.7, 0.52]
LOW: list[float | None] = [0.1, 0.12, 0.11, 0.1, 0.09, 0.1]


def test_what_the_paper_saw_is_supported() -> None:
    found = study(HIGH, LOW)
    assert verdicts(found) == dict.fromkeys(
        ("shortcuts", "plain_degrades", "residual_gains"), "supported"
    )
    primary = found.comparisons[-1]
    assert (primary.depth, primary.role, primary.p) == (14, "primary", 1 / 64)
    assert found.comparisons[0].role == "secondary" and found.comparisons[0].p == 1.0


def test_the_opposite_is_contradicted_and_noise_is_inconclusive() -> None:
    assert set(verdicts(study(LOW, HIGH)).values()) == {"contradicted"}
    assert verdicts(study(LOW, LOW))["shortcuts"] == "inconclusive"


def test_an_interval_without_significance_is_not_enough() -> None:
    found = study([*HIGH[:4], None, None], [*LOW[:4], None, None])
    primary = found.comparisons[-1]
    assert primary.p == 1 / 16 > SIGNIFICANT
    assert primary.difference is not None and primary.difference.count == 4
    assert verdicts(found)["shortcuts"] == "inconclusive"


def test_diverged_runs_are_counted_and_never_averaged(tmp_path: Path) -> None:
    found = study([0.5, None, None, 0.5, 0.5, 0.5], LOW)
    cell = found.cell("plain", 14)
    assert (cell.runs, cell.diverged) == (6, 2)
    assert cell.train_error == Estimate(0.5, 0.5, 0.5, 4)
    write_table(tmp_path / "summary.csv", summary_rows(found))
    table = {
        row["metric"]: row["value"]
        for row in read_table(tmp_path / "summary.csv")
        if row.get("family") == "plain" and row["depth"] == 14 and "value" in row
    }
    assert table["diverged"] == 2 and table["diverged_share_high"] == wilson(2, 6)[1]
    assert any("2 of 6 diverged" in line for line in summary_lines(found))


def test_all_diverged_leaves_no_mean_but_the_test() -> None:
    found = study([None] * 6, LOW)
    assert found.comparisons[-1].difference is None and found.comparisons[-1].p == 1 / 64
    assert verdicts(found)["shortcuts"] == "supported"
    assert verdicts(study([None] * 6, [None] * 6))["shortcuts"] == "inconclusive"
    assert any(line.startswith("    14  - (6 of 6 diverged)") for line in summary_lines(found))


def test_printed_figures_stand_only_beside_the_protocol_they_are_of() -> None:
    def printed(summary: Summary) -> list[Row]:
        rows = summary_rows(summary)
        return [row for row in rows if row["metric"] == "published_test_error"]

    assert printed(study(HIGH, LOW)) == []
    setup = replace(PLAN.setup, data="cifar10")
    rows = printed(study(HIGH, LOW, plan=replace(PLAN, name="cifar", setup=setup)))
    found = {(row["family"], row["depth"]): row for row in rows}
    assert found["residual", 110]["value"] == pytest.approx(0.0661)
    assert found["plain", 110]["status"] == "more than this: He 2015, section 4.2"
