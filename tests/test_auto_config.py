"""The number of steps: as asked, or what fits into the time; what is said and where it is from."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from resnets.errors import UserError
from resnets.training.auto_config import DataFacts, ResolvedConfig, resolve, resolve_steps
from resnets.training.recipe import LEAST_EPOCHS, Recipe

STEP, IMAGE = 0.1, 0.001  # measured seconds
FACTS = DataFacts(
    num_train=12_800, num_val=1000, num_test=2000, side=32, channels=3, num_classes=10
)


def planned(
    *, seconds: float | None = None, facts: DataFacts = FACTS, **values: Any
) -> ResolvedConfig:
    recipe = Recipe().override(batch_size=128, learning_rate=0.1, **values)
    start = ResolvedConfig(recipe, dict.fromkeys(recipe.flat(), "flag"))
    return resolve_steps(start, facts, seconds=seconds, step_seconds=STEP, image_seconds=IMAGE)


@pytest.mark.parametrize(
    ("epochs", "steps"), [(3, 300), (2.5, 250), (0.014, 1), (0.001, 1), (1.004, 100)]
)
def test_epochs_become_a_whole_number_of_steps(epochs: float, steps: int) -> None:
    current = planned(epochs=epochs)
    assert (current.recipe.schedule.steps, current.recipe.schedule.epochs) == (steps, None)
    assert current.origins["steps"] == f"flag --epochs {epochs:g}"


def test_steps_asked_for_stay() -> None:
    assert planned(steps=77).recipe.schedule.steps == 77
    assert planned(steps=77).origins["steps"] == "flag"


@pytest.mark.parametrize("seconds", [60.0, 240.0, 1200.0])
def test_a_run_fits_its_time(seconds: float) -> None:
    """Steps, validations and the final scores together take 0.75 to 1 of the time."""
    recipe = planned(seconds=seconds).recipe
    assert recipe.schedule.steps is not None
    assert recipe.evaluation.evaluate_every is not None
    validations = recipe.schedule.steps / (recipe.evaluation.evaluate_every * 100)
    used = (
        recipe.schedule.steps * STEP + validations * FACTS.num_val * IMAGE + FACTS.num_test * IMAGE
    )
    assert 0.75 * seconds < used < seconds


def test_more_time_gives_more_steps() -> None:
    steps = [planned(seconds=seconds).recipe.schedule.steps or 0 for seconds in (60, 120, 240)]
    assert steps[0] < steps[1] < steps[2]
    assert planned(seconds=60).origins["steps"] == "time budget"


@pytest.mark.parametrize("seconds", [-5.0, 0.0, 1.0])
def test_too_little_time(seconds: float) -> None:
    with pytest.raises(UserError, match=r"--time.*give more time"):
        planned(seconds=seconds)


def test_without_time_and_epochs_the_run_ends_by_itself() -> None:
    current = planned()
    assert current.recipe.schedule.steps is not None
    assert 1 <= current.recipe.schedule.steps * STEP < 3600
    small = DataFacts(num_train=200, num_val=20, num_test=0, side=32, channels=3, num_classes=2)
    assert (planned(facts=small).recipe.schedule.steps or 0) < current.recipe.schedule.steps


def test_a_batch_left_open_has_no_micro_batch_of_one_image() -> None:
    recipe = Recipe().override(model="resnet20", tune="off", epochs=1, grad_accum_steps=128)
    origins = dict.fromkeys(recipe.flat(), "flag")
    found = resolve(
        ResolvedConfig(recipe, origins), FACTS, seconds=None, device=torch.device("cpu")
    )
    assert found.recipe.schedule.batch_size == 2 * 128


def test_how_often_to_validate() -> None:
    assert planned(epochs=3, evaluate_every=0.5).recipe.evaluation.evaluate_every == 0.5
    every = planned(epochs=30).recipe.evaluation.evaluate_every
    assert every is not None
    assert 1 <= every <= 30
    assert planned(epochs=0.5).recipe.evaluation.evaluate_every == 0.5
    many = replace(FACTS, num_train=1_000_000)
    assert planned(facts=many, steps=1).recipe.evaluation.evaluate_every == LEAST_EPOCHS
    long = planned(epochs=2000).recipe.evaluation.evaluate_every
    assert long is not None
    assert long > every


def test_the_plan_states_steps_epochs_and_duration() -> None:
    reason = planned(epochs=30).reasons[-1]
    assert "3,000 steps of 128 images, 30.0 epochs" in reason
    assert "minutes" in reason


@pytest.mark.parametrize(
    ("given", "optimizer", "rate"),
    [
        ({}, "muon", 0.1 * math.sqrt(128 / 500)),
        ({"optimizer": "sgd"}, "sgd", 0.1),
        ({"weights": "resnet20.safetensors"}, "sgd", 0.1),
        (
            {"weights": "resnet20.safetensors", "optimizer": "muon", "learning_rate": 0.5},
            "muon",
            0.5,
        ),
    ],
)
def test_the_optimizer_and_its_rate(given: dict[str, Any], optimizer: str, rate: float) -> None:
    recipe = Recipe().override(model="resnet20", tune="off", batch_size=128, **given)
    found = resolve(
        ResolvedConfig(recipe),
        FACTS,
        seconds=60,
        device=torch.device("cpu"),
        timing=lambda *_: STEP / 128,
    ).recipe
    assert (found.optimizer.name, found.optimizer.learning_rate) == (optimizer, pytest.approx(rate))


def test_fill_remembers_where_values_came_from() -> None:
    current = ResolvedConfig(Recipe(), {"size": "default"}).set(
        "data", "the reason", size=32, workers=0
    )
    assert (current.recipe.model.size, current.recipe.runtime.workers) == (32, 0)
    assert current.origins == {"size": "data", "workers": "data"}
    assert current.reasons == ("the reason",)
    assert current.set("measured", threads=2).reasons == ("the reason",)
    with pytest.raises(UserError, match="--size"):
        current.set("data", size=4)
