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
from resnets.study.claims import read_claims
from resnets.study.statistics import SIGNIFICANT, Estimate, estimate, sign_flip, spearman, verdict
from resnets.study.tables import Row, Tables, one, read_table, select, write_table
from resnets.study.twins.analysis import budget_rows, percent, summary_lines, summary_rows
from resnets.study.twins.run_store import long_form
from resnets.study.twins.study_config import Budgets, Group, StudyConfig
from resnets.study.verdicts import judge_all
from tiny_study import STEPS, tiny_plan

SIX = (0, 1, 2, 3, 4, 5)
PLAN = tiny_plan(
    Path("none.npz"), rates=(0.1,), groups=(Group(("plain", "residual"), (8, 14), SIX),)
)


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


def test_the_interval_of_many_is_near_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = estimate(values.tolist())
    assert found is not None and found.ends is not None
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.ends == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.01 * half
    )


def test_the_interval_is_the_printed_one() -> None:
    """Student's own sleep data (1908): a mean difference of 1.58, 0.70 to 2.46."""
    differences = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    found = estimate(differences)
    assert found is not None and found.ends is not None
    assert (found.value, *found.ends) == pytest.approx((1.58, 0.7001, 2.4599), abs=5e-5)


@pytest.mark.parametrize("count", [4, 6])
def test_the_interval_of_few_covers_what_its_name_says(count: int) -> None:
    rng, covered = np.random.default_rng(1), 0
    for _ in range(4000):
        found = estimate(rng.standard_normal(count).tolist())
        assert found is not None and found.ends is not None
        covered += found.ends[0] <= 0 <= found.ends[1]
    assert 0.94 < covered / 4000 < 0.96


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert estimate([0.3] * 5) == Estimate(0.3, 0.3, 0.3)


def test_three_values_show_their_range(tmp_path: Path) -> None:
    """It decides nothing, and a table remembers that it is a range."""
    found = estimate([0.1, 0.4, 0.2])
    assert found == Estimate(pytest.approx(0.7 / 3), 0.1, 0.4, is_range=True)
    assert found is not None and found.ends is None and found.spread == (0.1, 0.4)
    assert percent(found) == "23.3 (10.0 to 40.0)"
    write_table(tmp_path / "a.csv", found.rows({"family": "plain"}, "error"))
    assert Estimate.from_rows(read_table(tmp_path / "a.csv"), "error", family="plain") == found


def test_fewer_have_no_interval() -> None:
    assert estimate([]) is None
    assert estimate([1.0, 2.0]) == Estimate(1.5)
    assert percent(estimate([0.25])) == "25.0 [no interval]"


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3, 4], [1, 8, 27, 64]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 3], [5, 5, 5]) is None and spearman([], []) is None


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


def rows_of(errors: dict[tuple[str, int], list[float | None]]) -> list[Row]:
    """A finished study; None is a run that diverged."""
    rows = []
    for (family, depth), values in errors.items():
        for seed, error in enumerate(values):
            about = {"purpose": "count", "family": family, "depth": depth, "seed": seed, "lr": 0.1}
            numbers = {"train_error": error, "test_error": error, "last_loss": error}
            status = "diverged at step 9" if error is None else ""
            about |= {"status": status, "steps": STEPS, "curve": []}
            rows.append({**about, **({} if error is None else numbers)})
    return rows


HIGH: list[float | None] = [0.5, 0.6, 0.55, 0.5, 0.7, 0.52]
LOW: list[float | None] = [0.1, 0.12, 0.11, 0.1, 0.09, 0.1]


class Study:
    """A study with these errors at 14 layers; both families have 0.2 or so at 8."""

    def __init__(
        self, plain: list[float | None], residual: list[float | None], config: StudyConfig = PLAN
    ) -> None:
        shallow: list[float | None] = [0.20, 0.21, 0.19, 0.20, 0.22, 0.18]
        cells = {("plain", 8): shallow, ("residual", 8): shallow}
        rows = rows_of({**cells, ("plain", 14): plain, ("residual", 14): residual})
        self.summary = list(summary_rows(config, rows))
        train = [line for row in rows for line in long_form(row)]
        self.tables = Tables(Path(), {"train": train, "summary": self.summary}, {})

    @property
    def verdicts(self) -> dict[str, str]:
        claims = [claim for claim in read_claims() if claim.quantity.table == "train"]
        return {found.claim.name: found.verdict for found in judge_all(claims, self.tables)}

    def p(self, depth: int) -> Row:
        (row,) = select(self.summary, metric="p", depth=depth)
        return row

    def difference(self, depth: int) -> Estimate | None:
        pair = {"family": "plain-residual", "depth": depth}
        return Estimate.from_rows(self.summary, "train_error_difference", **pair)

    @property
    def lines(self) -> list[str]:
        return list(summary_lines(self.tables))


def test_what_the_paper_saw_is_supported() -> None:
    found = Study(HIGH, LOW)
    names = ("shortcuts", "plain-degrades", "residual-gains")
    assert found.verdicts == dict.fromkeys(names, "supported")
    assert (found.p(14)["status"], found.p(14)["value"]) == ("primary", 1 / 64)
    assert (found.p(8)["status"], found.p(8)["value"]) == ("secondary", 1.0)


def test_the_opposite_is_contradicted_and_noise_is_inconclusive() -> None:
    assert set(Study(LOW, HIGH).verdicts.values()) == {"contradicted"}
    assert Study(LOW, LOW).verdicts["shortcuts"] == "inconclusive"


def test_an_interval_without_significance_is_not_enough() -> None:
    found = Study([*HIGH[:4], None, None], [*LOW[:4], None, None])
    assert found.p(14)["value"] == 1 / 16 > SIGNIFICANT
    difference = found.difference(14)
    assert difference is not None and difference.ends is not None and difference.ends[0] > 0
    assert found.verdicts["shortcuts"] == "inconclusive"


def test_diverged_runs_are_counted_and_never_averaged(tmp_path: Path) -> None:
    found = Study([0.5, None, None, 0.5, 0.5, 0.5], LOW)
    cell = {"family": "plain", "depth": 14}
    assert one(found.summary, metric="runs", **cell) == 6
    assert Estimate.from_rows(found.summary, "train_error", **cell) == Estimate(0.5, 0.5, 0.5)
    write_table(tmp_path / "summary.csv", found.summary)
    table = {
        row["metric"]: row["value"]
        for row in read_table(tmp_path / "summary.csv")
        if row.get("family") == "plain" and row["depth"] == 14 and "value" in row
    }
    assert table["diverged"] == 2 and table["diverged_share_high"] == wilson(2, 6)[1]
    assert any("2 of 6 diverged" in line for line in found.lines)


def test_all_diverged_leaves_no_mean_but_the_test() -> None:
    found = Study([None] * 6, LOW)
    assert found.difference(14) is None and found.p(14)["value"] == 1 / 64
    assert found.verdicts["shortcuts"] == "supported"
    assert Study([None] * 6, [None] * 6).verdicts["shortcuts"] == "inconclusive"
    assert any(line.startswith("    14  - (6 of 6 diverged)") for line in found.lines)


def test_printed_figures_are_only_beside_the_protocol_that_they_are_of() -> None:
    printed = {"metric": "published_test_error"}
    assert select(Study(HIGH, LOW).summary, **printed) == []
    setup = replace(PLAN.setup, data="cifar10")
    rows = select(Study(HIGH, LOW, replace(PLAN, name="cifar", setup=setup)).summary, **printed)
    found = {(row["family"], row["depth"]): row for row in rows}
    assert found["residual", 110]["value"] == pytest.approx(0.0661)
    assert found["plain", 110]["status"] == "more than this: He 2015, section 4.2"


def test_budgets_are_compared_length_by_length() -> None:
    config = replace(PLAN, budgets=Budgets(14, (STEPS // 2, STEPS), (0, 1, 2)))
    counted = rows_of({("plain", 14): HIGH, ("residual", 14): LOW})
    short = [
        row | {"purpose": "budget", "steps": STEPS // 2, "train_error": row["train_error"] + 0.1}
        for row in counted
        if row["seed"] < 3
    ]
    short[0] = {k: v for k, v in short[0].items() if k != "train_error"} | {"status": "diverged"}
    rows = list(budget_rows(config, [*counted, *short]))
    errors = select(rows, metric="train_error", step=STEPS)
    assert len(errors) == 6, "three seeds of each twin"
    (row,) = select(rows, metric="train_error", step=STEPS // 2, seed=0, family="plain")
    assert row["status"] == "diverged" and "value" not in row
    gap = Estimate.from_rows(rows, "train_error_difference", step=STEPS)
    assert gap is not None and gap.is_range and gap.spread == pytest.approx((0.4, 0.48))
    assert one(rows, metric="p", step=STEPS) == 1 / 8
    lost = Estimate.from_rows(rows, "train_error_difference", step=STEPS // 2)
    assert lost is not None and lost.spread is None, "two pairs are left"
