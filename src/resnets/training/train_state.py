"""All that a run must remember, and how it becomes a checkpoint and comes back.

Enters: a network and a resolved `Recipe`, or the `Checkpoint` of an earlier process. Leaves: a
`State` that the loop advances. No generator is in it: every draw is keyed by seed and step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from resnets.device import place
from resnets.models.resnet import ResNet
from resnets.training.checkpoint import Checkpoint, RunFolder
from resnets.training.optimizer import make_average, make_optimizer
from resnets.training.recipe import Recipe

_SCALARS = (
    "step",
    "validated",
    "best_score",
    "best_step",
    "validations_since_best",
    "replaced",
)


@dataclass(eq=False)
class State:
    """All that changes during a run."""

    model: ResNet
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    scaler: torch.amp.GradScaler
    step: int = 0
    validated: int = 0
    """the step of the last validation: one that was broken off is owed"""
    best_score: float = -1.0
    best_step: int = 0
    validations_since_best: int = 0
    replaced: int = 0
    best_weights: dict[str, Tensor] | None = None
    """of the best validation, until they are on the disk"""

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

    def take_score(self, score: float) -> bool:
        """Count a validation; True when it is the best so far, or equals it."""
        # An equal score takes the later weights, but is no progress: patience goes on counting.
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

    def save(self, folder: RunFolder) -> None:
        """Best weights first: no state on the disk counts on weights that are not.

        Raises NotSavedError; what could not be written is tried again by the next call.
        """
        if self.best_weights is not None:
            folder.save_best(self.best_weights, step=self.best_step, score=self.best_score)
            self.best_weights = None
        folder.save(self.checkpoint(), step=self.step)

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
