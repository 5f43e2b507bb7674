"""A folder enters, the atlas of networks at initialisation leaves: tables and a verdict a cell.

Jobs (a kind of layer, some draws) share nothing and run in as many processes as there are cores;
the rows are put in order afterwards, so that the tables do not depend on who was first.

Tables in DIR/data: `init.csv` verdicts, slopes and where float32 is left; `init_forward.csv`,
`init_backward.csv` profiles by unit; `init_theory.csv` their closed forms. The metrics are
described where they are measured.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from resnets.errors import UserError
from resnets.study.executors import num_cores, on_this_machine
from resnets.study.init.measure import Row, measured_units, propagate
from resnets.study.init.overlay import theory_rows
from resnets.study.init.verdicts import Verdict, judge
from resnets.study.init.weights import Convolution, Dense
from resnets.study.tables import write_table

DEPTHS = (10, 30, 100, 300, 1000, 3000, 10000)
WIDTHS = (64, 128)
DRAWS = 5
SHALLOW = 1000
"""the deepest for convolutions"""
SHALLOW_DRAWS = 3
CONVOLUTION = Convolution(16, 6)
TOGETHER = 3
"""draws that one job takes at once: more are faster, fewer leave no core idle at the end"""

Log = Callable[[str], None]
Tables = dict[str, list[Row]]


@dataclass(frozen=True)
class Job:
    """One part of the atlas: what is measured, on which layer, with which draws."""

    layer: Dense | Convolution
    depths: tuple[int, ...]
    seed: int
    draws: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.layer.name}, draws {self.draws[0]} to {self.draws[-1]}"

    @property
    def cost(self) -> float:
        """The dearest begin first."""
        return max(self.depths) * len(self.draws) * self.layer.width

    def run(self) -> Tables:
        return propagate(self.layer, depths=self.depths, seed=self.seed, draws=self.draws)


@dataclass(frozen=True)
class Atlas:
    """What was found: the verdicts, and where the tables lie."""

    verdicts: list[Verdict]
    tables: list[Path]
    seconds: float


def measure_init(
    out: Path,
    *,
    log: Log,
    depths: Sequence[int] = DEPTHS,
    widths: Sequence[int] = WIDTHS,
    draws: int = DRAWS,
    seed: int = 0,
) -> Atlas:
    """Measure ten families at initialisation, write the tables into out/data, give verdicts.

    A draw is one set of weights, which all families share. Raises UserError for a folder that
    cannot be written.
    """
    began = time.perf_counter()
    depths = tuple(sorted(set(depths)))
    if not depths or min(depths) < 1 or not widths or min(widths) < 2 or draws < 1:
        raise UserError(f"depths {depths}, widths {tuple(widths)}, {draws} draws: allowed are "
                        "depths from 1, widths from 2 and at least one draw")  # fmt: skip
    data = _prepare(out)
    jobs = _jobs(depths, widths, draws, seed)
    log(f"{len(jobs)} parts, {max(depths):,} layers, {min(num_cores(), len(jobs))} at a time")
    done: dict[Job, Tables] = {}
    with _single_thread():
        for number, (job, tables) in enumerate(_run(jobs), 1):
            done[job] = tables
            log(f"{number}/{len(jobs)}  {time.perf_counter() - began:5.1f} s  {job.name}")
    found: Tables = defaultdict(list)
    for job in jobs:
        for name, rows in done[job].items():
            found[name] += rows
    for width in widths:
        units = measured_units(depths)
        found["theory"] += theory_rows(depths=depths, width=width, units=units, seed=seed)
    verdicts = judge(found["forward"], found["backward"], depths=depths)
    summary = [row for verdict in verdicts for row in verdict.rows()] + found.pop("float32")
    tables = {"init.csv": summary} | {f"init_{name}.csv": found[name] for name in sorted(found)}
    for name, rows in tables.items():
        write_table(data / name, rows)
    paths = [data / name for name in tables]
    return Atlas(verdicts, paths, time.perf_counter() - began)


def _prepare(out: Path) -> Path:
    """The folder of the tables, there before a minute is spent."""
    data = out / "data"
    answer = UserError(f"{out}: not a folder that can be written; give another to --out")
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise answer from error
    if not os.access(data, os.W_OK):
        raise answer
    return data


def _jobs(depths: tuple[int, ...], widths: Sequence[int], draws: int, seed: int) -> list[Job]:
    shallow = tuple(depth for depth in depths if depth <= SHALLOW) or (min(depths),)
    numbers = tuple(range(draws))
    few = numbers[:SHALLOW_DRAWS]
    portions = [numbers[start : start + TOGETHER] for start in range(0, draws, TOGETHER)]
    jobs = [Job(Dense(n), depths, seed, some) for n in widths for some in portions]
    return [*jobs, Job(CONVOLUTION, shallow, seed, few)]


def _run(jobs: list[Job]) -> Iterator[tuple[Job, Tables]]:
    """Jobs as they finish; an interrupt ends the processes instead of waiting for them."""
    order = sorted(jobs, key=lambda job: job.cost, reverse=True)
    workers = min(num_cores(), len(jobs))
    if workers == 1:
        yield from ((job, job.run()) for job in order)
        return
    with on_this_machine(workers) as pool:
        futures: dict[Future[Tables], Job] = {pool.submit(_run_alone, job): job for job in order}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _run_alone(job: Job) -> Tables:
    """In a process of its own."""
    with _single_thread():
        return job.run()


@contextmanager
def _single_thread() -> Iterator[None]:
    """Small products are faster on one thread; what the caller had is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
