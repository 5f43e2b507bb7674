"""Provide one optimizer step, and the state that a run carries from step to step.

Legend: N images in a batch, C channels, H W pixels, K classes.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel

from resnets.data.loader import Batch
from resnets.device import FORMATS, autocast, place
from resnets.errors import UserError
from resnets.models.resnet import ResNet
from resnets.parsing import convert
from resnets.training.checkpoint import Checkpoint
from resnets.training.distributed import SINGLE_PROCESS, DistContext
from resnets.training.optimizer import (
    is_backbone_frozen,
    learning_rate,
    make_average,
    make_optimizer,
    set_learning_rate,
)
from resnets.training.recipe import Recipe
from resnets.training.run_dir import RunDir
from resnets.training.run_records import Count

# Share of the input side while progressive resizing is on.
SMALLER = 3 / 4

# Tensors that an optimizer keeps for each parameter that it has trained.
_SLOTS: Mapping[str, tuple[str, ...]] = {
    "AdamW": ("step", "exp_avg", "exp_avg_sq"),
    "Muon": ("momentum_buffer",),
    "SGD": ("momentum_buffer",),
}


class StateScalars(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The scalars of a state's checkpoint: fields of `TrainState`, and the state of its scaler."""

    step: Count
    validated: Count
    best_score: float
    best_step: Count
    validations_since_best: Count
    replaced: Count
    scaler: dict[str, int | float]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "StateScalars":
        """Return those of a checkpoint; raise UserError if one is missing, foreign or wrong."""
        return convert(checkpoint.scalars, cls, name=checkpoint.source)


_SCALARS = [name for name in StateScalars.__struct_fields__ if name != "scaler"]


@dataclass(eq=False)
class TrainState:
    """Everything that changes during a run. It holds no generator: draws are keyed by the step."""

    model: ResNet
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None  # exponential moving average of the weights
    scaler: torch.amp.GradScaler  # does nothing but for fp16
    head_first: bool = False  # whether the head alone is trained at first
    step: int = 0  # optimizer steps taken
    validated: int = 0  # step of the last validation; one that was interrupted is done again
    best_score: float = -1.0  # best top-1 accuracy of a validation
    best_step: int = 0
    validations_since_best: int = 0
    replaced: int = 0  # unreadable images that were replaced by the next one
    best_weights: dict[str, Tensor] | None = None  # until they are on the disk

    @classmethod
    def start(cls, model: ResNet, recipe: Recipe, *, device: torch.device) -> "TrainState":
        """Move the network to the device and return the state before step 0."""
        place(model, device=device, memory_format=recipe.runtime.memory_format)
        optimizer = make_optimizer(model, recipe)
        average = make_average(model, recipe.optimizer.ema)
        scaler = torch.amp.GradScaler(device.type, enabled=recipe.runtime.precision == "fp16")
        return cls(
            model, optimizer, average, scaler, head_first=recipe.schedule.freeze_backbone > 0
        )

    @property
    def evaluated_model(self) -> nn.Module:
        """The averaged network where there is one, else the network itself."""
        return self.model if self.average is None else self.average.module

    def record_score(self, score: float) -> bool:
        """Count a validation; return True if it is the best so far, or equals it."""
        # An equal score takes the later weights but is no improvement: patience keeps counting.
        self.validated = self.step
        self.validations_since_best += 1
        if score > self.best_score:
            self.validations_since_best = 0
        if score < self.best_score:
            return False
        self.best_score, self.best_step = score, self.step
        weights = self.evaluated_model.state_dict()
        self.best_weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
        return True

    def save(self, run_dir: RunDir) -> None:
        """Save the best weights, then the state, so that no state refers to missing weights.

        If the disk refuses, this raises NotSavedError, and the next call tries again.
        """
        if self.best_weights is not None:
            run_dir.save_best(self.best_weights, step=self.best_step, score=self.best_score)
            self.best_weights = None
        run_dir.save(self.checkpoint(), step=self.step)

    def checkpoint(self) -> Checkpoint:
        """Return all tensors by name, and the scalars."""
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
        """Take over what `checkpoint` returned.

        Raises:
            UserError: A tensor or scalar is missing, foreign, of another size, or not finite.
        """
        scalars = StateScalars.of(checkpoint)
        self._check_fit(checkpoint, scalars)

        def group(prefix: str) -> dict[str, Tensor]:
            found = checkpoint.tensors.items()
            return {k.removeprefix(prefix): v for k, v in found if k.startswith(prefix)}

        self.model.load_state_dict(group("model."))
        if self.average is not None:
            self.average.load_state_dict(group("average."))
        slots: dict[int, dict[str, Tensor]] = {}
        parameters = [p for some in self.optimizer.param_groups for p in some["params"]]
        for name, tensor in group("optimizer.").items():
            index, _, slot = name.partition(".")
            # Fused optimizers walk memory, not indices: a slot needs its parameter's strides.
            if tensor.ndim:
                tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
            slots.setdefault(int(index), {})[slot] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": slots})
        self.scaler.load_state_dict(scalars.scaler)
        for name in _SCALARS:
            setattr(self, name, getattr(scalars, name))

    def _check_fit(self, checkpoint: Checkpoint, scalars: StateScalars) -> None:
        """Raise UserError if a checkpoint is not one of this network and optimizer."""
        needed, found = self._expected_tensors(checkpoint, scalars.step), checkpoint.tensors
        problems = [f"lacks {name}" for name in needed if name not in found]
        problems += [f"has the foreign {name[:80]}" for name in found if name not in needed]
        for name in sorted(needed.keys() & found.keys()):
            theirs, ours = ((t[name].dtype, tuple(t[name].shape)) for t in (found, needed))
            if theirs != ours:
                problems.append(f"{name} is {theirs} where this run has {ours}")
            elif not torch.isfinite(found[name]).all():
                problems.append(f"{name} holds values that are not finite")
        if scalars.scaler.keys() != self.scaler.state_dict().keys():
            problems.append("the state of its gradient scaler is not that of this precision")
        if problems:
            more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
            raise UserError(
                f"{checkpoint.source} does not fit this run: {problems[0]}{more}; remove it to "
                "resume from the one before it, or start a new run"
            )

    def _expected_tensors(self, checkpoint: Checkpoint, step: int) -> dict[str, Tensor]:
        """Return tensors of the names, types and shapes that a checkpoint after `step` has."""
        needed = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.average is not None:
            average = self.average.state_dict()
            needed |= {f"average.{name}": tensor for name, tensor in average.items()}
        slots = _SLOTS[type(self.optimizer).__name__]
        if not step or (
            isinstance(self.optimizer, SGD) and not self.optimizer.defaults["momentum"]
        ):
            slots = ()
        head = {id(parameter) for parameter in self.model.fc.parameters()}
        parameters = [p for some in self.optimizer.param_groups for p in some["params"]]
        all_trained = not self.head_first or any(
            f"optimizer.{index}.{slot}" in checkpoint.tensors
            for index, parameter in enumerate(parameters)
            for slot in slots
            if id(parameter) not in head
        )
        for index, parameter in enumerate(parameters):
            if all_trained or id(parameter) in head:
                for slot in slots:
                    kept = torch.zeros(()) if slot == "step" else parameter
                    needed[f"optimizer.{index}.{slot}"] = kept
        return needed


def train_step(
    state: TrainState,
    network: nn.Module,
    batch: Batch,
    recipe: Recipe,
    *,
    dist: DistContext = SINGLE_PROCESS,
    mark: Callable[[str], None] = lambda phase: None,
) -> tuple[Tensor, Tensor]:
    """Take one optimizer step: forward and backward passes of the micro-batches, then the update.

    `network` is that of the state, perhaps compiled or wrapped by DDP, and `batch` this rank's
    slice of the batch. The caller counts the step. `mark` is called with each phase that has ended.

    Returns:
        The mean loss and the number of correct images of the whole batch, on the device.
    """
    # The global generator: dropout and stochastic depth depend on the step alone.
    torch.manual_seed(_step_seed(recipe.seed, state.step, dist.rank))
    set_learning_rate(state.optimizer, learning_rate(recipe, state.step))
    if recipe.schedule.freeze_backbone:
        frozen = is_backbone_frozen(recipe, state.step)
        for name, parameter in state.model.named_parameters():
            parameter.requires_grad_(not frozen or name.startswith("fc."))
    total = torch.zeros((), device=batch.images.device)
    correct = torch.zeros((), device=batch.images.device)
    state.optimizer.zero_grad(set_to_none=True)
    for number, (images, targets) in enumerate(_micro_batches(batch, recipe, state.step), 1):
        dist.gradient_sync(network, enabled=number == recipe.optimizer.grad_accum_steps)
        with autocast(images.device, recipe.runtime.precision):
            logits = network(images)  # N C H W -> N K
        share = len(images) / len(batch.images)
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = share * F.cross_entropy(exact, targets, label_smoothing=recipe.loss.label_smoothing)
        mark("forward")
        state.scaler.scale(loss).backward()
        total = total + loss.detach()
        classes = targets if targets.ndim == 1 else targets.argmax(1)
        correct = correct + (logits.detach().argmax(1) == classes).sum()
        mark("backward")
    if recipe.optimizer.clip_grad_norm:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), recipe.optimizer.clip_grad_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update_parameters(state.model)
    mark("optimizer")
    return dist.all_reduce_mean(total, correct)


def _micro_batches(batch: Batch, recipe: Recipe, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images and targets of each forward pass.

    The first part of a run has smaller images (progressive resizing, DAWNBench 2018):
    N C H W -> N C 3H/4 3W/4, antialiased, at 9/16 of the cost.
    """
    assert recipe.schedule.steps is not None
    images, pieces = batch.images, recipe.optimizer.grad_accum_steps
    if (step + 0.5) / recipe.schedule.steps < recipe.schedule.progressive:
        side = round(SMALLER * images.shape[-1])
        images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    for piece, targets in zip(images.chunk(pieces), batch.targets.chunk(pieces), strict=True):
        yield piece.contiguous(memory_format=FORMATS[recipe.runtime.memory_format]), targets


def _step_seed(seed: int, step: int, rank: int) -> int:
    key = f"{seed}/{step}/{rank}" if rank else f"{seed}/{step}"
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
