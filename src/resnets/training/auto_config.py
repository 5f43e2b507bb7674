"""Choose what a recipe leaves open, from the data, the measured speed and the time budget.

With few images or much time a larger network or input is better, with many images or little time a
faster one: of the candidates, the most expensive that still affords enough epochs is taken. Nothing
is measured again afterwards: the run is a pure function of the resolved recipe.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from resnets.data.dataset import Splits
from resnets.errors import UserError
from resnets.models.registry import MODELS
from resnets.training.autotune import Advice, Candidate, Setting, Stopwatch, Timing, autotune
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
# Compute capability of the first GPUs that multiply matrices in bf16.
HAS_BF16 = (8, 0)
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
    def of(cls, splits: Splits, *, num_classes: int) -> "DataFacts":
        """Return the facts of the images of a run."""
        train, num_test = splits.train, len(splits.test or ())
        side = int(np.median(train.sizes.min(axis=1)))
        return cls(len(train), len(splits.val), num_test, side, train.channels, num_classes)


@dataclass(frozen=True)
class ResolvedConfig:
    """A recipe, where each of its values came from, and why it was chosen."""

    recipe: Recipe = field(default_factory=Recipe)
    # Who set a field: a flag, a recipe, the data, ...; a field that is absent has its default.
    origins: Mapping[str, str] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    advice: tuple[Advice, ...] = ()  # values that are faster than those that the user gave

    def set(self, origin: str, reason: str = "", **values: Any) -> "ResolvedConfig":
        """Return the same with some fields set, and remember where they came from."""
        reasons = (*self.reasons, reason) if reason else self.reasons
        origins = {**self.origins, **dict.fromkeys(values, origin)}
        recipe = self.recipe.override(**values)
        return replace(self, recipe=recipe, origins=origins, reasons=reasons)


# Networks to try on small images and on photos, cheapest first.
SMALL_LADDER = ("resnet8_fast_half", "resnet8_fast", "resnet8_fast_wide")
PHOTO_LADDER = {"resnet18_half": (64, 96, 128), "resnet18": (128, 160, 224), "resnet50": (224,)}


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
        return [Candidate(name, recipe.model.size) for name in PHOTO_LADDER]
    steps = [Candidate(name, size) for name, sizes in PHOTO_LADDER.items() for size in sizes]
    # A larger input than the photos themselves adds cost, not detail.
    return [step for step in steps if step.size <= facts.side * 1.34] or steps[:1]


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

    A run of `world_size` ranks has `seconds` left, or no limit. `timing` measures one pass of a
    network; None measures on this machine.
    """
    recipe = config.recipe
    if timing is None:
        timing = Stopwatch(channels=facts.channels, num_classes=facts.num_classes, device=device)
    if recipe.runtime.workers is None:
        workers = recipe.runtime.threads or torch.get_num_threads()
        config = config.set("measured", workers=workers)
    if recipe.schedule.batch_size is None:
        pieces = recipe.optimizer.grad_accum_steps * world_size
        config = config.set("data", batch_size=_batch_size(facts.num_train, pieces))
    elif recipe.schedule.batch_size > facts.num_train:  # of the recipe: a flag is refused before
        pieces = recipe.optimizer.grad_accum_steps * world_size
        fitting = pieces * max(LEAST_IMAGES, facts.num_train // pieces)
        if fitting < recipe.schedule.batch_size:
            reason = (
                f"batch size {fitting}, not the recipe's {recipe.schedule.batch_size}: there are "
                f"{facts.num_train} training images"
            )
            config = config.set("data", reason, batch_size=fitting)
    config = _tune(config, facts, timing, seconds=seconds, device=device, world_size=world_size)
    config = _choose_network(config, facts, timing, seconds=seconds, ranks=world_size)
    model, batch_size = config.recipe.model, config.recipe.schedule.batch_size
    assert model.name is not None and model.size is not None and batch_size is not None
    network = MODELS[model.name].config
    if model.size <= network.natural_stride:
        more = "a 3x3 stem, as of resnet18_cifar," if network.stem_stride > 1 else "a larger --size"
        shrinks = f"{model.name} shrinks {model.size} pixels to one"
        config = config.set("", f"{shrinks}; {more} keeps more")
    if recipe.optimizer.name == "auto":
        config = config.set("default", optimizer="sgd" if recipe.model.weights else "muon")
    if recipe.optimizer.learning_rate is None:
        rate = default_learning_rate(config.recipe, batch_size=batch_size)
        config = config.set("default", learning_rate=rate)
    small = facts.side <= SMALL_SIDE
    if recipe.augment.crop == "auto":
        config = config.set("data", crop="shift" if small else "resized")
    if recipe.augment.auto_augment == "auto":
        config = config.set("data", auto_augment="none" if small else "trivialaugment")
    return config


def _tune(
    config: ResolvedConfig,
    facts: DataFacts,
    timing: Timing,
    *,
    seconds: float | None,
    device: torch.device,
    world_size: int,
) -> ResolvedConfig:
    """Choose how to compute: fixed defaults, or measured on the middle one of the candidates.

    A value that the user gave stays; a faster one is only advised.
    """
    recipe, given, cores = config.recipe, config.recipe.flat(), torch.get_num_threads()
    batch_size, pieces = recipe.schedule.batch_size, recipe.optimizer.grad_accum_steps
    assert batch_size is not None
    values: dict[str, Any] = {"threads": cores} | FIXED
    fixed = {name: given[name] for name in values if given[name] not in (None, "auto")}
    values |= fixed
    if recipe.runtime.tune == "off":
        return config.set("default", **{k: v for k, v in values.items() if k not in fixed})
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= HAS_BF16:
        # Passes of few small images would measure the launch of kernels, not their speed.
        values = {**values, "precision": "bf16", **fixed}
        return config.set("device", **{k: v for k, v in values.items() if k not in fixed})
    options = candidates(facts, recipe)
    middle = options[(len(options) - 1) // 2]
    candidate = replace(middle, size=min(middle.size, TUNE_SIDE))
    found = autotune(
        Setting(**values, images=batch_size // (pieces * world_size)),
        partial(timing, candidate),
        cores=cores,
        device=device,
        fixed=fixed,
        grad_accum_steps=pieces,
        default_batch=_batch_size(facts.num_train, 1),
        seconds=max(TUNE_SECONDS, TUNE_SHARE * (seconds or 0)),
    )
    reason = f"images/s measured with {candidate.model} at {candidate.size} pixels: {found}"
    chosen = {name: getattr(found.setting, name) for name in values if name not in fixed}
    config = replace(config, advice=found.advice).set("measured", reason, **chosen)
    faster = ", ".join(f"{advice.flag} ({1 / advice.time:.1f}x)" for advice in found.advice)
    return config.set("", f"faster than the values that you gave: {faster}" if faster else "")


def _choose_network(
    config: ResolvedConfig, facts: DataFacts, timing: Timing, *, seconds: float | None, ranks: int
) -> ResolvedConfig:
    """Choose the most expensive of the candidates that affords enough epochs."""
    recipe, runtime = config.recipe, config.recipe.runtime
    assert runtime.threads is not None
    setting = Setting(
        runtime.threads, runtime.precision, runtime.memory_format, images=NETWORK_IMAGES
    )
    available = DEFAULT_SECONDS if seconds is None else seconds
    wanted = recipe.schedule.epochs or target_epochs(facts.num_train)
    options, reason = candidates(facts, recipe), ""
    chosen = options[0]
    for option in options if len(options) > 1 else ():
        timing(option, setting)  # warms up
        passes = timing(option, setting), timing(option, setting)
        image_seconds = min(passes) / ranks
        epochs = available * SAFETY / (image_seconds * facts.num_train)
        if epochs < wanted and reason:
            break
        chosen = option
        reason = (
            f"{option.model} at {option.size} pixels: {1 / image_seconds:.0f} images/s, about "
            f"{epochs:.0f} epochs of {facts.num_train:,} images in {_duration(available)}"
        )
    values = {"model": chosen.model, "size": chosen.size}
    opened = {name: value for name, value in values.items() if recipe.flat()[name] is None}
    return config.set("measured" if reason else "data", reason, **opened)


def _batch_size(num_train: int, grad_accum_steps: int) -> int:
    """Return 128, or less where an epoch would have too few steps; a multiple of the argument."""
    size = next((size for size in (128, 64, 32) if num_train >= FEWEST_STEPS * size), 16)
    return grad_accum_steps * max(LEAST_IMAGES, round(size / grad_accum_steps))


def resolve_steps(
    config: ResolvedConfig,
    facts: DataFacts,
    *,
    seconds: float | None,
    step_seconds: float,
    image_seconds: float,
) -> ResolvedConfig:
    """Set the number of steps: as asked for, or what fits into the time at the measured speed.

    A training step takes `step_seconds`, the evaluation of an image `image_seconds`, and `seconds`
    are left for the whole run. UserError: they do not suffice for a step and the final evaluation.
    """
    recipe, batch_size = config.recipe, config.recipe.schedule.batch_size
    assert batch_size is not None
    steps_an_epoch = facts.num_train / batch_size
    # The cost of a validation, in epochs.
    validation = facts.num_val / (FORWARD_COST * facts.num_train)
    with_validations = 1 + min(EVALUATION_SHARE, validation)
    # The final scores are computed in fp32 from the model file.
    ending = REPORT_SECONDS + 2 * image_seconds * (facts.num_test or facts.num_val)
    if recipe.schedule.epochs is not None:
        steps = max(1, round(recipe.schedule.epochs * steps_an_epoch))
        asked = f"{config.origins['epochs']} --epochs {recipe.schedule.epochs:g}"
        config = config.set(asked, steps=steps, epochs=None)
    elif recipe.schedule.steps is not None:
        steps = recipe.schedule.steps
    else:
        available = DEFAULT_SECONDS if seconds is None else seconds
        training = (available - ending) * SAFETY / with_validations
        if training < step_seconds:
            raise UserError(
                f"--time: {max(available, 0):.0f} s are left after start-up, and the final "
                f"evaluation needs {ending:.0f} s of them; give more time"
            )
        steps = int(training / step_seconds)
        if seconds is None:
            steps = min(steps, round(GENEROUS * target_epochs(facts.num_train) * steps_an_epoch))
        config = config.set("default" if seconds is None else "time budget", steps=steps)
    epochs = steps / steps_an_epoch
    if recipe.evaluation.evaluate_every is None:
        # One epoch, or as many as keep validations within their share of the time. It uses counts,
        # not clocks: the same command keeps the same weights on every machine.
        fewest, most = round(validation / EVALUATION_SHARE), round(epochs / MOST_VALIDATIONS)
        every = max(LEAST_EPOCHS, min(epochs, float(max(1, fewest, most))))
        config = config.set("derived", evaluate_every=every)
    duration = _duration(steps * step_seconds * with_validations + ending)
    text = f"{steps:,} steps of {batch_size} images, {epochs:.1f} epochs: about {duration}"
    return config.set("", text)


def _duration(seconds: float) -> str:
    """Return seconds, minutes, or h:mm:ss."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} minutes"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} h"


def smaller_micro_batches(config: ResolvedConfig, *, world_size: int) -> ResolvedConfig:
    """Return the recipe with at least twice as many micro-batches, or raise UserError."""
    recipe, number = config.recipe, more_micro_batches(config.recipe, world_size=world_size)
    images = (recipe.schedule.batch_size or 0) // world_size
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
    """Return the next number of equal micro-batches that make the batch of a rank, or None."""
    assert recipe.schedule.batch_size is not None, "resolve the recipe first"
    images = recipe.schedule.batch_size // world_size
    numbers = range(2 * recipe.optimizer.grad_accum_steps, images // LEAST_IMAGES + 1)
    return next((number for number in numbers if images % number == 0), None)
