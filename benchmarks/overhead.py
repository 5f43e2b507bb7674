"""What does the trainer cost? `train` against a bare loop over the same batches, resnet20 on CPU.

    .venv/bin/python benchmarks/overhead.py [--pairs 10] [--steps 40] [--batch-size 128]

Both arms draw the same augmented batches from a stream of their own, compute in fp32 and
channels_last, and step the same fused SGD with label smoothing. Ours has also the learning rate of
each step, the sums on the device, records to metrics.jsonl and to the display (written to nowhere),
the shares, the answer to signals, and one whole verified checkpoint in these few steps, where a
run saves one in five minutes. Validation is left out of both, and
both keep the memory that they free, as a run does. Pairs alternate in their order, since
neighbours slow a machine for seconds; the last line is the median overhead.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from contextlib import redirect_stderr
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from resnets.training.job import Job, make_splits
from resnets.training.loop import train
from resnets.training.train_state import State
from torch import nn

from resnets.cli.progress import Display
from resnets.data import open_data
from resnets.device import keep_freed_memory
from resnets.training.checkpoint import RunFolder
from resnets.training.optimizer import make_optimizer
from resnets.training.profiler import Clock, Outlook, Shares
from resnets.training.recipe import Recipe
from resnets.training.signals import SignalHandler


def bare(job: Job, steps: int) -> float:
    """Seconds of the twelve-line loop."""
    model, smoothing = job.new_model().to(memory_format=torch.channels_last), 0.1
    optimizer = make_optimizer(model, job.recipe)
    model.train()
    begin = time.perf_counter()
    for batch in job.stream.batches(0, steps):
        images = batch.images.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), batch.targets, label_smoothing=smoothing)
        loss.backward()
        optimizer.step()
    loss.item()
    return time.perf_counter() - begin


def ours(job: Job, steps: int, folder: RunFolder, display: Display) -> float:
    """Seconds of the loop with everything that a run has around it."""
    state = State.start(job.new_model(), job.recipe, device=job.device)
    outlook = Outlook(job.recipe, num_train=10**6, num_val=1, cores=1, streamed=False)

    def log(record: dict[str, Any]) -> None:
        folder.log(record)
        display(record)

    def validate(model: nn.Module) -> Any:
        return SimpleNamespace(top1=0.5, loss=1.0)

    begin = time.perf_counter()
    with SignalHandler() as interruption:
        train(
            state,
            job.recipe,
            stream=job.stream,
            validate=validate,
            folder=folder,
            shares=Shares(outlook, clock=Clock.of(job.device)),
            num_images=10**6,
            log=log,
            interruption=interruption,
        )
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args()
    recipe = Recipe().override(
        model="resnet20",
        size=28,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=0.1,
        crop="shift",
        auto_augment="none",
        workers=0,
        precision="fp32",
        memory_format="channels_last",
        evaluate_every=1000.0,
        optimizer="sgd",
    )
    keep_freed_memory()
    data = open_data("fashion-mini")
    job = Job.build(
        recipe, make_splits(data, recipe), classes=data.classes, device=torch.device("cpu")
    )
    ratios: list[float] = []
    with (
        tempfile.TemporaryDirectory() as place,
        open(os.devnull, "w") as nowhere,
        redirect_stderr(nowhere),
        Display() as display,
    ):
        folder = RunFolder.create(Path(place) / "run", name="overhead")
        arms = {
            "bare": lambda: bare(job, options.steps),
            "ours": lambda: ours(job, options.steps, folder, display),
        }
        for pair in range(-1, options.pairs):  # the first pair warms up
            seconds = {name: arms[name]() for name in sorted(arms, reverse=pair % 2 == 1)}
            if pair >= 0:
                ratios.append(seconds["ours"] / seconds["bare"])
                each = ", ".join(f"{name} {spent:.2f} s" for name, spent in seconds.items())
                print(f"pair {pair + 1}: {each}: {ratios[-1] - 1:+.1%}", flush=True)
    print(f"from {min(ratios) - 1:+.1%} to {max(ratios) - 1:+.1%} (at most +3 %, goal +1 %)")
    print(f"overhead {statistics.median(ratios) - 1:+.2%}, median of {len(ratios)} pairs")


if __name__ == "__main__":
    main()
