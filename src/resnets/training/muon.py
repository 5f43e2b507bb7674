"""Muon: orthogonalised momentum for convolution filters, SGD for everything else.

Enters: parameter groups that say whether they hold `filters`. Leaves: a torch optimizer.

The idea (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024, and the
CIFAR-10 speed record airbench94_muon): a filter bank is a matrix, one row an output channel. Its
step is the nearest matrix with orthonormal rows to the momentum, so that every direction learns at
one speed, and its length is held at that of such a matrix: the norm that follows makes it
meaningless, and before a sum, in pre-activation order, it fixes the branch's share. The learning
rate is then the size of a step relative to the filters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""of Jordan's quintic Newton-Schulz iteration: singular values end between 0.5 and 1.5"""
ITERATIONS = 3
TINY = 1e-7
"""a length below it is that of zeros, which have no direction"""


class Muon(torch.optim.Optimizer):
    """Groups have `lr`, `momentum`, `weight_decay` (not of filters) and `filters`.

    Steps of filters are orthogonalised in `dtype`: bfloat16 is enough, where it is fast.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        nesterov: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})
        self.nesterov, self.dtype = nesterov, dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if group["filters"]:
                    momentum = self._momentum(parameter, parameter.grad, group)
                    update = orthogonal(momentum.to(self.dtype)).to(parameter.dtype)
                    parameter.mul_(len(parameter) ** 0.5 / parameter.norm().clamp_min(TINY))
                else:
                    gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
                    update = self._momentum(parameter, gradient, group)
                parameter.add_(update, alpha=-group["lr"])

    def _momentum(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """The running sum of gradients; Nesterov's looks ahead to where it is about to lead."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        return gradient.add(average, alpha=group["momentum"]) if self.nesterov else average


def orthogonal(filters: Tensor) -> Tensor:
    """Nearly the nearest matrix O x rest with orthonormal rows or columns, for filters O C H W."""
    a, b, c = COEFFICIENTS
    matrix = filters.flatten(1)
    tall = len(matrix) > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + TINY)  # no singular value above 1
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    update: Tensor = x.T if tall else x
    return update.reshape(filters.shape)
