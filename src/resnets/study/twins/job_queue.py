"""A plan, a book and an executor enter; the book leaves full: every run of a study, once.

The idea: ask what the rows so far call for, give out what is neither done nor under way, write each
row down as it comes, and ask again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)

from resnets.errors import UserError
from resnets.study.twins.lr_search import choose, rates_to_try, tried_rates, wanted
from resnets.study.twins.run_store import Book
from resnets.study.twins.study_config import Job, Plan
from resnets.study.twins.trial import Result, Row, run


def run_grid(book: Book, *, executor: Executor, tell: Callable[[str], None]) -> None:
    """Run what the plan of the book asks for and the book does not hold yet.

    Raises UserError when the shallowest plain network learns nothing, or a worker was killed.
    """
    progress = Progress(book)
    running: dict[Future[Result], Job] = {}
    while True:
        under_way = {job.key for job in running.values()}
        for job in wanted(book.plan, book.rows.values()):
            if job.key not in under_way and job.key not in book.rows:
                running[executor.submit(run, job)] = job
        if not running:
            return
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in sorted(
            finished, key=_failed
        ):  # what is good is kept before a failure ends it
            job = running.pop(future)
            book.add(job, _result(future, book))
            tell(progress.line(job, book.rows[job.key]))


def _failed(future: Future[Result]) -> bool:
    return future.cancelled() or future.exception() is not None


def _result(future: Future[Result], book: Book) -> Result:
    try:
        return future.result()
    except (BrokenExecutor, CancelledError):
        raise UserError(
            "the workers are gone: one was killed, perhaps for want of memory, or the cluster was "
            f"left; {len(book.rows)} runs are kept in {book.folder}, and the same command goes on"
        ) from None


def jobs_left(plan: Plan, rows: dict[tuple[object, ...], Row]) -> list[Job]:
    """What the plan still asks for, as far as one can know: rates beyond the edges may come."""
    jobs = []
    for cell, seeds in plan.cells():
        tried = tried_rates(rows.values(), cell)
        choice = choose(plan, tried)
        jobs += [plan.tuning(cell, rate) for rate in rates_to_try(plan, tried)]
        rate = choice.rate if choice else plan.rates[0]
        jobs += [plan.counted(cell, rate, seed) for seed in seeds]
    return [job for job in jobs if job.key not in rows]


class Progress:
    """What is done, and how long the rest will take at the speed so far."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.began = time.monotonic()
        self.done = 0.0

    def line(self, job: Job, row: Row) -> str:
        """One finished run in words."""
        self.done += job.cost
        spent = time.monotonic() - self.began
        left = jobs_left(self.book.plan, self.book.rows)
        seconds_left = sum(job.cost for job in left) * spent / self.done
        part = "val" if job.purpose == "tune" else "train"
        error = row["status"] or f"{part} error {row[f'{part}_error']:.1%}"
        count = len(self.book.rows)
        return (
            f"{count:4} of {count + len(left)}  {job.purpose:5} {job.family:13} "
            f"{job.depth:4} layers  lr {job.rate:<6g} seed {job.seed:<4} {error:18} "
            f"{_clock(spent)} gone, about {_clock(seconds_left)} left"
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
