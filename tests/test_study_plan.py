"""The plan of a study: presets as they were fixed, cells as twins, figures as printed."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from resnets.errors import UserError
from resnets.models.config import ResNetConfig
from resnets.models.registry import MODELS
from resnets.models.resnet import ResNet
from resnets.study.cells import DOSES, FAMILIES, config_of
from resnets.study.plan import PRESETS, TWINS, Plan
from resnets.study.published import PUBLISHED
from resnets.training.optimizer import learning_rate

plans = pytest.mark.parametrize("plan", PRESETS.values(), ids=PRESETS)


def cell(family: str, depth: int = 8) -> ResNetConfig:
    return config_of(family, depth, widths=(8, 16, 32), num_classes=10, in_channels=1)


@plans
def test_the_tuning_seed_is_not_counted_and_the_reserve_is_stated(plan: Plan) -> None:
    assert all(plan.tuning_seed not in seeds for _, seeds in plan.cells())
    assert plan.twins.families == TWINS and len(plan.twins.seeds) >= 3
    ratios = [b / a for a, b in zip(plan.rates, plan.rates[1:], strict=False)]
    assert all(abs(ratio - plan.factor) < 0.5 for ratio in ratios)
    assert len({job for cell, _ in plan.cells() for job in [cell]}) == len(list(plan.cells()))


def test_minutes_is_what_was_promised() -> None:
    plan = PRESETS["minutes"]
    assert plan.twins.depths == (8, 20, 56) and len(plan.twins.seeds) == 6
    assert len(plan.rates) == 3 and plan.setup.data == "fashion-mini"
    recipe = plan.counted(("plain", 56), 0.1, 0).recipe
    rates = [learning_rate(recipe, step) for step in range(400)]
    assert max(range(400), key=rates.__getitem__) == 50 and rates[-1] < 0.001
    tuning = plan.tuning(("plain", 56), 0.1).recipe
    assert tuning.schedule.steps == 200 and tuning.seed == 1000


def test_hour_has_every_family_and_the_whole_dose() -> None:
    plan = PRESETS["hour"]
    assert {family for (family, _), _ in plan.cells()} == set(FAMILIES)
    at_56 = {family for (family, depth), _ in plan.cells() if depth == 56}
    assert set(DOSES) <= at_56 and sorted(DOSES.values()) == [*DOSES.values()]
    assert plan.deepest == 110


@plans
def test_the_weights_of_one_pair_are_kept_at_both_ends(plan: Plan) -> None:
    jobs = [plan.counted(cell, 0.1, seed) for cell, seeds in plan.cells() for seed in seeds]
    kept = {(job.family, job.depth, job.seed) for job in jobs if job.keeps_weights}
    ends = min(plan.twins.depths), max(plan.twins.depths)
    assert kept == {(family, depth, 0) for family in TWINS for depth in ends}


@plans
def test_a_plan_is_plain_values(plan: Plan) -> None:
    assert json.loads(json.dumps(asdict(plan)))["name"] == plan.name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_computes_and_has_its_layers(family: str) -> None:
    torch.manual_seed(0)
    model = ResNet(cell(family, 14)).eval()
    assert model(torch.randn(2, 1, 14, 14)).isfinite().all()
    weighted = [name for name, p in model.named_parameters() if p.ndim == 4 and "down" not in name]
    assert len(weighted) + 1 == 14


def test_twins_are_equal_but_for_the_shortcut() -> None:
    networks = []
    for family in TWINS:
        torch.manual_seed(3)
        networks.append(ResNet(cell(family)).state_dict())
    plain, residual = networks
    assert [*plain] == [*residual]
    assert all(torch.equal(plain[name], residual[name]) for name in plain)
    assert {**asdict(cell("plain")), "shortcut": "pad"} == asdict(cell("residual"))


def test_a_branch_shrinks_with_the_root_of_its_units() -> None:
    assert cell("scaled", 56).residual_scale == pytest.approx(27**-0.5)


@pytest.mark.parametrize("depth", [7, 2, 9])
def test_a_depth_that_no_network_has(depth: int) -> None:
    with pytest.raises(UserError, match=f"depth {depth} .* 6n"):
        cell("plain", depth)


def test_an_unknown_family() -> None:
    with pytest.raises(UserError, match="did you mean 'skipinit'"):
        cell("skip-init")


def test_published_figures_are_those_of_the_table_of_networks() -> None:
    prefix = {"plain": "plain", "residual": "resnet"}
    for row in PUBLISHED:
        if row.family in prefix:
            known = MODELS[f"{prefix[row.family]}{row.depth}"]
            assert float(known.error.removeprefix("> ")) == row.error
            assert known.error.startswith(">") == row.exceeds
        assert row.source and row.family in FAMILIES
