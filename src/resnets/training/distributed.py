"""Share batches, reduce losses and scores, and agree on decisions between the ranks of a run.

Every rank runs the same loop over its slice of the same global batch. Gradients and scores are
reduced. Rank 0 measures, decides and writes, and broadcasts the result. What may stop a run is
exchanged once a step, so that all ranks stop at the same step. The methods of `SINGLE_PROCESS`
return what they were given. R is the number of ranks.
"""

import inspect
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.distributed as torch_dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resnets.data import Split
from resnets.errors import UserError
from resnets.evaluation.metrics import MetricAccumulator
from resnets.parsing import parse_json
from resnets.training.signals import Interrupted, SignalHandler

if TYPE_CHECKING:  # a torch without it trains in one process
    from torch.distributed.distributed_c10d import Store

# How long a rank that neither answers nor closes its connections is waited for.
TIMEOUT = timedelta(minutes=10)
# The same for what rank 0 does alone: measuring, the final scores.
CONTROL_TIMEOUT = timedelta(days=1)

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class DistContext:
    """The place of this process among the ranks of a run."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on its own machine
    # The same ranks, with a longer timeout and always on the CPU.
    control_group: torch_dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which measures, decides, writes and prints."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """Return the device of this rank, of that kind."""
        if self.world_size == 1 or device.type == "cpu":
            return device
        if device.type != "cuda":
            raise UserError(f"--device {device}: several ranks compute on cpu or cuda")
        if self.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"--nproc-per-node: more ranks on this machine than its {torch.cuda.device_count()}"
                " GPUs; start as many, or take --device cpu"
            )
        own = torch.device("cuda", self.local_rank)
        torch.cuda.set_device(own)
        return own

    def shard_batch(self, batch_size: int, *, grad_accum_steps: int) -> NDArray[np.int64]:
        """Return the places of this rank in the global batch: its share of each micro-batch."""
        if batch_size % (grad_accum_steps * self.world_size):
            raise UserError(
                f"--batch-size {batch_size}: must be divisible by {self.world_size} ranks x "
                f"--grad-accum-steps {grad_accum_steps}"
            )
        places = np.arange(batch_size).reshape(grad_accum_steps, self.world_size, -1)
        return places[:, self.rank].ravel()

    def shard(self, images: Split) -> Split:
        """Return the images that this rank evaluates; each image belongs to one rank."""
        if self.world_size == 1:
            return images
        if len(images) < self.world_size:
            raise UserError(
                f"{len(images)} validation images for {self.world_size} ranks: start fewer"
            )
        return images.subset(np.array_split(np.arange(len(images)), self.world_size)[self.rank])

    # In the loop

    def distributed_data_parallel(self, network: nn.Module) -> nn.Module:
        """Wrap a network so that its gradients are the mean over all ranks."""
        if self.world_size == 1:
            return network
        # Finding unused parameters keeps the first buckets: otherwise the second step sums in
        # another order than the first, and so would the first step of a resumed run. It also
        # allows to train the head alone. `broadcast_buffers` below shares the buffers.
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        off: dict[str, Any] = {name: False}
        return DistributedDataParallel(network, find_unused_parameters=True, **off)

    def gradient_sync(self, network: nn.Module, *, enabled: bool) -> None:
        """Reduce gradients in the next backward pass, or leave them for a later one."""
        if isinstance(network, DistributedDataParallel):
            network.require_backward_grad_sync = enabled

    def all_reduce_mean(self, loss: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss and the number of correct images of the global batch."""
        if self.world_size == 1:
            return loss, correct
        both = torch.stack((loss, correct.to(loss.dtype)))
        torch_dist.all_reduce(both)
        return both[0] / self.world_size, both[1]

    def all_gather(self, *numbers: float) -> NDArray[np.float64]:
        """Return the numbers of every rank, a row per rank: R x numbers."""
        if self.world_size == 1:
            return np.array([numbers], dtype=np.float64)
        own = torch.tensor(numbers, dtype=torch.float64)
        rows = [torch.empty_like(own) for _ in range(self.world_size)]
        torch_dist.all_gather(rows, own)
        return torch.stack(rows).numpy()

    # In evaluation

    def in_lockstep(
        self, batches: Iterable[Result], *, rounds: int, signals: SignalHandler
    ) -> Iterator[Result]:
        """Yield the batches of this rank; all ranks raise `Interrupted` if one has a signal."""
        if self.world_size == 1:
            yield from batches
            return
        rest = iter(batches)
        for _ in range(rounds):
            if signals.agree(self.all_gather(signals.received)[:, 0]):
                raise Interrupted
            yield from islice(rest, 1)

    def all_reduce_metrics(self, metrics: MetricAccumulator) -> None:
        """Add the sums of all ranks; each image was counted by one."""
        if self.world_size == 1:
            return
        for name, value in vars(metrics).items():
            if name != "classes":
                total = torch.as_tensor(value)
                torch_dist.all_reduce(total)
                setattr(metrics, name, total.numpy() if total.ndim else total.item())

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Take rank 0's running statistics of batch norm, which are the ones that are saved."""
        if self.world_size > 1:
            for buffer in model.buffers():
                torch_dist.broadcast(buffer, src=0)

    # Before and after the loop

    def on_rank_zero(self, function: Callable[[], Result]) -> Result:
        """Call the function on rank 0 alone; every rank returns its result or raises its error."""
        if self.world_size == 1:
            return function()
        outcome: list[Any] = [_outcome(function) if self.is_first else None]
        cpu = torch.device("cpu")
        torch_dist.broadcast_object_list(outcome, src=0, group=self.control_group, device=cpu)
        return _results(outcome)[0]  # type: ignore[no-any-return]

    def all_gather_object(self, function: Callable[[], Result]) -> list[Result]:
        """Call the function on every rank; all return all results, or raise the first error."""
        if self.world_size == 1:
            return [function()]
        outcomes: list[Any] = [None] * self.world_size
        torch_dist.all_gather_object(outcomes, _outcome(function), group=self.control_group)
        return _results(outcomes)

    @contextmanager
    def local_rank_zero_first(self) -> Iterator[None]:
        """Let one rank of each machine run the block first, so that the others find its files.

        An error on any rank is raised on all of them.
        """
        error: BaseException | None = None

        def wait_for_block() -> None:
            if error is not None:
                raise error

        if self.world_size == 1:
            yield
            return
        if self.local_rank:
            self.all_gather_object(wait_for_block)
        try:
            yield
        except BaseException as raised:
            error = raised
        self.all_gather_object(wait_for_block)
        if not self.local_rank:
            self.all_gather_object(wait_for_block)

    def check_equal(self, name: str, value: object) -> None:
        """Raise UserError if a rank has another value than rank 0."""
        values = self.all_gather_object(lambda: value)
        others = [rank for rank, other in enumerate(values) if other != values[0]]
        if others:
            raise UserError(
                f"{name}: rank {others[0]} finds something else than rank 0; every machine needs "
                "the same files in the same place"
            )

    def time_all_reduce(self, model: nn.Module, *, device: torch.device) -> float:
        """Return the seconds of one reduction of the gradients, the most that it adds to a step."""
        if self.world_size == 1:
            return 0.0
        gradients = torch.zeros(sum(p.numel() for p in model.parameters()), device=device)
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            torch_dist.all_reduce(gradients)
            gradients.sum().item()  # waits for the device
            seconds.append(time.perf_counter() - begin)
        return float(self.all_gather(min(seconds)).max())


SINGLE_PROCESS = DistContext()


def current_rank() -> int:
    """Return the rank of this process; 0 if it is the only one."""
    return _environment_number("RANK") if _is_distributed() else 0


@contextmanager
def init_distributed() -> Iterator[DistContext]:
    """Join the other ranks if torchrun started several."""
    if not _is_distributed():
        yield SINGLE_PROCESS
        return
    joined = torch_dist.is_initialized()  # by the script that calls us, which also ends it
    if not joined:
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        _check_environment()
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        store, rank, world_size = next(rendezvous("env://", timeout=TIMEOUT))
        store = PrefixStore(_meet(store, rank=rank, world_size=world_size), store)
        torch_dist.init_process_group(
            backend, store=store, rank=rank, world_size=world_size, timeout=TIMEOUT
        )
    try:
        control: Any = torch_dist.new_group(timeout=CONTROL_TIMEOUT, backend="gloo")
        local_rank = _environment_number("LOCAL_RANK")
        yield DistContext(torch_dist.get_rank(), torch_dist.get_world_size(), local_rank, control)
    finally:
        if not joined:
            torch_dist.destroy_process_group()


def _meet(store: "Store", *, rank: int, world_size: int) -> str:
    """Return a name of this start, equal on all ranks.

    torchrun keeps one store when it restarts the ranks, so the addresses of dead processes are
    still in it. Rank 0 offers a fresh name, every rank answers with a fresh word, and the name
    holds once rank 0 has published all words. An old offer never contains a new rank's word.
    """
    mine, answered = uuid.uuid4().hex, ""
    keys = [f"{mine}/{other}" for other in range(1, world_size)]
    if rank == 0:
        store.set("offer", mine)
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    while time.monotonic() <= deadline:
        if rank == 0 and store.check(keys):
            store.set(f"{mine}/words", json.dumps([store.get(key).decode() for key in keys]))
            return mine
        if rank > 0 and store.check(["offer"]):
            offer = store.get("offer").decode()
            if offer != answered:
                store.set(f"{offer}/{rank}", mine)
                answered = offer
            words = f"{offer}/words"
            if store.check([words]) and mine in parse_json(
                store.get(words), list[str], name="rendezvous"
            ):
                return offer
        time.sleep(0.02)
    raise UserError(f"rank {rank}: the other ranks did not connect; did every machine start?")


def is_lost_rank(error: Exception) -> bool:
    """Return whether the error says that another rank has ended."""
    return isinstance(error, torch_dist.DistError) or "gloo" in str(error)


def _is_distributed() -> bool:
    named = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))
    return named and _environment_number("WORLD_SIZE") > 1


def _check_environment() -> None:
    """Refuse variables by which no ranks can meet, before torch waits for them."""
    rank, world_size = current_rank(), _environment_number("WORLD_SIZE")
    if rank >= world_size:
        raise UserError(f"RANK={rank} in the environment must be below WORLD_SIZE={world_size}")
    if not 0 < _environment_number("MASTER_PORT") < 2**16:
        raise UserError("MASTER_PORT in the environment: expected a port, as torchrun sets it")


def _environment_number(name: str) -> int:
    """Return a variable that torchrun sets, 0 without it; raise UserError if it is no number."""
    text = os.environ.get(name, "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UserError(
            f"{name}={text!r} in the environment: expected a whole number, as torchrun sets it; "
            f"unset {name} to train in one process"
        )
    return int(text)


def _outcome(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return function(), None
    except BaseException as error:  # the other ranks must know it, whatever it is
        return None, error


def _results(outcomes: list[tuple[Any, BaseException | None]]) -> list[Any]:
    for _, error in outcomes:
        if error is not None:
            raise error
    return [result for result, _ in outcomes]
