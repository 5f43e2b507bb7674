"""Build optimizers and their parameter groups, learning-rate schedules and the weight average.

The learning rate is a pure function of the step: a chained scheduler could be restored wrongly
(pytorch issue 60265).
"""

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
# Muon: size of a step relative to the filters, at batch 500.
MUON_LEARNING_RATE = 0.1
# Muon multiplies its learning rate by this for parameters that are not filters.
OTHERS_FACTOR = 3.0
# He et al. 2015 use 0.1 at batch 128; scaled linearly (Goyal et al., arXiv 1706.02677).
SGD_LEARNING_RATE_PER_IMAGE = 0.1 / 128


def default_learning_rate(recipe: Recipe, *, batch_size: int) -> float:
    """Return the peak learning rate when the user gives none."""
    if recipe.optimizer.name == "adamw":
        return ADAMW_LEARNING_RATE
    if recipe.optimizer.name == "muon":
        return MUON_LEARNING_RATE * math.sqrt(batch_size / 500)
    return SGD_LEARNING_RATE_PER_IMAGE * batch_size


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of one step of a resolved recipe, 0 <= step < steps."""
    peak, schedule = recipe.optimizer.learning_rate, recipe.schedule
    assert peak is not None and schedule.steps, "resolve the recipe first"
    share = (step + 0.5) / schedule.steps
    if share < schedule.warmup:
        return peak * share / schedule.warmup
    if schedule.name == "step":
        return peak * 0.1 ** sum(share >= milestone for milestone in schedule.milestones)
    rest = (share - schedule.warmup) / (1 - schedule.warmup)
    if schedule.name == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * rest))
    return peak * (1 - rest)


def is_backbone_frozen(recipe: Recipe, step: int) -> bool:
    """Return whether this step trains the head alone."""
    assert recipe.schedule.steps is not None, "resolve the recipe first"
    return step < recipe.schedule.freeze_backbone * recipe.schedule.steps


def make_optimizer(model: ResNet, recipe: Recipe) -> torch.optim.Optimizer:
    """Build the optimizer; its groups have a `factor` of the learning rate and a weight decay."""
    config, groups = recipe.optimizer, list(_parameter_groups(model, recipe))
    rate, momentum, nesterov = config.learning_rate, config.momentum, config.nesterov
    assert rate is not None and config.name != "auto", "resolve the recipe first"
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(momentum, 0.999), fused=True)
    if config.name == "muon":
        # Muon holds the length of filters fixed, which has a meaning where no norm follows.
        if model.config.norm in ("none", "bias"):
            raise UserError("--optimizer muon needs a network with norms; use sgd or adamw")
        dtype = torch.bfloat16 if recipe.runtime.precision == "bf16" else torch.float32
        return Muon(groups, lr=rate, momentum=momentum, nesterov=nesterov, dtype=dtype)
    nesterov = nesterov and momentum > 0
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=nesterov, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group, times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def make_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """Return an exponential moving average of weights and buffers, or None if `decay` is 0."""
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def _parameter_groups(model: ResNet, recipe: Recipe) -> Iterator[dict[str, object]]:
    """Yield groups of equal depth and equal weight decay, in the order of the network.

    The head has its own groups: fused SGD needs gradients for all of a group or none of it. Muon
    orthogonalises the filters of convolutions without a bias. Those of squeeze-and-excitation have
    a bias: no norm follows, so their length has a meaning.
    """
    config, muon, last = recipe.optimizer, recipe.optimizer.name == "muon", len(model.stage_names)
    # The stem has depth 0, the final norm and an attention pool that of the last stage.
    depths = {name: depth for depth, name in enumerate(model.stage_names, 1)}
    depths |= {"norm": last, "avgpool": last, "fc": last + 1}
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    filters = {layer.weight for layer in layers if layer.bias is None} if muon else set()
    for depth in range(last + 2):
        kinds: dict[str, list[Tensor]] = {"filters": [], "matrices": [], "vectors": []}
        for name, parameter in model.named_parameters():
            if depths.get(name.split(".")[0], 0) == depth:
                matrix = "filters" if parameter in filters else "matrices"
                # One number a channel: gains of standardised filters have further sizes of 1.
                vector = parameter.shape[1:].numel() == 1
                kinds["vectors" if vector else matrix].append(parameter)
        factor = config.layer_decay ** (last + 1 - depth)
        for kind, parameters in kinds.items():
            if parameters:
                yield {
                    "params": parameters,
                    "factor": factor * (OTHERS_FACTOR if muon and kind != "filters" else 1.0),
                    "weight_decay": 0.0 if kind == "vectors" else config.weight_decay,
                    "filters": kind == "filters",
                }
