"""Processes of this machine for tests, and several of them as ranks: gloo over the loopback."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from resnets.training.distributed import SINGLE_PROCESS, DistContext, init_distributed

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

PATIENCE = 300.0


# What a run imports, also late: a process that is forked from a server with these starts at once.
PRELOADED = ["resnets.training.trainer", "torch._dynamo", "torchvision.transforms.v2", "tiny_runs"]


def loaded_server() -> ForkServerContext:
    """The server of this test process, which has imported torch for all that it forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def on_ranks(count: int, work: Callable[..., Any], *arguments: Any, folder: Path) -> list[Any]:
    """What `work(dist, *arguments)` returns or raises on each of `count` ranks, in their order."""
    if count == 1:
        return [work(SINGLE_PROCESS, *arguments)]
    context, port, processes = loaded_server(), free_port(), []
    answers = [folder / f"rank-{rank}.pickle" for rank in range(count)]
    for rank, answer in enumerate(answers):
        answer.unlink(missing_ok=True)
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
        place = {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
        process = context.Process(target=live, args=(place, answer, work, arguments))
        process.start()
        processes.append(process)
    for process in processes:
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
    return [pickle.loads(answer.read_bytes()) for answer in answers]


def live(place: dict[str, str], answer: Path, work: Callable[..., Any], arguments: Any) -> None:
    """What one rank does."""
    os.environ.update(place)
    torch.set_num_threads(1)
    with init_distributed() as dist:
        found = attempt(dist, work, arguments)
    answer.write_bytes(pickle.dumps(found))


def attempt(dist: DistContext, work: Callable[..., Any], arguments: Any) -> Any:
    try:
        return work(dist, *arguments)
    except Exception as error:
        return error


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
