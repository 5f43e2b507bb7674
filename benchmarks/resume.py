"""What does resuming cost? From the call to the first step that follows, imports done.

    .venv/bin/python benchmarks/resume.py [--model resnet50] [--times 5]

A run on `fashion-mini` is interrupted after a few steps, then resumed and stopped just before
its next step, several times: the index is read, the checkpoint verified and loaded, the network
and its optimizer built. The last line is the median; exit 1 unless it is below one second.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from resnets.api import train
from resnets.training import trainer
from resnets.training.train_step import train_step

ALLOWED_SECONDS = 1.0
STEPS_BEFORE = 3


class BeforeStep(Exception):  # noqa: N818
    """Raised in place of the first step."""


def interrupt(folder: Path, *, model: str) -> None:
    """A run that a signal ends after a few steps."""
    taken: list[Any] = []

    def counted(*arguments: Any, **named: Any) -> Any:
        taken.append(train_step(*arguments, **named))
        if len(taken) == STEPS_BEFORE:
            os.kill(os.getpid(), signal.SIGINT)
        return taken[-1]

    with patch.object(trainer, "train_step", counted):
        result = train(
            "fashion-mini", out=folder, model=model, size=32, batch_size=8, steps=100, tune="off"
        )
    assert result.signal == signal.SIGINT, "the run was not interrupted"


def resume(folder: Path) -> float:
    """Seconds until the next step would begin."""
    begin = time.perf_counter()
    with patch.object(trainer, "train_step", side_effect=BeforeStep):
        try:
            train(resume=folder)
        except BeforeStep:
            return time.perf_counter() - begin
    raise SystemExit("the run had no step left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        interrupt(folder, model=options.model)
        seconds = [resume(folder) for _ in range(options.times)]
    median = statistics.median(seconds)
    print(f"{options.model} resumed in {', '.join(f'{each:.2f}' for each in seconds)} s")
    print(f"median {median:.2f} s of {len(seconds)}, at most {ALLOWED_SECONDS:g} s allowed")
    raise SystemExit(median >= ALLOWED_SECONDS)


if __name__ == "__main__":
    main()
