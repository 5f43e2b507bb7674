"""Let the ranks of one start find each other, and ignore the keys of earlier starts.

torchrun keeps one store when it restarts the ranks, so the addresses of dead processes are still
in it. Rank 0 offers a fresh name, every rank answers with a fresh word, and the name holds once
rank 0 has published all words. An old offer never contains a new rank's word.
"""

from __future__ import annotations

import json
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

from resnets.errors import UserError

if TYPE_CHECKING:  # a torch without it trains in one process
    from torch.distributed.distributed_c10d import Store

POLL_SECONDS = 0.02


def meet(store: Store, *, rank: int, world_size: int, timeout: timedelta) -> str:
    """Return the name of this start, equal on all ranks.

    Raises:
        UserError: Not all ranks came within `timeout`.
    """
    mine = uuid.uuid4().hex
    deadline = time.monotonic() + timeout.total_seconds()
    if rank == 0:
        store.set("offer", mine)
        keys = [f"{mine}/{other}" for other in range(1, world_size)]
        while not store.check(keys):
            _wait(deadline, rank)
        store.set(f"{mine}/words", json.dumps([store.get(key).decode() for key in keys]))
        return mine
    answered = ""
    while True:
        offer = store.get("offer").decode() if store.check(["offer"]) else answered
        if offer != answered:
            store.set(f"{offer}/{rank}", mine)
            answered = offer
        words = f"{offer}/words"
        if store.check([words]) and mine in json.loads(store.get(words)):
            return offer
        _wait(deadline, rank)


def _wait(deadline: float, rank: int) -> None:
    if time.monotonic() > deadline:
        raise UserError(f"rank {rank}: the other ranks did not connect; did every machine start?")
    time.sleep(POLL_SECONDS)
