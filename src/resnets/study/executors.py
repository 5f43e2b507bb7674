"""Provide `concurrent.futures` executors: processes of this machine, or a Dask cluster."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

from resnets.data.workers import init_worker
from resnets.errors import UserError

# Times that a cluster repeats a job whose worker was lost.
RETRIES = 3


@contextmanager
def on_this_machine(processes: int) -> Iterator[Executor]:
    """Start so many processes; they are spawned, since forked ones would share torch's threads."""
    others = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, spawn, initializer=init_worker, initargs=(0,))
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def on_a_cluster(address: str, *, seconds: float = 10) -> Iterator[Executor]:
    """Use the workers of a Dask scheduler; raises UserError where none answers."""
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
