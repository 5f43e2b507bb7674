"""Compute batch norm over the images of all ranks (`--sync-batchnorm`), on CPUs as on GPUs.

R ranks then compute what one process would, up to rounding. On CUDA this is torch's own
`SyncBatchNorm`, which does not run on the CPU.
"""

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn

from resnets.training.distributed import DistContext


def convert_sync_batchnorm(model: nn.Module, *, dist: DistContext, device: torch.device) -> None:
    """Change the batch norms of a network in place; a single process leaves them alone."""
    if dist.world_size == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNormCPU  # same parameters, same buffers, another forward


class SyncBatchNormCPU(nn.BatchNorm2d):
    """`BatchNorm2d` with the statistics of all ranks, which have equally many images."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise: N C H W -> N C H W."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        count = torch_dist.get_world_size() * (x.numel() // x.shape[1])
        mean = _AllReduceSum.apply(exact.sum((0, 2, 3))) / count  # C
        centred = exact - mean[:, None, None]
        variance = _AllReduceSum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            unbiased = variance * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        scale = self.weight / (variance + self.eps).sqrt()
        normed: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normed.to(x.dtype)


class _AllReduceSum(torch.autograd.Function):
    """Sum over all ranks, forward and backward."""

    @staticmethod
    def forward(_: object, mine: Tensor) -> Tensor:
        total = mine.clone()
        torch_dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: object, gradient: Tensor) -> Tensor:
        return _AllReduceSum.apply(gradient)  # type: ignore[no-any-return]
