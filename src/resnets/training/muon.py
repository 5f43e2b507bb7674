"""Provide Muon: orthogonalised momentum for convolution filters, SGD for all other parameters.

From Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024, and the
CIFAR-10 speed record airbench94_muon. A filter bank is a matrix with a row per output channel.
Its update is the matrix with orthonormal rows nearest to the momentum, so every direction learns at
one speed. The filters keep the length of such a matrix: a norm that follows cancels the length
anyway, and before a sum (pre-activation order) it fixes the share of the branch. The learning
rate is therefore the size of an update relative to the filters.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Jordan's quintic Newton-Schulz iteration: singular values end between 0.5 and 1.5.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 3
# A shorter vector counts as zero and has no direction.
TINY = 1e-7


class Muon(torch.optim.Optimizer):
    """Optimizer with orthogonal updates for filters and SGD updates for all other parameters.

    Each of the parameter groups says with `filters` whether it holds filters, which have no weight
    decay. Filter updates are computed in `dtype`; bfloat16 is enough where it is fast.
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
        """Update every parameter that has a gradient."""
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
        """Return the momentum; Nesterov's form adds the gradient once more."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        return gradient.add(average, alpha=group["momentum"]) if self.nesterov else average


def orthogonal(filters: Tensor) -> Tensor:
    """Return about the nearest matrix O x CHW with orthonormal rows or columns, as O C H W."""
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
