"""Before step 0: what the recipe leaves open is chosen from the data and the measured speed.

Enters: a recipe with open fields (`None`, "auto"), the facts of the data, a time budget.
Leaves: a `Plan`, the same recipe with every field filled in, each with its origin and the choices
with their reasons. Nothing is measured again after this: the run is a pure function of the plan.

The idea of the choice: with few images or much time a larger network or input wins, with many
images or little time a faster one. `probe.py` times the ways to compute and then the networks for
a moment; the most expensive one that still affords enough passes over the images is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from resnets.errors import UserError
from resnets.models.registry import MODELS
from resnets.training.autotune import (
    Advice,
    Candidate,
    Setting,
    Stopwatch,
    Timing,
    probe,
    settled,
)
from resnets.training.optimizer import default_learning_rate
from resnets.training.recipe import LEAST_EPOCHS, LEAST_IMAGES, Recipe

DEFAULT_SECONDS = 600.0
"""what a run without --time and --epochs is planned for"""
SAFETY = 0.95
"""share of the time left that is planned with: neighbours on a machine slow it down"""
REPORT_SECONDS = 6.0
"""for the model file, the pictures and the page"""
SMALL_SIDE = 48
"""images up to this side are trained at their own size"""
EVALUATION_SHARE = 0.05
"""of the training time that validations may take"""
MOST_VALIDATIONS = 40
GENEROUS = 4.0
"""multiple of the least worthwhile passes at which a run without --time stops"""
FORWARD_COST = 3
"""a training step costs about three forward passes"""
FEWEST_STEPS = 20
"""steps that an epoch should have: smaller sets get smaller batches"""
PROBE_SECONDS = 3.0
PROBE_SHARE = 0.02
"""of the time budget, when that is more"""
PROBE_SIDE = 64
"""of the images that ways to compute are compared on, at most"""
FIXED = {"precision": "fp32", "memory_format": "channels_last"}
"""with all cores, how `--tune off` computes, and from where the probe starts"""
NETWORK_IMAGES = 32
"""in a pass that compares networks"""


@dataclass(frozen=True)
class Facts:
    """What the choice depends on."""

    num_train: int
    num_val: int
    num_test: int
    side: int
    """typical shorter side of an image in pixels"""
    channels: int
    num_classes: int


@dataclass(frozen=True)
class Plan:
    """A resolved recipe: no field is open but `steps`, which `with_steps` fills in last."""

    recipe: Recipe
    origins: dict[str, str]
    reasons: tuple[str, ...] = ()
    advice: tuple[Advice, ...] = ()
    """what was measured faster than the values that the user gave"""

    def fill(self, origin: str, reason: str = "", **values: Any) -> Plan:
        """Set fields, remembering where they came from."""
        reasons = (*self.reasons, reason) if reason else self.reasons
        origins = self.origins | dict.fromkeys(values, origin)
        recipe = replace(self.recipe, **values)
        return replace(self, recipe=recipe, origins=origins, reasons=reasons)


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
"""networks tried on small images and on photos, cheapest first"""


def target_epochs(num_train: int) -> float:
    """Passes that a training set of this size is worth, when time is short."""
    return float(min(max(14 * (50_000 / num_train) ** 0.5, 14), 60))


def candidates(facts: Facts, recipe: Recipe) -> list[Candidate]:
    """Networks and input sizes worth trying on such images, cheapest first."""
    small = facts.side <= SMALL_SIDE
    own_size = max(facts.side, 16) if small else 128
    if recipe.model is not None:
        sizes = [64, 96, 128, 160, 224] if recipe.size is None and not small else [own_size]
        return [Candidate(recipe.model, recipe.size or size) for size in sizes]
    if small:
        return [Candidate(name, recipe.size or own_size) for name in SMALL_LADDER]
    if recipe.size is not None:
        names = dict.fromkeys(name for name, _ in PHOTO_LADDER)
        return [Candidate(name, recipe.size) for name in names]
    # A larger input than the photos themselves adds cost, not detail.
    fitting = [step for step in PHOTO_LADDER if step[1] <= facts.side * 1.34]
    return [Candidate(*step) for step in fitting or PHOTO_LADDER[:1]]


def plan(
    recipe: Recipe,
    origins: dict[str, str],
    facts: Facts,
    *,
    seconds: float | None,
    device: torch.device,
    timing: Timing | None = None,
    ranks: int = 1,
) -> Plan:
    """Fill in everything but the number of steps; `seconds` are left for the whole run.

    `timing` measures one pass of a network; left out, on this machine. `ranks` share each batch.
    """
    if timing is None:
        timing = Stopwatch(channels=facts.channels, num_classes=facts.num_classes, device=device)
    current, cores = Plan(recipe, origins), torch.get_num_threads()
    if recipe.workers is None:
        current = current.fill("measured", workers=recipe.threads or cores)
    if recipe.batch_size is None:
        batch_size = _batch_size(facts.num_train, recipe.grad_accum_steps * ranks)
        current = current.fill("data", batch_size=batch_size)
    current = _tune(
        current, facts, cores, seconds=seconds, device=device, timing=timing, ranks=ranks
    )
    current = _choose_network(current, facts, seconds=seconds, timing=timing, ranks=ranks)
    current = _warn_of_tiny_maps(current)
    if recipe.optimizer == "auto":
        current = current.fill("default", optimizer="sgd" if recipe.weights else "muon")
    if recipe.learning_rate is None:
        assert current.recipe.batch_size is not None
        rate = default_learning_rate(current.recipe, batch_size=current.recipe.batch_size)
        current = current.fill("default", learning_rate=rate)
    small = facts.side <= SMALL_SIDE
    if recipe.crop == "auto":
        current = current.fill("data", crop="shift" if small else "resized")
    if recipe.auto_augment == "auto":
        current = current.fill("data", auto_augment="none" if small else "trivialaugment")
    return current


def with_steps(
    current: Plan, facts: Facts, *, seconds: float | None, step_seconds: float, image_seconds: float
) -> Plan:
    """The number of steps: asked for, or what fits into the seconds left at the measured speed.

    `step_seconds` is one training step, `image_seconds` the evaluation of one image.
    """
    recipe = current.recipe
    assert recipe.batch_size is not None
    steps_an_epoch = facts.num_train / recipe.batch_size
    if recipe.epochs is not None:
        steps = max(1, round(recipe.epochs * steps_an_epoch))
        asked = f"{current.origins['epochs']} --epochs {recipe.epochs:g}"
        current = current.fill(asked, steps=steps, epochs=None)
    elif recipe.steps is None:
        steps = _affordable_steps(
            facts,
            seconds=DEFAULT_SECONDS if seconds is None else seconds,
            step_seconds=step_seconds,
            image_seconds=image_seconds,
        )
        if seconds is None:
            steps = min(steps, round(GENEROUS * target_epochs(facts.num_train) * steps_an_epoch))
        current = current.fill("default" if seconds is None else "time budget", steps=steps)
    total = current.recipe.steps
    assert total is not None
    epochs = total / steps_an_epoch
    if recipe.evaluate_every is None:
        current = current.fill("derived", evaluate_every=_evaluate_every(epochs, facts))
    training = total * step_seconds * (1 + min(EVALUATION_SHARE, _validation_share(facts)))
    minutes = (training + _ending_seconds(facts, image_seconds)) / 60
    reason = f"{total:,} steps of {recipe.batch_size} images, {epochs:.1f} epochs"
    return current.fill("", f"{reason}: about {minutes:.1f} minutes")


def _affordable_steps(
    facts: Facts, *, seconds: float, step_seconds: float, image_seconds: float
) -> int:
    ending = _ending_seconds(facts, image_seconds)
    training = (seconds - ending) * SAFETY / (1 + min(EVALUATION_SHARE, _validation_share(facts)))
    if training < step_seconds:
        raise UserError(
            f"--time: {max(seconds, 0):.0f} s are left after start-up, and the final evaluation "
            f"needs {ending:.0f} s of them; give more time"
        )
    return int(training / step_seconds)


def _ending_seconds(facts: Facts, image_seconds: float) -> float:
    """Final scores are computed in fp32 from the model file: about twice a validation's cost."""
    return REPORT_SECONDS + 2 * image_seconds * (facts.num_test or facts.num_val)


def _tune(
    current: Plan,
    facts: Facts,
    cores: int,
    *,
    seconds: float | None,
    device: torch.device,
    timing: Timing,
    ranks: int,
) -> Plan:
    """How to compute: fixed defaults, or measured on the network in the middle of the candidates.

    What the user gave stays; a faster value is only advised.
    """
    recipe = current.recipe
    assert recipe.batch_size is not None
    values: dict[str, Any] = {"threads": cores} | FIXED
    opened = [name for name in values if getattr(recipe, name) in (None, "auto")]
    fixed = values.keys() - opened
    values |= {name: getattr(recipe, name) for name in fixed}
    if recipe.tune == "off":
        return current.fill("default", **{name: values[name] for name in opened})
    options = candidates(facts, recipe)
    middle = options[(len(options) - 1) // 2]
    candidate = replace(middle, size=min(middle.size, PROBE_SIDE))
    start = Setting(**values, images=recipe.batch_size // (recipe.grad_accum_steps * ranks))
    found = probe(
        start,
        partial(timing, candidate),
        cores=cores,
        device=device,
        fixed=fixed,
        grad_accum_steps=recipe.grad_accum_steps,
        default_batch=_batch_size(facts.num_train, 1),
        seconds=max(PROBE_SECONDS, PROBE_SHARE * (seconds or 0)),
    )
    reason = f"images/s of {candidate.model} at {candidate.size} pixels: {found}"
    chosen = {name: getattr(found.setting, name) for name in opened}
    current = replace(current, advice=found.advice).fill("measured", reason, **chosen)
    faster = ", ".join(f"{advice.flag} in {advice.time:.2f}" for advice in found.advice)
    said = f"measured as faster, of the time an image takes as asked for: {faster}"
    return current.fill("", said if faster else "")


def _choose_network(
    current: Plan, facts: Facts, *, seconds: float | None, timing: Timing, ranks: int
) -> Plan:
    recipe = current.recipe
    options = candidates(facts, recipe)
    assert recipe.threads is not None
    setting = Setting(recipe.threads, recipe.precision, recipe.memory_format, images=NETWORK_IMAGES)
    available = DEFAULT_SECONDS if seconds is None else seconds
    wanted = recipe.epochs or target_epochs(facts.num_train)
    chosen, said = options[0], ""
    for option in options if len(options) > 1 else ():
        image_seconds = settled(partial(timing, option), setting) / ranks
        epochs = available * SAFETY / (image_seconds * facts.num_train)
        if epochs < wanted and said:
            break
        chosen = option
        said = (
            f"{option.model} at {option.size} pixels: {1 / image_seconds:.0f} images/s, "
            f"about {epochs:.0f} passes over {facts.num_train:,} images in {available:.0f} s"
        )
    values = {
        name: value
        for name, value in (("model", chosen.model), ("size", chosen.size))
        if getattr(recipe, name) is None
    }
    return current.fill("measured" if said else "data", said, **values)


def _warn_of_tiny_maps(current: Plan) -> Plan:
    """Say it when a network shrinks the image to one pixel before the mean."""
    name, size = current.recipe.model, current.recipe.size
    assert name is not None and size is not None
    config = MODELS[name].config
    if size > config.natural_stride:
        return current
    more = "a 3x3 stem, as of resnet18_cifar," if config.stem_stride > 1 else "a larger --size"
    return current.fill("", f"{name} shrinks {size} pixels to a 1x1 map; {more} keeps more")


def _batch_size(num_train: int, grad_accum_steps: int) -> int:
    """128, or less where it would leave too few steps an epoch; a multiple of `accumulate`."""
    size = next((size for size in (128, 64, 32) if num_train >= FEWEST_STEPS * size), 16)
    return grad_accum_steps * max(LEAST_IMAGES, round(size / grad_accum_steps))


def _validation_share(facts: Facts) -> float:
    """Cost of one validation by that of one epoch."""
    return facts.num_val / (FORWARD_COST * facts.num_train)


def _evaluate_every(epochs: float, facts: Facts) -> float:
    """Every epoch, or as seldom as keeps validations within their share of the time.

    From counts, not from clocks: the same command keeps the same weights on every machine.
    """
    least = _validation_share(facts) / EVALUATION_SHARE
    every = float(max(1, round(least), round(epochs / MOST_VALIDATIONS)))
    return max(LEAST_EPOCHS, min(epochs, every))
