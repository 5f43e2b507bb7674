"""A study of seconds: easy images of three classes, narrow networks, few steps."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from resnets.study.twins.job_queue import run_jobs
from resnets.study.twins.run_store import RunStore
from resnets.study.twins.study_config import (
    SMALL,
    TWINS,
    Group,
    ProbeConfig,
    StudyConfig,
    SweepConfig,
)

STEPS = 12


def write_images(path: Path, *, classes: int = 3, learnable: bool = True) -> Path:
    """Noise with a bright row a class, or noise alone."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 90), ("test", 30)):
        targets = np.arange(count) % classes
        pixels = rng.integers(0, 80, (count, 8, 8), dtype=np.uint8)
        if learnable:
            pixels[np.arange(count), 2 * targets + 1] += 150
        arrays |= {f"x_{part}": pixels, f"y_{part}": targets}
    np.savez(path, **arrays)
    return path


def tiny_plan(data: Path, *, steps: int = STEPS, **changes: Any) -> StudyConfig:
    """Two depths, two seeds, three rates."""
    recipe = SMALL.recipe.override(steps=steps, batch_size=16)
    setup = replace(SMALL, data=str(data), side=8, widths=(4, 4, 8), recipe=recipe, held_out=1 / 3)
    plan = StudyConfig(
        name="tiny", setup=setup, groups=(Group(TWINS, (8, 14), (0, 1)),),
        rates=(0.03, 0.1, 0.3), factor=3.0, reserve=1, tuning_seed=1000,
        sweep=SweepConfig((2, 6), (8,), 2),
        probe=ProbeConfig(images=64, draws=1, directions=2, points=3),
    )  # fmt: skip
    return replace(plan, **changes)


class Inline(Executor):
    """Runs each job where it is submitted; dies at the job after so many."""

    def __init__(self, *, lives: int = 10_000) -> None:
        self.lives = lives
        self.calls = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do it now."""
        if self.calls == self.lives:
            raise KeyboardInterrupt
        self.calls += 1
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def fill(folder: Path, plan: StudyConfig, executor: Executor) -> RunStore:
    """Run a plan to its end."""
    store = RunStore(folder, plan)
    run_jobs(store, executor=executor, log=lambda line: None)
    return store
