"""A number of processes or an address enters, a `concurrent.futures.Executor` leaves.

The idea: one run has one thread, so a machine is filled by one process a core; a cluster is the
same list of jobs given to another executor. Only the executor's end is delicate: an interruption
ends the workers at once, and workers whose parent was killed do not outlive it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

from resnets.errors import UserError

RETRIES = 3
"""times that a cluster begins a job anew whose worker was lost"""
ANSWER_SECONDS = 10


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def on_this_machine(processes: int) -> Iterator[Executor]:
    """So many processes, each begun afresh: forked ones would share torch's threads."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=begin_worker
    )
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def on_a_cluster(address: str) -> Iterator[Executor]:
    """The workers of a Dask scheduler; a job whose worker is lost is begun anew on another.

    Raises UserError when Dask is not installed or nobody answers.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise UserError("--cluster needs Dask: pip install 'resnets[cluster]'") from None
    try:
        client = Client(address, timeout=ANSWER_SECONDS)
    except (OSError, ValueError, TimeoutError):
        raise UserError(
            f"--cluster {address}: no Dask scheduler answers; it is started by `dask scheduler`, "
            "which prints its address, tcp://HOST:8786"
        ) from None
    with client:
        try:
            yield client.get_executor(retries=RETRIES)
        except KilledWorker as error:
            raise UserError(
                f"--cluster {address}: {' '.join(str(error).split())}; the same command goes on"
            ) from None
