"""Where the time of a run goes: the shares of its phases, the bottleneck, and what would help.

Enters: marks, one at the end of each phase of each step, and what the probe advised. Leaves: after
50 steps one record with a line to read. The idea: whatever could be better has a saving, the share
of the time that it would free; the largest saving is the bottleneck, and its flag the remedy.

A mark is a look at the clock. On CUDA it is an event in the queue of the device, read only at the
end, so that nothing waits: a phase then lasts as long as the device takes for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from resnets.data.workers import CANVAS
from resnets.training.auto_config import EVALUATION_SHARE
from resnets.training.autotune import Advice
from resnets.training.recipe import Recipe

PHASES = ("data wait", "copy", "forward", "backward", "optimizer", "evaluation", "other")
STEPS = 50
WARM_UP = 5
"""first steps that are not counted: kernels are made, workers start"""
WORTHWHILE = 0.05
"""least share of the time that a remedy must free to be named"""


@dataclass(frozen=True)
class Clock:
    """A moment, and the seconds between two."""

    now: Callable[[], Any]
    between: Callable[[Any, Any], float]

    @classmethod
    def of(cls, device: torch.device) -> Clock:
        """The wall clock, or the CUDA device's own."""
        if device.type != "cuda":
            return cls(time.perf_counter, lambda first, last: last - first)
        return cls(_event, _between_events)


@dataclass(frozen=True)
class Remedy:
    """A cause of lost time, the flag against it, and the share of the time that it would free."""

    cause: str
    flag: str
    saving: float


@dataclass(frozen=True)
class Outlook:
    """What a remedy depends on."""

    recipe: Recipe
    num_train: int
    num_val: int
    cores: int
    streamed: bool
    """images are decoded during the run, not kept in memory"""
    advice: tuple[Advice, ...] = ()
    """of the probe"""


class Shares:
    """Collects the marks of the first steps; `after_step` returns the record once."""

    def __init__(self, outlook: Outlook, *, clock: Clock) -> None:
        self.outlook, self.clock = outlook, clock
        self.steps = 0
        self.marks: list[tuple[str, Any, float]] = [("other", clock.now(), 0.0)]

    def mark(self, phase: str, *, waited: float = 0.0) -> None:
        """The time since the last mark was this phase's, but for what was waited for data."""
        if self.steps < STEPS:
            self.marks.append((phase, self.clock.now(), waited))

    def after_step(self) -> dict[str, Any] | None:
        """Count a step; after the last one that is counted, the record."""
        self.steps += 1
        if self.steps == WARM_UP:
            del self.marks[:-1]
        return self._record() if self.steps == STEPS else None

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase."""
        seconds = dict.fromkeys(PHASES, 0.0)
        for (_, before, _), (phase, after, waited) in pairwise(self.marks):
            gap = self.clock.between(before, after)
            seconds["data wait"] += min(waited, gap)
            seconds[phase] += gap - min(waited, gap)
        return seconds

    def _record(self) -> dict[str, Any]:
        seconds = self.seconds()
        if not seconds["evaluation"]:
            seconds["evaluation"] = (STEPS - WARM_UP) * _evaluation_ahead(seconds, self.outlook)
        self.marks.clear()
        total = sum(seconds.values())
        shares = {phase: spent / total for phase, spent in seconds.items()}
        best = max(remedies(shares, self.outlook), key=lambda remedy: remedy.saving, default=None)
        if best is None or best.saving < WORTHWHILE:
            best = Remedy(max(shares, key=lambda phase: shares[phase]), "", 0.0)
        return {
            "kind": "shares",
            "shares": shares,
            "bottleneck": best.cause,
            "remedy": best.flag,
            "text": in_words(shares, best),
        }


def _evaluation_ahead(seconds: Mapping[str, float], outlook: Outlook) -> float:
    """Seconds a step of validations that have not come yet: as fast as forward passes.

    The one after the last step does not count: no setting avoids it.
    """
    recipe = outlook.recipe
    assert recipe.steps and recipe.batch_size and recipe.evaluate_every
    image = seconds["forward"] / ((STEPS - WARM_UP) * recipe.batch_size)
    steps_between = max(1.0, recipe.evaluate_every * outlook.num_train / recipe.batch_size)
    return image * outlook.num_val / steps_between if steps_between < recipe.steps else 0.0


def remedies(shares: Mapping[str, float], outlook: Outlook) -> Iterator[Remedy]:
    """All that could free some of the time."""
    waiting, evaluation = shares["data wait"], shares["evaluation"]
    if outlook.streamed:
        yield Remedy("data wait", _against_waiting(waiting, outlook), waiting)
    flag = _against_evaluation(evaluation, outlook.recipe)
    yield Remedy("evaluation", flag, evaluation - EVALUATION_SHARE)
    computing = shares["forward"] + shares["backward"] + shares["optimizer"]
    for advice in outlook.advice:
        cause = advice.name.replace("_", " ")
        yield Remedy(cause, advice.flag, computing * (1 - advice.time))


def _against_waiting(share: float, outlook: Outlook) -> str:
    """As many workers as keep up with the rest of the step, or no decoding at all."""
    recipe = outlook.recipe
    assert recipe.workers is not None and recipe.size is not None
    busy = max(1 - share, 0.01)
    # Without workers the wait is the decoding itself; workers decode all the time.
    needed = math.ceil((recipe.workers or share) / busy)
    workers = max(1, min(needed, outlook.cores))
    if workers > recipe.workers:
        return f"--workers {workers}"
    # As if crops were cut from all of them, in colours.
    megabytes = outlook.num_train * 3 * round(CANVAS * recipe.size) ** 2 / 2**20
    return f"--cache-mb {math.ceil(megabytes)}"


def _against_evaluation(share: float, recipe: Recipe) -> str:
    """So seldom that evaluation takes its planned share."""
    assert recipe.evaluate_every is not None
    rarer = share / max(1 - share, 0.01) * (1 - EVALUATION_SHARE) / EVALUATION_SHARE
    return f"--evaluate-every {recipe.evaluate_every * rarer:.2g}"


def in_words(shares: Mapping[str, float], best: Remedy) -> str:
    """One line."""
    listed = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005)
    if not best.flag:
        return f"time goes to {listed}; no setting known here saves {WORTHWHILE:.0%} of it"
    return f"time goes to {listed}; bottleneck {best.cause}: {best.flag} saves {best.saving:.0%}"


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between_events(first: torch.cuda.Event, last: torch.cuda.Event) -> float:
    last.synchronize()
    return float(first.elapsed_time(last)) / 1000
