"""Batch norm over the images of all ranks (`--sync-batchnorm`).

Enters: a network. Leaves: the same network, parameters and names, whose batch norms take mean and
variance of the whole micro-batch instead of this rank's slice of it: R ranks then compute what one
process would, but for rounding. On CUDA it is torch's own `SyncBatchNorm`, which the CPU lacks.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from resnets.training.distributed import DistContext


def synchronise(model: nn.Module, *, ranks: DistContext, device: torch.device) -> None:
    """Change the batch norms of a network in place; one process has nothing to synchronise."""
    if ranks.count == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronisedNorm  # same parameters, same buffers, another forward


class SynchronisedNorm(nn.BatchNorm2d):
    """`BatchNorm2d` whose statistics are those of all ranks; every rank has as many images."""

    def forward(self, x: Tensor) -> Tensor:
        """N C H W -> N C H W."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        count = dist.get_world_size() * (x.numel() // x.shape[1])
        mean = _SumOfRanks.apply(exact.sum((0, 2, 3))) / count  # C
        centred = exact - mean[:, None, None]
        variance = _SumOfRanks.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            unbiased = variance * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        scale = self.weight / (variance + self.eps).sqrt()
        normed: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normed.to(x.dtype)


class _SumOfRanks(torch.autograd.Function):
    """The sum over all ranks; what depends on it on any rank comes back in the gradient."""

    @staticmethod
    def forward(_: object, mine: Tensor) -> Tensor:
        total = mine.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: object, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
