"""SIGKILL to whole runs, at places read off the run folder from outside; `benchmarks/kill.py` does
the same at random and a hundred times.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnets import api
from some_ranks import loaded_server
from tiny_runs import quick_runs

STEPS = 30
RECIPE: dict[str, Any] = {
    "model": "resnet20",
    "size": 16,
    "steps": STEPS,
    "batch_size": 8,
    "precision": "fp32",
    "threads": 1,
    "tune": "off",
    "cache_mb": 0,
    "crop": "resized",
    "auto_augment": "trivialaugment",
    "erasing": 0.3,
    "mixup": 0.3,
    "cutmix": 0.3,
    "dropout": 0.1,
    "drop_path": 0.2,
    "ema": 0.8,
    "clip_grad_norm": 1.0,
    "evaluate_every": 1.0,
}
EVERY = 5  # steps between validations: 40 images in batches of 8
PATIENCE = 300.0


def live(data: Path, folder: Path, workers: int, checkpoint_every: float) -> None:
    """What a process does: begin the run, or go on with it."""
    multiprocessing.set_start_method("fork", force=True)  # of the workers: no second server
    with pytest.MonkeyPatch.context() as patch:
        quick_runs(patch)
        changing = {"workers": workers, "checkpoint_every": checkpoint_every}
        if (folder / "config.json").is_file():
            api.train(resume=folder, **changing)
        else:
            api.train(data, out=folder, device="cpu", **RECIPE, **changing)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 30)):
        for name in ("ant", "bee"):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{index}.png")
    return folder


class Traces:
    """What a running process shows in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def last(self) -> tuple[int, str]:
        """Step and kind of the last whole record."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.is_file() else []
        found = [line for line in lines if line.endswith("}")]
        if not found:
            return 0, ""
        record = json.loads(found[-1])
        return record["step"], record["kind"]

    def in_step(self, step: int) -> bool:
        return self.last()[0] >= step

    def in_write(self, step: int) -> bool:
        return self.in_step(step) and any((self.folder / "checkpoints").glob(".*.part"))

    def in_validation(self, step: int) -> bool:
        last, kind = self.last()
        return last >= step and last % EVERY == 0 and kind == "train"

    def in_scoring(self, step: int) -> bool:
        return self.last() == (STEPS, "validation")


KILLS: list[tuple[Callable[[Traces, int], bool], int, int, float]] = [
    (Traces.in_step, 3, 1, 5.0),  # where, from which step on, workers, minutes between saves
    (Traces.in_write, 2, 2, 0.0),
    (Traces.in_step, 0, 0, 0.0),  # at once again
    (Traces.in_validation, 8, 1, 0.0),
    (Traces.in_write, 12, 0, 0.0),
    (Traces.in_step, 17, 2, 5.0),
    (Traces.in_validation, 20, 0, 0.0),
    (Traces.in_scoring, STEPS, 1, 0.0),
]


@pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="no processes to fork"
)
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(KILLS[3:5], id="two"),
        pytest.param(KILLS, id="eight", marks=pytest.mark.slow),
    ],
)
def test_kills_leave_no_trace(
    data: Path, tmp_path: Path, kills: list[tuple[Callable[[Traces, int], bool], int, int, float]]
) -> None:
    context, folder = loaded_server(), tmp_path / "killed"
    for there, step, workers, checkpoint_every in kills:
        process = context.Process(target=live, args=(data, folder, workers, checkpoint_every))
        process.start()
        wait(partial(there, Traces(folder), step), process)
        assert process.exitcode is None, f"ended before {there.__name__} at step {step}"
        process.kill()
        process.join()
        assert not (folder / "scores.json").exists()
    for place, workers in ((folder, 1), (tmp_path / "whole", 0)):
        process = context.Process(target=live, args=(data, place, workers, 5.0))
        process.start()
        process.join()
        assert process.exitcode == 0
    for name in ("model.safetensors", "scores.json"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def wait(condition: Callable[[], bool], process: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not condition() and process.exitcode is None:
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.0005)
