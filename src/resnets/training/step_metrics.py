"""Sum the losses of training steps on the device, and stop a run whose loss is NaN or infinite."""

import math
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64]


class NotFiniteError(Exception):
    """The loss became NaN or infinite, so later checkpoints would be worthless.

    `indices` are the training images of the batch, or None if it was a validation.
    """

    def __init__(self, message: str, indices: Indices | None = None) -> None:
        super().__init__(message)
        self.indices = indices


def check_finite(loss: float, *, step: int, indices: Indices | None = None) -> None:
    """Raise NotFiniteError if the loss is NaN or infinite."""
    if not math.isfinite(loss):
        what = "validation loss" if indices is None else "loss"
        raise NotFiniteError(f"the {what} is {loss} at step {step}", indices)


class StepMetrics:
    """Means of loss and accuracy over the steps since the last log record.

    Every loss is checked, and none is waited for: on CUDA it is copied aside and read after the
    next step has been launched, so that the device never idles.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pending: tuple[Tensor, torch.cuda.Event | None, int, Indices] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the sums and start the clock again."""
        self.loss = torch.zeros((), device=self.device)
        self.correct = torch.zeros((), device=self.device)
        self.images = self.steps = 0
        self.since = time.perf_counter()

    def add(
        self, loss: Tensor, correct: Tensor, *, images: int, step: int, indices: Indices
    ) -> None:
        """Count one step. On CUDA the loss before this one is checked, elsewhere this one."""
        self.loss = self.loss + loss
        self.correct = self.correct + correct
        self.images += images
        self.steps += 1
        self.settle()
        copied = None
        if loss.device.type == "cuda":
            aside = torch.empty((), dtype=loss.dtype, pin_memory=True)
            loss = aside.copy_(loss, non_blocking=True)
            copied = torch.cuda.current_stream().record_event()
        self._pending = loss, copied, step, indices
        if copied is None:
            self.settle()

    def settle(self) -> None:
        """Check the loss that is still on its way; call this before anything is saved."""
        if self._pending is None:
            return
        loss, copied, step, indices = self._pending
        self._pending = None
        if copied is not None:
            copied.synchronize()
        check_finite(loss.item(), step=step, indices=indices)

    def seconds(self) -> float:
        """Return the seconds since the last reset."""
        return time.perf_counter() - self.since

    def read(self) -> dict[str, float]:
        """Return the means since the last reset, and reset. The one synchronisation of a record."""
        means = {
            "loss": self.loss.item() / self.steps,
            "accuracy": self.correct.item() / self.images,
            "images_per_second": self.images / self.seconds(),
        }
        self.reset()
        return means
