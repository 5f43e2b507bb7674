"""Every loss is looked at, and none is waited for.

Enters: the loss of each step, on the device. Leaves: nothing, or a `NotFiniteError` that knows the
batch. On CUDA the loss is copied aside and read after the next step was launched, so the device
never idles: a loss that is not finite ends the run at most one step late.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64]


class NotFiniteError(Exception):
    """The loss became NaN or infinite: nothing learned after that is worth keeping."""

    def __init__(self, message: str, indices: Indices | None = None) -> None:
        super().__init__(message)
        self.indices = indices
        """of the training images in the batch; None after a validation"""


def check_finite(loss: float, *, step: int, indices: Indices | None = None) -> None:
    """Raise `NotFiniteError` for a loss that is none."""
    if not math.isfinite(loss):
        what = "validation loss" if indices is None else "loss"
        raise NotFiniteError(f"the {what} is {loss} at step {step}", indices)


@dataclass(frozen=True, eq=False)
class Seen:
    """A loss on its way from the device."""

    loss: Tensor
    arrived: torch.cuda.Event | None
    step: int
    indices: Indices


class LossWatch:
    """Checks the losses of a run in their order."""

    def __init__(self) -> None:
        self.pending: Seen | None = None

    def see(self, loss: Tensor, *, step: int, indices: Indices) -> None:
        """Check the loss before this one on CUDA, this one elsewhere."""
        self.settle()
        arrived = None
        if loss.device.type == "cuda":
            aside = torch.empty((), dtype=loss.dtype, pin_memory=True)
            loss = aside.copy_(loss, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self.pending = Seen(loss, arrived, step, indices)
        if arrived is None:
            self.settle()

    def settle(self) -> None:
        """Check what is still on its way: before anything is saved."""
        seen, self.pending = self.pending, None
        if seen is None:
            return
        if seen.arrived is not None:
            seen.arrived.synchronize()
        check_finite(seen.loss.item(), step=seen.step, indices=seen.indices)
