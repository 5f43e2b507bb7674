"""The training loop, written out: draw a batch, step, now and then validate and save.

Enters: a `State` (what a run must remember), a resolved `Recipe`, a stream of batches that is a
pure function of the step. Leaves: trained weights in the state, the best ones in the run folder.
Of several ranks (`distributed.py`) each walks through it with its slice of every batch.

Legend: N images in a batch, K classes.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.data.loader import Batch
from resnets.device import FORMATS, autocast
from resnets.evaluation.metrics import Scores
from resnets.models.resnet import ResNet
from resnets.training.checkpoint import NotSavedError, RunFolder
from resnets.training.distributed import SINGLE_PROCESS, DistContext, reduce_last
from resnets.training.nan_check import LossWatch, check_finite
from resnets.training.optimizer import learning_rate, set_learning_rate, trains_only_head
from resnets.training.profiler import Shares
from resnets.training.recipe import Recipe
from resnets.training.signals import Interrupted, SignalHandler
from resnets.training.train_state import State

LOG_EVERY_SECONDS = 1.0
SMALLER = 3 / 4
"""of the side, while a run resizes its images"""


class Stream(Protocol):
    """Training batches as a pure function of the step."""

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]: ...


@dataclass(eq=False)
class Meter:
    """Sums on the device; `read` is the one synchronisation of an interval."""

    loss: Tensor
    correct: Tensor
    images: int = 0
    steps: int = 0
    since: float = field(default_factory=time.perf_counter)

    @classmethod
    def on(cls, device: torch.device) -> Meter:
        """An empty meter."""
        return cls(torch.zeros((), device=device), torch.zeros((), device=device))

    def add(self, loss: Tensor, correct: Tensor, images: int) -> None:
        """Count one step."""
        self.loss = self.loss + loss
        self.correct = self.correct + correct
        self.images += images
        self.steps += 1

    def read(self) -> dict[str, float]:
        """Means since the meter was made."""
        return {
            "loss": self.loss.item() / self.steps,
            "accuracy": self.correct.item() / self.images,
            "images_per_second": self.images / self.seconds(),
        }

    def seconds(self) -> float:
        """Since the meter was made."""
        return time.perf_counter() - self.since


def train_step(
    state: State,
    network: nn.Module,
    batch: Batch,
    recipe: Recipe,
    *,
    steps: int,
    mark: Callable[[str], None] = lambda phase: None,
    ranks: DistContext = SINGLE_PROCESS,
) -> tuple[Tensor, Tensor]:
    """One optimizer step. Returns the mean loss and the number of correct images, on the device.

    `batch` is the slice of this one of the `ranks`; `network` then reduces the gradients.
    `mark` is told when a phase of the step has ended.
    """
    # Global random state: dropout and stochastic depth follow the step, whatever was drawn before.
    torch.manual_seed(_step_seed(recipe.seed, state.step, ranks.rank))
    set_learning_rate(state.optimizer, learning_rate(recipe, state.step, steps=steps))
    if recipe.freeze_backbone:
        _freeze(state.model, trains_only_head(recipe, state.step, steps=steps))
    device = batch.images.device
    total = torch.zeros((), device=device)
    correct = torch.zeros((), device=device)
    state.optimizer.zero_grad(set_to_none=True)
    shown = _resized(batch.images, recipe, state.step, steps=steps)
    micro_batches = zip(
        shown.chunk(recipe.grad_accum_steps),
        batch.targets.chunk(recipe.grad_accum_steps),
        strict=True,
    )
    for number, (images, targets) in enumerate(micro_batches, 1):
        reduce_last(network, last=number == recipe.grad_accum_steps)
        images = images.contiguous(memory_format=FORMATS[recipe.memory_format])
        with autocast(device, recipe.precision):
            logits = network(images)  # N K
        share = len(images) / len(batch.images)
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = share * F.cross_entropy(exact, targets, label_smoothing=recipe.label_smoothing)
        mark("forward")
        state.scaler.scale(loss).backward()
        total = total + loss.detach()
        classes = targets if targets.ndim == 1 else targets.argmax(1)
        correct = correct + (logits.detach().argmax(1) == classes).sum()
        mark("backward")
    if recipe.clip_grad_norm:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_grad_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update_parameters(state.model)
    mark("optimizer")
    return ranks.mean(total, correct)


def train(
    state: State,
    recipe: Recipe,
    *,
    stream: Stream,
    validate: Callable[[nn.Module], Scores],
    folder: RunFolder,
    shares: Shares,
    num_images: int,
    log: Callable[[dict[str, Any]], None],
    interruption: SignalHandler,
    ranks: DistContext = SINGLE_PROCESS,
) -> bool:
    """Run the recipe from `state.step` on. Returns False when a signal stopped it before its end.

    Raises `NotFiniteError` for a loss that is NaN or infinite, `NotSavedError` when the last state
    could not be saved; a save that fails on the way is said, and tried again at the next.
    """
    steps, batch_size = recipe.steps, recipe.batch_size
    assert steps and batch_size, "resolve the recipe first"
    device = next(state.model.parameters()).device
    network: Any = torch.compile(state.model) if recipe.compile else state.model
    network = ranks.parallel(network)
    began = time.perf_counter() - folder.seconds()
    saved, validation_seconds = time.perf_counter(), math.inf
    meter, watch = Meter.on(device), LossWatch()
    batches = stream.batches(state.step, steps)
    state.model.train()
    finished = False

    def now() -> dict[str, float]:
        epoch = state.step * batch_size / num_images
        return {"step": state.step, "epoch": epoch, "seconds": time.perf_counter() - began}

    with suppress(Interrupted):
        while True:
            if _owes_validation(state, recipe, num_images=num_images):
                start = time.perf_counter()
                shares.mark("other")
                with interruption.breaks():
                    scores = validate(state.evaluated_model)
                state.model.train()
                shares.mark("evaluation")
                check_finite(scores.loss, step=state.step)
                improved = state.take_score(scores.top1)
                log({"kind": "validation", **now(), "loss": scores.loss, "top1": scores.top1})
                validation_seconds = time.perf_counter() - start
                if improved and state.step < steps:
                    saved = _save(state, folder, log)
                meter = Meter.on(device)

            finished = state.step == steps or _lost_patience(state, recipe)
            if finished:
                break
            with interruption.breaks():
                batch = next(batches)
            shares.mark("copy", waited=batch.waited)
            rate = learning_rate(recipe, state.step, steps=steps)
            loss, correct = train_step(
                state, network, batch, recipe, steps=steps, mark=shares.mark, ranks=ranks
            )
            state.step += 1
            meter.add(loss, correct, ranks.count * len(batch.images))
            watch.see(loss, step=state.step, indices=batch.indices)

            due = _owes_validation(state, recipe, num_images=num_images)
            # What a kill loses, also one at the end of a validation; the first may take any time.
            unsaved = time.perf_counter() - saved + (validation_seconds if due else 0)
            saving = unsaved >= 60 * recipe.checkpoint_every
            logging = meter.seconds() >= LOG_EVERY_SECONDS
            # A rank a row: all stop when one has heard a signal, and follow the clock of rank 0.
            told = ranks.exchange(interruption.heard, batch.replaced, saving, logging)
            state.replaced += int(told[:, 1].sum())
            saving, logging = map(bool, told[0, 2:])
            if interruption.agree(told[:, 0]) or due or saving or logging:
                watch.settle()  # before every save, so that no checkpoint follows a lost loss
                log({"kind": "train", **now(), **meter.read(), "learning_rate": rate})
                meter = Meter.on(device)
            if saving:
                saved = _save(state, folder, log)
            shares.mark("other")
            if found := shares.after_step():
                log(found | now())

    watch.settle()
    ranks.decided(lambda: state.save(folder))
    return finished


def _save(state: State, folder: RunFolder, log: Callable[[dict[str, Any]], None]) -> float:
    """Save, or say why not; returns the time."""
    try:
        state.save(folder)
    except NotSavedError as error:
        text = f"{error}; training goes on, the checkpoint before stays, the next save tries again"
        log({"kind": "notice", "text": text})
    return time.perf_counter()


def _lost_patience(state: State, recipe: Recipe) -> bool:
    return 0 < recipe.patience <= state.validations_since_best


def _owes_validation(state: State, recipe: Recipe, *, num_images: int) -> bool:
    due = _validates_after(state.step, recipe, num_images=num_images)
    return due and state.validated < state.step


def _validates_after(step: int, recipe: Recipe, *, num_images: int) -> bool:
    """Counted back from the last step; not within the first half of an interval."""
    assert recipe.steps and recipe.batch_size and recipe.evaluate_every
    every = max(1, round(recipe.evaluate_every * num_images / recipe.batch_size))
    left = recipe.steps - step
    return left == 0 or (left % every == 0 and 2 * step >= every)


def _freeze(model: ResNet, frozen: bool) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not frozen or name.startswith("fc."))


def _resized(images: Tensor, recipe: Recipe, step: int, *, steps: int) -> Tensor:
    """Progressive resizing (Howard et al., DAWNBench 2018): smaller in the first part of a run.

    N C H W -> N C 3H/4 3W/4, antialiased, at 9/16 of the cost.
    """
    if (step + 0.5) / steps >= recipe.progressive:
        return images
    side = round(SMALLER * images.shape[-1])
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)


def _step_seed(seed: int, step: int, rank: int) -> int:
    key = f"{seed}/{step}/{rank}" if rank else f"{seed}/{step}"
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
