"""Provide `WorkerPool`, persistent processes that answer requests in their order.

Workers have no state, so their number does not change the result.
"""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader


def usable_cpus() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def init_worker(_: int) -> None:
    """Leave signals to the main process, which ends the workers when it is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Where a worker dies of a signal, torch raises in the main process, even within a step.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: os._exit(0))
    threading.Thread(target=exit_with_parent, daemon=True).start()
    sys.excepthook = hide_broken_connection


def exit_with_parent() -> None:
    """End a worker when the main process is gone, however it was started."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def hide_broken_connection(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print no traceback where the main process ended while a worker sent it a tensor."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


@dataclass
class Requests:
    """Hold the requests of the next pass over a loader, in the main process."""

    pending: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.pending)


class WorkerPool:
    """Answer requests in order, in `count` persistent processes, or in this one if 0.

    An answer is `reader[request]`, a pair. The processes start with the first request and end with
    `close()`, with the last reference to this object, or with this process.
    """

    def __init__(self, reader: Any, *, count: int, device: torch.device) -> None:
        self.reader, self.count, self.device = reader, count, device
        self.requests = Requests()
        self.turn = 0
        self.loader: DataLoader[Any] | None = None
        self.answers: Iterator[Any] = iter(())

    def map(self, requests: Iterable[Any]) -> Iterator[Any]:
        """Yield the answers in order; a new call ends an unfinished older one."""
        self.turn += 1
        turn = self.turn
        self.answers = self.start(requests)
        while turn == self.turn:
            try:
                answer = next(self.answers)
            except StopIteration:
                return
            yield answer
        raise RuntimeError("these batches were ended by a newer call of batches(), or by close()")

    def start(self, requests: Iterable[Any]) -> Iterator[Any]:
        """Send the requests to this process, or to the others."""
        if self.count == 0:
            return map(self.reader.__getitem__, requests)
        self.requests.pending = requests
        with warnings.catch_warnings():  # more workers than cores are the caller's choice
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            if self.loader is None:
                self.loader = DataLoader(
                    self.reader,
                    batch_size=None,
                    sampler=self.requests,
                    num_workers=self.count,
                    persistent_workers=True,
                    collate_fn=tuple,  # answers are whole batches
                    worker_init_fn=init_worker,
                    pin_memory=self.device.type == "cuda",
                    generator=torch.Generator(),  # else the loader draws from the global one
                )
            return iter(self.loader)

    def close(self) -> None:
        """End the processes, which exist as long as their iterator is referred to."""
        self.turn += 1
        self.answers, self.loader = iter(()), None
