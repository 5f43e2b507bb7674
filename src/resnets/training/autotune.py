"""Measure the fastest way to compute on this machine, and the time of a training step.

Other processes can slow a machine by a third for seconds, so the candidates take turns and their
best times are compared; a candidate that is clearly slower is dropped early. A setting is replaced
only by a clearly faster one, so that noise does not decide.
"""

import copy
import math
import statistics
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from resnets.data.loader import EvalLoader, TrainLoader
from resnets.device import FORMATS, autocast, place
from resnets.errors import is_out_of_memory
from resnets.models.registry import create_model
from resnets.models.resnet import ResNet
from resnets.training.optimizer import is_backbone_frozen
from resnets.training.recipe import Recipe
from resnets.training.train_step import TrainState, train_step

# A value must take less than this share of the present value's time to be preferred.
FASTER = 0.9
TURNS = 5
# Multiple of the best time at which a candidate is dropped.
BEHIND = 2.0
# The same after the first turn, which includes the compilation of kernels.
HOPELESS = 20.0
# Fewer images than this say little about a whole batch.
LEAST_IMAGES = 4
# Most seconds of one pass over a reduced batch.
MOST_PASS_SECONDS = 0.5
# Share of the measuring time that other batch sizes may take.
BATCH_SHARE = 0.25
LEAST_MICRO_BATCH = 16

# Steps of a trial have a learning rate so small that the weights stay those of a healthy start: at
# the full rate the same network was timed slower than it later ran.
TRIAL_LEARNING_RATE = 1e-4
TRIAL_STEPS = 1000
LEAST_TIMED_STEPS = 3


@dataclass(frozen=True)
class Candidate:
    """A network and its input size."""

    model: str
    size: int


@dataclass(frozen=True)
class Setting:
    """A way to compute a training step: fields of the recipe, and the images of one pass."""

    threads: int
    precision: str
    memory_format: str
    images: int


# Return the seconds per image of one forward and backward pass: of any network, of one network.
Timing = Callable[[Candidate, Setting], float]
Measure = Callable[[Setting], float]


@dataclass(frozen=True)
class Advice:
    """A value that was measured as faster than the user's, and its share of the present time."""

    name: str
    value: Any
    time: float

    @property
    def flag(self) -> str:
        """The advice as it is typed."""
        return f"--{self.name.replace('_', '-')} {self.value}"


@dataclass(frozen=True)
class Tuned:
    """The setting that was found, advice, and the images per second of every value tried."""

    setting: Setting
    advice: tuple[Advice, ...]
    speeds: dict[str, dict[Any, float]]

    def __str__(self) -> str:
        """List every value tried with its speed, then the values that are used."""
        if not self.speeds:
            return "no time to compare"
        tried, used, note = [], [], ""
        for name, speeds in self.speeds.items():
            kept, words = getattr(self.setting, name), name.replace("_", " ")
            values = ", ".join(f"{value}: {speed:.0f}" for value, speed in speeds.items())
            tried.append(f"{words} {values}")
            used.append(f"{words} {kept}")
            if max(speeds.values()) > speeds[kept]:
                note = f" (differences below {1 - FASTER:.0%} do not count)"
        return f"{'; '.join(tried)}; using {', '.join(used)}{note}"


class Stopwatch:
    """Time passes of new networks over random images. It leaves the last thread count set."""

    def __init__(self, *, channels: int, num_classes: int, device: torch.device) -> None:
        self.channels, self.num_classes, self.device = channels, num_classes, device
        self.networks: dict[str, ResNet] = {}

    def __call__(self, candidate: Candidate, setting: Setting) -> float:
        """Return the seconds per image of a pass; infinity if memory is exhausted."""
        try:
            return self._time_pass(candidate, setting)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return math.inf

    def _time_pass(self, candidate: Candidate, setting: Setting) -> float:
        if candidate.model not in self.networks:
            sizes: Any = {"num_classes": self.num_classes, "in_channels": self.channels}
            model = create_model(candidate.model, **sizes).train()
            self.networks = {candidate.model: model}  # one at a time
        model = self.networks[candidate.model]
        place(model, device=self.device, memory_format=setting.memory_format)
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


def autotune(
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
    """Find the fastest setting on a reduced batch, then whether another batch would be faster.

    `start.images` is the micro-batch of the run. It is only advised to change, since batch norm
    depends on its size.
    """
    most = max(start.images, default_batch)
    # One thread waits for nobody, whatever else runs here.
    alone = replace(start, threads=1, images=min(LEAST_IMAGES, most))
    measure(alone)  # warms up
    image_seconds = measure(alone)
    affordable = int(min(seconds / 20, MOST_PASS_SECONDS) / image_seconds)
    reduced = min(most, max(alone.images, affordable))
    threads = max(cores, start.threads)
    halvings = [threads >> shift for shift in reversed(range(threads.bit_length()))]
    choices: dict[str, Sequence[Any]] = {
        "threads": halvings if device.type == "cpu" else (),
        "precision": ("fp32", "fp16" if device.type == "mps" else "bf16"),
        "memory_format": tuple(FORMATS),
    }
    left = BATCH_SHARE * seconds
    small = replace(start, images=min(start.images, reduced))
    tuned = tune(small, choices, measure, fixed=fixed, seconds=seconds - left, clock=clock)
    sizes = [start.images, reduced] if reduced >= 2 * start.images else [start.images]
    halves = [start.images // parts for parts in (2, 4) if start.images % parts == 0]
    smaller = [half for half in halves if half >= LEAST_MICRO_BATCH]
    if 2 * sum(sizes + smaller) <= left / image_seconds:
        sizes += smaller
    whole = replace(tuned.setting, images=start.images)
    batch = tune(whole, {"images": sizes}, measure, fixed=("images",), seconds=left, clock=clock)
    advice = tuple(
        Advice("batch_size", default_batch, found.time)
        if found.value > start.images
        else Advice("grad_accum_steps", grad_accum_steps * start.images // found.value, found.time)
        for found in batch.advice
    )
    return replace(tuned, advice=tuned.advice + advice)


def tune(
    setting: Setting,
    choices: Mapping[str, Sequence[Any]],
    measure: Measure,
    *,
    fixed: Container[str],
    seconds: float,
    clock: Callable[[], float],
) -> Tuned:
    """Improve one field after the other; `fixed` fields keep their value and give advice.

    The fields share `seconds` evenly; time that one does not use goes to the next. A comparison
    that has started is finished, and none starts late.
    """
    begin, advice, speeds = clock(), list[Advice](), dict[str, dict[Any, float]]()
    for done, (name, values) in enumerate(choices.items(), 1):
        tried = (*values, getattr(setting, name))
        settings = [replace(setting, **{name: value}) for value in dict.fromkeys(tried)]
        if len(settings) < 2 or clock() > begin + seconds:
            continue
        deadline = begin + seconds * done / len(choices)
        times = compare_timings(settings, measure, deadline=deadline, clock=clock)
        speeds[name] = {getattr(one, name): 1 / times[one] for one in settings}
        best = min(settings, key=times.__getitem__)
        share = times[best] / times[setting]
        if share < FASTER and name in fixed:
            advice.append(Advice(name, getattr(best, name), share))
        elif share < FASTER:
            setting = best
    return Tuned(setting, tuple(advice), speeds)


def compare_timings(
    entrants: Sequence[Setting], measure: Measure, *, deadline: float, clock: Callable[[], float]
) -> dict[Setting, float]:
    """Return the best time of each entrant. The first turn warms up; one more always follows."""
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


def time_training(
    model: ResNet,
    recipe: Recipe,
    train_loader: TrainLoader,
    val_loader: EvalLoader,
    *,
    device: torch.device,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """Return the seconds of one training step, and of evaluating one image, on the run's data.

    A copy of the network is trained for `seconds`, at least a few steps. Of the recipe only the
    number of steps may be open.
    """
    recipe = recipe.override(learning_rate=TRIAL_LEARNING_RATE, steps=TRIAL_STEPS, epochs=None)
    trial = TrainState.start(copy.deepcopy(model), recipe, device=device)
    trial.model.train()
    times: dict[bool, list[float]] = {True: [], False: []}  # with a frozen backbone, or not
    begin = last = clock()
    for count, batch in enumerate(train_loader.batches(0, TRIAL_STEPS)):
        trial.step = 618 * (count + 1) % TRIAL_STEPS  # spread evenly over a run
        loss, _ = train_step(trial, trial.model, batch, recipe)
        loss.item()
        now = clock()
        if count:
            times[is_backbone_frozen(recipe, trial.step)].append(now - last)
        last = now
        if now - begin > seconds and len(times[False]) >= LEAST_TIMED_STEPS:
            break
    # Medians: another process, or memory that the system has to find first, can delay a step.
    frozen, whole = (statistics.median(times[kind] or times[False]) for kind in times)
    share = recipe.schedule.freeze_backbone
    trial.model.eval()
    seen, begin = 0, clock()
    with torch.inference_mode(), autocast(device, recipe.runtime.precision):
        for batch in val_loader:
            trial.model(batch.images).sum().item()  # waits for the device
            seen += len(batch.images)
            if clock() - begin > seconds / 4:
                break
    return share * frozen + (1 - share) * whole, (clock() - begin) / max(seen, 1)
