"""Schedules against closed forms, parameter groups, optimizers and the weight average."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from resnets.models.registry import create_model
from resnets.models.resnet import ResNet, ResNetConfig
from resnets.training.optimizer import (
    default_learning_rate,
    is_backbone_frozen,
    learning_rate,
    make_average,
    make_optimizer,
    set_learning_rate,
)
from resnets.training.recipe import Recipe
from resnets.training.recipes import named_recipe

EXACT = 1e-12  # relative, of a few float64 operations
PEAK = 0.4


def rates(steps: int, **values: Any) -> list[float]:
    recipe = Recipe().override(optimizer="sgd", learning_rate=PEAK, steps=steps, **values)
    return [learning_rate(recipe, step) for step in range(steps)]


@pytest.mark.parametrize("warmup", [0.0, 0.25])
@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_cosine_and_one_cycle(schedule: str, warmup: float) -> None:
    steps = 40
    risen = round(warmup * steps)
    expected = [PEAK * (step + 0.5) / risen for step in range(risen)]
    for step in range(risen, steps):
        rest = (step + 0.5 - risen) / (steps - risen)
        falls = {"cosine": math.cos(math.pi * rest / 2) ** 2, "one_cycle": 1 - rest}
        expected.append(PEAK * falls[schedule])
    assert rates(steps, schedule=schedule, warmup=warmup) == pytest.approx(expected, rel=EXACT)


def test_step_schedule_with_warmup() -> None:
    expected = [PEAK * (step + 0.5) / 10 for step in range(10)]
    expected += [PEAK] * 40 + [PEAK / 10] * 25 + [PEAK / 100] * 25
    assert rates(100, schedule="step", warmup=0.1) == pytest.approx(expected, rel=EXACT)


def test_he2015_drops_at_32k_and_48k() -> None:
    recipe = Recipe().override(**named_recipe("he2015"))
    found = {step: learning_rate(recipe, step) for step in DROPS}
    assert found == pytest.approx(DROPS, rel=EXACT)


DROPS = {0: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001}


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "step"])
@pytest.mark.parametrize("steps", [1, 2, 3, 17])
def test_rates_are_positive_and_below_the_peak(schedule: str, steps: int) -> None:
    assert all(0 < rate <= PEAK for rate in rates(steps, schedule=schedule))


def test_default_learning_rate_is_the_papers_at_its_batch_size() -> None:
    assert default_learning_rate(Recipe(), batch_size=128) == pytest.approx(0.1)
    assert default_learning_rate(Recipe(), batch_size=512) == pytest.approx(0.4)
    assert default_learning_rate(
        Recipe().override(optimizer="adamw"), batch_size=512
    ) == pytest.approx(2e-3)


def test_is_backbone_frozen_for_its_share() -> None:
    recipe = Recipe().override(freeze_backbone=0.3, steps=10)
    flags = [is_backbone_frozen(recipe, step) for step in range(10)]
    assert flags == [True] * 3 + [False] * 7
    assert not is_backbone_frozen(Recipe().override(steps=10), 0)


NETWORKS = [
    "resnet20",
    "resnet50d",
    "preact_resnet18",
    "seresnet50",
    "resnetrs50",
    "resnetblur50",
    "resnet50_gn",
    "nf_resnet26",
    "resnet50_clip",
]


@pytest.mark.parametrize("name", NETWORKS)
def test_groups(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    recipe = Recipe().override(
        optimizer="sgd", learning_rate=0.1, layer_decay=0.5, weight_decay=0.01
    )
    groups = make_optimizer(model, recipe).param_groups
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in model.parameters())
    found = {id(p): (g["factor"], g["weight_decay"]) for g in groups for p in g["params"]}
    last = len(model.config.depths)
    for key, parameter in model.named_parameters():
        depth = next((n for n in range(1, last + 1) if key.startswith(f"layer{n}.")), 0)
        depth = {"norm": last, "avgpool": last, "fc": last + 1}.get(key.split(".")[0], depth)
        decay = 0.01 if parameter.shape[1:].numel() > 1 else 0.0
        assert found[id(parameter)] == (0.5 ** (last + 1 - depth), decay), key


def test_scalars_of_a_skip_init_are_not_decayed() -> None:
    config = ResNetConfig(
        depths=(1,), block="basic", widths=(8,), stem="small", residual_init="scalar"
    )
    groups = make_optimizer(
        ResNet(config), Recipe().override(optimizer="sgd", learning_rate=0.1)
    ).param_groups
    decayed = [p for group in groups if group["weight_decay"] for p in group["params"]]
    assert all(p.ndim in (2, 4) for p in decayed)


def test_set_learning_rate_follows_the_factors() -> None:
    model = tiny()
    optimizer = make_optimizer(
        model, Recipe().override(optimizer="sgd", learning_rate=0.1, layer_decay=0.5)
    )
    set_learning_rate(optimizer, 0.8)
    assert {group["lr"] for group in optimizer.param_groups} == {0.2, 0.4, 0.8}


def test_optimizers_take_the_recipes_numbers() -> None:
    values: dict[str, Any] = {"learning_rate": 0.1, "momentum": 0.8}
    sgd = make_optimizer(tiny(), Recipe().override(optimizer="sgd", **values))
    assert isinstance(sgd, torch.optim.SGD)
    assert {(g["momentum"], g["nesterov"]) for g in sgd.param_groups} == {(0.8, True)}
    plain = make_optimizer(tiny(), Recipe().override(optimizer="sgd", **values, nesterov=False))
    assert not any(group["nesterov"] for group in plain.param_groups)
    assert make_optimizer(
        tiny(), Recipe().override(optimizer="sgd", learning_rate=0.1, momentum=0.0)
    ).param_groups
    adamw = make_optimizer(tiny(), Recipe().override(**values, optimizer="adamw"))
    assert isinstance(adamw, torch.optim.AdamW)
    assert {group["betas"] for group in adamw.param_groups} == {(0.8, 0.999)}


def test_sgd_against_its_closed_form() -> None:
    """Three steps of Nesterov SGD with decay (Sutskever et al. 2013, as PyTorch writes it)."""
    model = tiny().double()
    recipe = Recipe().override(optimizer="sgd", learning_rate=0.1, weight_decay=0.01)
    optimizer = make_optimizer(model, recipe)
    parameter = model.fc.weight
    expected, velocity = parameter.detach().clone(), torch.zeros_like(parameter)
    for step in range(3):
        rate = 0.1 / (step + 1)
        set_learning_rate(optimizer, rate)
        for p in model.parameters():
            p.grad = torch.full_like(p, 0.5 + step)
        optimizer.step()
        gradient = 0.5 + step + 0.01 * expected
        velocity = 0.9 * velocity + gradient
        expected = expected - rate * (gradient + 0.9 * velocity)
    torch.testing.assert_close(parameter.detach(), expected, rtol=EXACT, atol=EXACT)


def test_average_against_its_closed_form() -> None:
    """e1 = w1; then e = d e + (1 - d) w, for weights and for batch norm's statistics."""
    assert make_average(tiny(), 0.0) is None
    model, decay = tiny().double(), 0.7
    average = make_average(model, decay)
    assert average is not None
    seen: list[dict[str, torch.Tensor]] = []
    for step in range(6):
        with torch.no_grad():
            for index, tensor in enumerate(floats(model).values()):
                places = torch.arange(tensor.numel(), dtype=torch.float64)
                tensor.copy_(torch.sin(places + 7 * step + index).view_as(tensor))
        seen.append({name: tensor.clone() for name, tensor in floats(model).items()})
        average.update_parameters(model)
    for name, tensor in floats(average.module).items():
        expected = decay**5 * seen[0][name]
        for age, values in enumerate(reversed(seen[1:])):
            expected = expected + (1 - decay) * decay**age * values[name]
        torch.testing.assert_close(tensor, expected, rtol=EXACT, atol=EXACT)


def floats(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v for k, v in model.state_dict().items() if v.is_floating_point()}


def tiny() -> ResNet:
    return ResNet(
        ResNetConfig(depths=(1,), block="basic", widths=(8,), num_classes=3, stem="small")
    )
