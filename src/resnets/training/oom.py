"""When a batch does not fit on the device: the same batch in smaller pieces.

Enters: a plan, and what ran out of memory with it. Leaves: the plan that fits, and what was
attempted with it. The optimizer still sees the mean gradient of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from resnets.errors import UserError
from resnets.training.auto_config import Plan
from resnets.training.recipe import LEAST_IMAGES, Recipe

Answer = TypeVar("Answer")


def fitting(
    current: Plan, attempt: Callable[[Plan], Answer], *, ranks: int = 1
) -> tuple[Plan, Answer]:
    """Attempt, with smaller micro-batches as long as the device runs out of memory."""
    while True:
        try:
            return current, attempt(current)
        except torch.OutOfMemoryError:
            pass  # what the attempt held is free once the error is gone
        current = smaller_micro_batches(current, ranks=ranks)


def smaller_micro_batches(current: Plan, *, ranks: int) -> Plan:
    """At least twice as many micro-batches, of equal size."""
    share = _share(current.recipe, ranks)
    grad_accum_steps = more_pieces(current.recipe, ranks=ranks)
    if grad_accum_steps is None:
        raise UserError(
            f"out of memory with micro-batches of {share // current.recipe.grad_accum_steps} "
            "images: take a smaller --size, --model or --batch-size"
        )
    reason = (
        f"out of memory: {grad_accum_steps} micro-batches of {share // grad_accum_steps} images "
        f"make the batch of {share}; batch norm takes its statistics over a micro-batch"
    )
    return current.fill("memory", reason, grad_accum_steps=grad_accum_steps)


def more_pieces(recipe: Recipe, *, ranks: int) -> int | None:
    """The next number of micro-batches, at least twice as many, that divides a rank's batch."""
    share = _share(recipe, ranks)
    pieces = range(2 * recipe.grad_accum_steps, share // LEAST_IMAGES + 1)
    return next((number for number in pieces if share % number == 0), None)


def _share(recipe: Recipe, ranks: int) -> int:
    assert recipe.batch_size is not None, "resolve the recipe first"
    return recipe.batch_size // ranks
