"""More than one process: my slice of a batch, sums over all ranks, and what all must agree on.

Every rank runs the same loop over its slice of the same global batch. Gradients and scores are
reduced; rank 0 measures, chooses and writes, and broadcasts the result; what may stop a run is
exchanged once a step, so that all ranks stop at the same step. The methods of `SINGLE_PROCESS`
return what they were given. R is the number of ranks.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resnets.data import Split
from resnets.errors import UserError
from resnets.evaluation.metrics import MetricAccumulator
from resnets.training.rendezvous import meet
from resnets.training.signals import Interrupted, SignalHandler

PATIENCE = timedelta(minutes=10)
"""with a rank that neither answers nor closes its connections, as when a cable is pulled"""
LONG_PATIENCE = timedelta(days=1)
"""with what rank 0 does alone: measuring, the final scores"""
EXCHANGES = 3

Answer = TypeVar("Answer")


@dataclass(frozen=True, eq=False)
class DistContext:
    """What this process is among those of the run."""

    rank: int = 0
    count: int = 1
    local: int = 0
    """its number on its own machine"""
    patient: dist.ProcessGroup | None = None
    """the same ranks, for what may take long"""

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which measures, chooses, writes and speaks."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """The device of this rank, of that kind."""
        if self.count == 1 or device.type == "cpu":
            return device
        if device.type != "cuda":
            raise UserError(f"--device {device}: several ranks compute on cpu or cuda")
        if self.local >= torch.cuda.device_count():
            raise UserError(
                f"--nproc-per-node: more ranks on this machine than its {torch.cuda.device_count()}"
                " GPUs; start as many, or take --device cpu"
            )
        own = torch.device("cuda", self.local)
        torch.cuda.set_device(own)
        return own

    def slice(self, batch_size: int, *, grad_accum_steps: int) -> NDArray[np.int64]:
        """Places in the global batch: this rank's share of each micro-batch, in order."""
        if batch_size % (grad_accum_steps * self.count):
            raise UserError(
                f"--batch-size {batch_size}: must be divisible by {self.count} ranks x "
                f"--grad-accum-steps {grad_accum_steps}"
            )
        places = np.arange(batch_size).reshape(grad_accum_steps, self.count, -1)
        return places[:, self.rank].ravel()

    def part(self, images: Split) -> Split:
        """The images that this rank evaluates: each is evaluated by one."""
        if self.count == 1:
            return images
        if len(images) < self.count:
            raise UserError(f"{len(images)} validation images for {self.count} ranks: start fewer")
        return images.subset(np.array_split(np.arange(len(images)), self.count)[self.rank])

    # In the loop

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network whose gradients are the mean over all ranks."""
        if self.count == 1:
            return network
        # Finding unused parameters keeps the buckets as they are at first: else the second step
        # sums in another order than the first one, and so would the first of a resumed run. It
        # also lets the head be trained alone. Buffers are shared when they are used: below.
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        off: dict[str, Any] = {name: False}
        return DistributedDataParallel(network, find_unused_parameters=True, **off)

    def mean(self, loss: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss and the number of correct images of the global batch."""
        if self.count == 1:
            return loss, correct
        both = torch.stack((loss, correct.to(loss.dtype)))
        dist.all_reduce(both)
        return both[0] / self.count, both[1]

    def exchange(self, *numbers: float) -> NDArray[np.float64]:
        """What each rank says, a row a rank: R x numbers."""
        if self.count == 1:
            return np.array([numbers], dtype=np.float64)
        mine = torch.tensor(numbers, dtype=torch.float64)
        rows = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(rows, mine)
        return torch.stack(rows).numpy()

    # In evaluation

    def in_step(
        self, batches: Iterable[Answer], *, rounds: int, interruption: SignalHandler
    ) -> Iterator[Answer]:
        """The batches of this rank; when any has heard a signal, all raise `Interrupted`."""
        if self.count == 1:
            yield from batches
            return
        rest = iter(batches)
        for _ in range(rounds):
            if interruption.agree(self.exchange(interruption.heard)[:, 0]):
                raise Interrupted
            yield from _first_of(rest)

    def add_up(self, tally: MetricAccumulator) -> None:
        """Each image was counted by one rank; now each rank has the sums of all."""
        if self.count == 1:
            return
        for name, value in vars(tally).items():
            if name != "classes":
                total = torch.as_tensor(value)
                dist.all_reduce(total)
                setattr(tally, name, total.numpy() if total.ndim else total.item())

    def share_buffers(self, model: nn.Module) -> None:
        """Rank 0's running statistics of batch norm, which are those that are saved."""
        if self.count > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    # Before and after the loop

    def decided(self, make: Callable[[], Answer]) -> Answer:
        """What rank 0 alone does or chooses: its answer, or its error, on every rank."""
        if self.count == 1:
            return make()
        told: list[Any] = [_attempt(make) if self.first else None]
        dist.broadcast_object_list(told, src=0, group=self.patient, device=torch.device("cpu"))
        return _settle(told)[0]  # type: ignore[no-any-return]

    def everywhere(self, make: Callable[[], Answer]) -> list[Answer]:
        """What every rank does: all answers, or the first error, on every rank."""
        if self.count == 1:
            return [make()]
        told: list[Any] = [None] * self.count
        dist.all_gather_object(told, _attempt(make), group=self.patient)
        return _settle(told)

    def in_turn(self, make: Callable[[], Answer]) -> Answer:
        """First by one rank on each machine, so that the others find what it keeps on the disk."""
        kept: list[Answer] = []
        for turn in (True, False) if self.count > 1 else (True,):
            mine = (self.local == 0) == turn
            self.everywhere(lambda mine=mine: kept.append(make()) if mine else None)  # type: ignore[misc]
        return kept[0]

    def agree_on(self, name: str, value: object) -> None:
        """Refuse ranks that see something else than rank 0."""
        values = self.everywhere(lambda: value)
        others = [rank for rank, other in enumerate(values) if other != values[0]]
        if others:
            raise UserError(
                f"{name}: rank {others[0]} finds something else than rank 0; every machine needs "
                "the same files in the same place"
            )

    def exchange_seconds(self, model: nn.Module, *, device: torch.device) -> float:
        """Seconds to reduce the gradients once, the most that a step waits for the others."""
        if self.count == 1:
            return 0.0
        gradients = torch.zeros(sum(p.numel() for p in model.parameters()), device=device)
        seconds = []
        for _ in range(EXCHANGES):
            begin = time.perf_counter()
            dist.all_reduce(gradients)
            gradients.sum().item()  # waits for the device
            seconds.append(time.perf_counter() - begin)
        return float(self.exchange(min(seconds)).max())


SINGLE_PROCESS = DistContext()


def rank_here() -> int:
    """The rank of this process; 0 where it is the only one."""
    return int(os.environ["RANK"]) if _several() else 0


@contextmanager
def joined() -> Iterator[DistContext]:
    """Meet the other ranks that torchrun has started, if it has."""
    if not _several():
        yield SINGLE_PROCESS
        return
    if dist.is_initialized():  # by the script that calls us, which also ends it
        yield _here()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, count = next(rendezvous("env://", timeout=PATIENCE))
    attempt = PrefixStore(meet(store, rank=rank, count=count, patience=PATIENCE), store)
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=count, timeout=PATIENCE)
    try:
        yield _here()
    finally:
        dist.destroy_process_group()


def lost_rank(error: RuntimeError) -> bool:
    """Whether the error says that another rank has gone."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def reduce_last(network: nn.Module, *, last: bool) -> None:
    """Let gradients travel once a step, after its last micro-batch."""
    if isinstance(network, DistributedDataParallel):
        network.require_backward_grad_sync = last


def _here() -> DistContext:
    patient: Any = dist.new_group(timeout=LONG_PATIENCE, backend="gloo")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    return DistContext(dist.get_rank(), dist.get_world_size(), local, patient)


def _several() -> bool:
    named = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))
    return named and int(os.environ["WORLD_SIZE"]) > 1


def _attempt(make: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return make(), None
    except BaseException as error:  # the other ranks must hear of it, whatever it is
        return None, error


def _settle(told: Sequence[tuple[Any, BaseException | None]]) -> list[Any]:
    for _, error in told:
        if error is not None:
            raise error
    return [answer for answer, _ in told]


def _first_of(batches: Iterator[Answer]) -> Iterator[Answer]:
    batch = next(batches, None)
    if batch is not None:
        yield batch
