"""Measure how the phases of a training step share its time, and suggest the flag that saves most.

The profiler reads a clock at the end of each phase. On CUDA the clock is an event in the queue of
the device, read only at the end, so that nothing waits. After 50 steps it gives one record: every
possible improvement has a saving, the share of the time that it would free, and the largest saving
is the bottleneck.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from resnets.data.loader import CANVAS
from resnets.training.recipe import Recipe

if TYPE_CHECKING:
    from resnets.training.autotune import Advice

PHASES = ("data wait", "copy", "forward", "backward", "optimizer", "evaluation", "other")
# Steps that are profiled, and the first of them that do not count: kernels are compiled then.
STEPS = 50
WARM_UP = 5
# A suggestion must save at least this share of the time.
WORTHWHILE = 0.05
# Share of the training time that validations may take.
EVALUATION_SHARE = 0.05


@dataclass(frozen=True)
class Clock:
    """How to read the time, and the seconds between two readings."""

    now: Callable[[], Any]
    between: Callable[[Any, Any], float]

    @classmethod
    def of(cls, device: torch.device) -> Clock:
        """Return the wall clock, or events of the CUDA device."""
        if device.type != "cuda":
            return cls(time.perf_counter, lambda first, last: last - first)
        return cls(_event, _between_events)


@dataclass(frozen=True)
class Suggestion:
    """A cause of lost time, the flag against it, and the share of the time that it saves."""

    cause: str
    flag: str
    saving: float


@dataclass(frozen=True)
class ProfileContext:
    """What the suggestions depend on.

    Args:
        recipe: The resolved recipe.
        num_train: Training images.
        num_val: Validation images.
        cores: CPU cores of this process.
        streamed: Whether images are decoded during the run, not kept in memory.
        advice: Values that autotune measured as faster than those that the user gave.
    """

    recipe: Recipe
    num_train: int
    num_val: int
    cores: int
    streamed: bool
    advice: tuple[Advice, ...] = ()


class Profiler:
    """Collect the times of the first steps and give one record.

    Args:
        context: What the suggestions depend on.
        clock: Where times come from.
        steps: Steps that are profiled.
        warm_up: The first of them, which do not count.
    """

    def __init__(
        self,
        context: ProfileContext,
        *,
        clock: Clock,
        steps: int = STEPS,
        warm_up: int = WARM_UP,
    ) -> None:
        self.context, self.clock = context, clock
        self.last_step, self.warm_up = steps, warm_up
        self.steps = 0
        self.marks: list[tuple[str, Any, float]] = [("other", clock.now(), 0.0)]

    def mark(self, phase: str, *, waited: float = 0.0) -> None:
        """Give the time since the last mark to this phase, but for `waited` seconds for data."""
        if self.steps < self.last_step:
            self.marks.append((phase, self.clock.now(), waited))

    def step(self) -> dict[str, Any] | None:
        """Count a step; return the record after the last profiled step."""
        self.steps += 1
        if self.steps == self.warm_up:
            del self.marks[:-1]
        return self._record() if self.steps == self.last_step else None

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase."""
        seconds = dict.fromkeys(PHASES, 0.0)
        for (_, before, _), (phase, after, waited) in pairwise(self.marks):
            gap = self.clock.between(before, after)
            seconds["data wait"] += min(waited, gap)
            seconds[phase] += gap - min(waited, gap)
        return seconds

    def _record(self) -> dict[str, Any]:
        seconds = self.seconds()
        if not seconds["evaluation"]:
            seconds["evaluation"] = self._future_evaluation(seconds["forward"])
        self.marks.clear()
        total = sum(seconds.values())
        shares = {phase: spent / total for phase, spent in seconds.items()}
        best = max(suggestions(shares, self.context), key=lambda one: one.saving, default=None)
        if best is None or best.saving < WORTHWHILE:
            best = Suggestion(max(shares, key=lambda phase: shares[phase]), "", 0.0)
        return {
            "shares": shares,
            "bottleneck": best.cause,
            "remedy": best.flag,
            "text": _summary(shares, best),
        }

    def _future_evaluation(self, forward: float) -> float:
        """Estimate the validations to come by the forward passes so far.

        The validation after the last step does not count: no setting avoids it.
        """
        recipe = self.context.recipe
        assert (
            recipe.schedule.steps
            and recipe.schedule.batch_size
            and recipe.evaluation.evaluate_every
        )
        per_image = forward / recipe.schedule.batch_size
        steps_between = (
            self.context.num_train * recipe.evaluation.evaluate_every / recipe.schedule.batch_size
        )
        steps_between = max(1.0, steps_between)
        if steps_between >= recipe.schedule.steps:
            return 0.0
        return per_image * self.context.num_val / steps_between


class _NoProfiler(Profiler):
    """A profiler that ignores every mark."""

    def __init__(self) -> None:
        self.steps = self.last_step = 0


NO_PROFILER: Profiler = _NoProfiler()


def suggestions(shares: Mapping[str, float], context: ProfileContext) -> Iterator[Suggestion]:
    """Yield everything that could save time."""
    waiting, evaluation = shares["data wait"], shares["evaluation"]
    if context.streamed:
        yield Suggestion("data wait", _against_waiting(waiting, context), waiting)
    flag = _against_evaluation(evaluation, context.recipe)
    yield Suggestion("evaluation", flag, evaluation - EVALUATION_SHARE)
    computing = shares["forward"] + shares["backward"] + shares["optimizer"]
    for advice in context.advice:
        cause = advice.name.replace("_", " ")
        yield Suggestion(cause, advice.flag, computing * (1 - advice.time))


def _against_waiting(share: float, context: ProfileContext) -> str:
    """Return as many workers as keep up with the rest of the step, or a larger cache."""
    recipe = context.recipe
    assert recipe.runtime.workers is not None and recipe.model.size is not None
    busy = max(1 - share, 0.01)
    # Without workers the wait is the decoding itself; workers decode all the time.
    needed = math.ceil((recipe.runtime.workers or share) / busy)
    workers = max(1, min(needed, context.cores))
    if workers > recipe.runtime.workers:
        return f"--workers {workers}"
    # The most that the cache can need: large enough to crop, in colour.
    megabytes = context.num_train * 3 * round(CANVAS * recipe.model.size) ** 2 / 2**20
    return f"--cache-mb {math.ceil(megabytes)}"


def _against_evaluation(share: float, recipe: Recipe) -> str:
    """Return an interval at which validations take their planned share of the time."""
    assert recipe.evaluation.evaluate_every is not None
    rarer = share / max(1 - share, 0.01) * (1 - EVALUATION_SHARE) / EVALUATION_SHARE
    return f"--evaluate-every {recipe.evaluation.evaluate_every * rarer:.2g}"


def _summary(shares: Mapping[str, float], best: Suggestion) -> str:
    listed = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005)
    if not best.flag:
        return f"time per phase: {listed}; no flag would save {WORTHWHILE:.0%} of it"
    return f"time per phase: {listed}; bottleneck {best.cause}: {best.flag} saves {best.saving:.0%}"


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between_events(first: torch.cuda.Event, last: torch.cuda.Event) -> float:
    last.synchronize()
    return float(first.elapsed_time(last)) / 1000
