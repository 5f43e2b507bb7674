"""Sweep networks at initialisation over families, widths and depths, into tables of a study."""

import os
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Executor, as_completed
from contextlib import nullcontext, suppress
from pathlib import Path

import torch

from resnets.data.workers import usable_cpus
from resnets.device import restore_num_threads
from resnets.errors import UserError
from resnets.study.executors import on_this_machine
from resnets.study.propagation.signal_propagation import propagate
from resnets.study.propagation.stability import Stability, judge_stability
from resnets.study.propagation.theory import theory_rows
from resnets.study.propagation.weight_sampling import Convolution, Dense, Layer
from resnets.study.tables import Row, write_table
from resnets.study.twins.study_config import SWEEP, SweepConfig

# The layer of networks of convolutions, and their draws.
CONVOLUTION, CONV_DRAWS = Convolution(16, 6), 3
# Draws that one job takes at once: more are faster, fewer leave no core idle at the end.
TOGETHER = 3
SEED = 0

Tables = dict[str, list[Row]]
# The layer, the depths, the draws of one part of the sweep.
Job = tuple[Layer, tuple[int, ...], range]


def measure_init(
    out: Path,
    *,
    log: Callable[[str], None],
    config: SweepConfig = SWEEP,
    executor: Executor | None = None,
) -> list[Stability]:
    """Measure ten families at initialisation, write the tables into out/data, judge each cell.

    Without an executor processes are started, one a core. Raises UserError for a number out of
    range, and for a folder that cannot be written.
    """
    start = time.perf_counter()
    depths, widths = tuple(sorted(set(config.depths))), config.widths
    if not depths or min(depths) < 1 or not widths or min(widths) < 2 or config.draws < 1:
        raise UserError(f"{config}: needs depths from 1, widths from 2 and at least one draw")
    data = out / "data"  # made before a minute is spent
    with suppress(OSError):
        data.mkdir(parents=True, exist_ok=True)
    if not (data.is_dir() and os.access(data, os.W_OK)):
        raise UserError(f"{out}: is not a folder that can be written; pass another --out")
    draws = range(config.draws)
    portions = [draws[first : first + TOGETHER] for first in range(0, len(draws), TOGETHER)]
    jobs: list[Job] = [(Dense(n), depths, some) for n in widths for some in portions]
    shallow = tuple(depth for depth in depths if depth <= config.conv_depth) or (min(depths),)
    jobs.append((CONVOLUTION, shallow, draws[:CONV_DRAWS]))
    log(f"{len(jobs)} parts, {max(depths):,} layers")
    with nullcontext(executor) if executor else on_this_machine(usable_cpus()) as pool:
        done = _done(jobs, pool, log)
    found: Tables = defaultdict(list)
    for job in jobs:
        for name, rows in done[job].items():
            found[name] += rows
    for width in widths:
        found["theory"] += theory_rows(depths=depths, width=width, seed=SEED)
    verdicts = judge_stability(found["forward"], found["backward"], depths=depths)
    summary = [row for verdict in verdicts for row in verdict.rows()] + found.pop("float32")
    tables = {"init.csv": summary} | {f"init_{name}.csv": found[name] for name in sorted(found)}
    for name, rows in tables.items():
        write_table(data / name, rows)
    log(f"{len(tables)} tables in {data}, {time.perf_counter() - start:.0f} s")
    return verdicts


def _done(jobs: list[Job], executor: Executor, log: Callable[[str], None]) -> dict[Job, Tables]:
    start, done = time.perf_counter(), {}
    longest_first = sorted(jobs, key=_cost, reverse=True)
    futures = {executor.submit(_propagate, job): job for job in longest_first}
    for number, future in enumerate(as_completed(futures), 1):
        job = layer, _, draws = futures[future]
        done[job] = future.result()
        part = f"{layer.name}, draws {draws[0]} to {draws[-1]}"
        log(f"{number}/{len(jobs)}  {time.perf_counter() - start:5.1f} s  {part}")
    return done


def _cost(job: Job) -> float:
    """A number about proportional to the time; the most expensive job starts first."""
    layer, depths, draws = job
    return max(depths) * len(draws) * layer.width


def _propagate(job: Job) -> Tables:
    layer, depths, draws = job
    with restore_num_threads():
        torch.set_num_threads(1)  # small products are faster on one thread
        return propagate(layer, depths=depths, seed=SEED, draws=draws)
