"""The fastest way to compute on this machine: candidates take turns over random images.

Enters: a `Setting` to start from, the values that its fields may take, a function that times one
pass. Leaves: the fastest setting, and advice where the user had fixed a slower value.

The idea: neighbours on a machine slow it by a third for seconds on end, so the candidates take
turns and the best times are compared; who is clearly behind leaves early. A field keeps its value
unless another is clearly faster, so that noise does not choose.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

from resnets.device import FORMATS, autocast, place
from resnets.models.registry import create_model
from resnets.models.resnet import ResNet

FASTER = 0.9
"""a value must take less than this share of the present value's time to be preferred"""
TURNS = 5
BEHIND = 2.0
"""multiple of the best time at which a candidate leaves"""
HOPELESS = 20.0
"""the same after the first turn, in which kernels are still being made"""

LEAST_IMAGES = 4
"""in a reduced batch: fewer say little about a whole one"""
MOST_PASS_SECONDS = 0.5
"""of one pass over the reduced batch, which may have more images than the least"""
BATCH_SHARE = 0.25
"""of the probe's time that other batch sizes may take"""
LEAST_MICRO_BATCH = 16

Entrant = TypeVar("Entrant", bound=Hashable)


@dataclass(frozen=True)
class Candidate:
    """A network and its input size."""

    model: str
    size: int


@dataclass(frozen=True)
class Setting:
    """A way to compute a training step; the fields are the recipe's, but for `images`."""

    threads: int
    precision: str
    memory_format: str
    images: int
    """in one forward and backward pass"""


Timing = Callable[[Candidate, Setting], float]
"""seconds an image of one forward and backward pass"""
Measure = Callable[[Setting], float]
"""the same of one network"""


@dataclass(frozen=True)
class Advice:
    """A value that was measured faster than the one that the user gave."""

    name: str
    value: Any
    time: float
    """share of the present time"""

    @property
    def flag(self) -> str:
        """As it is typed."""
        return f"--{self.name.replace('_', '-')} {self.value}"


@dataclass(frozen=True)
class Tuned:
    """What `tune` found: the setting, advice, and images a second of each value of each field."""

    setting: Setting
    advice: tuple[Advice, ...] = ()
    speeds: dict[str, dict[Any, float]] = field(default_factory=dict)

    def __str__(self) -> str:
        """Each value tried with its images a second, the one that is kept first."""
        words = []
        for name, speeds in self.speeds.items():
            kept = getattr(self.setting, name)
            others = [f"{value} {speed:.0f}" for value, speed in speeds.items() if value != kept]
            words.append(
                f"{name.replace('_', ' ')} {kept} {speeds[kept]:.0f}, not " + ", ".join(others)
            )
        return "; ".join(words) or "no time to compare"


class Stopwatch:
    """Times passes of fresh networks over random images; leaves the last thread count set."""

    def __init__(self, *, channels: int, num_classes: int, device: torch.device) -> None:
        self.channels, self.num_classes, self.device = channels, num_classes, device
        self.networks: dict[str, ResNet] = {}

    def __call__(self, candidate: Candidate, setting: Setting) -> float:
        """Seconds an image of one forward and backward pass."""
        model = place(
            self._network(candidate.model), device=self.device, memory_format=setting.memory_format
        )
        model.zero_grad(set_to_none=True)
        shape = (setting.images, self.channels, candidate.size, candidate.size)
        images = torch.randn(shape, device=self.device)
        images = images.contiguous(memory_format=FORMATS[setting.memory_format])
        targets = torch.zeros(setting.images, dtype=torch.long, device=self.device)
        torch.set_num_threads(setting.threads)
        start = time.perf_counter()
        with autocast(self.device, setting.precision):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), targets)
        loss.backward()
        loss.item()  # waits for the device
        return (time.perf_counter() - start) / setting.images

    def _network(self, name: str) -> ResNet:
        if name not in self.networks:
            model = create_model(name, num_classes=self.num_classes, in_channels=self.channels)
            self.networks = {name: model.train()}  # one at a time
        return self.networks[name]


def settled(measure: Measure, setting: Setting) -> float:
    """The better of two passes after one that warms up."""
    measure(setting)
    return min(measure(setting), measure(setting))


def probe(
    start: Setting,
    measure: Measure,
    *,
    cores: int,
    device: torch.device,
    fixed: Container[str],
    grad_accum_steps: int,
    default_batch: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Tuned:
    """The fastest setting on a reduced batch, then whether another batch would be faster.

    `start.images` is the micro-batch of the run. It stays what it is, since batch norm sees its
    size: a faster one is advised.
    """
    most, pass_seconds = max(start.images, default_batch), min(seconds / 20, MOST_PASS_SECONDS)
    # One thread waits for nobody, whatever else runs here.
    alone = replace(start, threads=1)
    images, image_seconds = reduced_batch(measure, alone, most=most, seconds=pass_seconds)
    reduced = replace(start, images=min(start.images, images))
    choices = _choices(start, cores=cores, device=device)
    tuned = tune(
        reduced, choices, measure, fixed=fixed, seconds=(1 - BATCH_SHARE) * seconds, clock=clock
    )
    left = BATCH_SHARE * seconds
    sizes = _batch_sizes(start.images, larger=images, affordable=left / image_seconds)
    whole = replace(tuned.setting, images=start.images)
    other = tune(whole, {"images": sizes}, measure, fixed=("images",), seconds=left, clock=clock)
    advice = tuple(
        Advice("batch_size", default_batch, found.time)
        if found.value > start.images
        else Advice("grad_accum_steps", grad_accum_steps * start.images // found.value, found.time)
        for found in other.advice
    )
    return Tuned(tuned.setting, tuned.advice + advice, tuned.speeds)


def _choices(start: Setting, *, cores: int, device: torch.device) -> dict[str, tuple[Any, ...]]:
    """The values to try of each field."""
    most = max(cores, start.threads)
    halvings = tuple(most >> shift for shift in reversed(range(most.bit_length())))
    choices: dict[str, tuple[Any, ...]] = {
        "threads": halvings if device.type == "cpu" else (),
        "precision": ("fp32", "fp16" if device.type == "mps" else "bf16"),
        "memory_format": tuple(FORMATS),
    }
    present = {name: getattr(start, name) for name in choices}
    return {name: tuple(dict.fromkeys((*choices[name], present[name]))) for name in choices}


def _batch_sizes(present: int, *, larger: int, affordable: float) -> tuple[int, ...]:
    """The micro-batch, a much larger one, and its halves if two passes of each are affordable."""
    sizes = (present, larger) if larger >= 2 * present else (present,)
    halves = [present // parts for parts in (2, 4) if present % parts == 0]
    tried = (*sizes, *(half for half in halves if half >= LEAST_MICRO_BATCH))
    return tried if 2 * sum(tried) <= affordable else sizes


def reduced_batch(
    measure: Measure, setting: Setting, *, most: int, seconds: float
) -> tuple[int, float]:
    """Images of which one pass takes about `seconds`, `most` at most; seconds of an image."""
    images = min(LEAST_IMAGES, most)
    trial = replace(setting, images=images)
    measure(trial)  # warms up
    image_seconds = measure(trial)
    return min(most, max(images, int(seconds / image_seconds))), image_seconds


def race(
    entrants: Sequence[Entrant],
    measure: Callable[[Entrant], float],
    *,
    deadline: float,
    clock: Callable[[], float],
) -> dict[Entrant, float]:
    """The best time of each entrant; the first turn warms up, one more there always is."""
    best = {entrant: measure(entrant) for entrant in entrants}
    running, spent = list(entrants), 0.0
    for turn in range(TURNS):
        most = (BEHIND if turn else HOPELESS) * min(best.values())
        running = [entrant for entrant in running if best[entrant] <= most]
        begin = clock()
        if len(running) < 2 or (turn and begin + spent > deadline):
            break
        for entrant in running:
            best[entrant] = min(best[entrant], measure(entrant))
        spent = clock() - begin
    return best


def tune(
    setting: Setting,
    choices: Mapping[str, Sequence[Any]],
    measure: Measure,
    *,
    fixed: Container[str],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Tuned:
    """Improve one field after the other; those that are `fixed` keep their value.

    `seconds` are divided evenly: what a field leaves is the next one's. A comparison that has
    begun is finished; none begins after the time.
    """
    begin, tuned = clock(), Tuned(setting)
    for done, (name, values) in enumerate(choices.items(), 1):
        if len(values) < 2 or clock() > begin + seconds:
            continue
        entrants = {value: replace(tuned.setting, **{name: value}) for value in values}
        deadline = begin + seconds * done / len(choices)
        times = race(list(entrants.values()), measure, deadline=deadline, clock=clock)
        cost = {value: times[entrant] for value, entrant in entrants.items()}
        tuned = _judge(tuned, name, cost, fixed=name in fixed)
    return tuned


def _judge(tuned: Tuned, name: str, cost: dict[Any, float], *, fixed: bool) -> Tuned:
    """Take the fastest value of a field, or advise it."""
    present = getattr(tuned.setting, name)
    best = min(cost, key=lambda value: cost[value])
    speeds = tuned.speeds | {name: {value: 1 / seconds for value, seconds in cost.items()}}
    share = cost[best] / cost[present]
    if share >= FASTER:
        return replace(tuned, speeds=speeds)
    if fixed:
        advice = Advice(name, best, share)
        return replace(tuned, advice=(*tuned.advice, advice), speeds=speeds)
    return replace(tuned, setting=replace(tuned.setting, **{name: best}), speeds=speeds)
