"""What does the trainer cost? Its loop against a bare one over the same batches, resnet20 on CPU.

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

import torch
import torch.nn.functional as F

from resnets.cli.progress import Display
from resnets.data import open_data
from resnets.device import keep_freed_memory
from resnets.training.auto_config import ResolvedConfig
from resnets.training.optimizer import make_optimizer
from resnets.training.recipe import Recipe
from resnets.training.run_dir import RunDir
from resnets.training.trainer import Trainer, splits_for


def bare(trainer: Trainer) -> float:
    """Seconds of the twelve-line loop."""
    model, smoothing = trainer.new_model().to(memory_format=torch.channels_last), 0.1
    optimizer = make_optimizer(model, trainer.recipe)
    model.train()
    begin = time.perf_counter()
    for batch in trainer.train_loader.batches(0, trainer.recipe.schedule.steps or 0):
        images = batch.images.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), batch.targets, label_smoothing=smoothing)
        loss.backward()
        optimizer.step()
    loss.item()
    return time.perf_counter() - begin


def ours(trainer: Trainer) -> float:
    """Seconds of the loop with everything that a run has around it."""
    trainer.state = trainer.init_state()
    begin = time.perf_counter()
    with trainer.signals:
        trainer.train_loop()
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
    ratios: list[float] = []
    with (
        tempfile.TemporaryDirectory() as place,
        open(os.devnull, "w") as nowhere,
        redirect_stderr(nowhere),
        Display() as display,
    ):
        trainer = Trainer(
            ResolvedConfig(recipe),
            data,
            splits_for(data, recipe),
            device=torch.device("cpu"),
            run_dir=RunDir.create(Path(place) / "run", name="overhead"),
            log=display,
        )
        trainer.evaluate = lambda model: SimpleNamespace(top1=0.5, loss=1.0)  # type: ignore
        arms = {"bare": lambda: bare(trainer), "ours": lambda: ours(trainer)}
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
