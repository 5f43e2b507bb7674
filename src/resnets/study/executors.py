"""Provide `concurrent.futures` executors: processes of this machine, or a Dask cluster."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

from resnets.data.workers import leave_with_parent
from resnets.errors import UserError

# Times that a cluster repeats a job whose worker was lost.
RETRIES = 3
ANSWER_SECONDS = 10


@contextmanager
def on_this_machine(processes: int) -> Iterator[Executor]:
    """Start so many processes; they are spawned, since forked ones would share torch's threads."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=start_worker
    )
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=leave_with_parent, daemon=True).start()


@contextmanager
def on_a_cluster(address: str, *, seconds: float = ANSWER_SECONDS) -> Iterator[Executor]:
    """Use the workers of a Dask scheduler; a job whose worker is lost is repeated on another.

    Raises:
        UserError: Dask is not installed, or no scheduler answers within so many seconds.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise UserError("--cluster needs Dask: pip install 'resnets[cluster]'") from None
    try:
        client = Client(address, timeout=seconds)
    except (OSError, ValueError, TimeoutError):
        raise UserError(
            f"--cluster {address}: no Dask scheduler answers; start one by `dask scheduler`, which "
            "prints its address, tcp://HOST:8786"
        ) from None
    with client:
        try:
            yield client.get_executor(retries=RETRIES)
        except KilledWorker as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"--cluster {address}: {reason}; the same command resumes the study"
            ) from None
