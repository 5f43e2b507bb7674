"""What a study does next, as a pure function of its rows: rates, edges, reserve, gate."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from resnets.errors import UserError
from resnets.study.twins import lr_search
from resnets.study.twins.lr_search import Choice, choose, rates_to_try, runnable
from resnets.study.twins.study_config import TwinJob
from resnets.study.twins.trial import dataset_of
from tiny_study import STEPS, tiny_plan

PLAN = tiny_plan(Path("none.npz"), reserve=2)
INF = math.inf


@pytest.fixture(autouse=True)
def ten_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan's images are not there."""
    monkeypatch.setattr(lr_search, "dataset_of", lambda setup: SimpleNamespace(chance=0.9))


def row(job: TwinJob, **values: Any) -> dict[str, Any]:
    about = {"purpose": job.purpose, "family": job.family, "depth": job.depth, "lr": job.rate}
    return {
        **about,
        "seed": job.seed,
        "status": "",
        "num_classes": 10,
        "steps": job.steps,
        **values,
    }


def trials(cell: tuple[str, int], losses: dict[float, float], error: float = 0.2) -> list[Any]:
    """Rows of a cell's tuning."""
    return [
        row(PLAN.tuning(cell, rate), val_loss=loss, val_error=error, val_images=1000)
        for rate, loss in losses.items()
    ]


@pytest.mark.parametrize(
    ("tried", "owed", "choice"),
    [
        ({}, (0.03, 0.1, 0.3), None),
        ({0.1: 0.5}, (0.03, 0.3), None),
        ({0.03: 0.6, 0.1: 0.5, 0.3: 0.7}, (), Choice(0.1, "")),
        ({0.03: 0.6, 0.1: 0.5, 0.3: 0.4}, (0.9,), None),
        ({0.03: 0.3, 0.1: 0.5, 0.3: INF}, (0.01,), None),
        ({0.01: 0.2, 0.03: 0.3, 0.1: 0.5, 0.3: INF}, (0.003333,), None),
        ({0.01: 0.4, 0.03: 0.3, 0.1: 0.5, 0.3: INF}, (), Choice(0.03, "")),
        ({0.003: 0.1, 0.01: 0.2, 0.03: 0.3, 0.1: 0.5, 0.3: INF}, (), Choice(0.003, "edge")),
        ({0.003: INF, 0.01: INF, 0.03: INF, 0.1: INF, 0.3: INF}, (), Choice(0.003, "diverged")),
        ({0.03: 0.5, 0.1: 0.5, 0.3: 0.6}, (0.01,), None),
    ],
)
def test_a_best_rate_at_the_edge_is_followed_as_long_as_the_reserve_lasts(
    tried: dict[float, float], owed: tuple[float, ...], choice: Choice | None
) -> None:
    assert rates_to_try(PLAN, tried) == owed
    assert choose(PLAN, tried) == choice


def test_one_rate_is_not_tuned() -> None:
    plan = replace(PLAN, rates=(0.1,))
    assert rates_to_try(plan, {}) == () and choose(plan, {}) == Choice(0.1, "")
    first = runnable(plan, [])
    assert [job.key for job in first] == [("count", "plain", 8, 0.1, 0, STEPS)]


def test_all_cells_have_equal_trials_on_a_seed_that_is_not_counted() -> None:
    gate = trials(("plain", 8), {0.03: 0.6, 0.1: 0.5, 0.3: 0.7})
    jobs = [job for job in runnable(PLAN, gate) if job.purpose == "tune"]
    assert {job.seed for job in jobs} == {PLAN.tuning_seed}
    found = {cell: [job.rate for job in jobs if job.cell == cell] for cell, _ in PLAN.cells()}
    assert found.pop(("plain", 8)) == []
    assert set(map(tuple, found.values())) == {PLAN.rates}
    costs = [job.cost for job in runnable(PLAN, gate)]
    assert costs == sorted(costs, reverse=True)


def test_nothing_is_begun_before_the_shallowest_plain_network_has_learned() -> None:
    assert {job.cell for job in runnable(PLAN, [])} == {("plain", 8)}
    gate = trials(("plain", 8), {0.03: 0.6, 0.1: 0.5, 0.3: 0.7})
    counted = [job for job in runnable(PLAN, gate) if job.purpose == "count"]
    assert {(job.cell, job.rate) for job in counted} == {(("plain", 8), 0.1)}
    assert [job.seed for job in counted] == [*PLAN.twins.seeds]


@pytest.mark.parametrize(("error", "learned"), [(0.68, True), (0.71, False), (0.9, False)])
def test_learned_is_a_fifth_below_chance_by_the_interval(error: float, learned: bool) -> None:
    rows = trials(("plain", 8), {0.03: 2.3, 0.1: 2.2, 0.3: 2.3}, error=error)
    if learned:  # Wilson's upper end of 0.68 in 1000 is 0.708
        assert len(runnable(PLAN, rows)) > 3
        return
    with pytest.raises(
        UserError, match=rf"{error:.0%} error after {STEPS // 2} steps .chance: 90%"
    ):
        runnable(PLAN, rows)


def test_chance_is_to_guess_the_most_frequent_class(tmp_path: Path) -> None:
    targets = np.array([0, 0, 0, 1, 1, 2, 0, 0, 0, 0])
    pixels = np.zeros((10, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", x_train=pixels, y_train=targets, x_test=pixels, y_test=targets)
    assert dataset_of(tiny_plan(tmp_path / "few.npz").setup).chance == pytest.approx(0.3)


def test_a_shallowest_network_that_diverged_has_not_learned() -> None:
    rows = [row(PLAN.tuning(("plain", 8), rate), status="diverged at step 3")
            for rate in (0.03, 0.1, 0.3, 0.01, 0.003333)]  # fmt: skip
    with pytest.raises(UserError, match="100% error"):
        runnable(PLAN, rows)
