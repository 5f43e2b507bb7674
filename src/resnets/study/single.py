"""One job enters, one row leaves: a training run as a pure function of its description.

The idea: nothing decides a row but the job, so a grid of runs can be given to any executor, in any
order, and cut off anywhere. The run has one thread, and a process does one run at a time, because
torch's draws belong to the whole process.

Legend: N images in a batch.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data import Split, open_data, stratified_split
from resnets.data.augment import Augment
from resnets.data.loader import EvalLoader, TrainLoader, channel_statistics
from resnets.data.transforms import Preprocess
from resnets.device import keep_freed_memory, restore_num_threads
from resnets.errors import UserError
from resnets.evaluation.metrics import Scores, evaluate
from resnets.models.resnet import ResNet
from resnets.study.cells import config_of
from resnets.study.plan import CURVE_POINTS, Job, Setup
from resnets.training.train_step import TrainState, train_step

EVALUATION_BATCH = 500
LAST_STEPS = 50
"""of a run, whose mean training loss is the second measure beside the training error"""
CHECK_EVERY = 50
"""steps between looks at the losses, for which a GPU would have to wait"""
EXPLODED = 10
"""times the loss of chance, beyond which a run has diverged though its numbers are finite"""
SPLIT_SEED = 0
METRICS = (
    "train_error", "train_loss", "last_loss", "test_error", "test_loss", "val_error", "val_loss",
)  # fmt: skip
"""numbers of a row; one whose run diverged has none"""
ONE_RUN = threading.Lock()

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Result:
    """What a run leaves. Seconds are not in the row, since they differ from run to run."""

    row: Row
    seconds: float
    weights: dict[str, NDArray[Any]] | None
    test: dict[str, Any] | None  # scores of the kept weights


@dataclass(frozen=True, eq=False)
class Studied:
    """The images of a study."""

    classes: tuple[str, ...]
    preprocess: Preprocess
    train: Split
    val: Split  # a share of `train`
    rest: Split  # the other images of it, on which is trained where `val` chooses
    test: Split


@lru_cache(maxsize=2)
def studied(data: str, *, side: int, held_out: float) -> Studied:
    """The parts of a data set. Raises UserError if it has no test part."""
    found = open_data(data)
    if "train" not in found.splits or "test" not in found.splits:
        raise UserError(f"{data}: a study needs a part train and a part test in its data")
    train, test = found.splits["train"], found.splits["test"]
    plain = Preprocess(size=side, channels=train.channels, resize_mode="squash")
    mean, std = channel_statistics(train, plain)
    kept, held = stratified_split(train.targets, fraction=held_out, seed=SPLIT_SEED)
    return Studied(
        classes=found.classes,
        preprocess=Preprocess(
            size=side, channels=train.channels, resize_mode="squash", mean=mean, std=std
        ),
        train=train,
        val=train.subset(held),
        rest=train.subset(kept),
        test=test,
    )


def images_of(setup: Setup) -> Studied:
    """The images that a setup asks for."""
    return studied(setup.data, side=setup.side, held_out=setup.held_out)


def chance_of(setup: Setup) -> float:
    """Error of always guessing the most frequent class of the training images."""
    targets = images_of(setup).train.targets
    return float(1 - np.bincount(targets).max() / len(targets))


def run(job: Job) -> Result:
    """Train one cell with one rate and one seed, and measure it."""
    started = time.perf_counter()
    with beginning(job) as (state, stream):
        images = images_of(job.setup)
        losses = _train(job, state, stream)
        row: Row = {
            "purpose": job.purpose, "family": job.family, "depth": job.depth, "lr": job.rate,
            "seed": job.seed, "steps": job.recipe.schedule.steps,
            "num_classes": len(images.classes), "curve": thinned(losses),
        }  # fmt: skip
        row["status"] = divergence(losses, num_classes=len(images.classes))
        test: Scores | None = None
        if not row["status"]:
            row["last_loss"] = float(np.mean(losses[-LAST_STEPS:]))
            test = _measure(job, state.model, images, row)
        keeps = job.keeps_weights and row["status"] == ""
        weights = _as_arrays(state.model) if keeps else None
        scores = test.to_dict() if keeps and test is not None else None
        return Result(row, time.perf_counter() - started, weights, scores)


@contextmanager
def beginning(job: Job) -> Iterator[tuple[TrainState, TrainLoader]]:
    """A run before its first step, in the one thread that all of it takes."""
    with ONE_RUN, restore_num_threads():
        torch.set_num_threads(1)
        keep_freed_memory()
        images = images_of(job.setup)
        stream = _stream(job, images)
        try:
            yield _start(job, images), stream
        finally:
            stream.close()


def _start(job: Job, images: Studied) -> TrainState:
    config = config_of(
        job.family,
        job.depth,
        widths=job.setup.widths,
        num_classes=len(images.classes),
        in_channels=images.preprocess.channels,
    )
    torch.manual_seed(job.seed)  # initial values, equal for twins
    return TrainState.start(ResNet(config), job.recipe, device=torch.device(job.setup.device))


def _stream(job: Job, images: Studied) -> TrainLoader:
    recipe = job.recipe
    assert recipe.schedule.batch_size is not None
    moves = recipe.augment.crop == "shift"
    return TrainLoader(
        images.rest if job.purpose == "tune" else images.train,
        preprocess=images.preprocess,
        augment=Augment(
            crop="shift" if moves else "none",
            crop_padding=recipe.augment.crop_padding if moves else 0,
            flip=recipe.augment.flip,
        ),
        num_classes=len(images.classes),
        batch_size=recipe.schedule.batch_size,
        seed=job.seed,
        device=job.setup.device,
    )


def _train(job: Job, state: TrainState, stream: TrainLoader) -> list[float]:
    """The loss of every step, up to the last or to the first look that finds one not finite."""
    recipe = job.recipe
    steps = recipe.schedule.steps
    assert steps is not None, "a plan says how long it trains"
    state.model.train()
    losses: list[float] = []
    pending: list[Tensor] = []
    for batch in stream.batches(0, steps):
        loss, _ = train_step(state, state.model, batch, recipe)
        state.step += 1
        pending.append(loss)
        if state.step % CHECK_EVERY == 0 or state.step == steps:
            losses += torch.stack(pending).tolist()
            pending = []
            if not all(map(math.isfinite, losses[-CHECK_EVERY:])):
                break
    return losses


def _measure(job: Job, model: ResNet, images: Studied, row: Row) -> Scores:
    """Errors after the end: on validation images to tune, on training and test images to count."""
    parts = {"val": images.val} if job.purpose == "tune" else {
        "train": images.train, "test": images.test,
    }  # fmt: skip
    for name, part in parts.items():
        scores = evaluate(model, _batches(job, part, images), images.classes)
        if not math.isfinite(scores.loss):
            row["status"] = "diverged in evaluation"
            for number in [name for name in row if name in METRICS]:
                del row[number]
            return scores
        row |= {f"{name}_error": 1 - scores.top1, f"{name}_loss": scores.loss}
        row[f"{name}_images"] = scores.num_images
    return scores


def _batches(job: Job, part: Split, images: Studied) -> Iterator[Any]:
    return iter(
        EvalLoader(
            part,
            preprocess=images.preprocess,
            batch_size=EVALUATION_BATCH,
            device=job.setup.device,
        )
    )


def divergence(losses: list[float], *, num_classes: int) -> str:
    """Where a run was lost, or that its last steps are far worse than chance; empty if neither."""
    for step, loss in enumerate(losses):
        if not math.isfinite(loss):
            return f"diverged at step {step}"
    last = float(np.mean(losses[-LAST_STEPS:]))
    return f"diverged to a loss of {last:.3g}" if last > EXPLODED * math.log(num_classes) else ""


def thinned(losses: list[float]) -> list[list[float]]:
    """[step, mean loss of the steps up to it], at most CURVE_POINTS times and as far as finite."""
    width = max(1, math.ceil(len(losses) / CURVE_POINTS))
    points = []
    for start in range(0, len(losses), width):
        mean = float(np.mean(losses[start : start + width]))
        if not math.isfinite(mean):
            break
        points.append([min(start + width, len(losses)), mean])
    return points


def _as_arrays(model: ResNet) -> dict[str, NDArray[Any]]:
    return {name: tensor.cpu().numpy().copy() for name, tensor in model.state_dict().items()}
