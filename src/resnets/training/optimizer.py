"""Parameter groups, optimizers, the schedule step -> learning rate, and the weight average.

Enters: a network and a recipe. Leaves: a torch optimizer whose groups know their factor, and the
learning rate as a *pure function of the step*: nothing is chained, so nothing can be restored
wrongly (chained schedulers break on resuming, pytorch issue 60265).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from resnets.errors import UserError
from resnets.models.resnet import ResNet
from resnets.training.muon import Muon
from resnets.training.recipe import Recipe

ADAMW_LEARNING_RATE = 2e-3
MUON_LEARNING_RATE = 0.1
"""size of a step relative to the filters, at batch 500"""
OTHERS_FACTOR = 3.0
"""what Muon multiplies its rate by for all that is no filter"""
SGD_LEARNING_RATE_PER_IMAGE = 0.1 / 128
"""He et al. 2015 use 0.1 at batch 128; scaled linearly (Goyal et al., arXiv 1706.02677)."""


def default_learning_rate(recipe: Recipe, *, batch_size: int) -> float:
    """The peak learning rate when none is asked for."""
    if recipe.optimizer == "adamw":
        return ADAMW_LEARNING_RATE
    if recipe.optimizer == "muon":
        return MUON_LEARNING_RATE * math.sqrt(batch_size / 500)
    return SGD_LEARNING_RATE_PER_IMAGE * batch_size


def learning_rate(recipe: Recipe, step: int, *, steps: int) -> float:
    """The learning rate of one step, 0 <= step < steps; the recipe must be resolved."""
    assert recipe.learning_rate is not None, "resolve the recipe first"
    share = (step + 0.5) / steps
    if share < recipe.warmup:
        return recipe.learning_rate * share / recipe.warmup
    if recipe.schedule == "step":
        drops = sum(share >= milestone for milestone in recipe.milestones)
        return recipe.learning_rate * 0.1**drops
    rest = (share - recipe.warmup) / (1 - recipe.warmup)
    if recipe.schedule == "cosine":
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * rest))
    return recipe.learning_rate * (1 - rest)


def trains_only_head(recipe: Recipe, step: int, *, steps: int) -> bool:
    """Whether this step belongs to the first part of fine-tuning."""
    return step < recipe.freeze_backbone * steps


def make_optimizer(model: ResNet, recipe: Recipe) -> torch.optim.Optimizer:
    """An optimizer over groups with `factor` (discriminative rate) and their own weight decay.

    Raises UserError for Muon with a network without norms: it holds the length of filters fixed.
    """
    groups = list(_parameter_groups(model, recipe))
    rate = recipe.learning_rate
    assert rate is not None and recipe.optimizer != "auto", "resolve the recipe first"
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(recipe.momentum, 0.999), fused=True)
    if recipe.optimizer == "muon":
        if model.config.norm in ("none", "bias"):
            raise UserError("--optimizer muon needs a network with norms; use sgd or adamw")
        dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
        return Muon(
            groups, lr=rate, momentum=recipe.momentum, nesterov=recipe.nesterov, dtype=dtype
        )
    return torch.optim.SGD(
        groups,
        lr=rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov and recipe.momentum > 0,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Write this step's rate into every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def make_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """Exponential moving average of weights and buffers, or None when it is off."""
    if not decay:
        return None
    average = get_ema_multi_avg_fn(decay)
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def _parameter_groups(model: ResNet, recipe: Recipe) -> Iterator[dict[str, object]]:
    """Groups of equal depth and equal weight decay, in the order of the network.

    The head has groups of its own: fused SGD needs gradients for all of a group or none of it.
    """
    head = len(model.stage_names) + 1
    depths = {name: _depth(name, head=head) for name, _ in model.named_parameters()}
    filters = _filters(model) if recipe.optimizer == "muon" else set()
    for depth in range(head + 1):
        factor = recipe.layer_decay ** (head - depth)
        members = [p for name, p in model.named_parameters() if depths[name] == depth]
        for kind in ("filters", "matrices", "vectors"):
            parameters: list[Tensor] = [p for p in members if _kind(p, filters) == kind]
            if parameters:
                others = recipe.optimizer == "muon" and kind != "filters"
                yield {
                    "params": parameters,
                    "factor": factor * (OTHERS_FACTOR if others else 1.0),
                    "weight_decay": 0.0 if kind == "vectors" else recipe.weight_decay,
                    "filters": kind == "filters",
                }


def _filters(model: ResNet) -> set[Tensor]:
    """The weights of convolutions without a bias, for a norm has it: Muon's own.

    The two of squeeze-and-excitation are none: no norm follows, so their length means something.
    """
    layers = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    return {layer.weight for layer in layers if layer.bias is None}


def _kind(parameter: Tensor, filters: set[Tensor]) -> str:
    """Vectors are norms and biases."""
    if parameter.ndim < 2:
        return "vectors"
    return "filters" if parameter in filters else "matrices"


def _depth(name: str, *, head: int) -> int:
    """0 for the stem, i for stage i, the last stage's for the norm after it, then the head."""
    room = name.split(".")[0]
    if room.startswith("layer"):
        return int(room.removeprefix("layer"))
    return {"norm": head - 1, "fc": head}.get(room, 0)
