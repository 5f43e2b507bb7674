"""The probe decides rightly on planted timings, within its time, and never over the user's head."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from resnets.training.auto_config import DataFacts, ResolvedConfig, resolve
from resnets.training.autotune import (
    Advice,
    Candidate,
    Setting,
    Stopwatch,
    autotune,
    compare_timings,
)
from resnets.training.recipe import Recipe

CPU = torch.device("cpu")
FACTS = DataFacts(
    num_train=12_800, num_val=1000, num_test=2000, side=32, channels=3, num_classes=10
)
START = Setting(threads=4, precision="fp32", memory_format="channels_last", images=128)


class Machine:
    """A machine by formula: seconds an image of a setting, on a clock that only it moves."""

    def __init__(self, *, noise: tuple[float, ...] = (1.0,), **costs: dict[Any, float]) -> None:
        self.costs, self.noise, self.now = costs, itertools.cycle(noise), 0.0
        self.passes: Counter[Setting] = Counter()

    def measure(self, setting: Setting) -> float:
        cost = 0.001 * math.prod(
            costs.get(getattr(setting, name), 1.0) for name, costs in self.costs.items()
        )
        seconds = cost * next(self.noise)
        self.now += seconds * setting.images
        self.passes[setting] += 1
        return seconds

    def probe(self, start: Setting = START, **values: Any) -> Any:
        given: dict[str, Any] = {
            "cores": 4,
            "device": CPU,
            "fixed": (),
            "grad_accum_steps": 1,
            "default_batch": 128,
            "seconds": 3.0,
            "clock": lambda: self.now,
        }
        return autotune(start, self.measure, **given | values)


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ({}, {}),
        ({"precision": {"bf16": 0.5}}, {"precision": "bf16"}),
        ({"precision": {"bf16": 0.95}}, {}),
        ({"precision": {"bf16": 30.0}}, {}),
        ({"memory_format": {"contiguous": 0.7}}, {"memory_format": "contiguous"}),
        ({"threads": {4: 40.0, 2: 1.5}}, {"threads": 1}),
        ({"threads": {1: 4.0, 2: 2.0}}, {}),
        ({"threads": {4: 1.0, 2: 0.8, 1: 0.9}}, {"threads": 2}),
    ],
)
def test_the_fastest_setting_is_found(costs: dict[str, Any], expected: dict[str, Any]) -> None:
    found = Machine(**costs).probe()
    assert asdict(found.setting) | {"images": 128} == asdict(replace(START, **expected))
    assert found.advice == ()


def test_neighbours_that_come_and_go_do_not_choose() -> None:
    """Every third pass takes three times as long; taken in turns, the medians still compare."""
    machine = Machine(noise=(1.0, 1.0, 3.0), precision={"bf16": 0.6})
    setting = machine.probe(replace(START, threads=1), cores=1).setting
    assert (setting.precision, setting.memory_format) == ("bf16", "channels_last")


@pytest.mark.parametrize(
    ("name", "given", "better"),
    [
        ("threads", 16, 1),
        ("precision", "bf16", "fp32"),
        ("memory_format", "contiguous", "channels_last"),
    ],
)
def test_what_the_user_gave_stays_and_is_advised_against(
    name: str, given: Any, better: Any
) -> None:
    slow = {16: 9.0, 8: 4.0, 4: 3.0, 2: 2.0} if name == "threads" else {given: 2.0}
    found = Machine(**{name: slow}).probe(replace(START, **{name: given}), fixed=(name,))
    assert getattr(found.setting, name) == given
    (advice,) = found.advice
    assert (advice.name, advice.value) == (name, better)
    assert advice.time == pytest.approx(1 / slow[given])
    assert advice.flag == f"--{name.replace('_', '-')} {better}"


def test_a_batch_that_wastes_the_machine_is_advised_against() -> None:
    tiny = replace(START, images=4)
    (advice,) = Machine(images={4: 3.0}).probe(tiny).advice
    assert advice == Advice("batch_size", 128, pytest.approx(1 / 3))
    cache = Machine(images={128: 1.0, 64: 0.7, 32: 0.8}).probe(grad_accum_steps=2, seconds=30)
    assert cache.advice == (Advice("grad_accum_steps", 4, pytest.approx(0.7)),)
    assert Machine(images={128: 1.0, 64: 0.7}).probe(seconds=0.5).advice == ()  # no time for it


def test_the_time_is_kept() -> None:
    for scale in (0.1, 1.0, 10.0):
        machine = Machine(memory_format={"channels_last": scale, "contiguous": scale})
        machine.probe()
        assert machine.now < 3.0


def test_who_is_clearly_behind_leaves_early() -> None:
    machine = Machine(precision={"bf16": 2.5})
    entrants = [START, replace(START, precision="bf16")]
    compare_timings(entrants, machine.measure, deadline=math.inf, clock=lambda: machine.now)
    assert machine.passes[entrants[1]] == 2  # one that warms up, one that counts
    hopeless = Machine(precision={"bf16": 99.0})
    compare_timings(entrants, hopeless.measure, deadline=math.inf, clock=lambda: hopeless.now)
    assert hopeless.passes[entrants[1]] == 1
    close = Machine(precision={"bf16": 1.1})
    compare_timings(entrants, close.measure, deadline=math.inf, clock=lambda: close.now)
    assert close.passes[entrants[1]] == close.passes[entrants[0]] > 3


def planned(machine: Machine, **values: Any) -> ResolvedConfig:
    """Everything is chosen, on a planted machine where all costs hold for every network."""
    recipe = Recipe().override(model="resnet20", **values)
    return resolve(
        ResolvedConfig(recipe),
        FACTS,
        seconds=60,
        device=CPU,
        timing=lambda candidate, setting: machine.measure(setting),
    )


def test_the_plan_records_what_was_measured() -> None:
    current = planned(Machine(precision={"bf16": 0.5}))
    recipe = current.recipe
    assert (recipe.runtime.precision, recipe.runtime.memory_format) == ("bf16", "channels_last")
    assert recipe.runtime.threads == torch.get_num_threads()
    for name in ("precision", "memory_format", "threads"):
        assert current.origins[name] == "measured"
    assert "precision fp32: 1000, bf16: 2000" in current.reasons[0]
    assert current.advice == ()


def test_a_flag_is_never_overridden() -> None:
    machine = Machine(precision={"bf16": 0.5}, memory_format={"contiguous": 2.0})
    current = planned(machine, precision="fp32", memory_format="contiguous", threads=1)
    recipe = current.recipe
    assert (recipe.runtime.precision, recipe.runtime.memory_format, recipe.runtime.threads) == (
        "fp32",
        "contiguous",
        1,
    )
    assert current.origins.get("precision", "default") == "default"
    assert {advice.flag for advice in current.advice} == {
        "--precision bf16",
        "--memory-format channels_last",
    }
    assert "--precision bf16 (2.0x)" in current.reasons[1]


def test_tune_off_takes_fixed_defaults_and_measures_nothing() -> None:
    machine = Machine(precision={"bf16": 0.1}, memory_format={"contiguous": 0.1})
    current = planned(machine, tune="off", size=32)
    recipe = current.recipe
    assert (recipe.runtime.precision, recipe.runtime.memory_format) == ("fp32", "channels_last")
    assert recipe.runtime.threads == torch.get_num_threads()
    assert current.origins.get("precision", "default") == "default"
    assert not machine.passes
    kept = planned(machine, tune="off", precision="bf16", memory_format="contiguous").recipe
    assert (kept.runtime.precision, kept.runtime.memory_format) == ("bf16", "contiguous")


def test_the_stopwatch_measures_here() -> None:
    watch = Stopwatch(channels=1, num_classes=3, device=CPU)
    setting = Setting(threads=1, precision="bf16", memory_format="contiguous", images=2)
    seconds = watch(Candidate("resnet20", 16), setting)
    assert 0 < seconds < 60
    assert torch.get_num_threads() == 1
    other = watch(Candidate("plain20", 16), replace(setting, memory_format="channels_last"))
    assert 0 < other < 60
