"""Choose what a recipe leaves open, from the data, the measured speed and the time budget.

With few images or much time a larger network or input is better, with many images or little time a
faster one: of the candidates, the most expensive that still affords enough epochs is taken. Nothing
is measured again afterwards: the run is a pure function of the resolved recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from resnets.data.dataset import Images, Split, Splits
from resnets.errors import UserError
from resnets.models.registry import MODELS
from resnets.training.autotune import (
    Advice,
    Candidate,
    Setting,
    Stopwatch,
    Timing,
    autotune,
    time_pass,
)
from resnets.training.optimizer import default_learning_rate
from resnets.training.profiler import EVALUATION_SHARE
from resnets.training.recipe import LEAST_EPOCHS, LEAST_IMAGES, Recipe

# Seconds that a run without --time and --epochs is planned for.
DEFAULT_SECONDS = 600.0
# Share of the remaining time that is planned with: other processes slow a machine down.
SAFETY = 0.95
# Seconds for the model file, the figures and the report.
REPORT_SECONDS = 6.0
# Images up to this side are trained at their own size.
SMALL_SIDE = 48
MOST_VALIDATIONS = 40
# A run without --time stops at this multiple of the least worthwhile epochs.
GENEROUS = 4.0
# A training step costs about this many forward passes.
FORWARD_COST = 3
# An epoch should have at least this many steps: smaller data sets get smaller batches.
FEWEST_STEPS = 20
# Seconds of autotune, or this share of the time budget when that is more.
TUNE_SECONDS = 3.0
TUNE_SHARE = 0.02
# Largest side of the images that autotune computes with.
TUNE_SIDE = 64
# How `--tune off` computes (with all cores), and where autotune starts.
FIXED = {"precision": "fp32", "memory_format": "channels_last"}
# Images in a pass that compares networks.
NETWORK_IMAGES = 32


@dataclass(frozen=True)
class DataFacts:
    """What the choice depends on; `side` is the typical shorter side of an image in pixels."""

    num_train: int
    num_val: int
    num_test: int
    side: int
    channels: int
    num_classes: int

    @classmethod
    def of(cls, splits: Splits, *, num_classes: int) -> DataFacts:
        """Return the facts of the images of a run."""
        num_test = 0 if splits.test is None else len(splits.test)
        side, channels = _typical_side(splits.train), splits.train.channels
        return cls(len(splits.train), len(splits.val), num_test, side, channels, num_classes)

    def __str__(self) -> str:
        """Return the number of images and classes as text."""
        return (
            f"{self.num_train:,} training, {self.num_val:,} validation and "
            f"{self.num_test:,} test images of {self.num_classes} classes"
        )


@dataclass(frozen=True)
class ResolvedConfig:
    """A recipe, where each of its values came from, and why it was chosen.

    Args:
        recipe: The recipe.
        origins: Who set each field: a flag, a recipe, the data, a measurement, ...; a field that
            is absent has its default.
        reasons: The choices in words.
        advice: Values that were measured as faster than those that the user gave.
    """

    recipe: Recipe = field(default_factory=Recipe)
    origins: Mapping[str, str] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    advice: tuple[Advice, ...] = ()

    def set(self, origin: str, reason: str = "", **values: Any) -> ResolvedConfig:
        """Return the same with some fields set, and remember where they came from."""
        reasons = (*self.reasons, reason) if reason else self.reasons
        origins = {**self.origins, **dict.fromkeys(values, origin)}
        recipe = self.recipe.override(**values)
        return replace(self, recipe=recipe, origins=origins, reasons=reasons)


# Networks to try on small images and on photos, cheapest first.
SMALL_LADDER = ("resnet8_fast_half", "resnet8_fast", "resnet8_fast_wide")
PHOTO_LADDER = (
    ("resnet18_half", 64),
    ("resnet18_half", 96),
    ("resnet18_half", 128),
    ("resnet18", 128),
    ("resnet18", 160),
    ("resnet18", 224),
    ("resnet50", 224),
)


def target_epochs(num_train: int) -> float:
    """Return the epochs that a training set of this size is worth when time is short."""
    return float(min(max(14 * (50_000 / num_train) ** 0.5, 14), 60))


def candidates(facts: DataFacts, recipe: Recipe) -> list[Candidate]:
    """Return networks and input sizes worth trying on such images, cheapest first."""
    small = facts.side <= SMALL_SIDE
    own_size = max(facts.side, 16) if small else 128
    if recipe.model.name is not None:
        sizes = [64, 96, 128, 160, 224] if recipe.model.size is None and not small else [own_size]
        return [Candidate(recipe.model.name, recipe.model.size or size) for size in sizes]
    if small:
        return [Candidate(name, recipe.model.size or own_size) for name in SMALL_LADDER]
    if recipe.model.size is not None:
        names = dict.fromkeys(name for name, _ in PHOTO_LADDER)
        return [Candidate(name, recipe.model.size) for name in names]
    # A larger input than the photos themselves adds cost, not detail.
    fitting = [step for step in PHOTO_LADDER if step[1] <= facts.side * 1.34]
    return [Candidate(*step) for step in fitting or PHOTO_LADDER[:1]]


def resolve(
    config: ResolvedConfig,
    facts: DataFacts,
    *,
    seconds: float | None,
    device: torch.device,
    timing: Timing | None = None,
    world_size: int = 1,
) -> ResolvedConfig:
    """Fill in everything but the number of steps.

    Args:
        config: The recipe, with fields that are None or "auto".
        facts: DataFacts of the data.
        seconds: Time left for the whole run, or None.
        device: Where the run computes.
        timing: Measures one pass of a network; None measures on this machine.
        world_size: Ranks that share each batch.

    Returns:
        The resolved recipe with origins and reasons; only `steps` may still be open.
    """
    recipe, current, cores, ranks = config.recipe, config, torch.get_num_threads(), world_size
    if timing is None:
        timing = Stopwatch(channels=facts.channels, num_classes=facts.num_classes, device=device)
    if recipe.runtime.workers is None:
        current = current.set("measured", workers=recipe.runtime.threads or cores)
    if recipe.schedule.batch_size is None:
        batch_size = _batch_size(facts.num_train, recipe.optimizer.grad_accum_steps * ranks)
        current = current.set("data", batch_size=batch_size)
    current = _tune(
        current, facts, cores, seconds=seconds, device=device, timing=timing, ranks=ranks
    )
    current = _choose_network(current, facts, seconds=seconds, timing=timing, ranks=ranks)
    current = _warn_of_tiny_maps(current)
    if recipe.optimizer.name == "auto":
        current = current.set("default", optimizer="sgd" if recipe.model.weights else "muon")
    if recipe.optimizer.learning_rate is None:
        assert current.recipe.schedule.batch_size is not None
        rate = default_learning_rate(current.recipe, batch_size=current.recipe.schedule.batch_size)
        current = current.set("default", learning_rate=rate)
    small = facts.side <= SMALL_SIDE
    if recipe.augment.crop == "auto":
        current = current.set("data", crop="shift" if small else "resized")
    if recipe.augment.auto_augment == "auto":
        current = current.set("data", auto_augment="none" if small else "trivialaugment")
    return current


def resolve_steps(
    config: ResolvedConfig,
    facts: DataFacts,
    *,
    seconds: float | None,
    step_seconds: float,
    image_seconds: float,
) -> ResolvedConfig:
    """Set the number of steps: as asked for, or what fits into the time at the measured speed.

    Args:
        config: The resolved recipe.
        facts: DataFacts of the data.
        seconds: Time left for the whole run, or None.
        step_seconds: Time of one training step.
        image_seconds: Time of evaluating one image.

    Returns:
        The recipe with its number of steps.

    Raises:
        UserError: The time is too short for one step and the final evaluation.
    """
    current = config
    recipe = current.recipe
    assert recipe.schedule.batch_size is not None
    steps_an_epoch = facts.num_train / recipe.schedule.batch_size
    if recipe.schedule.epochs is not None:
        steps = max(1, round(recipe.schedule.epochs * steps_an_epoch))
        asked = f"{current.origins['epochs']} --epochs {recipe.schedule.epochs:g}"
        current = current.set(asked, steps=steps, epochs=None)
    elif recipe.schedule.steps is None:
        steps = _affordable_steps(
            facts,
            seconds=DEFAULT_SECONDS if seconds is None else seconds,
            step_seconds=step_seconds,
            image_seconds=image_seconds,
        )
        if seconds is None:
            steps = min(steps, round(GENEROUS * target_epochs(facts.num_train) * steps_an_epoch))
        current = current.set("default" if seconds is None else "time budget", steps=steps)
    total = current.recipe.schedule.steps
    assert total is not None
    epochs = total / steps_an_epoch
    if recipe.evaluation.evaluate_every is None:
        current = current.set("derived", evaluate_every=_evaluate_every(epochs, facts))
    training = total * step_seconds * (1 + min(EVALUATION_SHARE, _validation_share(facts)))
    duration = _duration(training + _ending_seconds(facts, image_seconds))
    steps_text = f"{total:,} steps of {recipe.schedule.batch_size} images, {epochs:.1f} epochs"
    return current.set("", f"{steps_text}: about {duration}")


def smaller_micro_batches(config: ResolvedConfig, *, world_size: int) -> ResolvedConfig:
    """Return the recipe with at least twice as many micro-batches, all of one size.

    Raises:
        UserError: There are no smaller micro-batches.
    """
    recipe = config.recipe
    assert recipe.schedule.batch_size is not None, "resolve the recipe first"
    images = recipe.schedule.batch_size // world_size
    number = more_micro_batches(recipe, world_size=world_size)
    if number is None:
        raise UserError(
            f"out of memory with micro-batches of {images // recipe.optimizer.grad_accum_steps} "
            "images: take a smaller --size, --model or --batch-size"
        )
    reason = (
        f"out of memory: {number} micro-batches of {images // number} images make the batch of "
        f"{images}; batch norm sees one micro-batch at a time"
    )
    return config.set("memory", reason, grad_accum_steps=number)


def more_micro_batches(recipe: Recipe, *, world_size: int) -> int | None:
    """Return the next number of micro-batches that divides the batch of a rank, or None."""
    assert recipe.schedule.batch_size is not None, "resolve the recipe first"
    images = recipe.schedule.batch_size // world_size
    numbers = range(2 * recipe.optimizer.grad_accum_steps, images // LEAST_IMAGES + 1)
    return next((number for number in numbers if images % number == 0), None)


def _affordable_steps(
    facts: DataFacts, *, seconds: float, step_seconds: float, image_seconds: float
) -> int:
    ending = _ending_seconds(facts, image_seconds)
    training = (seconds - ending) * SAFETY / (1 + min(EVALUATION_SHARE, _validation_share(facts)))
    if training < step_seconds:
        raise UserError(
            f"--time: {max(seconds, 0):.0f} s are left after start-up, and the final evaluation "
            f"needs {ending:.0f} s of them; give more time"
        )
    return int(training / step_seconds)


def _ending_seconds(facts: DataFacts, image_seconds: float) -> float:
    """Estimate the final scores, computed in fp32 from the model file, and the report."""
    return REPORT_SECONDS + 2 * image_seconds * (facts.num_test or facts.num_val)


def _tune(
    current: ResolvedConfig,
    facts: DataFacts,
    cores: int,
    *,
    seconds: float | None,
    device: torch.device,
    timing: Timing,
    ranks: int,
) -> ResolvedConfig:
    """Choose how to compute: fixed defaults, or measured on the middle one of the candidates.

    A value that the user gave stays; a faster one is only advised.
    """
    recipe = current.recipe
    assert recipe.schedule.batch_size is not None
    values: dict[str, Any] = {"threads": cores} | FIXED
    given = recipe.flat()
    opened = [name for name in values if given[name] in (None, "auto")]
    fixed = values.keys() - opened
    values |= {name: given[name] for name in fixed}
    if recipe.runtime.tune == "off":
        return current.set("default", **{name: values[name] for name in opened})
    options = candidates(facts, recipe)
    middle = options[(len(options) - 1) // 2]
    candidate = replace(middle, size=min(middle.size, TUNE_SIDE))
    start = Setting(
        **values, images=recipe.schedule.batch_size // (recipe.optimizer.grad_accum_steps * ranks)
    )
    found = autotune(
        start,
        partial(timing, candidate),
        cores=cores,
        device=device,
        fixed=fixed,
        grad_accum_steps=recipe.optimizer.grad_accum_steps,
        default_batch=_batch_size(facts.num_train, 1),
        seconds=max(TUNE_SECONDS, TUNE_SHARE * (seconds or 0)),
    )
    reason = f"images/s measured with {candidate.model} at {candidate.size} pixels: {found}"
    chosen = {name: getattr(found.setting, name) for name in opened}
    current = replace(current, advice=found.advice).set("measured", reason, **chosen)
    faster = ", ".join(f"{advice.flag} ({1 / advice.time:.1f}x)" for advice in found.advice)
    return current.set("", f"faster than the values that you gave: {faster}" if faster else "")


def _choose_network(
    current: ResolvedConfig, facts: DataFacts, *, seconds: float | None, timing: Timing, ranks: int
) -> ResolvedConfig:
    recipe = current.recipe
    options = candidates(facts, recipe)
    assert recipe.runtime.threads is not None
    setting = Setting(
        recipe.runtime.threads,
        recipe.runtime.precision,
        recipe.runtime.memory_format,
        images=NETWORK_IMAGES,
    )
    available = DEFAULT_SECONDS if seconds is None else seconds
    wanted = recipe.schedule.epochs or target_epochs(facts.num_train)
    chosen, reason = options[0], ""
    for option in options if len(options) > 1 else ():
        image_seconds = time_pass(partial(timing, option), setting) / ranks
        epochs = available * SAFETY / (image_seconds * facts.num_train)
        if epochs < wanted and reason:
            break
        chosen = option
        reason = (
            f"{option.model} at {option.size} pixels: {1 / image_seconds:.0f} images/s, about "
            f"{epochs:.0f} epochs of {facts.num_train:,} images in {_duration(available)}"
        )
    values = {
        name: value
        for name, value in (("model", chosen.model), ("size", chosen.size))
        if recipe.flat()[name] is None
    }
    return current.set("measured" if reason else "data", reason, **values)


def _warn_of_tiny_maps(current: ResolvedConfig) -> ResolvedConfig:
    """Warn of a network that shrinks the image to one pixel before the mean."""
    name, size = current.recipe.model.name, current.recipe.model.size
    assert name is not None and size is not None
    config = MODELS[name].config
    if size > config.natural_stride:
        return current
    more = "a 3x3 stem, as of resnet18_cifar," if config.stem_stride > 1 else "a larger --size"
    return current.set("", f"{name} shrinks {size} pixels to one; {more} keeps more")


def _batch_size(num_train: int, grad_accum_steps: int) -> int:
    """Return 128, or less where an epoch would have too few steps; a multiple of the argument."""
    size = next((size for size in (128, 64, 32) if num_train >= FEWEST_STEPS * size), 16)
    return grad_accum_steps * max(LEAST_IMAGES, round(size / grad_accum_steps))


def _validation_share(facts: DataFacts) -> float:
    """Return the cost of one validation as a share of the cost of one epoch."""
    return facts.num_val / (FORWARD_COST * facts.num_train)


def _evaluate_every(epochs: float, facts: DataFacts) -> float:
    """Return 1 epoch, or as many as keep validations within their share of the time.

    It uses counts, not clocks: the same command keeps the same weights on every machine.
    """
    least = _validation_share(facts) / EVALUATION_SHARE
    every = float(max(1, round(least), round(epochs / MOST_VALIDATIONS)))
    return max(LEAST_EPOCHS, min(epochs, every))


def _duration(seconds: float) -> str:
    """Return seconds, minutes, or h:mm:ss."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} minutes"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} h"


def _typical_side(images: Split) -> int:
    if isinstance(images, Images):
        return int(min(images.pixels.shape[1:3]))
    return int(np.median(images.sizes.min(axis=1)))
