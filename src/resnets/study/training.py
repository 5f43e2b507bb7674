"""A preset and a folder enter, a finished study of training leaves: the story of `study train`.

Plan, book, grid, tables, findings; each is a room of its own. A folder belongs to one process at a
time, and whatever stops it, what was finished stays.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from resnets.device import choose_device
from resnets.errors import UserError, unknown
from resnets.study.account import summary_rows
from resnets.study.book import Book
from resnets.study.grid import run_grid
from resnets.study.plan import PRESETS, Plan
from resnets.study.single import images_of
from resnets.study.summary import Summary, summarise
from resnets.study.tables import write_table
from resnets.training.run_dir import locked


def resolve(preset: str, *, data: str | None, device: str) -> Plan:
    """The plan of a preset, on other images if `data` is given.

    Raises UserError for an unknown preset, device or data set, before anything is written. `auto`
    is the CPU for small images, where processes on all cores are faster than one device.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    plan = PRESETS[preset]
    name = "cpu" if device == "auto" and preset != "cifar" else device
    setup = replace(plan.setup, device=str(choose_device(name)), data=data or plan.setup.data)
    images_of(setup)
    return replace(plan, setup=setup)


def study_training(
    plan: Plan,
    folder: Path,
    *,
    executor: Callable[[], AbstractContextManager[Executor]],
    tell: Callable[[str], None],
) -> Summary:
    """Run what the folder lacks of the plan, write `train.csv` and `summary.csv` below its data/.

    Raises UserError for a folder with another plan or in use, and for a study that shows nothing.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: is a file; give a new folder or that of a study")
    with executor() as workers:  # first, so that an address where nobody answers leaves no folder
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock", folder=folder):
            book = Book(folder, plan)
            tell(f"study {plan.name} in {folder}: {len(book.rows)} runs are there already")
            try:
                run_grid(book, executor=workers, tell=tell)
            except KeyboardInterrupt:
                tell(f"{len(book.rows)} runs are kept; the same command goes on with them")
                raise
            summary = summarise(plan, book.rows.values())
            book.write_table()
            write_table(book.data / "summary.csv", summary_rows(summary))
    return summary
