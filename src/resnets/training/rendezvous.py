"""How the ranks of one attempt find each other, and nobody of an attempt before it.

Enters: the store (keys and values, by network) that torchrun keeps for all its processes. Leaves:
a name that every rank of this attempt knows. The idea: torchrun keeps the same store when it starts
the ranks again, so addresses of dead processes still lie in it, and ranks that took them would wait
for the dead. Rank 0 offers a fresh name; every rank answers with a word of its own; the name holds
once rank 0 has repeated all words. An old offer never repeats a new rank's word.
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


def meet(store: Store, *, rank: int, count: int, patience: timedelta) -> str:
    """The name of this attempt. Raises UserError where not all ranks come within `patience`."""
    mine = uuid.uuid4().hex
    deadline = time.monotonic() + patience.total_seconds()
    if rank == 0:
        store.set("offer", mine)
        keys = [f"{mine}/{other}" for other in range(1, count)]
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
        raise UserError(f"rank {rank}: the other ranks did not come; did every machine start?")
    time.sleep(POLL_SECONDS)
