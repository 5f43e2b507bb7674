"""Measure how the phases of a training step share its time, and suggest the flag that saves most.

The profiler reads a clock at the end of each phase. On CUDA the clock is an event in the queue of
the device, read only at the end, so that nothing waits. After 50 steps it gives one record: every
possible improvement has a saving, the share of the time that it would free, and the largest saving
is the bottleneck.
"""

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
    def of(cls, device: torch.device) -> "Clock":
        """Return the wall clock, or events of the CUDA device."""
        if device.type != "cuda":
            return cls(time.perf_counter, lambda first, last: last - first)

        def now() -> Any:
            return torch.cuda.current_stream().record_event(torch.cuda.Event(enable_timing=True))

        def between(first: torch.cuda.Event, last: torch.cuda.Event) -> float:
            last.synchronize()
            return float(first.elapsed_time(last)) / 1000

        return cls(now, between)


@dataclass(frozen=True)
class ProfileContext:
    """What the suggestions depend on."""

    recipe: Recipe
    num_train: int
    num_val: int
    cores: int
    streamed: bool  # images are decoded during the run, not kept in memory
    advice: "tuple[Advice, ...]" = ()  # values that are faster than those that the user gave


class Profiler:
    """Collect the times of the first steps, of which `warm_up` do not count; give one record."""

    def __init__(
        self, context: ProfileContext, *, clock: Clock, steps: int = STEPS, warm_up: int = WARM_UP
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

    def _record(self) -> dict[str, Any]:
        seconds = dict.fromkeys(PHASES, 0.0)
        for (_, before, _), (phase, after, waited) in pairwise(self.marks):
            gap = self.clock.between(before, after)
            seconds["data wait"] += min(waited, gap)
            seconds[phase] += gap - min(waited, gap)
        self.marks.clear()
        if not seconds["evaluation"]:
            seconds["evaluation"] = self._future_evaluation(seconds["forward"])
        total = sum(seconds.values())
        shares = {phase: spent / total for phase, spent in seconds.items()}
        listed = ", ".join(
            f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005
        )
        found = max(self._suggestions(shares), key=lambda one: one[0], default=(0.0, "", ""))
        saving, cause, flag = found
        if saving >= WORTHWHILE:
            text = f"bottleneck {cause}: {flag} saves {saving:.0%}"
        else:
            cause, flag = max(shares, key=lambda phase: shares[phase]), ""
            text = f"no flag would save {WORTHWHILE:.0%} of it"
        text = f"time per phase: {listed}; {text}"
        return {"shares": shares, "bottleneck": cause, "remedy": flag, "text": text}

    def _future_evaluation(self, forward: float) -> float:
        """Estimate the validations to come by the forward passes so far.

        The validation after the last step does not count: no setting avoids it.
        """
        schedule, every = (
            self.context.recipe.schedule,
            self.context.recipe.evaluation.evaluate_every,
        )
        assert schedule.steps and schedule.batch_size and every
        steps_between = max(1.0, self.context.num_train * every / schedule.batch_size)
        if steps_between >= schedule.steps:
            return 0.0
        return forward / schedule.batch_size * self.context.num_val / steps_between

    def _suggestions(self, shares: Mapping[str, float]) -> Iterator[tuple[float, str, str]]:
        """Yield the share of the time that a change saves, the cause, and the flag against it."""
        waiting, evaluation = shares["data wait"], shares["evaluation"]
        if self.context.streamed:
            yield waiting, "data wait", self._against_waiting(waiting)
        every = self.context.recipe.evaluation.evaluate_every
        assert every is not None
        # The interval at which validations take their planned share of the time.
        rarer = evaluation / max(1 - evaluation, 0.01) * (1 - EVALUATION_SHARE) / EVALUATION_SHARE
        yield evaluation - EVALUATION_SHARE, "evaluation", f"--evaluate-every {every * rarer:.2g}"
        computing = shares["forward"] + shares["backward"] + shares["optimizer"]
        for advice in self.context.advice:
            yield computing * (1 - advice.time), advice.name.replace("_", " "), advice.flag

    def _against_waiting(self, share: float) -> str:
        """Return as many workers as keep up with the rest of the step, or a larger cache."""
        workers, size = self.context.recipe.runtime.workers, self.context.recipe.model.size
        assert workers is not None and size is not None
        # Without workers the wait is the decoding itself; workers decode all the time.
        needed = math.ceil((workers or share) / max(1 - share, 0.01))
        enough = max(1, min(needed, self.context.cores))
        if enough > workers:
            return f"--workers {enough}"
        # The most that the cache can need: large enough to crop, in colour.
        megabytes = self.context.num_train * 3 * round(CANVAS * size) ** 2 / 2**20
        return f"--cache-mb {math.ceil(megabytes)}"
