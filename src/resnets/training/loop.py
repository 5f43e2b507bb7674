"""The training loop, written out: draw a batch, step, now and then validate and save.

Enters: a `State` (what a run must remember), a resolved `Recipe`, a stream of batches that is a
pure function of the step. Leaves: trained weights in the state, the best ones in the run folder.

Legend: N images in a batch, K classes.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from resnets.data.batches import Batch
from resnets.evaluation import Scores
from resnets.models.resnet import ResNet
from resnets.training.checkpoints import Checkpoint, RunFolder
from resnets.training.environment import FORMATS, autocast, place
from resnets.training.optim import (
    learning_rate,
    make_average,
    make_optimizer,
    set_learning_rate,
    trains_only_head,
)
from resnets.training.recipes import Recipe
from resnets.training.shares import Shares

SAVE_EVERY_SECONDS = 300.0
LOG_EVERY_SECONDS = 1.0


class Stream(Protocol):
    """Training batches as a pure function of the step."""

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]: ...


class NotFiniteError(Exception):
    """The loss became NaN or infinite: nothing learned after that is worth keeping."""


@dataclass(eq=False)
class State:
    """All that changes during a run."""

    model: ResNet
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    scaler: torch.amp.GradScaler
    step: int = 0
    best_score: float = -1.0
    best_step: int = 0
    validations_since_best: int = 0
    replaced: int = 0

    @classmethod
    def start(cls, model: ResNet, recipe: Recipe, *, device: torch.device) -> State:
        """The state before step 0."""
        place(model, device=device, memory_format=recipe.memory_format)
        scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        return cls(model, make_optimizer(model, recipe), make_average(model, recipe.ema), scaler)

    @property
    def evaluated_model(self) -> nn.Module:
        """The averaged network where there is one."""
        return self.model if self.average is None else self.average.module

    def checkpoint(self) -> Checkpoint:
        """Everything by name: tensors, and scalars for JSON."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{index}.{k}": v for k, v in slots.items() if isinstance(v, Tensor)
            }
        if self.average is not None:
            tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        scalars = {name: getattr(self, name) for name in _SCALARS}
        return Checkpoint(tensors, scalars | {"scaler": self.scaler.state_dict()})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over what `checkpoint` returned."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "average": {}}
        for name, tensor in checkpoint.tensors.items():
            room, _, rest = name.partition(".")
            parts[room][rest] = tensor
        self.model.load_state_dict(parts["model"])
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        slots: dict[int, dict[str, Tensor]] = {}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for name, tensor in parts["optimizer"].items():
            index, _, slot = name.partition(".")
            # Fused optimizers walk memory, not indices: a slot lies in memory as its parameter.
            if tensor.ndim:
                tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
            slots.setdefault(int(index), {})[slot] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self.scaler.load_state_dict(checkpoint.scalars["scaler"])
        for name in _SCALARS:
            setattr(self, name, checkpoint.scalars[name])


_SCALARS = ("step", "best_score", "best_step", "validations_since_best", "replaced")


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
        self.loss += loss
        self.correct += correct
        self.images += images
        self.steps += 1

    def read(self) -> dict[str, float]:
        """Means since the meter was made."""
        seconds = time.perf_counter() - self.since
        return {
            "loss": self.loss.item() / self.steps,
            "accuracy": self.correct.item() / self.images,
            "images_per_second": self.images / seconds,
        }


def train_step(
    state: State, network: nn.Module, batch: Batch, recipe: Recipe, *, steps: int,
    mark: Callable[[str], None] = lambda phase: None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One optimizer step. Returns the mean loss and the number of correct images, on the device.

    `mark` is told when a phase of the step has ended.
    """
    # The one place that touches global random state: dropout and stochastic depth follow the step.
    torch.manual_seed(_step_seed(recipe.seed, state.step))
    set_learning_rate(state.optimizer, learning_rate(recipe, state.step, steps=steps))
    if recipe.head_first:
        _freeze(state.model, trains_only_head(recipe, state.step, steps=steps))
    device = batch.images.device
    total = torch.zeros((), device=device)
    correct = torch.zeros((), device=device)
    state.optimizer.zero_grad(set_to_none=True)
    micro_batches = zip(
        batch.images.chunk(recipe.accumulate), batch.targets.chunk(recipe.accumulate), strict=True
    )
    for images, targets in micro_batches:
        images = images.contiguous(memory_format=FORMATS[recipe.memory_format])
        with autocast(device, recipe.precision):
            logits = network(images)  # N K
        share = len(images) / len(batch.images)
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = share * F.cross_entropy(exact, targets, label_smoothing=recipe.label_smoothing)
        mark("forward")
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
        classes = targets if targets.ndim == 1 else targets.argmax(1)
        correct += (logits.detach().argmax(1) == classes).sum()
        mark("backward")
    if recipe.clip:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update_parameters(state.model)
    mark("optimizer")
    return total, correct


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
    stopped: Callable[[], bool],
) -> bool:
    """Run the recipe from `state.step` on. Returns False when it was stopped before its end.

    Raises `NotFiniteError` when the loss is NaN or infinite.
    """
    steps, batch_size = recipe.steps, recipe.batch_size
    assert steps and batch_size, "resolve the recipe first"
    device = next(state.model.parameters()).device
    network: Any = torch.compile(state.model) if recipe.compile else state.model
    started = saved = time.perf_counter()
    meter = Meter.on(device)
    state.model.train()

    # A run that lost patience and was killed before its end is over, not to be gone on with.
    last_step = state.step if _lost_patience(state, recipe) else steps
    for batch in stream.batches(state.step, last_step):
        shares.mark("copy", waited=batch.waited)
        rate = learning_rate(recipe, state.step, steps=steps)
        loss, correct = train_step(state, network, batch, recipe, steps=steps, mark=shares.mark)
        meter.add(loss, correct, len(batch.images))
        state.step += 1
        state.replaced += batch.replaced
        now = time.perf_counter()
        due = _validates_after(state.step, recipe, num_images=num_images)
        stopping = stopped() and state.step < steps
        saving = stopping or now - saved >= SAVE_EVERY_SECONDS
        position = {"step": state.step, "epoch": state.step * batch_size / num_images}

        # Read before every save, so that no checkpoint follows a loss that is not finite.
        if due or saving or now - meter.since >= LOG_EVERY_SECONDS:
            record = meter.read()
            _check_finite(record["loss"], state.step)
            log({"kind": "train", **position, **record, "learning_rate": rate}
                | {"seconds": now - started})  # fmt: skip
            meter = Meter.on(device)

        if due:
            shares.mark("other")
            scores = validate(state.evaluated_model)
            state.model.train()
            shares.mark("evaluation")
            _check_finite(scores.loss, state.step)
            _keep_best(state, scores.top1, folder)
            log({"kind": "validation", **position, "loss": scores.loss, "top1": scores.top1}
                | {"seconds": time.perf_counter() - started})  # fmt: skip
            meter = Meter.on(device)
            if _lost_patience(state, recipe):
                break

        if saving:
            folder.save(state.checkpoint(), step=state.step)
            saved = time.perf_counter()
        if stopping:
            return False
        shares.mark("other")
        if found := shares.after_step():
            log(found | position)
    folder.save(state.checkpoint(), step=state.step)
    return True


def _keep_best(state: State, score: float, folder: RunFolder) -> None:
    """Save the evaluated weights when the validation score is the best so far, or equals it."""
    # An equal score takes the later weights, but is no progress: patience goes on counting.
    better = score > state.best_score
    state.validations_since_best = 0 if better else state.validations_since_best + 1
    if score >= state.best_score:
        state.best_score, state.best_step = score, state.step
        folder.save_best(state.evaluated_model.state_dict(), step=state.step, score=score)


def _lost_patience(state: State, recipe: Recipe) -> bool:
    return 0 < recipe.patience <= state.validations_since_best


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise NotFiniteError(f"the loss is {loss} at step {step}")


def _validates_after(step: int, recipe: Recipe, *, num_images: int) -> bool:
    """Counted back from the last step; not within the first half of an interval."""
    assert recipe.steps and recipe.batch_size and recipe.evaluate_every
    every = max(1, round(recipe.evaluate_every * num_images / recipe.batch_size))
    left = recipe.steps - step
    return left == 0 or (left % every == 0 and 2 * step >= every)


def _freeze(model: ResNet, frozen: bool) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not frozen or name.startswith("fc."))


def _step_seed(seed: int, step: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
