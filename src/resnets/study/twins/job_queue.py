"""Run the jobs of a study on an executor, each once, until nothing is left to do."""

import time
from collections.abc import Callable
from concurrent import futures
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from resnets.device import choose_device
from resnets.errors import UserError, unknown
from resnets.study.tables import write_table
from resnets.study.twins.analysis import budget_rows, summary_rows
from resnets.study.twins.lr_search import remaining, runnable
from resnets.study.twins.run_store import RunStore
from resnets.study.twins.study_config import PRESETS, StudyConfig, TwinJob
from resnets.study.twins.trial import TrialResult, dataset_of, run_trial
from resnets.training.run_dir import locked

Log = Callable[[str], None]
Workers = Callable[[], AbstractContextManager[futures.Executor]]


def resolve(preset: str, *, data: str | None = None, device: str = "auto") -> StudyConfig:
    """Return the config of a preset, on other images if `data` is given.

    The device `auto` is the CPU for small images, where processes on all cores are faster. Raises
    UserError for an unknown preset, device or data set, before anything is written.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    config = PRESETS[preset]
    name = "cpu" if device == "auto" and preset != "cifar" else device
    setup = replace(config.setup, device=str(choose_device(name)), data=data or config.setup.data)
    dataset_of(setup)
    return replace(config, setup=setup)


def train_twins(config: StudyConfig, folder: Path, *, workers: Workers, log: Log) -> None:
    """Run what the folder lacks of a study, then write its tables of training."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: is a file; pass a new folder or that of a study")
    with workers() as executor:  # first, so that an address where nobody answers leaves no folder
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock", folder=folder):
            store = RunStore(folder, config)
            log(f"study {config.name} in {folder}: {len(store.rows)} runs are finished")
            try:
                run_jobs(store, executor=executor, log=log)
            except KeyboardInterrupt:
                log(f"{len(store.rows)} runs are kept")
                raise
            rows = list(store.rows.values())
            store.write_table()
            write_table(store.data / "summary.csv", summary_rows(config, rows))
            if config.budgets is not None:
                write_table(store.data / "budget.csv", budget_rows(config, rows))


def run_jobs(store: RunStore, *, executor: futures.Executor, log: Log) -> None:
    """Run what the store lacks; raises UserError where nothing is learned or a worker dies."""
    start, done = time.monotonic(), 0.0
    running: dict[futures.Future[TrialResult], TwinJob] = {}
    while True:
        busy = {job.key for job in running.values()}
        for job in runnable(store.config, store.rows.values()):
            if job.key not in busy and job.key not in store.rows:
                running[executor.submit(run_trial, job)] = job
        if not running:
            return
        finished, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
        # Good rows are kept before a failure is raised.
        for future in sorted(finished, key=lambda f: f.cancelled() or bool(f.exception())):
            job = running.pop(future)
            try:
                store.add(job, future.result())
            except (futures.BrokenExecutor, futures.CancelledError):
                raise UserError(
                    "the workers are gone: one was killed, perhaps for lack of memory, or the "
                    f"cluster was closed; {len(store.rows)} runs are kept in {store.folder}, and "
                    "the same command resumes the study"
                ) from None
            done += job.cost
            log(_progress(store, job, spent=time.monotonic() - start, done=done))


def _progress(store: RunStore, job: TwinJob, *, spent: float, done: float) -> str:
    """The line of a finished run, with how long the rest will take at the speed so far."""
    row, todo = store.rows[job.key], remaining(store.config, store.rows)
    left = sum(job.cost for job in todo) * spent / done
    part = "val" if job.purpose == "tune" else "train"
    error = row["status"] or f"{part} error {row[f'{part}_error']:.1%}"
    return (
        f"{len(store.rows):4} of {len(store.rows) + len(todo)}  {job.purpose:6} {job.family:13} "
        f"{job.depth:4} layers {job.steps:5} steps  lr {job.rate:<6g} seed {job.seed:<4} "
        f"{error:18} {timedelta(seconds=round(spent))} elapsed, "
        f"about {timedelta(seconds=round(left))} left"
    )
